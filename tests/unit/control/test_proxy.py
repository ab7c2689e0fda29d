"""What Envoy's admin interface says, read."""

from __future__ import annotations

import asyncio

import pytest

from lgsp.api.registry.v1.registry_pb2 import Endpoint
from lgsp.gateway.control.proxy import Proxy, read


def clusters(**health: object) -> dict:
    """An answer to /clusters?format=json of Envoy 1.40, shortened."""
    host = {
        "address": {"socket_address": {"address": "fd00::1", "port_value": 7000}},
        "stats": [
            {"name": "cx_connect_fail"},
            {"value": "2", "name": "rq_error"},
            {"value": "12", "name": "rq_total"},
            {"type": "GAUGE", "value": "1", "name": "rq_active"},
        ],
        "health_status": {"eds_health_status": "HEALTHY"} | health,
        "weight": 3,
        "locality": {"zone": "a"},
        "priority": 1,
    }
    own = {"address": {"pipe": {"path": "/run/api.sock"}}, "stats": []}
    return {"cluster_statuses": [{"name": "a.v1.A", "host_statuses": [host, own]}, {"name": "empty.v1.B"}]}


def test_a_host_is_read_whole_and_the_platforms_own_are_left_out():
    ((where, view),) = read(clusters())
    assert where == ("a.v1.A", "[fd00::1]:7000")
    assert (view.healthy, view.failed_health_check, view.ejected) == (True, False, False)
    assert (view.weight, view.zone, view.priority) == (3, "a", 1)
    assert (view.active_requests, view.requests, view.failed_requests) == (1, 12, 2)


@pytest.mark.parametrize(
    ("health", "failed", "ejected"),
    [
        ({"failed_active_health_check": True}, True, False),
        ({"failed_active_health_check": True, "pending_active_hc": True}, True, False),
        ({"failed_outlier_check": True}, False, True),
        ({"pending_dynamic_removal": True}, False, False),
        ({"eds_health_status": "UNHEALTHY"}, False, False),
    ],
    ids=str,
)
def test_every_flag_takes_a_host_out(health, failed, ejected):
    ((_, view),) = read(clusters(**health))
    assert (view.healthy, view.failed_health_check, view.ejected) == (False, failed, ejected)


async def test_an_envoy_that_is_away_is_nothing_known(tmp_path):
    assert await Proxy(tmp_path / "no.sock").hosts() is None


async def test_nobody_waits_for_the_check_of_who_is_not_asked(tmp_path):
    proxy = Proxy(tmp_path / "no.sock")
    async with asyncio.timeout(0):  # not even one turn of the loop
        await proxy.taken(Endpoint(address="10.0.0.1:1", services=["a.v1.A"]))
        await proxy.taken(
            Endpoint(address="10.0.0.1:1", services=["a.v1.A"], health_checked=True, ended_at={"seconds": 1})
        )
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await proxy.taken(Endpoint(address="10.0.0.1:1", services=["a.v1.A"], health_checked=True))
