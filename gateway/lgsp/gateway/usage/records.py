"""Envoy's call records, read as they are written: resumed at an offset, followed through rotation.

Rule 1: only calls that reached a provider count, once, when they end.
Rule 2: a line that is no record (a write cut by a crash) is skipped; a line without its end is read when it has it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from lgsp.gateway.usage.counts import Key

CHUNK: Final = 4 << 20
_ENDED: Final = "DownstreamEnd"


class Position(msgspec.Struct):
    """How far the records were read: the file's inode and an offset in it."""

    inode: int = 0
    offset: int = 0


class _Line(msgspec.Struct):
    time: datetime
    route: str | None = None
    client: str | None = None
    purpose: str | None = None
    upstream: str | None = None
    kind: str | None = None


_DECODER: Final = msgspec.json.Decoder(_Line)


def read(path: Path, position: Position) -> Iterator[tuple[Key, datetime]]:
    """Calls written since `position`, which moves along; at most CHUNK bytes at once."""
    file = _open(path, position)
    if file is None:
        return
    with os.fdopen(file, "rb") as stream:
        stream.seek(position.offset)
        whole = stream.read(CHUNK)
        end = whole.rfind(b"\n") + 1
        if not end and len(whole) == CHUNK:
            end = CHUNK  # a line that long is no record
    position.offset += end
    for line in whole[:end].splitlines():
        if (found := _call(line)) is not None:
            yield found


def _open(path: Path, position: Position) -> int | None:
    """The file to go on with: the rotated one until it is read to its end, then the current one from its beginning."""
    older, current = _stat(path.with_suffix(".log.1")), _stat(path)
    if older is not None and older.st_ino == position.inode and older.st_size > position.offset:
        return os.open(path.with_suffix(".log.1"), os.O_RDONLY)
    if current is None:
        return None
    if current.st_ino != position.inode or current.st_size < position.offset:
        position.inode, position.offset = current.st_ino, 0
    return os.open(path, os.O_RDONLY) if current.st_size > position.offset else None


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _call(line: bytes) -> tuple[Key, datetime] | None:
    try:
        record = _DECODER.decode(line)
    except msgspec.MsgspecError:
        return None
    service, slash, method = (record.route or "").rpartition("/")
    if record.kind != _ENDED or not record.client or not record.upstream or not slash or not method:
        return None
    return Key(service, method, record.client, record.purpose or ""), record.time
