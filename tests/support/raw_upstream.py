"""Another company's gRPC server that keeps no rules: answers every HTTP/2 request with the bytes that a test gives it.

Small on purpose: it reads frames (RFC 9113) without their headers, and writes headers as HPACK literals (RFC 7541 §6.2.2).
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

Headers = Sequence[tuple[str, str]]
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _PING = 0, 1, 4, 6
_ACK = _END_STREAM = 1
_END_HEADERS: Final = 4
GRPC: Final = (("content-type", "application/grpc"),)
OK: Final = (("grpc-status", "0"),)


def framed(message: bytes, *, compressed: bool = False) -> bytes:
    """A gRPC message in its length-prefixed frame."""
    return struct.pack("!BI", compressed, len(message)) + message


class RawUpstream:
    """`status`, `headers`, `chunks` (one DATA frame each) and `trailers` are the next answers; None ends with the data."""

    def __init__(self) -> None:
        self.address = ""
        self.says()

    def says(self, *chunks: bytes, status: int = 200, headers: Headers = GRPC, trailers: Headers | None = OK) -> None:
        self.chunks, self.status, self.headers, self.trailers = chunks, status, headers, trailers

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            assert await reader.readexactly(len(_PREFACE)) == _PREFACE
            writer.write(_frame(_SETTINGS, 0, 0))
            while True:
                head = await reader.readexactly(9)
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
                content = await reader.readexactly(int.from_bytes(head[:3], "big"))
                if kind in (_SETTINGS, _PING) and not flags & _ACK:
                    writer.write(_frame(kind, _ACK, 0, content if kind == _PING else b""))
                if kind in (_HEADERS, _DATA) and flags & _END_STREAM:
                    writer.write(self._answer(stream))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _answer(self, stream: int) -> bytes:
        out = _frame(_HEADERS, _END_HEADERS, stream, _packed(((":status", str(self.status)), *self.headers)))
        last = len(self.chunks) - 1 if self.trailers is None else -1
        for number, chunk in enumerate(self.chunks):
            out += _frame(_DATA, _END_STREAM if number == last else 0, stream, chunk)
        if self.trailers is not None:
            out += _frame(_HEADERS, _END_HEADERS | _END_STREAM, stream, _packed(self.trailers))
        return out


def _frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    return len(content).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + content


def _packed(headers: Headers) -> bytes:
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in headers)


def _text(value: str) -> bytes:
    raw = value.encode()
    assert len(raw) < 127, "a longer literal needs a length of several bytes"
    return bytes((len(raw),)) + raw


@asynccontextmanager
async def raw_upstream() -> AsyncIterator[RawUpstream]:
    """Listens on loopback until the block ends."""
    made = RawUpstream()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
