"""What changes by time alone: when which service's grants begin or end. Pure; the clock is handed in.

A city has hundreds of thousands of dates; the next one is found without looking at the others.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from datetime import datetime


class Calendar:
    """Dates of names. A date that lost its meaning costs a look at its name, no more."""

    def __init__(self) -> None:
        self._dates: list[tuple[datetime, str]] = []
        self._known: set[tuple[datetime, str]] = set()

    def add(self, name: str, dates: Iterable[datetime], now: datetime) -> None:
        """Something happens to `name` at these dates; those before `now` are over."""
        for date in dates:
            if date > now and (date, name) not in self._known:
                self._known.add((date, name))
                heapq.heappush(self._dates, (date, name))

    def next(self) -> datetime | None:
        """The next date; None when there is none."""
        return self._dates[0][0] if self._dates else None

    def due(self, now: datetime) -> set[str]:
        """The names whose dates have come, which are then over."""
        found = set()
        while self._dates and self._dates[0][0] <= now:
            each = heapq.heappop(self._dates)
            self._known.discard(each)
            found.add(each[1])
        return found
