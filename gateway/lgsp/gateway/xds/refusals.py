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

CEL = "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"


def _detail(*needles: str) -> str:
    return " || ".join(f"response.code_details.contains('{needle}')" for needle in needles)


# From the most to the least particular.
RULES: Final[tuple[tuple[str, str], ...]] = (
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
_IS_GRPC: Final = {
    "header_filter": {"header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}}
}
_NOT_TRANSCODED: Final = {"header_filter": {"header": {"name": "x-envoy-original-path", "present_match": False}}}


def local_replies() -> dict[str, Any]:
    """`LocalReplyConfig` with two mappers a rule: gRPC callers, then everybody else."""
    mappers = [make(rule, TABLE[name]) for rule, name in RULES for make in (_grpc_mapper, _json_mapper)]
    return {"mappers": [_json_mapper(_TRANSCODER, TABLE["REQUEST_MALFORMED"]), *mappers]}


def _grpc_mapper(rule: str, reason: Reason) -> dict[str, Any]:
    details = (
        base64.b64encode(make_status(reason, reason.message).SerializeToString(deterministic=True)).decode().rstrip("=")
    )
    return {
        "filter": {"and_filter": {"filters": [_cel(rule), _IS_GRPC, _NOT_TRANSCODED]}},
        "body_format_override": {"text_format_source": {"inline_string": f"{reason.name}: {reason.message}"}},
        "headers_to_add": [
            _header("grpc-status", str(reason.code.value[0])),
            _header(DETAILS_KEY, details),
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
