"""The registry's state: the last record of every key, with the indexes that readers need. Pure; one writer, the store."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from lgsp.api.registry.v1.registry_pb2 import Grant, Record, System
from lgsp.registry.identifiers import agency_of, from_older_form

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
        self._keys: dict[str, list[str]] = {}
        # Everything in the order of revisions: who comes back after a while is told what is at the end.
        self._order: dict[tuple[str, str], None] = {}
        self._by_service: dict[str, dict[str, set[str]]] = {
            "grant": defaultdict(set),
            "endpoint": defaultdict(set),
        }
        self._aliases: dict[str, str] = {}
        # `system …`, `agency …` or `group …` → grants; agency → systems; system → groups.
        self._by_subject: dict[str, set[str]] = defaultdict(set)
        self._systems: dict[str, set[str]] = defaultdict(set)
        self._groups: dict[str, set[str]] = defaultdict(set)
        self._below: dict[str, set[str]] = defaultdict(set)

    def become(self, other: State) -> None:
        """Take everything of another state at once; the other must not be used any more."""
        vars(self).update(vars(other))

    def get(self, kind: str, key: str) -> Entry | None:
        """The last record of a key, ended and revoked ones included."""
        return self._entries[kind].get(key)

    def all(self, kind: str) -> Mapping[str, Entry]:
        """Key → entry of one kind, unordered."""
        return MappingProxyType(self._entries[kind])

    def page(self, kind: str, after: str, size: int) -> list[tuple[str, Entry]]:
        """Up to `size` entries in the order of their keys, from the first beyond `after`."""
        keys = self._ordered(kind)
        start = bisect_right(keys, after) if after else 0
        return [(key, self._entries[kind][key]) for key in keys[start : start + size]]

    def _ordered(self, kind: str) -> list[str]:
        """The keys of a kind in their order, kept from the first time that somebody asks."""
        if kind not in self._keys:
            self._keys[kind] = sorted(self._entries[kind])
        return self._keys[kind]

    def resolve_agency(self, identifier: str) -> Entry | None:
        """An agency by its identifier, an alias, or the older 13 characters that its identifier comes from."""
        named = (identifier, self._aliases.get(identifier, ""), *from_older_form(identifier))
        return next((entry for name in named if (entry := self.get("agency", name)) is not None), None)

    def grants_by_service(self, service: str) -> list[Entry]:
        """All grants on a service, in the order of their ids."""
        return self._of_service("grant", service)

    def agency_of(self, system: str) -> str:
        """The agency that a system belongs to now: the one in its identifier, unless it was moved."""
        entry = self.get("system", system)
        return (entry.record.system.agency if entry else "") or agency_of(system)

    def members(self, grant: Grant) -> frozenset[str]:
        """The systems that a grant is for, revoked ones included; not those of the group `everyone`."""
        if grant.agency:
            return frozenset(self._systems.get(grant.agency, ()))
        if grant.group:
            entry = self.get("group", grant.group)
            return frozenset(entry.record.group.members) if entry else frozenset()
        return frozenset({grant.consumer})

    def grants_of(self, system: str) -> list[Grant]:
        """Every grant that names the system, its agency or a group of it, ended ones included; not those for everyone."""
        subjects = [f"system {system}", f"agency {self.agency_of(system)}"]
        subjects += [f"group {group}" for group in self._groups.get(system, ())]
        return [self._entries["grant"][key].record.grant for each in subjects for key in self._by_subject.get(each, ())]

    def agencies_below(self, agencies: Iterable[str]) -> set[str]:
        """The agencies directly below any of these."""
        return {key for agency in agencies for key in self._below.get(agency, ())}

    def systems_of(self, agency: str) -> list[System]:
        """The systems that belong to an agency now, revoked ones included."""
        return [self._entries["system"][key].record.system for key in sorted(self._systems.get(agency, ()))]

    def grants_by_agency(self, agency: str) -> list[Grant]:
        """Every grant that names the agency."""
        return [
            self._entries["grant"][key].record.grant for key in sorted(self._by_subject.get(f"agency {agency}", ()))
        ]

    def grants_by_group(self, group: str) -> list[Grant]:
        """Every grant that names the group."""
        return [self._entries["grant"][key].record.grant for key in self._by_subject.get(f"group {group}", ())]

    def endpoints_by_service(self, service: str) -> list[Entry]:
        """All endpoints of a service, ended ones included, in the order of their ids."""
        return self._of_service("endpoint", service)

    def entries(self) -> Iterator[tuple[str, str, Entry]]:
        """(kind, key, entry) of everything, in the order of revisions."""
        for kind, key in self._order:
            yield kind, key, self._entries[kind][key]

    def since(self, revision: int) -> list[tuple[str, str, Entry]]:
        """What is newer than `revision`, in the order of revisions; costs what it answers."""
        found = []
        for kind, key in reversed(self._order):
            entry = self._entries[kind][key]
            if entry.revision <= revision:
                break
            found.append((kind, key, entry))
        return found[::-1]

    def apply(self, kind: str, key: str, entry: Entry) -> Change:
        """Take one record; sequences only grow."""
        previous = self._entries[kind].get(key)
        if previous is not None:
            self._index(kind, key, previous.record, forget=True)
        elif kind in self._keys:
            insort(self._keys[kind], key)
        self._entries[kind][key] = entry
        self._order.pop((kind, key), None)
        self._order[kind, key] = None
        self._index(kind, key, entry.record, forget=False)
        self.revision = max(self.revision, entry.revision)
        return Change(kind, key, entry, previous)

    def _of_service(self, kind: str, service: str) -> list[Entry]:
        return [self._entries[kind][key] for key in sorted(self._by_service[kind].get(service, ()))]

    def _index(self, kind: str, key: str, record: Record, *, forget: bool) -> None:
        if kind == "agency":
            for alias in record.agency.aliases:
                self._aliases.pop(alias, None) if forget else self._aliases.__setitem__(alias, key)
            if record.agency.parent:
                below = self._below[record.agency.parent]
                below.discard(key) if forget else below.add(key)
        for index, name in self._indexed(kind, key, record):
            index[name].discard(key) if forget else index[name].add(key)

    def _indexed(self, kind: str, key: str, record: Record) -> Iterator[tuple[dict[str, set[str]], str]]:
        """(index, name) under which the record's key stands."""
        if kind == "grant":
            yield self._by_service["grant"], record.grant.service
            yield self._by_subject, subject_of(record.grant)
        elif kind == "endpoint":
            for service in record.endpoint.services:
                yield self._by_service["endpoint"], service
        elif kind == "system":
            yield self._systems, record.system.agency or agency_of(key)
        elif kind == "group":
            for member in record.group.members:
                yield self._groups, member


def subject_of(grant: Grant) -> str:
    """Whom a grant is for, as one text."""
    if grant.agency:
        return f"agency {grant.agency}"
    return f"group {grant.group}" if grant.group else f"system {grant.consumer}"


def grants_touched(state: State, change: Change) -> list[Grant]:
    """The grants that may be for other systems after a change: those of a group, or of a system and the agency that it left."""
    if change.kind == "group":
        return state.grants_by_group(change.key)
    if change.kind != "system":
        return []
    found, left = state.grants_of(change.key), ""
    if change.previous is not None:
        left = change.previous.record.system.agency or agency_of(change.key)
    return found + (state.grants_by_agency(left) if left and left != state.agency_of(change.key) else [])


def difference(before: State, after: State) -> list[Change]:
    """What changes for whoever knew `before`: first what is gone, then what is new or other, by revision."""
    gone = [Change(kind, key, None, entry) for kind, key, entry in before.entries() if after.get(kind, key) is None]
    changed = [
        Change(kind, key, entry, before.get(kind, key))
        for kind, key, entry in after.entries()
        if (known := before.get(kind, key)) is None or known != entry
    ]
    changed.sort(key=lambda each: each.entry.revision if each.entry else 0)
    return gone + changed
