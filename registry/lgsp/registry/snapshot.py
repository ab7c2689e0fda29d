"""The registry's state on disk, so that a restart resumes where it was instead of reading the whole stream.

0600, replaced whole, behind a checksum; a damaged or foreign file is as good as none. It is a cache: the stream is the truth.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from lgsp.api.registry.v1.registry_pb2 import Record
from lgsp.registry.schema import CURRENT
from lgsp.registry.state import KINDS, Entry, State

# With the version of the records inside: another release's copy is read anew from the stream.
_MAGIC: Final = b"LGSPREG1" + b"%04d" % CURRENT


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    incarnation: str
    revision: int
    # kind, key, revision, serialized Record
    entries: list[tuple[str, str, int, bytes]]


def dump(state: State, incarnation: str) -> bytes:
    """The state as the content of a file."""
    entries = [(kind, key, entry.revision, entry.record.SerializeToString()) for kind, key, entry in state.entries()]
    body = msgspec.msgpack.encode(_Content(incarnation, state.revision, entries))
    return _MAGIC + hashlib.sha256(body).digest() + body


def save(path: Path, content: bytes) -> None:
    """Replace the file, atomically, mode 0600."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(path: Path) -> tuple[State, str] | None:
    """State and incarnation of the stream it came from; None when there is nothing usable."""
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    body = raw[len(_MAGIC) + 32 :]
    if raw[: len(_MAGIC)] != _MAGIC or hashlib.sha256(body).digest() != raw[len(_MAGIC) : len(_MAGIC) + 32]:
        return None
    try:
        content = msgspec.msgpack.decode(body, type=_Content)
    except msgspec.MsgspecError:
        return None
    state = State()
    for kind, key, revision, record in content.entries:
        if kind in KINDS:
            state.apply(kind, key, Entry(Record.FromString(record), revision))
    state.revision = content.revision
    return state, content.incarnation
