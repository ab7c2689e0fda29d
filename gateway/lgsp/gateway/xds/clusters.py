"""Where calls go: one cluster a service, with its endpoints by EDS or one unix socket of the platform's own."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.message import Message

from lgsp.gateway.xds import instances
from lgsp.gateway.xds.messages import ADS, build
from lgsp.gateway.xds.policy import ServicePolicy

_UPSTREAM_HTTP2: Final = {
    "max_concurrent_streams": 1024,
    "connection_keepalive": {"interval": "30s", "timeout": "5s"},
}


def cluster(name: str, *, unix: str | None = None, http1: bool = False) -> Message:
    """The upstream of a service: endpoints by EDS, or one unix socket of the platform's own."""
    protocol = {"http_protocol_options": {}} if http1 else {"http2_protocol_options": _UPSTREAM_HTTP2}
    content: dict[str, Any] = {
        "name": name,
        "connect_timeout": "2s",
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": 1024,
                    "max_pending_requests": 1024,
                    "max_requests": 8192,
                    "retry_budget": instances.RETRY_BUDGET,
                }
            ]
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": protocol,
            }
        },
    }
    if unix is None:
        content |= {"type": "EDS", "eds_cluster_config": {"eds_config": ADS}} | instances.keeping(name)
    else:
        only = {"endpoint": {"address": instances.address(unix)}}
        content |= {
            "type": "STATIC",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [only]}]},
        }
    return build("envoy.config.cluster.v3.Cluster", content)


def endpoints(service: ServicePolicy, zone: str = "") -> Message:
    """Where a service answers now, as a node in `zone` sees it."""
    content = instances.assignment(service.name, service.endpoints, zone)
    return build("envoy.config.endpoint.v3.ClusterLoadAssignment", content)
