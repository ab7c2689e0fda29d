"""Durations as people write them on a command line: `90s`, `12h`, `30d`."""

from __future__ import annotations

import re
from typing import Final

import click

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_FORM: Final = re.compile(r"([0-9]{1,6})([smhd])")


def parse_duration(text: str) -> int:
    """Seconds; click.BadParameter for anything else."""
    found = _FORM.fullmatch(text)
    if not found:
        raise click.BadParameter(f"{text!r} is no duration such as 90s, 12h or 30d")
    return int(found[1]) * _SECONDS[found[2]]
