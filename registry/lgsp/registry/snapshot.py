"""The registry's state on disk, so that a restart resumes where it was instead of reading the whole stream.

Only what changed is written. It is a cache: the stream is the truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from lgsp.api.registry.v1.registry_pb2 import Record
from lgsp.registry.rows import Row, Rows
from lgsp.registry.schema import CURRENT
from lgsp.registry.state import KINDS, Entry, State

# With the version of the records inside: another release's copy is read anew from the stream.
_FORM: Final = f"lgsp registry 2 schema {CURRENT}"


def save(
    path: Path, changed: Mapping[tuple[str, str], Entry], incarnation: str, revision: int, *, afresh: bool
) -> None:
    """Write entries by kind and key; `afresh` when the file is of another stream or was never written. OSError."""
    rows = {
        (kind, key): Row(kind, key, str(entry.revision), entry.record.SerializeToString())
        for (kind, key), entry in changed.items()
    }
    Rows(path, _FORM).write(rows, {"incarnation": incarnation, "revision": str(revision)}, afresh=afresh)


def load(path: Path) -> tuple[State, str] | None:
    """State and incarnation of the stream it came from; None when there is nothing usable."""
    state, found = State(), list[tuple[int, str, str, Record]]()

    def take(row: Row) -> None:
        if row.kind in KINDS:
            found.append((int(row.tag), row.kind, row.key, Record.FromString(row.value)))

    try:
        facts = Rows(path, _FORM).load(take)
        if facts is None:
            return None
        for revision, kind, key, record in sorted(found, key=lambda each: each[0]):
            state.apply(kind, key, Entry(record, revision))
        state.revision = int(facts["revision"])
        return state, facts["incarnation"]
    except (DecodeError, ValueError, KeyError):
        return None
