"""Channels to the bus: `connect` for asyncio, `connect_sync` for threads; stock generated stubs work on both."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc

from lgsp.client import interceptors as parts
from lgsp.client.identity import Identity
from lgsp.client.tokens import AsyncTokens, SyncTokens

DEFAULT_TIMEOUT_S: Final = 30.0
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the gateway is, whom it must prove to be, and who calls."""

    target: str
    authority: bytes | None
    identity: Identity
    token_url: str

    def trust(self) -> ssl.SSLContext:
        cadata = self.authority.decode() if self.authority is not None else None
        return ssl.create_default_context(cadata=cadata)

    def credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.authority)


def _place(
    target: str | None,
    system: str | None,
    key: str | Path | None,
    ca: str | Path | None,
    identity: Identity | None,
    token_url: str | None,
) -> _Place:
    target = target or os.environ.get("LGSP_GATEWAY", "")
    ca = ca or os.environ.get("LGSP_CA")
    if not target:
        raise ValueError("name the gateway: connect('host:port'), or LGSP_GATEWAY")
    if identity is None:
        system, key = system or os.environ.get("LGSP_SYSTEM"), key or os.environ.get("LGSP_KEY")
        if not system or not key:
            raise ValueError("name the system and its key file: system=, key=, or LGSP_SYSTEM and LGSP_KEY")
        identity = Identity.load(system, key)
    authority = Path(ca).read_bytes() if ca else None
    return _Place(target, authority, identity, token_url or f"https://{target}/oauth2/token")


@asynccontextmanager
async def connect(
    target: str | None = None,
    *,
    system: str | None = None,
    key: str | Path | None = None,
    ca: str | Path | None = None,
    identity: Identity | None = None,
    token_url: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_S,
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the gateway at `host:port` as one system.

    `key` is a file with a private JWK, `ca` the PEM that the gateway's certificate must come from (the machine's own
    authorities without it), `timeout` the deadline in seconds of calls that name none. What is not given comes from
    LGSP_GATEWAY, LGSP_SYSTEM, LGSP_KEY and LGSP_CA. Unary calls raise `CallError`; `explain` makes one of any other.
    """
    place = _place(target, system, key, ca, identity, token_url)
    tokens = AsyncTokens(place.identity, place.token_url, place.trust())
    kinds = (parts.AsyncUnaryUnary, parts.AsyncUnaryStream, parts.AsyncStreamUnary, parts.AsyncStreamStream)
    added: list[Any] = [kind(tokens, timeout) for kind in kinds]
    try:
        async with grpc.aio.secure_channel(
            place.target, place.credentials(), options=_OPTIONS, interceptors=added
        ) as channel:
            yield channel
    finally:
        await tokens.close()


@contextmanager
def connect_sync(
    target: str | None = None,
    *,
    system: str | None = None,
    key: str | Path | None = None,
    ca: str | Path | None = None,
    identity: Identity | None = None,
    token_url: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_S,
) -> Iterator[grpc.Channel]:
    """The same for threads; errors are grpc.RpcError, `explain` types them."""
    place = _place(target, system, key, ca, identity, token_url)
    tokens = SyncTokens(place.identity, place.token_url, place.trust())
    try:
        with grpc.secure_channel(place.target, place.credentials(), options=_OPTIONS) as bare:
            yield grpc.intercept_channel(bare, parts.SyncAll(tokens, timeout))
    finally:
        tokens.close()
