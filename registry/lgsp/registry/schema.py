"""The form of stored records over time: which version this release writes, and how older ones are brought up to it. Pure.

Rule 1: every record is written in the version CURRENT. A field that is only added needs no new version; a version is
        for what an older reader would misunderstand.
Rule 2: an older record goes up one step after the other when it is read; the stream itself is never rewritten.
Rule 3: a newer record is refused, and so is what is no record at all: nothing is guessed. A refusal says what and where.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from google.protobuf.message import DecodeError

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry.identifiers import parse_subject
from lgsp.registry.state import KINDS


class UnreadableError(Exception):
    """A message of the stream that this release cannot take; `kind` and `key` are empty where even they are not known.

    `foreign` is a kind that this release does not know, `newer` a record of a later schema.
    """

    def __init__(
        self, detail: str, kind: str = "", key: str = "", *, foreign: bool = False, newer: bool = False
    ) -> None:
        self.kind, self.key, self.foreign, self.newer = kind, key, foreign, newer
        super().__init__(detail)


def _from_0(record: pb.Record) -> None:
    """Before there were versions, grants had no state and services neither a place in life nor a number."""
    kind = record.WhichOneof("value")
    if kind == "grant" and not record.grant.state:
        revoked = record.grant.HasField("revoked_at")
        record.grant.state = pb.GRANT_STATE_REVOKED if revoked else pb.GRANT_STATE_ACTIVE
    if kind == "service":
        service = record.service
        if not service.lifecycle:
            retired = service.HasField("retired_at")
            service.lifecycle = pb.LIFECYCLE_RETIRED if retired else pb.LIFECYCLE_PUBLISHED
        if not service.version and service.lifecycle != pb.LIFECYCLE_DRAFT:
            service.version = 1


# Version → the step that leads from it to the next one.
_STEPS: Final[tuple[Callable[[pb.Record], None], ...]] = (_from_0,)
CURRENT: Final = len(_STEPS)


def up(record: pb.Record) -> pb.Record:
    """The record, changed in place to the current version; UnreadableError for a newer one."""
    if not 0 <= record.schema <= CURRENT:
        raise UnreadableError(f"it has schema version {record.schema}, this release reads up to {CURRENT}", newer=True)
    for step in _STEPS[record.schema :]:
        step(record)
    record.schema = CURRENT
    return record


def read(subject: str, data: bytes) -> tuple[str, str, pb.Record]:
    """Kind, key and record of one message of the stream; UnreadableError says why it is none."""
    try:
        kind, key = parse_subject(subject)
    except ValueError:
        raise UnreadableError(f"{subject[:100]!r} is no subject of a record") from None
    if kind not in KINDS:
        raise UnreadableError(f"this release knows no records of the kind {kind[:40]!r}", kind, key, foreign=True)
    try:
        record = pb.Record.FromString(data)
    except DecodeError:
        raise UnreadableError("it is no record, or a damaged one", kind, key) from None
    try:
        up(record)
    except UnreadableError as error:
        raise UnreadableError(str(error), kind, key, newer=error.newer) from None
    if record.WhichOneof("value") != kind:
        raise UnreadableError(f"it holds no {kind}", kind, key)
    return kind, key, record
