"""Who may see which record: one rule for every way of reading the registry. Pure.

Rule 1: operators see all. Agencies, published services and their versions are public on the bus.
Rule 2: what was never published, a draft, is seen by those who decide on it: its provider and its stewards.
Rule 3: a grant is seen by the systems it is for and by those who decide on it; a group by its members.
"""

from __future__ import annotations

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry.grants import EVERYONE
from lgsp.registry.lifecycle import DRAFT, RETIRED
from lgsp.registry.state import State


def decides(state: State, caller: str, service: str) -> bool:
    """True for the service's provider and its stewards."""
    entry = state.get("service", service)
    return entry is not None and caller in (entry.record.service.provider, *entry.record.service.stewards)


def sees(state: State, caller: str, kind: str, record: pb.Record) -> bool:
    """Whether a system that is no operator may read the record as it is."""
    if kind == "agency":
        return True
    if kind == "service":
        draft = record.service.lifecycle in (DRAFT, RETIRED) and not record.service.version
        return not draft or caller in (record.service.provider, *record.service.stewards)
    if kind == "service_version":
        return True  # a draft has none
    if kind == "system":
        return bool(record.system.id == caller)
    if kind == "group":
        return caller in record.group.members
    if kind == "endpoint":
        return bool(record.endpoint.system == caller)
    return sees_grant(state, caller, record.grant)


def sees_grant(state: State, caller: str, grant: pb.Grant) -> bool:
    """True for who holds the grant, by itself, its agency or a group, and for who decides on it."""
    return is_for(state, caller, grant) or decides(state, caller, grant.service)


def is_for(state: State, caller: str, grant: pb.Grant) -> bool:
    """True for the systems that a grant is for."""
    if grant.agency:
        return state.agency_of(caller) == grant.agency
    if grant.group:
        return grant.group == EVERYONE or caller in state.members(grant)
    return bool(grant.consumer == caller)
