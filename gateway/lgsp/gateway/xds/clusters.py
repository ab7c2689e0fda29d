"""Where calls go: one cluster a service, with its endpoints by EDS or one unix socket of the platform's own."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.message import Message

from lgsp.gateway.xds import instances, upstream_cluster
from lgsp.gateway.xds.messages import ADS, build
from lgsp.gateway.xds.policy import RestPolicy, ServicePolicy

_UPSTREAM_HTTP2: Final = {
    "max_concurrent_streams": 1024,
    "connection_keepalive": {"interval": "30s", "timeout": "5s"},
}


# One address of several that takes no connection is left out for a while; what a system answers is its own affair.
_UNREACHABLE: Final = {
    "split_external_local_origin_errors": True,
    "consecutive_local_origin_failure": 3,
    "base_ejection_time": "10s",
    "max_ejection_percent": 50,
    "enforcing_consecutive_5xx": 0,
    "enforcing_consecutive_gateway_failure": 0,
    "enforcing_success_rate": 0,
    "enforcing_local_origin_success_rate": 0,
}


def cluster(name: str, *, unix: str | None = None, http1: bool = False, check_every_s: int = 1) -> Message:
    """The upstream of a service: endpoints by EDS, asked every so often, or one unix socket of the platform's own."""
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
        content |= {"type": "EDS", "eds_cluster_config": {"eds_config": ADS}} | instances.keeping(name, check_every_s)
    else:
        only = {"endpoint": {"address": instances.address(unix)}}
        content |= {
            "type": "STATIC",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [only]}]},
        }
    return build("envoy.config.cluster.v3.Cluster", content)


def rest_cluster(name: str, rest: RestPolicy) -> Message:
    """A legacy HTTP/JSON system: HTTP/1.1, TLS verified, never more connections than such a system bears."""
    content = upstream_cluster.place(name, rest) | {
        "name": name,
        "connect_timeout": "2s",
        "circuit_breakers": {"thresholds": [{"max_connections": 64, "max_pending_requests": 256, "max_retries": 8}]},
        "outlier_detection": _UNREACHABLE,
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                # Shorter than what servers keep: a connection closed under a request is an error for a write.
                "common_http_protocol_options": {"idle_timeout": "4s", "max_headers_count": 100},
                "explicit_http_config": {"http_protocol_options": {}},
                "http_filters": upstream_cluster.http_filters(rest),
            }
        },
    }
    if rest.tls and not rest.closed:
        content["transport_socket"] = upstream_cluster.transport(rest)
    return build("envoy.config.cluster.v3.Cluster", content)


def endpoints(service: ServicePolicy, zone: str = "") -> Message:
    """Where a service answers now, as a node in `zone` sees it."""
    content = instances.assignment(service.name, service.endpoints, zone)
    return build("envoy.config.endpoint.v3.ClusterLoadAssignment", content)
