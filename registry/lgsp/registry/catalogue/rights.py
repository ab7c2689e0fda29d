"""Who may see which service, and what a system may do with its methods at one instant. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Final

from lgsp.api.catalogue.v1 import catalogue_pb2 as pb
from lgsp.api.registry.v1.registry_pb2 import Grant, Service
from lgsp.registry.grants import EVERYONE, covers, holds
from lgsp.registry.lifecycle import CARRIED
from lgsp.registry.state import State, subject_of

EXPIRING: Final = timedelta(days=30)


def decides(service: Service, system: str) -> bool:
    """True for those to whom the service's grants are entrusted: its provider and its stewards."""
    return system == service.provider or system in service.stewards


def visible(service: Service, system: str, *, operator: bool) -> bool:
    """Services that carry calls are for all to see; drafts and retired ones for those who own or operate them."""
    return service.lifecycle in CARRIED or operator or decides(service, system)


def grants_in_force(state: State, system: str, now: datetime) -> list[Grant]:
    """The grants under which the system may call at `now`, on services that carry calls; those for everyone included."""
    given = [*state.grants_of(system), *state.grants_by_group(EVERYONE)]
    return [grant for grant in given if holds(grant, now) and _carried(state, grant.service)]


def usable_services(state: State, system: str, now: datetime) -> set[str]:
    """The services of which the system may call some method at `now`."""
    return {grant.service for grant in grants_in_force(state, system, now)}


def terms_of(
    grants: Iterable[Grant], method: str, now: datetime, exhausted: Callable[[str], bool] = lambda grant: False
) -> list[pb.Terms]:
    """What each grant that covers the method says of it, in the order of their ids."""
    return [
        _terms(grant, method, now, exhausted(grant.id))
        for grant in sorted(grants, key=lambda each: each.id)
        if covers(grant, method)
    ]


def purpose_required(terms: Iterable[pb.Terms]) -> bool:
    """True when there are terms, and none lets a call through that names no purpose."""
    usable = [each for each in terms if not each.exhausted]
    return bool(usable) and all(each.purposes for each in usable)


def _terms(grant: Grant, method: str, now: datetime, exhausted: bool) -> pb.Terms:
    fields = next((list(mask.paths) for mask in grant.masks if mask.method == method), [])
    made = pb.Terms(
        grant=grant.id,
        subject=subject_of(grant),
        purposes=grant.purposes,
        fields=fields,
        rate=grant.rate,
        daily_quota=grant.daily_quota,
        exhausted=exhausted,
    )
    if grant.HasField("not_after"):
        made.until.CopyFrom(grant.not_after)
        made.expiring = grant.not_after.seconds <= (now + EXPIRING).timestamp()
    return made


def _carried(state: State, service: str) -> bool:
    entry = state.get("service", service)
    return entry is not None and entry.record.service.lifecycle in CARRIED
