"""A service's life as a table, and what a service may say of itself. Pure."""

from __future__ import annotations

import re
from typing import Final

from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry.contracts import Contract

DRAFT, PUBLISHED = pb.LIFECYCLE_DRAFT, pb.LIFECYCLE_PUBLISHED
DEPRECATED, RETIRED = pb.LIFECYCLE_DEPRECATED, pb.LIFECYCLE_RETIRED
# From where a step leads: step → states it may be taken in. A retired service comes back by being published again.
STEPS: Final = {
    "draft": frozenset({None, DRAFT}),
    "publish": frozenset({None, DRAFT, PUBLISHED, DEPRECATED, RETIRED}),
    "deprecate": frozenset({PUBLISHED, DEPRECATED}),
    "retire": frozenset({DRAFT, PUBLISHED, DEPRECATED, RETIRED}),
}
_WORDS: Final = {DRAFT: "a draft", PUBLISHED: "published", DEPRECATED: "deprecated", RETIRED: "retired"}
CARRIED: Final = frozenset({PUBLISHED, DEPRECATED})
MAX_DEADLINE_S: Final = 300
_MAX_ORIGINS: Final = 50
_MAX_STEWARDS: Final = 50
_MAX_CONTACT: Final = 200
_ORIGIN: Final = re.compile(r"https?://[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?(:[0-9]{1,5})?")


def need_step(step: str, service: pb.Service | None) -> None:
    """LIFECYCLE_REFUSED when the service is not where the step may be taken."""
    state = service.lifecycle if service is not None else None
    if state not in STEPS[step]:
        where = _WORDS[state] if state is not None else "not there"
        raise BusError("LIFECYCLE_REFUSED", f"{service.name if service else 'the service'} is {where}")


def check_attributes(service: pb.Service, contract: Contract) -> None:
    """What a provider says of its service fits its contract and what gateways can do."""
    _check_origins(service)
    methods = {method.name: method for method in contract.methods(service.name)}
    for name in service.idempotent_methods:
        if name not in methods:
            raise BusError("METHOD_UNKNOWN", f"{service.name} has no method {name[:64]!r} to be idempotent")
        if methods[name].client_streaming or methods[name].server_streaming:
            raise BusError("REQUEST_MALFORMED", f"{name} streams: only a unary method can be repeated by a gateway")
    if service.HasField("deadline") and not 0 < service.deadline.ToMilliseconds() <= MAX_DEADLINE_S * 1000:
        raise BusError("REQUEST_MALFORMED", f"a deadline is 1 ms to {MAX_DEADLINE_S} s")
    if len(service.contact) > _MAX_CONTACT or len(service.stewards) > _MAX_STEWARDS:
        raise BusError(
            "REQUEST_MALFORMED", f"a contact has at most {_MAX_CONTACT} characters, a service {_MAX_STEWARDS} stewards"
        )


def _check_origins(service: pb.Service) -> None:
    """RFC 6454: scheme, host, port; nothing behind it. Envoy compares them as text."""
    if len(service.browser_origins) > _MAX_ORIGINS:
        raise BusError("REQUEST_MALFORMED", f"a service has at most {_MAX_ORIGINS} browser origins")
    for origin in service.browser_origins:
        if not _ORIGIN.fullmatch(origin):
            raise BusError(
                "REQUEST_MALFORMED", f"{origin[:64]!r} is no origin, which looks like https://www.hanoi.gov.vn"
            )
