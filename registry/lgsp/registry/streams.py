"""The JetStream streams of the CORE account: their settings as data, made when missing, checked when there."""

from __future__ import annotations

import json
import uuid
from typing import Any, Final

from nats.aio.client import Client

from lgsp.api.errors import BusError

REGISTRY, CONTRACTS, ONCE, USAGE = "REGISTRY", "CONTRACTS", "ONCE", "USAGE"
INCARNATION: Final = "lgsp-incarnation"
_NANOSECONDS: Final = 1_000_000_000
_NOT_FOUND: Final = 10059

_DURABLE: Final[dict[str, Any]] = {
    "storage": "file",
    "retention": "limits",
    "discard": "new",
    "allow_direct": False,
    "deny_purge": True,
    "duplicate_window": 120 * _NANOSECONDS,
}
STREAMS: Final[dict[str, dict[str, Any]]] = {
    REGISTRY: _DURABLE | {"subjects": ["registry.>"], "max_bytes": 8 << 30, "deny_delete": True, "allow_atomic": True},
    CONTRACTS: _DURABLE | {"subjects": ["contract.*"], "max_bytes": 4 << 30, "max_msgs_per_subject": 1},
    ONCE: _DURABLE | {"subjects": ["once.*"], "max_bytes": 1 << 30, "deny_purge": False, "max_age": 900 * _NANOSECONDS},
    USAGE: _DURABLE
    | {
        "subjects": ["usage.>"],
        "max_bytes": 1 << 30,
        "max_msgs_per_subject": 1,
        "deny_purge": False,
        "max_age": 40 * 86_400 * _NANOSECONDS,
    },
}


class JetStreamError(Exception):
    """The server refused an API call; `code` is its err_code."""

    def __init__(self, code: int, description: str) -> None:
        self.code = code
        super().__init__(f"{description} ({code})")


async def api(nc: Client, subject: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
    """One call of the JetStream API; nats-py's own calls do not know every setting that we need."""
    reply = await nc.request(f"$JS.API.{subject}", json.dumps(content or {}).encode(), timeout=5)
    answer: dict[str, Any] = json.loads(reply.data)
    if error := answer.get("error"):
        raise JetStreamError(error.get("err_code", 0), error.get("description", ""))
    return answer


async def stream_info(nc: Client, name: str) -> dict[str, Any]:
    """`STREAM.INFO` of a stream."""
    return await api(nc, f"STREAM.INFO.{name}")


async def ensure_streams(nc: Client, replicas: int = 1) -> None:
    """Make the streams that are missing; a stream with other safety settings is refused, not used."""
    for name, wanted in STREAMS.items():
        try:
            found = (await stream_info(nc, name))["config"]
        except JetStreamError as error:
            if error.code != _NOT_FOUND:
                raise
            fresh = wanted | {"name": name, "num_replicas": replicas, "metadata": {INCARNATION: uuid.uuid4().hex}}
            await api(nc, f"STREAM.CREATE.{name}", fresh)
            continue
        differing = [key for key, value in wanted.items() if key != "max_bytes" and found.get(key, False) != value]
        if differing:
            raise BusError("REGISTRY_UNAVAILABLE", f"the stream {name} has other settings for {', '.join(differing)}")
