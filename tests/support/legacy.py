"""A legacy HTTP/JSON system of an agency, byte for byte in a test's hands: it keeps what it was asked and answers as told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Asked:
    """One request as it arrived; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Legacy:
    """`answer` is sent whole to every request; `hangs` never answers; `seen` is what was asked."""

    answer: bytes = b""
    hangs: bool = False
    port: int = 0
    seen: list[Asked] = field(default_factory=list)

    def says(self, body: Any, status: str = "200 OK", *headers: str, content_type: str = "application/json") -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        lines = [f"HTTP/1.1 {status}", f"content-type: {content_type}", f"content-length: {len(raw)}", *headers]
        self.answer = "\r\n".join(lines).encode() + b"\r\n\r\n" + raw

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            while True:
                self.seen.append(await _read(reader))
                if self.hangs:
                    await reader.read()
                    break
                writer.write(self.answer)
                await writer.drain()
                if b"connection: close" in self.answer.partition(b"\r\n\r\n")[0]:
                    break
        writer.close()


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    if headers.get("transfer-encoding") == "chunked":
        body = await _chunks(reader)
    return Asked(method, target, headers, body)


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


@asynccontextmanager
async def running_legacy(tls: ssl.SSLContext | None = None) -> AsyncIterator[Legacy]:
    legacy = Legacy()
    legacy.says({})
    server = await asyncio.start_server(legacy.serve, "127.0.0.1", 0, ssl=tls)
    legacy.port = server.sockets[0].getsockname()[1]
    async with server:
        yield legacy
        server.close()
