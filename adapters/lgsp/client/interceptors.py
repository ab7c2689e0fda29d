"""What every call gets: a token, a deadline, the trace; and for unary calls one more try when the token was refused."""

from __future__ import annotations

from collections import namedtuple
from typing import Any, Final

import grpc
from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from lgsp.client.deprecation import Notices
from lgsp.client.errors import CallError, explain
from lgsp.client.tokens import AsyncTokens, SyncTokens

_RENEW: Final = frozenset({"TOKEN_EXPIRED", "TOKEN_UNTRUSTED", "TOKEN_MISSING"})
_tracer = trace.get_tracer("lgsp.client")


def prepared(details: Any, token: str, timeout_s: float) -> dict[str, Any]:
    """Timeout and metadata of a call with our additions; what the caller set stays."""
    metadata = [(key, value) for key, value in details.metadata or () if key != "authorization"]
    metadata.append(("authorization", f"Bearer {token}"))
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    metadata += [(key, value) for key, value in carrier.items() if key not in {name for name, _ in metadata}]
    return {"timeout": details.timeout if details.timeout is not None else timeout_s, "metadata": metadata}


def name_of(method: str | bytes) -> str:
    """`package.Service/Method`, as the RPC conventions want it."""
    text = method.decode() if isinstance(method, bytes) else method
    return text.lstrip("/")


def span(method: str | bytes) -> Any:
    """A client span (OpenTelemetry semantic conventions for RPC)."""
    name = name_of(method)
    return _tracer.start_as_current_span(
        name,
        kind=SpanKind.CLIENT,
        attributes={"rpc.system.name": "grpc", "rpc.method": name},
        record_exception=False,
        set_status_on_exception=False,
    )


def note(current: trace.Span, code: grpc.StatusCode) -> None:
    current.set_attribute("rpc.response.status_code", code.name)
    if code is not grpc.StatusCode.OK:
        current.set_status(Status(StatusCode.ERROR))


class _Async:
    def __init__(self, tokens: AsyncTokens, timeout_s: float) -> None:
        self._tokens, self._timeout_s, self._notices = tokens, timeout_s, Notices()

    async def _details(self, details: grpc.aio.ClientCallDetails, rejected: str | None = None) -> Any:
        token = await self._tokens.get(rejected)
        changed = prepared(details, token, self._timeout_s)
        metadata = grpc.aio.Metadata(*changed["metadata"])
        return grpc.aio.ClientCallDetails(
            details.method, changed["timeout"], metadata, details.credentials, details.wait_for_ready
        )


class AsyncUnaryUnary(_Async, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        with span(client_call_details.method) as current:
            rejected = None
            while True:
                call = await continuation(await self._details(client_call_details, rejected), request)
                try:
                    await call
                except grpc.aio.AioRpcError as error:
                    told = explain(error)
                    token = self._tokens.token
                    if rejected is None and told.reason in _RENEW and token is not None:
                        rejected = token.value
                        continue
                    note(current, told.code())
                    raise told from None
                note(current, grpc.StatusCode.OK)
                self._notices.look(client_call_details.method, await call.initial_metadata())
                return call


class AsyncUnaryStream(_Async, grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[type-arg]
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(await self._details(client_call_details), request)


class AsyncStreamUnary(_Async, grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[type-arg]
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(await self._details(client_call_details), request_iterator)


class AsyncStreamStream(_Async, grpc.aio.StreamStreamClientInterceptor):  # type: ignore[type-arg]
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(await self._details(client_call_details), request_iterator)


class _Details(
    namedtuple("_Details", ("method", "timeout", "metadata", "credentials", "wait_for_ready", "compression")),
    grpc.ClientCallDetails,
):
    """grpc's sync API wants an object with these attributes."""


class SyncAll(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[type-arg]
    grpc.UnaryStreamClientInterceptor,  # type: ignore[type-arg]
    grpc.StreamUnaryClientInterceptor,  # type: ignore[type-arg]
    grpc.StreamStreamClientInterceptor,  # type: ignore[type-arg]
):
    """The four kinds of the sync API."""

    def __init__(self, tokens: SyncTokens, timeout_s: float) -> None:
        self._tokens, self._timeout_s, self._notices = tokens, timeout_s, Notices()

    def _details(self, details: Any, rejected: str | None = None) -> Any:
        changed = prepared(details, self._tokens.get(rejected), self._timeout_s)
        rest = (details.credentials, details.wait_for_ready, details.compression)
        return _Details(details.method, changed["timeout"], changed["metadata"], *rest)

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        with span(client_call_details.method) as current:
            call = continuation(self._details(client_call_details), request)
            told = self._error(call)
            token = self._tokens.token
            if told is not None and told.reason in _RENEW and token is not None:
                call = continuation(self._details(client_call_details, token.value), request)
            note(current, call.code())
            self._notices.look(client_call_details.method, call.initial_metadata())
            return call

    def _error(self, call: Any) -> CallError | None:
        error = call.exception()
        return explain(error) if isinstance(error, grpc.RpcError) else None

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(self._details(client_call_details), request)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return continuation(self._details(client_call_details), request_iterator)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return continuation(self._details(client_call_details), request_iterator)
