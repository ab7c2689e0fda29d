"""Instances → Envoy's endpoints: zones become priorities as the node sees them; and how often instances are asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgsp.gateway.xds.instances import assignment, check_seconds
from lgsp.gateway.xds.policy import Instance

NEAR, FAR, NOWHERE = Instance("10.0.0.1:1", zone="a"), Instance("10.0.0.2:1", zone="b"), Instance("10.0.0.3:1")


def priorities(zone: str, *instances: Instance) -> dict[str, int]:
    """Zone → priority."""
    made = assignment("s", instances, zone)["endpoints"]
    return {each.get("locality", {}).get("zone", ""): each.get("priority", 0) for each in made}


def test_the_nodes_own_zone_comes_first():
    assert priorities("a", NEAR, FAR, NOWHERE) == {"a": 0, "b": 1, "": 1}


def test_a_zone_without_instances_makes_all_alike():
    assert priorities("c", NEAR, FAR, NOWHERE) == {"a": 0, "b": 0, "": 0}


def test_a_node_that_stands_nowhere_prefers_nobody():
    assert priorities("", NEAR, FAR, NOWHERE) == {"a": 0, "b": 0, "": 0}
    assert priorities("", NOWHERE) == {"": 0}


def test_only_who_tells_its_health_is_asked():
    made = assignment("s", (Instance("10.0.0.1:1", 7, health_checked=True), NOWHERE), "")["endpoints"][0]
    asked, exempt = made["lb_endpoints"]
    assert "health_check_config" not in asked["endpoint"]
    assert exempt["endpoint"]["health_check_config"] == {"disable_active_health_check": True}
    assert (asked["load_balancing_weight"], exempt["load_balancing_weight"]) == (7, 1)


@given(
    st.lists(st.builds(Instance, st.from_regex(r"10\.0\.0\.[1-9]:[1-9]", fullmatch=True), zone=st.sampled_from("abc"))),
    st.sampled_from(["", "a", "b", "d"]),
)
def test_nobody_is_lost_and_the_first_priority_is_never_empty(instances, zone):
    made = assignment("s", tuple(instances), zone)["endpoints"]
    assert sum(len(each["lb_endpoints"]) for each in made) == len(instances)
    assert not made or any(each.get("priority", 0) == 0 for each in made)


@pytest.mark.parametrize(
    ("services", "seconds"), [(0, 1), (1000, 1), (1001, 2), (5000, 5), (10_000, 10), (10_001, 30), (1_000_000, 30)]
)
def test_a_gateway_asks_a_thousand_times_a_second_at_most(services, seconds):
    assert check_seconds(services) == seconds
