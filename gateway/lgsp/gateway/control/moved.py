"""Which services may be served elsewhere because an agency's networks or place, or a system's agency, changed. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from lgsp.registry.networks import systems_below
from lgsp.registry.state import Change, State


def services_of(state: State, change: Change) -> Iterable[str]:
    """The services of the endpoints that the endpoint policy must be asked about again."""
    if change.kind == "agency" and _networks(change, "entry") != _networks(change, "previous"):
        systems = systems_below(state, change.key)
    elif change.kind == "system" and _agency(change, "entry") != _agency(change, "previous"):
        systems = frozenset({change.key})
    else:
        return ()
    endpoints = (entry.record.endpoint for entry in state.all("endpoint").values())
    return {name for each in endpoints if each.system in systems for name in each.services}


def _networks(change: Change, side: str) -> tuple[str, ...]:
    entry = getattr(change, side)
    return (entry.record.agency.parent, *entry.record.agency.networks) if entry is not None else ()


def _agency(change: Change, side: str) -> str | None:
    entry = getattr(change, side)
    return entry.record.system.agency if entry is not None else None
