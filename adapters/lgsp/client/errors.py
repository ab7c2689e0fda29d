"""Errors of calls over the bus, typed by their reason.

CallError            any refusal or failure; a grpc.aio.AioRpcError too
├── GrantMissingError    no grant lets this system use the method
└── TokenRefusedError    the token endpoint or the gateway did not accept who we are
"""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import status_pb2

from lgsp.api.errors import TABLE, reason_of
from lgsp.api.errors.table import DETAILS_KEY

# What gRPC's own library says of a message beyond its limit.
_TOO_LARGE = "message larger than max"


class CallError(grpc.aio.AioRpcError):
    """`reason` is a row of the table of reasons, or None when the answer carried none; `remedy` says what to do."""

    def __init__(self, code: grpc.StatusCode, details: str, initial: Any, trailing: Any, reason: str | None) -> None:
        super().__init__(code, _metadata(initial), _metadata(trailing), details, None)
        row = TABLE.get(reason or "")
        self.reason = reason
        self.fault = row.fault.value if row else None
        self.remedy = row.remedy if row else ""
        self.request_id = _value(initial, "x-request-id") or _value(trailing, "x-request-id")

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = (self.code(), self.details(), self.initial_metadata(), self.trailing_metadata(), self.reason)
        return (type(self), arguments)


class GrantMissingError(CallError):
    """No grant lets this system use the method."""


class TokenRefusedError(CallError):
    """The gateway or its token endpoint did not accept who we are."""


def explain(error: grpc.RpcError) -> CallError:
    """The typed error of any gRPC error, from the sync or the asyncio API."""
    if isinstance(error, CallError):
        return error
    told: Any = error
    initial, trailing = told.initial_metadata() or (), told.trailing_metadata() or ()
    reason = _value(trailing, "x-lgsp-reason") or _value(initial, "x-lgsp-reason") or _packed_reason(trailing)
    if reason is None and told.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE in (told.details() or ""):
        reason = "REQUEST_TOO_LARGE"  # a gRPC library refused it, on either side, before any code of ours
    return _typed(reason)(told.code(), told.details() or "", initial, trailing, reason)


def _typed(reason: str | None) -> type[CallError]:
    if reason == "GRANT_MISSING":
        return GrantMissingError
    return TokenRefusedError if (reason or "").startswith("TOKEN_") else CallError


def _packed_reason(trailing: Any) -> str | None:
    packed = _value(trailing, DETAILS_KEY)
    try:
        return reason_of(status_pb2.Status.FromString(packed)) if isinstance(packed, bytes) else None
    except DecodeError:
        return None


def _value(metadata: Any, name: str) -> Any:
    return next((value for key, value in metadata if key == name), None)


def _metadata(pairs: Any) -> grpc.aio.Metadata:
    return pairs if isinstance(pairs, grpc.aio.Metadata) else grpc.aio.Metadata(*((k, v) for k, v in pairs))
