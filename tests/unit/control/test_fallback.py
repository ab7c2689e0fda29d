"""What is left of a service whose routes Envoy refuses."""

from __future__ import annotations

from lgsp.gateway.control.fallback import Fallbacks
from lgsp.gateway.xds.policy import FieldRule, MethodPolicy, RestPolicy, ServicePolicy

PLAIN, MASKED = MethodPolicy("Get"), MethodPolicy("List", fields=(FieldRule("name"),))
POLICY = ServicePolicy("t.v1.S", (PLAIN, MASKED), (), b"contract")


def names(policy: ServicePolicy) -> list[str]:
    return [method.name for method in policy.methods]


def test_at_first_rest_and_masked_methods_go_then_everything():
    fallbacks = Fallbacks()
    assert fallbacks.left_of(POLICY, "d") is POLICY
    fallbacks.note("t.v1.S", "d", "why")
    left = fallbacks.left_of(POLICY, "d")
    assert (names(left), left.contract) == (["Get"], b"")
    fallbacks.note("t.v1.S", "d", "again")
    assert names(fallbacks.left_of(POLICY, "d")) == []
    assert fallbacks.services["t.v1.S"].why == "why"


def test_another_contract_begins_anew():
    fallbacks = Fallbacks()
    fallbacks.note("t.v1.S", "d", "why")
    assert fallbacks.left_of(POLICY, "e") is POLICY
    assert fallbacks.services == {}


def test_a_legacy_system_cannot_do_without_its_contract():
    fallbacks = Fallbacks()
    fallbacks.note("t.v1.S", "d", "why")
    legacy = ServicePolicy("t.v1.S", (PLAIN,), (), b"contract", rest=RestPolicy("land.test", 443))
    left = fallbacks.left_of(legacy, "d")
    assert (names(left), left.rest) == ([], None)
