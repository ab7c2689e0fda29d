"""Records → policy: who may call what, at which instant."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.api.registry.v1.registry_pb2 import GRANT_STATE_ACTIVE, Grant, NodeKey, Service, System, TokenRevocation
from lgsp.gateway import compiler
from lgsp.gateway.xds.policy import Instance
from lgsp.registry.grants import boundaries, holds
from lgsp.registry.rights import Right
from tests.support.edge import CONTRACT, SERVICE

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def stamp(offset_s: float) -> Timestamp:
    made = Timestamp()
    made.FromDatetime(NOW + timedelta(seconds=offset_s))
    return made


def right(grant: Grant) -> Right:
    return Right(grant, frozenset({grant.consumer}))


def consumers(*grants: Grant) -> dict[str, frozenset[str]]:
    made = compiler.service_policy(Service(name=SERVICE), CONTRACT, map(right, grants), [], NOW)
    return {method.name: method.consumers for method in made.methods}


def test_nobody_is_the_default():
    assert set(consumers()) == {"GetProvince", "GetWard", "ListWards", "StreamWards"}
    assert not any(consumers().values())


def test_a_grant_opens_its_methods_only():
    got = consumers(
        Grant(consumer="H26/a", methods=["GetWard"], state=GRANT_STATE_ACTIVE),
        Grant(consumer="H26/b", methods=["*"], state=GRANT_STATE_ACTIVE),
    )
    assert got["GetWard"] == {"H26/a", "H26/b"}
    assert got["GetProvince"] == {"H26/b"}


def test_a_grant_that_is_for_nobody_opens_nothing():
    made = compiler.service_policy(
        Service(name=SERVICE), CONTRACT, [Right(Grant(methods=["*"], state=GRANT_STATE_ACTIVE), frozenset())], [], NOW
    )
    assert not any(method.consumers or method.everyone for method in made.methods)


@pytest.mark.parametrize("state", [pb.GRANT_STATE_REQUESTED, pb.GRANT_STATE_REFUSED, pb.GRANT_STATE_REVOKED])
def test_only_an_approved_grant_holds(state):
    assert not holds(Grant(consumer="H26/a", methods=["*"], state=state), NOW)


@given(begin=st.none() | st.integers(-5, 5), end=st.none() | st.integers(-5, 5), revoked=st.booleans())
def test_a_grant_holds_exactly_between_its_begin_and_its_end(begin, end, revoked):
    grant = Grant(consumer="H26/a", methods=["*"], state=GRANT_STATE_ACTIVE)
    if begin is not None:
        grant.not_before.CopyFrom(stamp(begin))
    if end is not None:
        grant.not_after.CopyFrom(stamp(end))
    if revoked:
        grant.revoked_at.CopyFrom(stamp(-1))
    expected = not revoked and (begin is None or begin <= 0) and (end is None or end > 0)
    assert holds(grant, NOW) is expected
    dates = [NOW + timedelta(seconds=each) for each in (begin, end) if each is not None]
    assert boundaries(grant) == ([] if revoked else dates)


def test_methods_carry_what_the_contract_says():
    made = compiler.service_policy(Service(name=SERVICE), CONTRACT, [], [], NOW)
    found = {method.name: (method.streaming, method.idempotent) for method in made.methods}
    assert found["GetWard"] == (False, True)
    assert found["StreamWards"] == (True, True)


def test_an_address_is_one_instance():
    records = [
        pb.Endpoint(address="b:2", weight=3, zone="z", health_checked=True),
        pb.Endpoint(address="a:1"),
        pb.Endpoint(address="a:1"),
    ]
    made = compiler.service_policy(Service(name=SERVICE), CONTRACT, [], map(compiler.instance, records), NOW)
    assert made.endpoints == (Instance("a:1"), Instance("b:2", 3, "z", health_checked=True))


def test_trust_leaves_out_what_has_ended():
    keys = [
        NodeKey(kid="b", jwk='{"kid": "b"}'),
        NodeKey(kid="a", jwk='{"kid": "a"}', retired_at=stamp(1)),
        NodeKey(kid="old", jwk='{"kid": "old"}', retired_at=stamp(0)),
    ]
    systems = [System(id="H26/x", revoked_at=stamp(-1)), System(id="H26/y")]
    tokens = [TokenRevocation(token_id="t", expires_at=stamp(1)), TokenRevocation(token_id="u", expires_at=stamp(0))]
    trust = compiler.trust_policy("https://i", keys, systems, tokens, NOW)
    assert [key["kid"] for key in json.loads(trust.jwks)["keys"]] == ["a", "b"]
    assert (trust.revoked_systems, trust.revoked_tokens) == ({"H26/x"}, {"t"})
