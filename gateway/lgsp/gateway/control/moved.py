"""Which services may be served elsewhere because an agency's networks or place, or a system's agency, changed. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from lgsp.registry.networks import systems_below
from lgsp.registry.state import Change, Entry, State


def services_of(state: State, change: Change) -> Iterable[str]:
    """The services of the endpoints that the endpoint policy must be asked about again."""
    systems = _systems(state, change)
    if not systems:
        return ()
    endpoints = (entry.record.endpoint for entry in state.all("endpoint").values())
    return {name for each in endpoints if each.system in systems for name in each.services}


def _systems(state: State, change: Change) -> frozenset[str]:
    """Whose networks may have changed; a new system has no endpoint yet."""
    if change.kind == "agency" and _networks(change.entry) != _networks(change.previous):
        return systems_below(state, change.key)
    if change.kind == "system" and change.entry and change.previous:
        moved = change.entry.record.system.agency != change.previous.record.system.agency
        return frozenset({change.key} if moved else ())
    return frozenset()


def _networks(entry: Entry | None) -> tuple[str, ...]:
    return (entry.record.agency.parent, *entry.record.agency.networks) if entry is not None else ()
