"""The demo's node: `lgsp up` and `lgsp plug` as anybody would run them, in a folder of their own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import lgsp.api.demo
from lgsp.cli.output import fail
from lgsp.gateway import settings
from lgsp.gateway.settings import Settings

UNITS_SYSTEM: Final = "H26.1/administrative-units"
POPULATION_SYSTEM: Final = "H26.2/population"
SHOP: Final = "H26.3/one-stop-shop"
UNITS: Final = "lgsp.api.demo.admunits.v1.AdministrativeUnitService"
POPULATION: Final = "lgsp.api.demo.population.v1.PopulationService"
_STOP_S: Final = 40.0
_MANIFEST: Final = """\
# Everything this component needs to appear on the bus.
[component]
system = "{system}"
names = {{ vi = "{vi}", en = "{en}" }}
agency = {{ vi = "{agency_vi}", en = "{agency_en}" }}

[contract]
proto = "{proto}"

[adapter]
kind = "sql"
url_env = "LGSP_DEMO_DATABASE"
"""
_SHOP_MANIFEST: Final = f"""\
# A component that only consumes.
[component]
system = "{SHOP}"
names = {{ vi = "Bộ phận một cửa", en = "One-stop shop" }}
agency = {{ vi = "Trung tâm Phục vụ hành chính công", en = "Public Administration Service Centre" }}

[[grants]]
consumer = "{SHOP}"
service = "{UNITS}"
"""


async def lgsp_command(*arguments: str, **environment: str) -> dict[str, Any]:
    """Run `lgsp … --json` and give its answer; its error becomes ours."""
    command = [sys.executable, "-m", "lgsp.cli.main", *arguments, "--json"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdout=pipe, stderr=pipe, env={**os.environ, **environment}
    )
    output, errors = await process.communicate()
    if process.returncode != 0:
        fail(f"`lgsp {' '.join(arguments)}` failed: {errors.decode().strip()}")
    found: dict[str, Any] = json.loads(output)
    return found


@asynccontextmanager
async def node(data_dir: Path, otlp: str) -> AsyncIterator[Settings]:
    """A running `lgsp up` on a free port; asked to stop at the end, and waited for."""
    command = [sys.executable, "-m", "lgsp.cli.main", "up", "--json", "--data-dir", str(data_dir)]
    command += ["--listen", "127.0.0.1:0", "--otlp-endpoint", otlp]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None
        if not await process.stdout.readline():
            fail("the node did not start", f"Its logs are in {data_dir / 'logs'}.")
        yield settings.load(data_dir)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), _STOP_S)
            except TimeoutError:
                process.kill()
                await process.wait()


def write_components(folder: Path) -> dict[str, Path]:
    """The demo's components as a developer would keep them: a manifest and a contract each."""
    units = _component(folder, "units", "admunits", UNITS_SYSTEM, "Đơn vị hành chính", "Administrative units")
    population = _component(
        folder, "population", "population", POPULATION_SYSTEM, "Dân cư (giả lập)", "Population (synthetic)"
    )
    shop = folder / "one-stop-shop"
    shop.mkdir()
    (shop / "component.toml").write_text(_SHOP_MANIFEST, "utf-8")
    return {"units": units, "population": population, "shop": shop / "component.toml"}


def _component(folder: Path, name: str, package: str, system: str, vi: str, en: str) -> Path:
    own = folder / name
    own.mkdir()
    contract = Path(next(iter(lgsp.api.demo.__path__))) / package / "v1" / f"{package}.proto"
    (own / contract.name).write_bytes(contract.read_bytes())
    agency = {"units": ("Sở Nội vụ", "Department of Home Affairs"), "population": ("Công an thành phố", "City Police")}[
        name
    ]
    manifest = own / "component.toml"
    text = _MANIFEST.format(system=system, vi=vi, en=en, agency_vi=agency[0], agency_en=agency[1], proto=contract.name)
    manifest.write_text(text, "utf-8")
    return manifest
