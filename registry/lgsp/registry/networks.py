"""The networks in which an agency's providers may answer: its own, or those of the nearest agency above that has any. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from lgsp.registry.state import State


def networks_of(state: State, system: str) -> Sequence[str]:
    """CIDRs for a system's endpoints; none means that nobody up the tree was given any."""
    identifier, seen = state.agency_of(system), set[str]()
    while identifier and identifier not in seen:
        seen.add(identifier)
        entry = state.resolve_agency(identifier)
        if entry is None:
            return ()
        if entry.record.agency.networks:
            return tuple(entry.record.agency.networks)
        identifier = entry.record.agency.parent
    return ()


def systems_below(state: State, agency: str) -> frozenset[str]:
    """The systems of an agency and of all below it: those whose networks may change with it."""
    waiting, seen, found = [agency], set[str](), set[str]()
    while waiting:
        each = waiting.pop()
        if each not in seen:
            seen.add(each)
            found.update(system.id for system in state.systems_of(each))
            waiting += state.agencies_below([each])
    return frozenset(found)
