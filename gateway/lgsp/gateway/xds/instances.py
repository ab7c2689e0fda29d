"""How Envoy chooses among the instances of a service, and when it stops choosing one. Pure.

Rule 1: an instance that says NOT_SERVING gets no call, even when it is the last one: there is no panic. A check that is
        not answered is a weaker word than NO, so it takes three of them in a row.
Rule 2: ejection for failing calls is a guess, and a caller could provoke it, so it never takes more than half of a
        service's instances, and only failures of the way there or of the instance as a whole count (UNAVAILABLE, connection
        refused or lost), never a bug that one request meets.
Rule 3: an instance that the registry dropped is gone at once, whatever its health.
Rule 4: calls stay in the node's zone while enough of it is healthy (seven tenths); below that they spill over by degrees.
        Zones are priorities, made for each node: that needs no word between Envoys.
"""

from __future__ import annotations

from typing import Any, Final

from lgsp.gateway.xds.policy import Instance

_PREVIOUS_HOSTS: Final = {
    "name": "previous-hosts",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    },
}
_PREVIOUS_PRIORITIES: Final = {
    "name": "previous-priorities",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
        "update_frequency": 1,
    },
}
_CHECKS_PER_SECOND, _CHECK_STEPS = 1000, (1, 2, 5, 10, 30)
# A second try goes to another instance, and to another zone before the same instance again. By weights of 1 and 128 it may
# take 129 draws to draw another one.
ELSEWHERE: Final = {
    "retry_host_predicate": [_PREVIOUS_HOSTS],
    "host_selection_retry_max_attempts": 130,
    "retry_priority": _PREVIOUS_PRIORITIES,
}
# The death of one of two instances makes half of the running calls try again; a storm is bounded all the same.
RETRY_BUDGET: Final = {"budget_percent": {"value": 50}, "min_retry_concurrency": 64}
_OUTLIERS: Final = {
    # How often it looks who may come back; who goes is decided by each call. A timer for each service: not every second.
    "interval": "5s",
    "base_ejection_time": "10s",
    "max_ejection_time": "60s",
    "max_ejection_percent": 50,
    "consecutive_gateway_failure": 5,
    "enforcing_consecutive_gateway_failure": 100,
    "split_external_local_origin_errors": True,
    "consecutive_local_origin_failure": 3,
    "enforcing_consecutive_5xx": 0,
    "enforcing_success_rate": 0,
    "enforcing_local_origin_success_rate": 0,
    # Health that is said and calls that fail: the calls are right.
    "successful_active_health_check_uneject_host": False,
}


def check_seconds(services: int) -> int:
    """How often to ask an instance of each of so many services: a gateway asks about a thousand times a second at most."""
    return next((every for every in _CHECK_STEPS if services <= every * _CHECKS_PER_SECOND), _CHECK_STEPS[-1])


def keeping(service: str, check_every_s: int) -> dict[str, Any]:
    """What a cluster with endpoints by EDS has beside its name: health checks, ejection, no panic."""
    return {
        "health_checks": [_health_check(service, check_every_s)],
        "outlier_detection": _OUTLIERS,
        "common_lb_config": {
            "healthy_panic_threshold": {"value": 0},
            # One that was never asked counts neither as healthy nor as ill: its zone does not spill over for it.
            "ignore_new_hosts_until_first_hc": True,
            # What a check says holds at once: Envoy would keep it from its workers for up to a second.
            "update_merge_window": "0s",
        },
        "ignore_health_on_host_removal": True,
    }


def _health_check(service: str, every_s: int) -> dict[str, Any]:
    """A new instance is asked at once; an idle service as often as a busy one, or its first call would find out."""
    return {
        "grpc_health_check": {"service_name": service},
        "timeout": "2s",
        "interval": f"{every_s}s",
        "interval_jitter_percent": 10,
        "no_traffic_interval": f"{every_s}s",
        "unhealthy_interval": "0.5s",
        "unhealthy_threshold": 3,
        "healthy_threshold": 1,
    }


def assignment(name: str, instances: tuple[Instance, ...], zone: str) -> dict[str, Any]:
    """The instances by zone; those of the node's own `zone` first, if it is known and has any."""
    by_zone: dict[str, list[Instance]] = {}
    for each in instances:
        by_zone.setdefault(each.zone, []).append(each)
    near = zone if zone in by_zone and zone else None
    localities = [
        _locality(place, found, int(near is not None and place != near)) for place, found in sorted(by_zone.items())
    ]
    return {"cluster_name": name, "endpoints": localities}


def _locality(zone: str, instances: list[Instance], priority: int) -> dict[str, Any]:
    made: dict[str, Any] = {"lb_endpoints": [_endpoint(each) for each in instances]}
    if zone:
        made["locality"] = {"zone": zone}
    return made | ({"priority": priority} if priority else {})


def _endpoint(instance: Instance) -> dict[str, Any]:
    endpoint: dict[str, Any] = {"address": address(instance.address)}
    if not instance.health_checked:
        endpoint["health_check_config"] = {"disable_active_health_check": True}
    return {"endpoint": endpoint, "load_balancing_weight": instance.weight}


def address(where: str) -> dict[str, Any]:
    """`ip:port`, or the absolute path of a unix socket."""
    if where.startswith("/"):
        return {"pipe": {"path": where}}
    host, _, port = where.rpartition(":")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}
