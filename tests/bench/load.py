"""Load of unary gRPC calls, from h2load where it is installed, else from grpc.aio; every answer is checked.

h2load calls a gRPC refusal a 2xx, because a refusal travels as HTTP 200 without a message. So the bytes of data are
counted: each answer must bring exactly the frame that a good answer has. grpc.aio raises for every status but OK.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import shutil
import ssl
import struct
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import grpc

CONNECTIONS, STREAMS = 4, 4


@dataclass(frozen=True, slots=True)
class Target:
    """`address` is host:port; with `ca` the connection is TLS; calls take turns among `paths`."""

    address: str
    paths: tuple[str, ...]
    request: bytes
    answer: bytes
    token: str = ""
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """`times_ms` is sorted."""

    calls: int
    seconds: float
    times_ms: list[float]


def generator() -> str:
    """Who makes the load on this machine."""
    return "h2load" if shutil.which("h2load") else "grpc.aio"


async def run(target: Target, calls: int) -> Run:
    """`calls` calls; AssertionError unless every one was answered well."""
    return await (_h2load(target, calls) if generator() == "h2load" else _grpc(target, calls))


async def _h2load(target: Target, calls: int) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        body.write_bytes(struct.pack(">BI", 0, len(target.request)) + target.request)
        scheme = "https" if target.ca else "http"
        command = ["h2load", f"-n{calls}", f"-c{CONNECTIONS}", f"-m{STREAMS}", "-t1", f"-d{body}", f"--log-file={log}"]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        command += ["-H", f"authorization: Bearer {target.token}"] if target.token else []
        command += [f"{scheme}://{target.address}{path}" for path in target.paths]
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        output = (await process.communicate())[0].decode()
        seconds = time.perf_counter() - began
        lines = [line.split("\t") for line in log.read_text().splitlines()]
    assert process.returncode == 0, output
    assert f"{calls} succeeded, 0 failed, 0 errored, 0 timeout" in output, output
    found = re.search(r"\((\d+)\) data", output)
    assert found, output
    wanted = calls * (5 + len(target.answer))
    assert int(found[1]) == wanted, f"{found[1]} bytes of data, {wanted} expected: some answers were refusals"
    assert all(status == "200" for _, status, _ in lines)
    return Run(calls, seconds, sorted(int(duration) / 1000 for _, _, duration in lines))


async def _grpc(target: Target, calls: int) -> Run:
    at_once = CONNECTIONS * STREAMS
    metadata = (("authorization", f"Bearer {target.token}"),) if target.token else ()
    options = [("grpc.use_local_subchannel_pool", 1)]
    if target.ca is not None:
        credentials = grpc.ssl_channel_credentials(target.ca.read_bytes())
        channel = grpc.aio.secure_channel(target.address, credentials, options=options)
    else:
        channel = grpc.aio.insecure_channel(target.address, options=options)

    async def worker(count: int) -> list[float]:
        times = []
        calls = itertools.cycle([channel.unary_unary(path) for path in target.paths])
        for _ in range(count):
            began = time.perf_counter()
            answer = await next(calls)(target.request, metadata=metadata, timeout=30)
            times.append((time.perf_counter() - began) * 1000)
            assert answer == target.answer
        return times

    async with channel:
        await channel.channel_ready()
        began = time.perf_counter()
        shares = [calls // at_once + (n < calls % at_once) for n in range(at_once)]
        times = [each for part in await asyncio.gather(*map(worker, shares)) for each in part]
        return Run(calls, time.perf_counter() - began, sorted(times))


def trust(ca: Path) -> ssl.SSLContext:
    """For token requests."""
    return ssl.create_default_context(cafile=str(ca))
