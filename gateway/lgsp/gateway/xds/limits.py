"""How often a consumer may call: token buckets of Envoy's local rate limit, one for each grant that has a rate.

A grant's methods share its bucket: each route names the sets of methods that it belongs to, and a bucket is (consumer, set).
Any push of the route configuration refills the buckets, so they are filled every second and never longer.
"""

from __future__ import annotations

from typing import Any, Final

from lgsp.gateway.xds.access import CLIENT_HEADER
from lgsp.gateway.xds.policy import Limit

_TYPE: Final = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
_CONSUMER, _METHODS = "consumer", "methods"
_UNBOUNDED: Final = 1_000_000_000


def per_host(limits: tuple[Limit, ...]) -> dict[str, Any]:
    """The buckets of a service."""
    descriptors = [
        {
            "entries": [{"key": _CONSUMER, "value": each.consumer}, {"key": _METHODS, "value": _name(each.methods)}],
            "token_bucket": _bucket(each.rate),
        }
        for each in limits
    ]
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    return {
        "@type": _TYPE,
        "stat_prefix": "limit",
        "token_bucket": _bucket(_UNBOUNDED),
        "filter_enabled": always,
        "filter_enforced": always,
        "rate_limited_as_resource_exhausted": True,
        "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
        "descriptors": descriptors,
    }


def actions(limits: tuple[Limit, ...], method: str) -> list[dict[str, Any]]:
    """What a method's route says of a call: its consumer, with each set of methods that has a bucket."""
    sets = sorted({_name(each.methods) for each in limits if method in each.methods})
    consumer = {"request_headers": {"header_name": CLIENT_HEADER, "descriptor_key": _CONSUMER}}
    return [
        {"actions": [consumer, {"generic_key": {"descriptor_key": _METHODS, "descriptor_value": each}}]}
        for each in sets
    ]


def _bucket(rate: int) -> dict[str, Any]:
    return {"max_tokens": rate, "tokens_per_fill": rate, "fill_interval": "1s"}


def _name(methods: tuple[str, ...]) -> str:
    return ",".join(sorted(methods))
