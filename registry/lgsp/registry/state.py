"""The registry's state: the last record of every key, with the indexes that readers need. Pure; one writer, the store."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from lgsp.api.registry.v1.registry_pb2 import Record

KINDS: Final = (
    "agency",
    "system",
    "group",
    "service",
    "service_version",
    "endpoint",
    "grant",
    "node_key",
    "token_revocation",
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A record and the stream sequence it has."""

    record: Record
    revision: int


@dataclass(frozen=True, slots=True)
class Change:
    """One record replaced: `entry` is the new one, `previous` what was there; an `entry` of None after a relist is gone."""

    kind: str
    key: str
    entry: Entry | None
    previous: Entry | None


class State:
    """Everything that the stream says, up to `revision`."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything: another stream begins."""
        self.revision = 0
        self._entries: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
        self._by_service: dict[str, dict[str, set[str]]] = {
            "grant": defaultdict(set),
            "endpoint": defaultdict(set),
        }
        self._aliases: dict[str, str] = {}

    def get(self, kind: str, key: str) -> Entry | None:
        """The last record of a key, ended and revoked ones included."""
        return self._entries[kind].get(key)

    def all(self, kind: str) -> Mapping[str, Entry]:
        """Key → entry of one kind, unordered."""
        return MappingProxyType(self._entries[kind])

    def page(self, kind: str, after: str, size: int) -> list[tuple[str, Entry]]:
        """Up to `size` entries in the order of their keys, from the first beyond `after`."""
        keys = sorted(self._entries[kind])
        start = bisect_right(keys, after) if after else 0
        return [(key, self._entries[kind][key]) for key in keys[start : start + size]]

    def resolve_agency(self, identifier: str) -> Entry | None:
        """An agency by its identifier or an alias."""
        return self.get("agency", identifier) or self.get("agency", self._aliases.get(identifier, ""))

    def grants_by_service(self, service: str) -> list[Entry]:
        """All grants on a service, in the order of their ids."""
        return self._of_service("grant", service)

    def endpoints_by_service(self, service: str) -> list[Entry]:
        """All endpoints of a service, ended ones included, in the order of their ids."""
        return self._of_service("endpoint", service)

    def entries(self) -> Iterator[tuple[str, str, Entry]]:
        """(kind, key, entry) of everything."""
        for kind, named in self._entries.items():
            for key, entry in named.items():
                yield kind, key, entry

    def apply(self, kind: str, key: str, entry: Entry) -> Change:
        """Take one record; sequences only grow."""
        previous = self._entries[kind].get(key)
        if previous is not None:
            self._index(kind, key, previous.record, forget=True)
        self._entries[kind][key] = entry
        self._index(kind, key, entry.record, forget=False)
        self.revision = max(self.revision, entry.revision)
        return Change(kind, key, entry, previous)

    def _of_service(self, kind: str, service: str) -> list[Entry]:
        return [self._entries[kind][key] for key in sorted(self._by_service[kind].get(service, ()))]

    def _index(self, kind: str, key: str, record: Record, *, forget: bool) -> None:
        if kind == "agency":
            for alias in record.agency.aliases:
                self._aliases.pop(alias, None) if forget else self._aliases.__setitem__(alias, key)
        services = [record.grant.service] if kind == "grant" else record.endpoint.services if kind == "endpoint" else ()
        for service in services:
            keys = self._by_service[kind][service]
            keys.discard(key) if forget else keys.add(key)
