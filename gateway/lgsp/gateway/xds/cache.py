"""Named, versioned resources and their last accepted copy on disk.

The copy is what an Envoy gets that restarts while the registry is away: 0600, each resource vouched for by its digest, an
age limit. A damaged, foreign or overaged file is as good as none. Only what changed is written: a whole city is 100 MB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from google.protobuf.message import Message

from lgsp.gateway.xds.messages import TYPE_PREFIX
from lgsp.registry.rows import DamagedError, Row, Rows

_FORM: Final = "lgsp xds 2"
_SKEW_S: Final = 60.0
Name = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Resource:
    """One xDS resource as it travels: `version` is a digest of its bytes, so equal content is never sent twice."""

    type_url: str
    name: str
    value: bytes = field(repr=False)
    version: str

    @classmethod
    def of(cls, name: str, message: Message) -> Resource:
        value = message.SerializeToString(deterministic=True)
        return cls(TYPE_PREFIX + message.DESCRIPTOR.full_name, name, value, hashlib.sha256(value).hexdigest()[:16])


class Copy:
    """The copy in `path`, and what it lacks. `take` belongs to one thread, `write` to one writer at a time."""

    def __init__(self, path: Path) -> None:
        self._rows = Rows(path, _FORM)
        self._held: dict[Name, Resource] = {}
        self._changes: dict[Name, Resource | None] = {}
        self._afresh = True

    def load(self, now: float, max_age_s: float) -> list[Resource]:
        """The resources on disk; none when the file is missing, damaged, or older than `max_age_s`. Unix seconds."""
        found: list[Resource] = []
        facts = self._rows.load(lambda row: found.append(Resource(row.kind, row.key, row.value, row.tag)))
        try:
            written = float((facts or {})["written"])
        except (KeyError, ValueError):
            return []
        if not 0 <= now - written + _SKEW_S <= max_age_s + _SKEW_S:
            return []
        self._held, self._afresh = {(each.type_url, each.name): each for each in found}, False
        return found

    def take(self, changes: Mapping[Name, Resource | None]) -> None:
        """Note what Envoy accepted (None: what it dropped); what the copy holds already costs nothing."""
        for name, resource in changes.items():
            held = self._held.get(name)
            if (held and held.version) != (resource and resource.version):
                self._changes[name] = resource
                if resource is None:
                    del self._held[name]
                else:
                    self._held[name] = resource

    def take_all(self, accepted: Iterable[Resource]) -> None:
        """Note that Envoy holds exactly these."""
        whole: dict[Name, Resource | None] = {(each.type_url, each.name): each for each in accepted}
        self.take(dict.fromkeys(self._held.keys() - whole.keys()) | whole)

    def write(self, now: float) -> None:
        """Bring the file up to what was noted, and to the time `now`. OSError when it cannot be written."""
        changes, self._changes = self._changes, {}
        afresh, self._afresh = self._afresh, False
        rows = {name: None if each is None else _row(each) for name, each in changes.items()}
        try:
            self._rows.write(rows, {"written": repr(now)}, afresh=afresh)
        except OSError as error:
            damaged = isinstance(error, DamagedError)
            self._changes = {**(self._held if damaged else changes), **self._changes}
            self._afresh |= afresh or damaged
            raise


def _row(resource: Resource) -> Row:
    return Row(resource.type_url, resource.name, resource.version, resource.value)
