"""Times as people write them on a command line: `90s`, `12h`, `30d`, and ISO 8601 instants and dates."""

from __future__ import annotations

import re
from datetime import UTC, datetime
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


def parse_instant(text: str) -> datetime:
    """An instant in UTC; without a zone it is this machine's time."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no ISO 8601 time such as 2026-12-31T17:00:00+07:00") from None
    return found.astimezone(UTC)
