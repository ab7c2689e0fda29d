"""Records that this node had to leave out: which keys, why, and how many messages in all. Pure.

Rule 1: a key that is held keeps its last readable record and takes no write, until a readable one comes.
Rule 2: what was written together with an unreadable record is held with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

_MOST: Final = 10_000


class Held:
    """`count` is of messages since the start; `last` says what the last one was; `report` is told each, for the log."""

    def __init__(self) -> None:
        self.report: Callable[[str], None] = lambda detail: None
        self.clear()

    def clear(self) -> None:
        """Another stream begins."""
        self.count, self.last = 0, ""
        self._keys: dict[tuple[str, str], str] = {}

    def hold(self, sequence: int, detail: str, keys: Iterable[tuple[str, str]]) -> None:
        """A message could not be taken, and these keys with it."""
        self.count += 1
        named = list(keys)
        where = f"{named[0][0]} {named[0][1]}, " if named else ""
        self.last = f"{where}revision {sequence}: {detail}"
        for key in named:
            if len(self._keys) < _MOST:
                self._keys[key] = detail
        self.report(self.last)

    def release(self, kind: str, key: str) -> None:
        """A readable record of the key came."""
        self._keys.pop((kind, key), None)

    def reason(self, kind: str, key: str) -> str | None:
        """Why the key takes no write; None when it does."""
        return self._keys.get((kind, key))

    @property
    def keys(self) -> int:
        """How many keys are held now."""
        return len(self._keys)
