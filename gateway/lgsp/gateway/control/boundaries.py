"""The moments at which something begins or ends by itself: each names what to look at again then. Pure.

An entry that was overtaken (a grant revoked before its end) stays until its moment and costs one look too many.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from datetime import datetime


class Boundaries:
    """A clock's appointments, the earliest first."""

    def __init__(self) -> None:
        self._heap: list[tuple[datetime, str]] = []

    def add(self, times: Iterable[datetime], name: str, now: datetime) -> None:
        """Remember the moments that are still to come."""
        for time in times:
            if time > now:
                heapq.heappush(self._heap, (time, name))

    def due(self, now: datetime) -> set[str]:
        """The names whose moment has come; they are forgotten."""
        found: set[str] = set()
        while self._heap and self._heap[0][0] <= now:
            found.add(heapq.heappop(self._heap)[1])
        return found

    def next(self) -> datetime | None:
        """The next moment; None when nothing is to come."""
        return self._heap[0][0] if self._heap else None
