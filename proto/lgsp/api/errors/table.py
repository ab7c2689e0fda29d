"""Reason → gRPC code → HTTP status → whose fault → what to do: one row each, checked against the contract by a test.

A refusal travels as google.rpc.Status with ErrorInfo{domain: "lgsp", reason} (google.rpc, AIP-193), in gRPC as the
trailer `grpc-status-details-bin`, in REST as the same message in JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

DOMAIN: Final = "lgsp"
DETAILS_KEY: Final = "grpc-status-details-bin"


class Fault(StrEnum):
    """Who has to act."""

    CALLER = "caller"
    PROVIDER = "provider"
    PLATFORM = "platform"


@dataclass(frozen=True, slots=True)
class Reason:
    """One row: `code` and `http` are what the caller gets, `remedy` is what it should do, in one sentence."""

    name: str
    code: grpc.StatusCode
    http: int
    fault: Fault
    message: str
    remedy: str


_C, _P, _B = Fault.CALLER, Fault.PROVIDER, Fault.PLATFORM
_S = grpc.StatusCode

_ROWS: Final = (
    Reason(
        "TOKEN_MISSING",
        _S.UNAUTHENTICATED,
        401,
        _C,
        "no access token",
        "Send `authorization: Bearer <token>` from /oauth2/token.",
    ),
    Reason(
        "TOKEN_MALFORMED",
        _S.UNAUTHENTICATED,
        401,
        _C,
        "the access token cannot be read",
        "Send the token exactly as /oauth2/token returned it.",
    ),
    Reason(
        "TOKEN_EXPIRED",
        _S.UNAUTHENTICATED,
        401,
        _C,
        "the access token has expired",
        "Ask /oauth2/token for a new one; check the clock.",
    ),
    Reason(
        "TOKEN_UNTRUSTED",
        _S.UNAUTHENTICATED,
        401,
        _C,
        "the access token was not issued here",
        "Use a token of this gateway's issuer.",
    ),
    Reason(
        "TOKEN_WRONG_AUDIENCE",
        _S.UNAUTHENTICATED,
        401,
        _C,
        "the access token is meant for another audience",
        "Ask for a token for this gateway.",
    ),
    Reason(
        "TOKEN_REVOKED",
        _S.UNAUTHENTICATED,
        401,
        _C,
        "the access token or its system was revoked",
        "Ask the operator why; a revoked system cannot call.",
    ),
    Reason(
        "CLIENT_REFUSED",
        _S.UNAUTHENTICATED,
        401,
        _C,
        "the system did not prove who it is",
        "Sign a fresh assertion with a registered key; a revoked system gets no token.",
    ),
    Reason(
        "SERVICE_UNKNOWN",
        _S.UNIMPLEMENTED,
        404,
        _C,
        "no such service on this bus",
        "Find it with `lgsp catalogue search`; a REST path begins with the service's name.",
    ),
    Reason(
        "METHOD_UNKNOWN",
        _S.UNIMPLEMENTED,
        404,
        _C,
        "the service has no such method, or not for this content type",
        "Check the contract with `lgsp catalogue show`.",
    ),
    Reason(
        "GRANT_MISSING",
        _S.PERMISSION_DENIED,
        403,
        _C,
        "no grant lets this system use this method",
        "Ask the service's provider for a grant.",
    ),
    Reason(
        "PURPOSE_NOT_GRANTED",
        _S.PERMISSION_DENIED,
        403,
        _C,
        "the call names no purpose that its grant has",
        "Send `x-lgsp-purpose` with a purpose of the grant, once.",
    ),
    Reason(
        "RATE_EXCEEDED",
        _S.RESOURCE_EXHAUSTED,
        429,
        _C,
        "more calls a second than the grant allows",
        "Slow down; `x-ratelimit-reset` says when to go on.",
    ),
    Reason(
        "QUOTA_EXCEEDED",
        _S.RESOURCE_EXHAUSTED,
        429,
        _C,
        "the grant's calls of this day are used up",
        "Go on tomorrow, or ask the provider for a larger quota.",
    ),
    Reason(
        "REQUEST_MALFORMED",
        _S.INVALID_ARGUMENT,
        400,
        _C,
        "the request does not fit the contract",
        "Compare the request with the contract.",
    ),
    Reason(
        "REQUEST_TOO_LARGE",
        _S.RESOURCE_EXHAUSTED,
        413,
        _C,
        "the request is larger than the bus carries",
        "Send less at once, or stream.",
    ),
    Reason(
        "HEADERS_TOO_LARGE",
        _S.RESOURCE_EXHAUSTED,
        431,
        _C,
        "the request has too many or too large headers",
        "Send fewer or shorter headers.",
    ),
    Reason(
        "PATH_REFUSED",
        _S.INVALID_ARGUMENT,
        400,
        _C,
        "the path is ambiguous",
        "Send the path without encoded slashes or dot segments.",
    ),
    Reason(
        "PAGE_TOKEN_INVALID",
        _S.INVALID_ARGUMENT,
        400,
        _C,
        "the page token does not belong to this request",
        "Repeat the request that gave it, or start from the first page.",
    ),
    Reason(
        "ENCODING_REFUSED",
        _S.UNIMPLEMENTED,
        415,
        _C,
        "compressed messages cannot be carried here",
        "Send messages without compression.",
    ),
    Reason(
        "PROVIDER_UNAVAILABLE",
        _S.UNAVAILABLE,
        503,
        _P,
        "no instance of the provider answers",
        "Try again later; the provider's contact can tell more.",
    ),
    Reason("PROVIDER_FAULT", _S.INTERNAL, 502, _P, "the provider failed", "Tell the provider the request id."),
    Reason(
        "DEADLINE_EXCEEDED",
        _S.DEADLINE_EXCEEDED,
        504,
        _C,
        "the call's deadline passed",
        "Allow more time or ask for less.",
    ),
    Reason("OVERLOADED", _S.UNAVAILABLE, 503, _B, "the gateway sheds load", "Try again with backoff."),
    Reason("RECORD_NOT_FOUND", _S.NOT_FOUND, 404, _C, "no such record", "Check the key."),
    Reason(
        "RECORD_CONFLICT",
        _S.ABORTED,
        409,
        _C,
        "the record is in another state than the call needs",
        "Read it again, then decide whether to repeat the call.",
    ),
    Reason(
        "RECORD_PRECONDITION_FAILED",
        _S.FAILED_PRECONDITION,
        412,
        _C,
        "a condition of the call does not hold",
        "Read the record again and meet the provider's conditions.",
    ),
    Reason(
        "PROVIDER_BUSY",
        _S.RESOURCE_EXHAUSTED,
        429,
        _P,
        "the provider takes no more calls just now",
        "Try again later, and less often.",
    ),
    Reason(
        "RECORD_DOES_NOT_FIT_CONTRACT",
        _S.INTERNAL,
        500,
        _P,
        "the provider's data does not fit its contract",
        "Tell the provider the request id.",
    ),
    Reason(
        "IDENTIFIER_INVALID",
        _S.INVALID_ARGUMENT,
        400,
        _C,
        "the identifier is not well formed",
        "See docs/identifiers.md for the forms.",
    ),
    Reason("NOT_REGISTERED", _S.NOT_FOUND, 404, _C, "not in the registry", "Register it first, or check the name."),
    Reason(
        "ALREADY_EXISTS",
        _S.ALREADY_EXISTS,
        409,
        _C,
        "already in the registry with other content",
        "Choose another name, or change what is there.",
    ),
    Reason("REVISION_CONFLICT", _S.ABORTED, 409, _C, "somebody else changed it meanwhile", "Read it again and repeat."),
    Reason(
        "SERVICE_OWNED_BY_ANOTHER",
        _S.PERMISSION_DENIED,
        403,
        _C,
        "the service belongs to another system",
        "Publish under a package of your own.",
    ),
    Reason(
        "CONTRACT_INVALID", _S.INVALID_ARGUMENT, 400, _C, "the contract cannot be used", "Mend what the message names."
    ),
    Reason(
        "ENDPOINT_REFUSED",
        _S.INVALID_ARGUMENT,
        400,
        _C,
        "the endpoint's address is not allowed",
        "Register `ip:port` of the provider itself, in a network of its agency.",
    ),
    Reason("LEASE_UNKNOWN", _S.NOT_FOUND, 404, _C, "no such endpoint lease", "Register the endpoint again."),
    Reason(
        "REGISTRY_UNAVAILABLE",
        _S.UNAVAILABLE,
        503,
        _B,
        "the registry cannot be reached",
        "Try again; `lgsp doctor` tells the operator why.",
    ),
    Reason(
        "KEY_INVALID",
        _S.INVALID_ARGUMENT,
        400,
        _C,
        "the key cannot be used",
        "Send a JWK Set of public EC P-256, RSA or Ed25519 keys.",
    ),
    Reason("NOT_OWNER", _S.PERMISSION_DENIED, 403, _C, "only the owner may do this", "Act as the system that owns it."),
    Reason(
        "CONTRACT_INCOMPATIBLE",
        _S.FAILED_PRECONDITION,
        409,
        _C,
        "the contract breaks the one before",
        "Mend what the message lists, publish under a new package, or override with a reason.",
    ),
    Reason(
        "LIFECYCLE_REFUSED",
        _S.FAILED_PRECONDITION,
        409,
        _C,
        "the service's life does not allow this step",
        "See `lgsp service show` for where it is.",
    ),
    Reason(
        "MASK_INVALID",
        _S.INVALID_ARGUMENT,
        400,
        _C,
        "the field mask does not fit the contract",
        "Name fields that the method's response has.",
    ),
    Reason(
        "PURPOSE_INVALID",
        _S.INVALID_ARGUMENT,
        400,
        _C,
        "the grant's purposes cannot be taken",
        "Name a purpose code and the legal basis of each.",
    ),
    Reason(
        "GRANT_TERMS_REFUSED",
        _S.FAILED_PRECONDITION,
        409,
        _C,
        "the grant cannot be changed so",
        "Terms only get narrower; ask for a new grant for more.",
    ),
    Reason(
        "REORGANIZATION_INVALID",
        _S.INVALID_ARGUMENT,
        400,
        _C,
        "the change of agencies does not hold together",
        "Mend the step that the message names.",
    ),
    Reason("INTERNAL", _S.INTERNAL, 500, _B, "the platform failed", "Tell the operator the request id."),
)

TABLE: Final[dict[str, Reason]] = {row.name: row for row in _ROWS}


class BusError(Exception):
    """A refusal with a stable reason: what any part of the platform raises and any server turns into a status.

    `reason` is a row name of TABLE; `detail` says in words what exactly is wrong (no secrets, no personal data).
    """

    def __init__(self, reason: str, detail: str = "", **metadata: str) -> None:
        self.reason = TABLE[reason]
        self.detail = detail or self.reason.message
        self.metadata = metadata
        super().__init__(f"{reason}: {self.detail}")


def status_of(error: BusError) -> status_pb2.Status:
    """google.rpc.Status of a refusal, with its ErrorInfo."""
    return make_status(error.reason, error.detail, error.metadata)


def make_status(reason: Reason, message: str, metadata: dict[str, str] | None = None) -> status_pb2.Status:
    """google.rpc.Status with ErrorInfo{domain: lgsp, reason, metadata}; metadata gains `fault` and `remedy`."""
    info = error_details_pb2.ErrorInfo(
        reason=reason.name,
        domain=DOMAIN,
        metadata={"fault": reason.fault.value, "remedy": reason.remedy, **(metadata or {})},
    )
    packed = any_pb2.Any()
    packed.Pack(info, deterministic=True)  # a map has no order of its own
    return status_pb2.Status(code=reason.code.value[0], message=message, details=[packed])


def reason_of(status: status_pb2.Status) -> str | None:
    """The reason name in a status of ours; None when it carries none."""
    for packed in status.details:
        info = error_details_pb2.ErrorInfo()
        if packed.Unpack(info) and info.domain == DOMAIN:
            return str(info.reason)
    return None
