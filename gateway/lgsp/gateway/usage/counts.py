"""Calls a day by service, method, consumer and purpose. Pure.

A day is Vietnam's (UTC+7, no summer time). Counts are absolute, so that telling them twice changes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import msgspec

KEEP_DAYS: Final = 30
_VIETNAM: Final = timedelta(hours=7)


class Key(NamedTuple):
    """What is counted apart; `purpose` is empty when the call named none."""

    service: str
    method: str
    consumer: str
    purpose: str


class Tally(NamedTuple):
    """Calls, and when the last one began (Unix milliseconds)."""

    calls: int
    last_ms: int


def day_of(time: datetime) -> str:
    """The day in Vietnam, `2026-01-31`."""
    return (time.astimezone(UTC) + _VIETNAM).strftime("%Y-%m-%d")


Tallies = dict[Key, Tally]


def oldest_kept(today: str) -> str:
    """The first of KEEP_DAYS days that end today."""
    return (datetime.fromisoformat(today) - timedelta(days=KEEP_DAYS - 1)).strftime("%Y-%m-%d")


class Counts:
    """Day → service → key → tally, of one node."""

    def __init__(self, days: Mapping[str, Mapping[Key, Tally]] | None = None) -> None:
        self.days: dict[str, dict[str, Tallies]] = defaultdict(dict)
        for day, tallies in (days or {}).items():
            self.days[day] = by_service(tallies)

    def add(self, key: Key, time: datetime) -> str:
        """Count a call; answers its day."""
        day, milliseconds = day_of(time), int(time.timestamp() * 1000)
        tallies = self.days[day].setdefault(key.service, {})
        before = tallies.get(key, Tally(0, 0))
        tallies[key] = Tally(before.calls + 1, max(before.last_ms, milliseconds))
        return day

    def flat(self, day: str, wanted: Callable[[str], bool] = lambda service: True) -> Tallies:
        """The tallies of a day, of the services that are wanted."""
        found: Tallies = {}
        for service, tallies in self.days.get(day, {}).items():
            if wanted(service):
                found |= tallies
        return found

    def forget(self, today: str) -> None:
        """Drop what is older than KEEP_DAYS."""
        for day in [day for day in self.days if day < oldest_kept(today)]:
            del self.days[day]


def dump(tallies: Mapping[Key, Tally]) -> bytes:
    """Tallies as bytes."""
    return msgspec.msgpack.encode([(*key, *tally) for key, tally in sorted(tallies.items())])


def load(content: bytes) -> dict[Key, Tally]:
    """The tallies in bytes made by `dump`; msgspec.MsgspecError for anything else."""
    rows = msgspec.msgpack.decode(content, type=list[tuple[str, str, str, str, int, int]])
    return {Key(*row[:4]): Tally(*row[4:]) for row in rows}


def by_service(tallies: Mapping[Key, Tally]) -> dict[str, Tallies]:
    """Service → its tallies."""
    found: dict[str, Tallies] = defaultdict(dict)
    for key, tally in tallies.items():
        found[key.service][key] = tally
    return dict(found)
