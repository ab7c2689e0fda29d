"""Rows on disk that only change where they changed: what a process must not read anew after a restart, in one SQLite file.

Rule 1: a change is one transaction; a crash leaves the file before it or after it.
Rule 2: the file is known by its form and vouched for by the sum of its rows' digests: one that is damaged, foreign or
        incomplete is as good as none.
Rule 3: it is a cache (0600): a power cut may cost the last seconds, never the truth, which is elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS row (
  kind TEXT NOT NULL, key TEXT NOT NULL, tag TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (kind, key)
);
"""
_ALL: Final = "SELECT kind, key, tag, value FROM row"
_SUM, _FORM = "sum", "form"
_MODULUS: Final = 1 << 256


class DamagedError(OSError):
    """The file was damaged or foreign; it is gone."""


@dataclass(frozen=True, slots=True)
class Row:
    """`kind` and `key` name it, `tag` is its version in words, `value` its content."""

    kind: str
    key: str
    tag: str
    value: bytes


Changes = Mapping[tuple[str, str], Row | None]


class Rows:
    """The rows in `path`, of the form named `form`; opened for each use, because uses are rare and in other threads."""

    def __init__(self, path: Path, form: str) -> None:
        self._path, self._form = path, form

    def write(self, changes: Changes, facts: Mapping[str, str], *, afresh: bool = False) -> None:
        """Change rows (None removes one) and facts; `afresh` forgets all that was there.

        OSError when it cannot be written now; DamagedError when the file was no good and has to be begun afresh.
        """
        if afresh:
            self._discard()
        try:
            self._change(changes, facts)
        except sqlite3.OperationalError as error:
            raise OSError(f"{self._path.name}: {error}") from None
        except sqlite3.DatabaseError as error:
            self._discard()
            raise DamagedError(f"{self._path.name}: {error}") from None

    def load(self, take: Callable[[Row], None]) -> dict[str, str] | None:
        """The facts, after every row was given to `take`; None, and nothing taken, when there is nothing usable."""
        if not self._path.exists():
            return None
        try:
            with self._open() as file:
                file.execute("BEGIN")
                facts = dict(file.execute("SELECT name, value FROM fact"))
                total = sum(_digest(Row(*each)) for each in file.execute(_ALL)) % _MODULUS
                if facts.pop(_FORM, "") != self._form or facts.pop(_SUM, "") != str(total):
                    return None
                for each in file.execute(_ALL):
                    take(Row(*each))
        except (sqlite3.DatabaseError, OSError):
            return None
        return facts

    def _change(self, changes: Changes, facts: Mapping[str, str]) -> None:
        with self._open() as file, file:
            file.execute("BEGIN IMMEDIATE")
            known = dict(file.execute("SELECT name, value FROM fact"))
            if known.get(_FORM, self._form) != self._form:
                raise sqlite3.DatabaseError("another form")
            total = int(known.get(_SUM, 0))
            for (kind, key), row in changes.items():
                where = (kind, key)
                for old in file.execute("SELECT kind, key, tag, value FROM row WHERE kind = ? AND key = ?", where):
                    total -= _digest(Row(*old))
                if row is None:
                    file.execute("DELETE FROM row WHERE kind = ? AND key = ?", where)
                else:
                    total += _digest(row)
                    file.execute("INSERT OR REPLACE INTO row VALUES (?, ?, ?, ?)", (kind, key, row.tag, row.value))
            fresh = {**facts, _SUM: str(total % _MODULUS), _FORM: self._form}
            file.executemany("INSERT OR REPLACE INTO fact VALUES (?, ?)", fresh.items())

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        if not self._path.exists():
            self._path.touch(0o600)  # SQLite gives its journal the same mode
        file = sqlite3.connect(self._path, timeout=5, isolation_level=None)
        try:
            file.execute("PRAGMA journal_mode = WAL")
            file.execute("PRAGMA synchronous = NORMAL")
            file.executescript(_SCHEMA)
            yield file
        finally:
            file.close()

    def _discard(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)


def _digest(row: Row) -> int:
    names = f"{row.kind}\0{row.key}\0{row.tag}\0".encode()
    return int.from_bytes(hashlib.sha256(names + row.value).digest())
