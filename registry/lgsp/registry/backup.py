"""A registry as one file: every record with its history, and the contracts that they name. docs/operate.md has the format.

    magic (21 bytes) · length of the header (4 bytes, big-endian) · header (JSON) · body (zlib) · SHA-256 of all before

The body is frames: length (4 bytes, big-endian) and a MessagePack array, `["m", sequence, subject, whole, data]` for a
message, `["c", digest, packed]` for a contract, `["e", messages, contracts, revision]` at the end.

Rule 1: a file is there whole or not at all, 0600: written beside, synced, renamed.
Rule 2: nothing of a file is used before all of it was checked.
Rule 3: neither writing nor reading holds more than a frame in memory.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import msgspec

from lgsp.registry import contracts, schema

MAGIC: Final = b"LGSP-REGISTRY-BACKUP\n"
FORMAT: Final = 1
_DIGEST: Final = 32
_MAX_HEADER: Final = 64 * 1024
_MAX_FRAME: Final = 16 << 20
_CHUNK: Final = 1 << 18


class BackupError(Exception):
    """The file cannot be used; the text says why, for people."""


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`revision` is the last one when the backup began; `time` is UTC, ISO 8601."""

    format: int
    schema: int
    city: str
    incarnation: str
    revision: int
    time: str


class Stored(msgspec.Struct, frozen=True, array_like=True, tag="m"):
    """One message of the stream; `whole` is true for the last of those that were written together."""

    sequence: int
    subject: str
    whole: bool
    data: bytes


class Kept(msgspec.Struct, frozen=True, array_like=True, tag="c"):
    """A contract by the SHA-256 (hex) of its content, packed by zlib as the stream CONTRACTS has it."""

    digest: str
    packed: bytes


class End(msgspec.Struct, frozen=True, array_like=True, tag="e"):
    """How much there was; `revision` is the last in the file."""

    messages: int
    contracts: int
    revision: int


Frame = Stored | Kept | End
_DECODER: Final = msgspec.msgpack.Decoder(Frame)
_ENCODER: Final = msgspec.msgpack.Encoder()


@dataclass(slots=True)
class Summary:
    """What a checked file holds. `missing` are contracts that records name and the file lacks; `unreadable` are messages
    that were no records when the backup was made."""

    header: Header
    end: End
    missing: list[str] = field(default_factory=list)
    unreadable: int = 0


class Writer:
    """Appends frames to a file that is renamed into its place by `creating`."""

    def __init__(self, file: IO[bytes], header: Header) -> None:
        self._file, self._hash, self._packer = file, hashlib.sha256(), zlib.compressobj(6)
        self.digests: set[str] = set()
        self.messages, self.contracts, self.revision = 0, 0, 0
        head = msgspec.json.encode(header)
        self._write(MAGIC + len(head).to_bytes(4, "big") + head)

    def message(self, stored: Stored) -> None:
        """The next message, in the order of the stream."""
        self.messages, self.revision = self.messages + 1, stored.sequence
        self.digests |= digests_of(stored)
        self._frame(stored)

    def contract(self, kept: Kept) -> None:
        self.contracts += 1
        self._frame(kept)

    def finish(self) -> End:
        """Nothing comes after it."""
        end = End(self.messages, self.contracts, self.revision)
        self._frame(end)
        self._write(self._packer.flush())
        self._file.write(self._hash.digest())
        return end

    def _frame(self, frame: Frame) -> None:
        raw = _ENCODER.encode(frame)
        if packed := self._packer.compress(len(raw).to_bytes(4, "big") + raw):
            self._write(packed)

    def _write(self, raw: bytes) -> None:
        self._hash.update(raw)
        self._file.write(raw)


@contextmanager
def creating(path: Path, header: Header) -> Iterator[Writer]:
    """A new file at `path`, or what was there before if the block does not end well."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield Writer(file, header)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- reading -------------------------------------------------------------------------------------------------------------


def check(file: IO[bytes]) -> Summary:
    """Read a whole file and say what is in it; BackupError for one that is damaged, foreign or newer."""
    size = file.seek(0, os.SEEK_END)
    header = _header(file)
    if _digest(file, size - _DIGEST) != _tail(file, size):
        raise BackupError("the file is damaged: its checksum does not fit")
    named: set[str] = set()
    kept: set[str] = set()
    unreadable, expected = 0, 1
    for frame in _frames(file, size):
        if isinstance(frame, Stored):
            if frame.sequence != expected:
                raise BackupError(f"the file lacks the message {expected}")
            expected += 1
            unreadable += not _is_readable(frame)
            named |= digests_of(frame)
        elif isinstance(frame, Kept):
            _check_contract(frame)
            kept.add(frame.digest)
        else:
            if (frame.messages, frame.contracts, frame.revision) != (expected - 1, len(kept), expected - 1):
                raise BackupError("the file does not hold what its end says")
            return Summary(header, frame, sorted(named - kept), unreadable)
    raise BackupError("the file has no end")


def frames(file: IO[bytes]) -> Iterator[Stored | Kept]:
    """Messages, then contracts, of a file that was checked."""
    size = file.seek(0, os.SEEK_END)
    _header(file)
    for frame in _frames(file, size):
        if not isinstance(frame, End):
            yield frame


def digests_of(stored: Stored) -> set[str]:
    """The contracts that a message names."""
    if not stored.subject.startswith(("registry.service.", "registry.service_version.")):
        return set()
    try:
        kind, _, record = schema.read(stored.subject, stored.data)
    except schema.UnreadableError:
        return set()
    digest = record.service.contract_digest if kind == "service" else record.service_version.contract_digest
    return {digest} if digest else set()


def _header(file: IO[bytes]) -> Header:
    file.seek(0)
    if file.read(len(MAGIC)) != MAGIC:
        raise BackupError("the file is no backup of a registry")
    length = int.from_bytes(file.read(4), "big")
    if length > _MAX_HEADER:
        raise BackupError("the file is damaged: its header is too long")
    raw = file.read(length)
    try:
        version = msgspec.json.decode(raw, type=dict).get("format")
        if version != FORMAT:
            raise BackupError(f"the file has format {version}, this release reads {FORMAT}")
        header = msgspec.json.decode(raw, type=Header)
    except msgspec.MsgspecError:
        raise BackupError("the file is damaged: its header cannot be read") from None
    if header.schema > schema.CURRENT:
        raise BackupError(
            f"a newer release wrote it: its records have schema version {header.schema}, this one reads {schema.CURRENT}"
        )
    return header


def _digest(file: IO[bytes], length: int) -> bytes:
    file.seek(0)
    found = hashlib.sha256()
    while length > 0 and (chunk := file.read(min(_CHUNK, length))):
        found.update(chunk)
        length -= len(chunk)
    return found.digest()


def _tail(file: IO[bytes], size: int) -> bytes:
    file.seek(max(0, size - _DIGEST))
    return file.read(_DIGEST)


def _frames(file: IO[bytes], size: int) -> Iterator[Frame]:
    file.seek(len(MAGIC))
    file.seek(int.from_bytes(file.read(4), "big"), os.SEEK_CUR)
    body = _Body(file, size - _DIGEST - file.tell())
    while head := body.read(4):
        length = int.from_bytes(head, "big")
        if length > _MAX_FRAME:
            raise BackupError("the file is damaged: a frame is too long")
        try:
            yield _DECODER.decode(body.read(length))
        except msgspec.MsgspecError:
            raise BackupError("the file is damaged: a frame cannot be read") from None


class _Body:
    """The inflated body, a little at a time."""

    def __init__(self, file: IO[bytes], left: int) -> None:
        self._file, self._left, self._inflater, self._ready = file, left, zlib.decompressobj(), bytearray()

    def read(self, length: int) -> bytes:
        """Exactly so many bytes; none at the end."""
        while len(self._ready) < length and not self._inflater.eof:
            waiting = self._inflater.unconsumed_tail or self._file.read(min(_CHUNK, self._left))
            if not waiting:
                break
            if waiting is not self._inflater.unconsumed_tail:
                self._left -= len(waiting)
            try:
                self._ready += self._inflater.decompress(waiting, _CHUNK)
            except zlib.error:
                raise BackupError("the file is damaged: its body cannot be inflated") from None
        found = bytes(self._ready[:length])
        del self._ready[:length]
        return found


def _is_readable(stored: Stored) -> bool:
    try:
        schema.read(stored.subject, stored.data)
    except schema.UnreadableError as error:
        if error.newer:
            raise BackupError(f"a newer release wrote the message {stored.sequence}: {error}") from None
        return False
    return True


def _check_contract(kept: Kept) -> None:
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(kept.packed, contracts.MAX_BYTES + 1)
    except zlib.error:
        content = b""
    if hashlib.sha256(content).hexdigest() != kept.digest:
        raise BackupError(f"the contract {kept.digest[:12]}… in the file is damaged")
