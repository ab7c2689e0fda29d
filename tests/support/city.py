"""A real `lgsp up` in a folder of its own, with components plugged in: what an operator runs, nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from lgsp import client
from lgsp.gateway import settings
from lgsp.gateway.datadir import file_name
from lgsp.gateway.settings import Settings

LGSP = (sys.executable, "-m", "lgsp.cli.main")
START_S, STOP_S = 40, 40


@dataclass(slots=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def lgsp(*arguments: str | Path, stdin: bytes | None = None, **environment: str) -> Answer:
    """Run one command to its end."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *LGSP, *map(str, arguments), stdin=pipe, stdout=pipe, stderr=pipe, env={**os.environ, **environment}
    )
    out, err = await asyncio.wait_for(process.communicate(stdin), 60)
    return Answer(process.returncode or 0, out.decode(), err.decode())


class City:
    """A running node. `pid(part)` finds its processes; `stop()` asks it to end."""

    def __init__(self, data_dir: Path, process: asyncio.subprocess.Process) -> None:
        self.data_dir, self.process = data_dir, process
        self.node: Settings = settings.load(data_dir)

    def status(self) -> dict[str, Any]:
        return json.loads(self.node.layout.status.read_bytes())

    def part(self, name: str) -> dict[str, Any]:
        return next(each for each in self.status()["parts"] if each["name"] == name)

    def pid(self, name: str) -> int:
        return int(self.part(name)["pid"])

    def pids(self) -> set[int]:
        """Every process of this node, children of children included."""
        own = psutil.Process(self.process.pid)
        return {own.pid, *(each.pid for each in own.children(recursive=True))}

    async def up_again(self, name: str, after: int, within_s: float = 20) -> None:
        """Wait until a part serves with another process than `after`."""
        await until(lambda: self.part(name)["state"] == "up" and self.part(name)["pid"] != after, within_s)

    def lgsp(self, *arguments: str | Path, **environment: str) -> Any:
        return lgsp(*arguments, "--data-dir", self.data_dir, **environment)

    def connect(self, system: str | None = None, **options: Any) -> Any:
        """A channel as the operator, or as a system whose key the node holds."""
        layout = self.node.layout
        caller = system or self.node.operator
        own = layout.operator_key if system is None else layout.system_keys / f"{file_name(caller)}.jwk"
        return client.connect(self.node.target, system=caller, key=own, ca=layout.ca, **options)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), STOP_S)


async def until(condition: Any, within_s: float = 20) -> None:
    """Wait for a condition, bounded; its exceptions count as false."""

    def holds() -> bool:
        try:
            return bool(condition())
        except (OSError, ValueError, StopIteration, psutil.Error):
            return False

    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def running_city(
    data_dir: Path, *options: str, listen: str = "127.0.0.1:0", **environment: str
) -> AsyncIterator[City]:
    """`lgsp up` until the block ends; every process of it must be gone then.

    Providers of tests are on loopback and no part of the node, so the profile is `development` unless `options` name one.
    """
    options += () if "--profile" in options else ("--profile", "development")
    command = [*LGSP, "up", "--json", "--data-dir", str(data_dir), "--listen", listen, *options]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ, **environment}
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        line = await asyncio.wait_for(process.stdout.readline(), START_S)
        assert line, (await process.stderr.read()).decode()
        yield City(data_dir, process)
    finally:
        left = set[int]()
        if process.returncode is None:
            left = {process.pid, *(each.pid for each in psutil.Process(process.pid).children(recursive=True))}
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        finally:
            await until(lambda: not any(alive(pid) for pid in left))


def alive(pid: int) -> bool:
    """True for a process that runs; a zombie does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


SYSTEM, CONSUMER = "H26.7/things", "H26.8/reader"
THINGS = "t.v1.ThingService"
_CONTRACT = """
syntax = "proto3";
package t.v1;
import "google/api/annotations.proto";
import "lgsp/api/adapter/v1/options.proto";
service ThingService {
  rpc Get(Key) returns (Thing) {
    option idempotency_level = NO_SIDE_EFFECTS;
    option (google.api.http) = {get: "/v1/things/{id}"};
    option (lgsp.api.adapter.v1.sql) = {query: "SELECT id, name FROM thing WHERE id = :id"};
  }
  rpc Stream(Key) returns (stream Thing) {
    option (lgsp.api.adapter.v1.sql) = {query: "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c LIMIT 200000) SELECT x AS id, 'Đ' || x AS name FROM c WHERE x >= :id"};
  }
  rpc Find(Key) returns (Thing) {
    option (lgsp.api.adapter.v1.sql) = {query: "SELECT id, name FROM thing WHERE id = :id"};
  }
  rpc Hidden(Key) returns (Thing) {
    option (lgsp.api.adapter.v1.sql) = {query: "SELECT id, name FROM thing WHERE id = :id"};
  }
}
message Key { int32 id = 1; }
message Thing { int32 id = 1; string name = 2; }
"""
_MANIFEST = f"""
[component]
system = "{SYSTEM}"
names = {{ vi = "Đồ vật", en = "Things" }}
agency = {{ vi = "Sở thử", en = "Test department" }}
[contract]
proto = "things.proto"
[adapter]
kind = "sql"
url = "sqlite+aiosqlite:///things.db"
"""
_READER = f"""
[component]
system = "{CONSUMER}"
names = {{ vi = "Người đọc", en = "Reader" }}
agency = {{ vi = "Sở đọc", en = "Reading department" }}
[[grants]]
consumer = "{CONSUMER}"
service = "{THINGS}"
methods = ["Get", "Find", "Stream"]
"""


async def plug_things(city: City, folder: Path) -> None:
    """A component over SQLite (rows 1 to 9) that the reader may call, except its method Hidden."""
    import sqlite3

    folder.mkdir(exist_ok=True)
    with sqlite3.connect(folder / "things.db") as database:
        database.execute("CREATE TABLE IF NOT EXISTS thing (id integer PRIMARY KEY, name text NOT NULL)")
        database.executemany("INSERT OR IGNORE INTO thing VALUES (?, ?)", [(n, f"Vật {n}") for n in range(1, 10)])
    database.close()
    (folder / "things.proto").write_text(_CONTRACT, "utf-8")
    (folder / "component.toml").write_text(_MANIFEST, "utf-8")
    (folder / "reader.toml").write_text(_READER, "utf-8")
    for name in ("component.toml", "reader.toml"):
        answer = await city.lgsp("plug", folder / name)
        assert answer.code == 0, answer.err
