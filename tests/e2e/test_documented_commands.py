"""docs/registry.md and docs/grants.md, run: every command in a block marked `run`, in order, and the output they show."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import sys
from pathlib import Path

import pytest

from lgsp.gateway.datadir import file_name
from tests.support.city import CONSUMER, City, plug_things, running_city

DOCS = Path(__file__).parents[2] / "docs"
# A block that is run, its exit code where it is not 0, and the output that the page shows beneath it.
_BLOCK = re.compile(
    r"<!-- run(?:: (?P<code>\d))? -->\n```sh\n(?P<commands>.+?)\n```(?:\n\n```text\n(?P<output>.+?)\n```)?", re.S
)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S*Z")
PARK = """
syntax = "proto3";
package hanoi.park.v1;
import "lgsp/api/adapter/v1/options.proto";
service ParkService {
  rpc GetPark(Key) returns (Park) {
    option (lgsp.api.adapter.v1.sql) = {query: "SELECT id, name FROM park WHERE id = :id"};
  }
}
message Key { int32 id = 1; }
message Park { int32 id = 1; string name = 2; }
"""
PARKS = """
[component]
system = "H26.9/parks"
names = { vi = "Công viên", en = "Parks" }
agency = { vi = "Sở Xây dựng", en = "Construction" }
[contract]
proto = "park.proto"
[adapter]
kind = "sql"
url = "sqlite+aiosqlite:///parks.db"
[[grants]]
consumer = "H26.8/reader"
service = "hanoi.park.v1.ParkService"
methods = ["GetPark"]
"""
ROWS = ("H26.16,Sở Nội vụ,Home Affairs,H26", "H26.17,Sở Lao động,Labour,H26", "H26.19,Sở Tài chính,Finance,H26")


@pytest.mark.timeout(300)  # some thirty commands, each a process of its own
@pytest.mark.parametrize("page", ["registry.md", "grants.md"])
async def test_the_commands_of_a_page(tmp_path, page):
    blocks = list(_BLOCK.finditer((DOCS / page).read_text("utf-8")))
    assert len(blocks) >= 2
    async with running_city(tmp_path / "d") as city:
        await prepare(city, tmp_path)
        for block in blocks:
            if "lgsp service diff" in block["commands"]:
                await use_the_park(city, tmp_path)
            shown = []
            for command in block["commands"].splitlines():
                code, out, err = await run(city, tmp_path, command)
                assert code == int(block["code"] or 0), f"{command}\n{out}{err}"
                shown.append(out)
            if block["output"]:
                assert any(_same(out, block["output"]) for out in shown), "\n---\n".join(shown)


def _same(out: str, documented: str) -> bool:
    """Alike but for times; advice of the linter is not shown."""
    lines = [line for line in out.strip().splitlines() if not line.startswith("advice")]
    return _TIME.sub("T", "\n".join(lines)) == _TIME.sub("T", documented)


async def run(city: City, folder: Path, command: str) -> tuple[int, str, str]:
    """As a reader types it, with the node's data directory as the default one."""
    environment = os.environ | {
        "LGSP_DATA_DIR": str(city.data_dir),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_shell(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, out.decode(), err.decode()


async def prepare(city: City, folder: Path) -> None:
    """What the pages take for granted: files, three agencies, a provider, a clerk with the right to ask."""
    await plug_things(city, folder / "things")
    (folder / "park.proto").write_text(PARK, "utf-8")
    (folder / "broken.proto").write_text(PARK.replace("string name", "bytes name"), "utf-8")
    (folder / "base.csv").write_text("\n".join(["id,vi,en,parent", *ROWS]) + "\n", "utf-8")
    changed = [ROWS[0], ROWS[1].replace("Sở Lao động", "Sở Lao động và Xã hội"), ROWS[2]]
    changed.append("H26.18,Sở Ngoại vụ,Foreign Affairs,H26")
    (folder / "agencies.csv").write_text("\n".join(["id,vi,en,parent", *changed]) + "\n", "utf-8")
    asks = "--method RequestGrant"
    for command in (
        "lgsp agency import base.csv",
        'lgsp agency create H26.9 --vi "Sở Xây dựng" --en Construction',
        'lgsp agency create H26.50 --vi "Sở năm mươi" --en Fiftieth',
        f'lgsp system create H26.9/parks --vi "Công viên" --en Parks --new-key {key_of(city, "H26.9/parks")}',
        'lgsp system create H26.50/clerk --vi "Thư ký" --en Clerk --new-key clerk.jwk',
        f"lgsp grant create --consumer H26.50/clerk --service lgsp.api.registry.v1.RegistryService {asks}",
    ):
        code, out, err = await run(city, folder, command)
        assert code == 0, f"{command}\n{out}{err}"


def key_of(city: City, system: str) -> Path:
    return city.node.layout.system_keys / f"{file_name(system)}.jwk"


async def use_the_park(city: City, folder: Path) -> None:
    """A real provider of the service, and three calls on record."""
    with sqlite3.connect(folder / "parks.db") as database:
        database.execute("CREATE TABLE park (id integer PRIMARY KEY, name text NOT NULL)")
        database.execute("INSERT INTO park VALUES (1, 'Công viên Thống Nhất')")
    database.close()
    (folder / "parks.toml").write_text(PARKS, "utf-8")
    before = (await city.lgsp("service", "show", "hanoi.park.v1.ParkService", "--json")).json["service"]
    plugged = await city.lgsp("plug", folder / "parks.toml")
    assert plugged.code == 0, plugged.err
    after = (await city.lgsp("service", "show", "hanoi.park.v1.ParkService", "--json")).json["service"]
    for name in ("version", "classification", "owner", "contact", "deadline", "idempotent_methods"):
        assert after[name] == before[name], "plugging forgets nothing that was declared"
    for _ in range(3):
        called = await city.lgsp("call", "hanoi.park.v1.ParkService/GetPark", "-d", '{"id": 1}', "--as", CONSUMER)
        assert called.code == 0, called.err
    async with asyncio.timeout(20):
        while not await counted(city, folder):
            await asyncio.sleep(0.1)


async def counted(city: City, folder: Path) -> bool:
    contract = ("--contract", folder / "broken.proto", "--json")
    told = (await city.lgsp("service", "diff", "hanoi.park.v1.ParkService", *contract)).json
    return any(int(each.get("calls_30_days", 0)) == 3 for each in told["affected"])
