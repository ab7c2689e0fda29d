"""Policy → xDS resources. Pure functions from frozen policy to Envoy's messages; names are the services' own.

Laws: nothing is allowed that no list names (the listener's access list denies, every service ends in a
route that refuses everybody); what changes often (grants, keys, endpoints, certificates) is never in the listener, which would drain streams.
"""

from __future__ import annotations

import base64
from functools import cache, lru_cache
from typing import Any, Final

from google.protobuf.message import Message

from lgsp.gateway.xds import access, deprecation, guard, instances, limits, masks, upstream
from lgsp.gateway.xds.access import CLIENT_HEADER
from lgsp.gateway.xds.messages import ADS, any_of, build
from lgsp.gateway.xds.policy import EdgePolicy, MethodPolicy, ServicePolicy, TrustPolicy
from lgsp.gateway.xds.refusals import REST_MARK, UPSTREAM_MARK, local_replies
from lgsp.gateway.xds.rest import rest_descriptor

HTTP: Final = "type.googleapis.com/envoy.extensions.filters.http"
LISTENER, PLATFORM_ROUTES, OAUTH_CLUSTER = "edge", "platform", "lgsp-oauth"
JWT, REVOKED, GRANTS, LIMIT, MASK, REST, CORS = "jwt", "revoked", "grants", "limit", "mask", "rest", "cors"
GUARD, SIZE = "guard", "size"
CERTIFICATE: Final = "edge-certificate"
AGENCY_HEADER, TOKEN_HEADER = "x-lgsp-agency", "x-lgsp-token"
UNAUTHENTICATED: Final = (
    "/oauth2/token",
    "/oauth2/introspect",
    "/oauth2/revoke",
    "/.well-known/oauth-authorization-server",
    "/.well-known/jwks.json",
)
# What only the gateway may say, or what would carry a caller's words further than meant.
STRIPPED: Final = (CLIENT_HEADER, AGENCY_HEADER, TOKEN_HEADER, "x-request-id", "x-forwarded-for", "baggage",
                   "x-envoy-original-path", "x-envoy-original-method", "x-lgsp-reason", REST_MARK, "grpc-accept-encoding",
                   UPSTREAM_MARK)  # fmt: skip
# Anything else could carry the answer past the checks made for gRPC; REST arrives here as gRPC.
GRPC_CONTENT: Final = {
    "name": "content-type",
    "string_match": {"safe_regex": {"regex": r"application/grpc(-web(-text)?)?(\+proto)?"}},
}
# Nobody is "internal": every caller is treated as coming from outside.
_NOBODY: Final = {"address_prefix": "255.255.255.255", "prefix_len": 32}
STREAM_SECONDS: Final = 300
MAX_MESSAGE: Final = 4 << 20


# --- one service -----------------------------------------------------------------------------------------------------


def scope(key: str, routes: str) -> Message:
    """The first path segment `key` leads to the route configuration `routes`."""
    content = {"name": key, "route_configuration_name": routes, "key": {"fragments": [{"string_key": key}]}}
    return build("envoy.config.route.v3.ScopedRouteConfiguration", content)


def service_routes(service: ServicePolicy) -> Message:
    """A service's whole route configuration: REST, CORS, and each method with its access list."""
    per_host: dict[str, Any] = {CORS: _cors(service.browser_origins)}
    per_host |= {REST: _transcoder(service)} if service.contract else {}
    per_host |= {LIMIT: limits.per_host(service.limits)} if service.limits else {}
    per_host |= {MASK: masks.per_host(service)} if masks.needed(service) else {}
    per_host |= {SIZE: _size(service.max_request_bytes)} if service.max_request_bytes else {}
    per_host |= upstream.per_host(service, service.rest) if service.rest else {}
    onward = upstream.routes(service, service.rest, _method_route) if service.rest else []
    host: dict[str, Any] = {
        "name": "service",
        "domains": ["*"],
        "request_headers_to_remove": [TOKEN_HEADER, "x-envoy-original-path", "x-envoy-original-method"],
        "response_headers_to_add": deprecation.headers(service.deprecation),
        # Masks hold a message until it is whole; without this they would refuse what is larger than an HTTP/2 window.
        "request_body_buffer_limit": max(MAX_MESSAGE, service.rest.max_body if service.rest else 0),
        "typed_per_filter_config": per_host,
        "routes": [route for method in service.methods for route in _method_routes(service, method)]
        + [*onward, _no_such_method(service.name)],
    }
    if masks.needed(service):
        host["request_body_buffer_limit"] = max(host["request_body_buffer_limit"], masks.LARGEST)
    return build("envoy.config.route.v3.RouteConfiguration", {"name": service.name, "virtual_hosts": [host]})


def _transcoder(service: ServicePolicy) -> dict[str, Any]:
    return {
        "@type": f"{HTTP}.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        "proto_descriptor_bin": rest_descriptor(service.contract, service.name),
        "services": [service.name],
        "convert_grpc_status": True,
        "print_options": {"preserve_proto_field_names": True},
        # Form encoding, as browsers and most HTTP clients write a space.
        "query_param_unescape_plus": True,
        "request_validation_options": {"reject_unknown_query_parameters": True},
        # As much as what answers takes.
        "max_request_body_size": service.rest.max_body if service.rest else MAX_MESSAGE,
    }


def _size(most: int) -> dict[str, Any]:
    """Reads the whole request first and refuses what is larger: the upstream's own gRPC would refuse without a reason."""
    return {"@type": f"{HTTP}.buffer.v3.BufferPerRoute", "buffer": {"max_request_bytes": most}}


def _unmeasured() -> dict[str, Any]:
    """A client that waits for an answer before it ends its stream would wait for ever for one that is read whole first."""
    return {"@type": f"{HTTP}.buffer.v3.BufferPerRoute", "disabled": True}


@lru_cache(maxsize=1000)
def _cors(origins: tuple[str, ...]) -> Message:
    content = {
        "@type": f"{HTTP}.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{"exact": origin} for origin in origins],
        "allow_methods": "GET, PUT, POST, DELETE, PATCH, OPTIONS",
        "allow_headers": "authorization,content-type,grpc-timeout,idempotency-key,traceparent,x-grpc-web,x-lgsp-purpose,x-user-agent",
        "expose_headers": "grpc-message,grpc-status,grpc-status-details-bin,x-lgsp-reason,x-request-id",
        "max_age": "600",
    }
    return any_of(content)


def _method_routes(service: ServicePolicy, method: MethodPolicy) -> list[dict[str, Any]]:
    """The method's route; before it, where fields are masked, one that refuses what the mask could not read."""
    route = _method_route(service, method)
    if buckets := limits.actions(service.limits, method.name):
        route["route"]["rate_limits"] = buckets
    if service.max_request_bytes and method.client_streaming:
        route["typed_per_filter_config"][SIZE] = _unmeasured()
    if method.fields:
        route["typed_per_filter_config"][GUARD] = guard.per_route(service.name, method)
    elif masks.needed(service):
        route["typed_per_filter_config"][MASK] = masks.unmasked()
    # Neither the mask nor the reverse transcoder reads compressed messages.
    plain = method.fields or service.rest is not None
    return [masks.compressed_route(service.name, method.name, GRANTS), route] if plain else [route]


def _method_route(service: ServicePolicy, method: MethodPolicy) -> dict[str, Any]:
    bound = f"{STREAM_SECONDS}s" if method.streaming else f"{service.unary_ms / 1000:g}s"
    return {
        "name": f"{service.name}/{method.name}",
        "match": {"path": f"/{service.name}/{method.name}", "headers": [_grpc_content()]},
        "route": {
            "cluster": service.name,
            "timeout": "0s",
            "retry_policy": _retry(again=method.idempotent and not method.streaming),
            "max_stream_duration": _duration(bound),
        },
        "request_headers_to_add": [_rest_mark()],
        "typed_per_filter_config": {GRANTS: access.access_list(method)},
    }


# Parts that all routes have alike are built once.


@cache
def _rest_mark() -> Message:
    """What the transcoder remembers is removed before a provider sees it; that it was there is not."""
    header = {"key": REST_MARK, "value": "%REQ(x-envoy-original-method)%"}
    return build(
        "envoy.config.core.v3.HeaderValueOption", {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    )


@cache
def _grpc_content() -> Message:
    return build("envoy.config.route.v3.HeaderMatcher", GRPC_CONTENT)


@cache
def _retry(*, again: bool) -> Message:
    """`again`: also what may have reached the provider."""
    content = {
        "retry_on": "connect-failure,refused-stream" + ",reset,unavailable" * again,
        "num_retries": 2,
        "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
        **instances.ELSEWHERE,
    }
    return build("envoy.config.route.v3.RetryPolicy", content)


@lru_cache(maxsize=1000)
def _duration(bound: str) -> Message:
    content = {
        "max_stream_duration": bound,
        "grpc_timeout_header_max": bound,
        "grpc_timeout_header_offset": "0.05s",
    }
    return build("envoy.config.route.v3.RouteAction.MaxStreamDuration", content)


def _no_such_method(service: str) -> dict[str, Any]:
    """REST enters here, is transcoded and routed again; whatever stays is refused.

    It names an upstream that nobody reaches through it, because CORS does not look at routes without one.
    """
    return {
        "name": f"{service}/",
        "match": {"prefix": "/"},
        "route": {"cluster": service, "timeout": "0s"},
        "typed_per_filter_config": {GRANTS: access.refuse_all("METHOD_UNKNOWN")},
    }


# --- who is trusted --------------------------------------------------------------------------------------------------


def jwt_filter(trust: TrustPolicy) -> Message:
    """RFC 9068 access tokens of our issuer and audience, on every path that is not switched off by its route."""
    provider = {
        "issuer": trust.issuer,
        "audiences": [trust.issuer],
        "local_jwks": {"inline_string": trust.jwks},
        "from_headers": [{"name": "authorization", "value_prefix": "Bearer "}],
        "forward": False,
        "require_expiration": True,
        "max_lifetime": "300s",
        "clock_skew_seconds": 10,
        "payload_in_metadata": "jwt",
        "jwt_cache_config": {"jwt_cache_size": 1000, "jwt_max_token_size": 4096},
        "claim_to_headers": [
            {"claim_name": "client_id", "header_name": CLIENT_HEADER},
            {"claim_name": "agency", "header_name": AGENCY_HEADER},
            {"claim_name": "jti", "header_name": TOKEN_HEADER},
        ],
    }
    content = {
        "@type": f"{HTTP}.jwt_authn.v3.JwtAuthentication",
        "providers": {"bus": provider},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "bus"}}],
    }
    return _extension(JWT, content)


def revoked_filter(trust: TrustPolicy) -> Message:
    """Refuses revoked systems and tokens though their tokens are still valid by themselves."""
    taken_back, otherwise = access.verdict("TOKEN_REVOKED", "DENY"), access.verdict("known", "ALLOW")
    content: dict[str, Any] = {"@type": f"{HTTP}.rbac.v3.RBAC"}
    for header, values in ((TOKEN_HEADER, trust.revoked_tokens), (CLIENT_HEADER, trust.revoked_systems)):
        if values:
            after = {"matcher": content["matcher"]} if "matcher" in content else otherwise
            content["matcher"] = access.look_up(header, dict.fromkeys(sorted(values), taken_back), after)
    return _extension(REVOKED, content)


def _extension(name: str, content: dict[str, Any]) -> Message:
    return build("envoy.config.core.v3.TypedExtensionConfig", {"name": name, "typed_config": content})


# --- the edge --------------------------------------------------------------------------------------------------------


def certificate(edge: EdgePolicy) -> Message:
    """The listener's certificate chain and key, by SDS."""
    chain, key = (base64.b64encode(part).decode() for part in (edge.certificate, edge.private_key))
    tls = {"certificate_chain": {"inline_bytes": chain}, "private_key": {"inline_bytes": key}}
    return build("envoy.extensions.transport_sockets.tls.v3.Secret", {"name": CERTIFICATE, "tls_certificate": tls})


def platform_routes() -> Message:
    """The few unauthenticated paths, exact, on an upstream of their own."""
    open_door = {
        JWT: {"@type": f"{HTTP}.jwt_authn.v3.PerRouteConfig", "disabled": True},
        GRANTS: {"@type": f"{HTTP}.rbac.v3.RBACPerRoute"},
    }
    routes = [
        {
            "name": path,
            "match": {"path": path},
            "route": {"cluster": OAUTH_CLUSTER, "timeout": "15s"},
            "typed_per_filter_config": open_door,
        }
        for path in UNAUTHENTICATED
    ]
    host = {"name": "platform", "domains": ["*"], "routes": routes}
    return build("envoy.config.route.v3.RouteConfiguration", {"name": PLATFORM_ROUTES, "virtual_hosts": [host]})


def listener(edge: EdgePolicy) -> Message:
    """The one listener: TLS by SDS, routes by scope, filters whose content comes by ECDS or with the route."""
    tls = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "tls_certificate_sds_secret_configs": [{"name": CERTIFICATE, "sds_config": ADS}],
        },
    }
    chain = {
        "filters": [{"name": "http", "typed_config": _connection_manager(edge)}],
        "transport_socket": {"name": "tls", "typed_config": tls},
        "transport_socket_connect_timeout": "10s",
    }
    content = {
        "name": LISTENER,
        "address": {"socket_address": {"address": edge.address, "port_value": edge.port}},
        "per_connection_buffer_limit_bytes": 1 << 20,
        "filter_chains": [chain],
    }
    return build("envoy.config.listener.v3.Listener", content)


def _connection_manager(edge: EdgePolicy) -> dict[str, Any]:
    manager: dict[str, Any] = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "edge",
        "scoped_routes": {
            "name": "services",
            "scope_key_builder": {
                "fragments": [{"header_value_extractor": {"name": ":path", "element_separator": "/", "index": 1}}]
            },
            "rds_config_source": ADS,
            "scoped_rds": {"scoped_rds_config_source": ADS},
        },
        "http_filters": _filters(),
        "access_log": [_access_log(edge.access_log)],
        "access_log_options": {"access_log_flush_interval": "10s"},
        "local_reply_config": local_replies(),
        "early_header_mutation_extensions": [_strip()],
        "server_name": "lgsp",
        "use_remote_address": True,
        "internal_address_config": {"cidr_ranges": [_NOBODY]},
        "generate_request_id": True,
        "always_set_request_id_in_response": True,
        "forward_client_cert_details": "SANITIZE_SET",
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "request_headers_timeout": "10s",
        "stream_idle_timeout": "300s",
        "common_http_protocol_options": {
            "idle_timeout": "600s",
            "max_connection_duration": "3600s",
            "max_headers_count": 100,
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        "http2_protocol_options": {
            "max_concurrent_streams": 256,
            "initial_stream_window_size": 1 << 18,
            "initial_connection_window_size": 1 << 20,
            "connection_keepalive": {"interval": "60s", "timeout": "10s"},
        },
    }
    if edge.otlp:
        manager["tracing"] = _tracing(edge.trace_percent)
    return manager


def _filters() -> list[dict[str, Any]]:
    """The chain; a name here is the key of a route's `typed_per_filter_config`."""
    typed = {
        CORS: f"{HTTP}.cors.v3.Cors",
        "grpc_web": f"{HTTP}.grpc_web.v3.GrpcWeb",
    }
    # Switched off here, configured by each service's route configuration.
    rest = {"@type": f"{HTTP}.grpc_json_transcoder.v3.GrpcJsonTranscoder", "proto_descriptor_bin": ""}
    deny = {"@type": f"{HTTP}.rbac.v3.RBAC", "rules": access.deny("SERVICE_UNKNOWN")}
    return [
        *({"name": name, "typed_config": {"@type": url}} for name, url in typed.items()),
        {"name": REST, "typed_config": rest},
        _discovered(JWT, f"{HTTP}.jwt_authn.v3.JwtAuthentication"),
        _discovered(REVOKED, f"{HTTP}.rbac.v3.RBAC"),
        {"name": GRANTS, "typed_config": deny},
        {"name": LIMIT, "typed_config": {"@type": f"{HTTP}.local_ratelimit.v3.LocalRateLimit", "stat_prefix": "limit"}},
        {
            "name": SIZE,
            "disabled": True,
            "typed_config": {"@type": f"{HTTP}.buffer.v3.Buffer", "max_request_bytes": 1},
        },
        # Answers go the other way: the guard sees them after the mask.
        {"name": GUARD, "typed_config": guard.in_chain()},
        {"name": MASK, "typed_config": masks.in_chain()},
        *upstream.in_chain(),
        {"name": "router", "typed_config": {"@type": f"{HTTP}.router.v3.Router"}},
    ]


def _discovered(name: str, type_url: str) -> dict[str, Any]:
    return {"name": name, "config_discovery": {"config_source": ADS, "type_urls": [type_url]}}


def _strip() -> dict[str, Any]:
    typed = {
        "@type": "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
        "mutations": [{"remove": header} for header in STRIPPED],
    }
    return {"name": "strip", "typed_config": typed}


def _access_log(path: str) -> dict[str, Any]:
    """One JSON line a call; never the path of a REST call, which may name a person."""
    fields = {
        "time": "%START_TIME%",
        "request_id": "%RESP(X-REQUEST-ID):64%",
        "trace_id": "%TRACE_ID%",
        "client": "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:jwt:client_id):200%",
        "agency": "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:jwt:agency):64%",
        "route": "%ROUTE_NAME%",
        "purpose": "%REQ(X-LGSP-PURPOSE):64%",
        "status": "%RESPONSE_CODE%",
        "grpc_status": "%GRPC_STATUS%",
        "reason": "%RESP(X-LGSP-REASON):64%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "flags": "%RESPONSE_FLAGS%",
        "duration_ms": "%DURATION%",
        "received": "%BYTES_RECEIVED%",
        "sent": "%BYTES_SENT%",
        "peer": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        "upstream": "%UPSTREAM_HOST%",
        "kind": "%ACCESS_LOG_TYPE%",
    }
    typed = {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": path,
        "log_format": {"json_format": fields},
    }
    return {"name": "file", "typed_config": typed}


def _tracing(percent: float) -> dict[str, Any]:
    """What the caller sampled is sampled; of the rest, `percent` by trace id, so that every node decides alike."""
    samplers = "envoy.extensions.tracers.opentelemetry.samplers.v3"
    ratio = {
        "@type": f"type.googleapis.com/{samplers}.TraceIdRatioBasedSamplerConfig",
        "sampling_percentage": {"numerator": round(percent * 10_000), "denominator": "MILLION"},
    }
    by_ratio = {"name": "envoy.tracers.opentelemetry.samplers.trace_id_ratio_based", "typed_config": ratio}
    parent = {"@type": f"type.googleapis.com/{samplers}.ParentBasedSamplerConfig", "wrapped_sampler": by_ratio}
    typed = {
        "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
        "grpc_service": {"envoy_grpc": {"cluster_name": "otlp"}, "timeout": "1s"},
        "service_name": "lgsp-gateway",
        "sampler": {"name": "envoy.tracers.opentelemetry.samplers.parent_based", "typed_config": parent},
    }
    return {
        # The sampler decides; Envoy's own dice would drop what the caller sampled.
        "random_sampling": {"value": 100.0},
        "max_path_tag_length": 0,
        "spawn_upstream_span": False,
        "provider": {"name": "opentelemetry", "typed_config": typed},
    }
