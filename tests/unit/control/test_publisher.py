"""What a change of the registry makes the publisher look at again: a right must not outlive what it came from."""

from __future__ import annotations

import time

import pytest

from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.gateway.control import founding
from lgsp.gateway.control.publisher import Publisher
from lgsp.gateway.xds.ads import AdsServer
from lgsp.gateway.xds.connection import ROUTES
from lgsp.gateway.xds.policy import EdgePolicy
from lgsp.registry.state import Entry, State, difference

SERVICE, SYSTEM = founding.CATALOGUE_SERVICE, "H26.1/reader"
CONTRACT = founding.platform_contracts()[SERVICE]


class Contracts:
    """The one contract, whatever is asked for."""

    async def get_contract(self, digest: str) -> bytes:
        if digest != "c":
            raise BusError("NOT_REGISTERED")
        return CONTRACT


def registry(agency: str) -> State:
    """A system whose agency is this now, and a service that the agency H26.2 may call; revision by revision the same."""
    state = State()
    service = pb.Service(name=SERVICE, provider="H26/lgsp", contract_digest="c", lifecycle=pb.LIFECYCLE_PUBLISHED)
    grant = pb.Grant(id="g", agency="H26.2", service=SERVICE, methods=["*"], state=pb.GRANT_STATE_ACTIVE)
    records = (
        ("service", SERVICE, pb.Record(service=service)),
        ("grant", "g", pb.Record(grant=grant)),
        ("system", SYSTEM, pb.Record(system=pb.System(id=SYSTEM, agency=agency))),
    )
    for revision, (kind, key, record) in enumerate(records, start=1):
        state.apply(kind, key, Entry(record, revision))
    return state


@pytest.mark.parametrize(("before", "after"), [("H26.2", ""), ("", "H26.2")])
async def test_a_restore_moves_a_system_out_of_what_its_agency_may_call(before, after):
    """The reform that moved it is undone: the grant of the other agency is as it was, yet it is for somebody else."""
    state, restored = registry(before), registry(after)
    ads = AdsServer(now=time.time)
    edge = EdgePolicy("127.0.0.1", 1, b"", b"", "/dev/null", "/run/oauth.sock")
    publisher = Publisher(
        state, Contracts(), ads, edge, issuer="https://h", live=lambda each: True, sockets={SERVICE: "/run/a.sock"}
    )

    def may_call() -> bool:
        return SYSTEM.encode() in ads.desired[ROUTES][SERVICE].value

    await publisher.publish()
    assert may_call() is bool(before)
    known = State()
    known.become(state)
    state.become(restored)
    publisher.note(difference(known, state))
    await publisher.publish()
    assert may_call() is bool(after)
