"""Envoy's own refusals in our words: response code details → reason, as gRPC status details and as JSON.

A mapper's filter is a CEL expression over the response; the first that holds decides. gRPC callers get the trailer
`grpc-status-details-bin`, all others the same google.rpc.Status as JSON; everybody gets `x-lgsp-reason`.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Final

from lgsp.api.errors import TABLE, Reason
from lgsp.api.errors.table import DETAILS_KEY, DOMAIN, make_status

# Says how a call came that is on its way to a legacy HTTP/JSON system: it does not look like gRPC any more.
UPSTREAM_MARK: Final = "x-lgsp-transcoded"
# Says that a call came as REST: the HTTP method that it had.
REST_MARK: Final = "x-lgsp-rest"
# What such a system's error answers become, with the HTTP status by which REST callers see them.
UPSTREAM_REASONS: Final = {
    name: TABLE[name].http
    for name in (
        "REQUEST_MALFORMED",
        "RECORD_NOT_FOUND",
        "DEADLINE_EXCEEDED",
        "RECORD_CONFLICT",
        "RECORD_PRECONDITION_FAILED",
        "REQUEST_TOO_LARGE",
        "PROVIDER_BUSY",
        "PROVIDER_UNAVAILABLE",
        "PROVIDER_FAULT",
        "RECORD_DOES_NOT_FIT_CONTRACT",
        "OVERLOADED",
        "INTERNAL",
    )
}
CEL = "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"


def _detail(*needles: str) -> str:
    return " || ".join(f"response.code_details.contains('{needle}')" for needle in needles)


# From the most to the least particular.
RULES: Final[tuple[tuple[str, str], ...]] = (
    *(
        (f"'x-lgsp-reason' in response.headers && response.headers['x-lgsp-reason'] == '{name}'", name)
        for name in UPSTREAM_REASONS
    ),
    ("response.code == 500 && " + _detail("response_buffer_size_limit_reached"), "PROVIDER_FAULT"),
    ("response.code == 500 && " + _detail("grpc_json_reverse_transcode_failure"), "RECORD_DOES_NOT_FIT_CONTRACT"),
    ("response.code == 400 && " + _detail("direct_response"), "REQUEST_MALFORMED"),
    (_detail("Jwt_is_missing"), "TOKEN_MISSING"),
    (_detail("Jwt_is_expired"), "TOKEN_EXPIRED"),
    (_detail("Audiences_in_Jwt"), "TOKEN_WRONG_AUDIENCE"),
    (_detail("Jwt_issuer_is_not_configured", "verification_fails", "not_yet_valid", "Jwks"), "TOKEN_UNTRUSTED"),
    (_detail("jwt_authn_access_denied"), "TOKEN_MALFORMED"),
    (_detail("[TOKEN_REVOKED]"), "TOKEN_REVOKED"),
    (_detail("[SERVICE_UNKNOWN]"), "SERVICE_UNKNOWN"),
    (_detail("[METHOD_UNKNOWN]"), "METHOD_UNKNOWN"),
    (_detail("[PURPOSE_NOT_GRANTED]"), "PURPOSE_NOT_GRANTED"),
    (_detail("[QUOTA_EXCEEDED]"), "QUOTA_EXCEEDED"),
    (_detail("[ENCODING_REFUSED]"), "ENCODING_REFUSED"),
    (_detail("rbac_access_denied"), "GRANT_MISSING"),
    (_detail("local_rate_limited"), "RATE_EXCEEDED"),
    (_detail("RESPONSE_BUFFER_CONVERSION_FAIL"), "PROVIDER_FAULT"),
    (_detail("path_normalization_failed"), "PATH_REFUSED"),
    (
        _detail("request_headers_too_large", "too_many_headers", "headers_count", "too_many_trailers")
        + " || response.code == 431",
        "HEADERS_TOO_LARGE",
    ),
    (_detail("payload_too_large") + " || response.code == 413", "REQUEST_TOO_LARGE"),
    (_detail("direct_response"), "METHOD_UNKNOWN"),
    (_detail("route_not_found"), "SERVICE_UNKNOWN"),
    (
        _detail("max_stream_duration", "response_timeout", "max_duration_timeout", "idle_timeout")
        + " || response.code in [408, 504]",
        "DEADLINE_EXCEEDED",
    ),
    (_detail("overload", "overflow"), "OVERLOADED"),
    (_detail("upstream_reset_after_response_started"), "PROVIDER_FAULT"),
    ("response.code == 503", "PROVIDER_UNAVAILABLE"),
    (_detail("low_version") + " || response.code in [400, 415]", "REQUEST_MALFORMED"),
    ("response.code == 404", "METHOD_UNKNOWN"),
    ("response.code == 502", "PROVIDER_FAULT"),
    ("true", "INTERNAL"),
)
# The transcoder has already made the request look like gRPC when it finds that the JSON does not fit.
_TRANSCODER: Final = _detail("grpc_json_transcode", "grpc_transcode")
_TRANSCODER_LIMIT: Final = f"({_TRANSCODER}) && {_detail('request_buffer_size_limit_reached')}"
_GRPC_CONTENT: Final = {
    "header_filter": {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}
}
# The router has removed the first of these when it finds nobody to call.
_NOT_TRANSCODED: Final = tuple(
    {"header_filter": {"header": {"name": name, "present_match": False}}}
    for name in ("x-envoy-original-path", REST_MARK)
)
_WAS_GRPC: Final = {
    "header_filter": {"header": {"name": UPSTREAM_MARK, "string_match": {"prefix": "application/grpc"}}}
}
_IS_GRPC: Final = {
    "or_filter": {"filters": [{"and_filter": {"filters": [_GRPC_CONTENT, *_NOT_TRANSCODED]}}, _WAS_GRPC]}
}


def local_replies() -> dict[str, Any]:
    """`LocalReplyConfig` with two mappers a rule: gRPC callers, then everybody else."""
    mappers = [make(rule, TABLE[name]) for rule, name in RULES for make in (_grpc_mapper, _json_mapper)]
    too_large = _json_mapper(_TRANSCODER_LIMIT, TABLE["REQUEST_TOO_LARGE"])
    return {"mappers": [too_large, _json_mapper(_TRANSCODER, TABLE["REQUEST_MALFORMED"]), *mappers]}


def packed(reason: Reason) -> str:
    """The value of `grpc-status-details-bin` for a reason."""
    status = make_status(reason, reason.message).SerializeToString(deterministic=True)
    return base64.b64encode(status).decode().rstrip("=")


def _grpc_mapper(rule: str, reason: Reason) -> dict[str, Any]:
    return {
        "filter": {"and_filter": {"filters": [_cel(rule), _IS_GRPC]}},
        "body_format_override": {"text_format_source": {"inline_string": f"{reason.name}: {reason.message}"}},
        "headers_to_add": [
            _header("grpc-status", str(reason.code.value[0])),
            _header(DETAILS_KEY, packed(reason)),
            *_common(reason),
        ],
    }


def _json_mapper(rule: str, reason: Reason) -> dict[str, Any]:
    return {
        "filter": _cel(rule),
        "status_code": reason.http,
        "body_format_override": {
            "text_format_source": {"inline_string": json.dumps(json_body(reason)).replace("%", "%%") + "\n"},
            "content_type": "application/json",
        },
        "headers_to_add": _common(reason),
    }


def json_body(reason: Reason) -> dict[str, Any]:
    """A google.rpc.Status as JSON."""
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason.name, "domain": DOMAIN}
    info |= {"metadata": {"fault": reason.fault.value, "remedy": reason.remedy}}  # type: ignore[dict-item]
    return {"code": reason.code.value[0], "message": f"{reason.name}: {reason.message}", "details": [info]}


def _common(reason: Reason) -> list[dict[str, Any]]:
    """What every refusal carries; an answer given before Envoy made a request id gets one here, which the log shows too."""
    request_id = {"header": {"key": "x-request-id", "value": "%UNIQUE_ID%"}, "append_action": "ADD_IF_ABSENT"}
    return [_header("x-lgsp-reason", reason.name), request_id]


def _cel(expression: str) -> dict[str, Any]:
    return {"extension_filter": {"name": "cel", "typed_config": {"@type": CEL, "expression": expression}}}


def _header(key: str, value: str) -> dict[str, Any]:
    return {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
