"""Envoy's bootstrap: who it is and where the control process is; everything else comes over ADS."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

XDS_CLUSTER, OTLP_CLUSTER = "xds", "otlp"
_HTTP2: Final = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {
            "http2_protocol_options": {"connection_keepalive": {"interval": "5s", "timeout": "3s"}}
        },
    }
}

_RUNTIME: Final = {
    # Spans leave within a second: who follows a call is waiting for them.
    "tracing.opentelemetry.flush_interval_ms": 1000,
    # Its default of 100 is for expressions that strangers write; ours are made here, from bounded parts.
    "re2.max_program_size.error_level": 50_000,
}
# Envoy's own pause grows to 30 s: too long to wait for a control process that is back after one.
_RECONNECT: Final = {"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}}
# A hundred figures for each of 10,000 services would be most of the time of a cold start and a fifth of Envoy's memory;
# what a call did is in its log line and its trace. Kept are the edge's own, and of each service what shows a fault.
_STATS: Final = [
    *(
        {"prefix": prefix}
        for prefix in ("http.", "proto_api_scrubber.", "listener", "server.", "control_plane.", "cluster_manager.")
    ),
    *(
        {"prefix": prefix}
        for prefix in ("runtime.", "overload.", f"cluster.{XDS_CLUSTER}.", f"cluster.{OTLP_CLUSTER}.")
    ),
    *(
        {"suffix": suffix}
        for suffix in (
            ".membership_healthy",
            ".membership_total",
            ".outlier_detection.ejections_active",
            ".upstream_cx_connect_fail",
            ".upstream_rq_pending_overflow",
        )
    ),
]


def bootstrap(
    node: str,
    ads_socket: str,
    admin_socket: str,
    otlp_endpoint: str | None = None,
    max_connections: int = 20000,
    zone: str = "",
) -> dict[str, Any]:
    """The bootstrap as JSON. `zone` is where the node stands; `otlp_endpoint` is `http://host:port` of an OTLP/gRPC receiver."""
    clusters = [_cluster(XDS_CLUSTER, {"pipe": {"path": ads_socket}})]
    if otlp_endpoint:
        url = urlsplit(otlp_endpoint)
        clusters.append(
            _cluster(OTLP_CLUSTER, {"socket_address": {"address": url.hostname, "port_value": url.port or 4317}})
        )
    source = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": {"id": node, "cluster": "lgsp"} | ({"locality": {"zone": zone}} if zone else {}),
        "admin": {"address": {"pipe": {"path": admin_socket, "mode": 0o600}}},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": XDS_CLUSTER, "retry_policy": _RECONNECT}}],
            },
            "lds_config": source,
            "cds_config": source,
        },
        "static_resources": {"clusters": clusters},
        "stats_config": {"stats_matcher": {"inclusion_list": {"patterns": _STATS}}},
        "layered_runtime": {"layers": [{"name": "static", "static_layer": _RUNTIME}]},
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": max_connections,
                    },
                }
            ]
        },
    }


def _cluster(name: str, address: dict[str, Any]) -> dict[str, Any]:
    static = "pipe" in address
    return {
        "name": name,
        "type": "STATIC" if static else "STRICT_DNS",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": _HTTP2,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }


def arguments(binary: str, bootstrap_path: str, concurrency: int | None = None) -> list[str]:
    """Envoy's command line: no hot restart, logs flushed often, nothing secret."""
    command = [binary, "-c", bootstrap_path, "--use-dynamic-base-id", "--file-flush-interval-msec", "100"]
    # The reverse transcoder's errors quote what it read, and log as `http2`.
    command += ["--component-log-level", "http2:critical"]
    command += ["--log-level", "warning", "--drain-time-s", "5", "--parent-shutdown-time-s", "6"]
    return command + (["--concurrency", str(concurrency)] if concurrency else [])
