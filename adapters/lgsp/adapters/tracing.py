"""Carries the caller's trace on: a server span for each call, under the gateway's `traceparent`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind

from lgsp.api.errors.serving import answer

_tracer = trace.get_tracer("lgsp.adapters")


class TraceInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Goes first, so that the span covers everything."""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None:
            return None
        name = details.method.lstrip("/")
        for kind, wrap, make in _KINDS:
            behaviour = getattr(handler, kind)
            if behaviour is not None:
                return make(wrap(name, behaviour), handler.request_deserializer, handler.response_serializer)
        return handler


def _span(name: str, context: Any) -> Any:
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    return _tracer.start_as_current_span(
        name,
        context=propagate.extract(metadata),
        kind=SpanKind.SERVER,
        attributes={
            "rpc.system.name": "grpc",
            "rpc.method": name,
            "lgsp.client": metadata.get("x-lgsp-client", ""),
            "lgsp.request_id": metadata.get("x-request-id", ""),
        },
        # An exception's text may hold data of a person.
        record_exception=False,
        set_status_on_exception=False,
    )


def _unary(name: str, behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    async def serve(request: Any, context: Any) -> Any:
        with _span(name, context):
            return await behaviour(request, context)

    return serve


def _stream(name: str, behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Awaitable[None]]:
    async def serve(request: Any, context: Any) -> None:
        with _span(name, context):
            await answer(behaviour(request, context), context)

    return serve


_KINDS: tuple[tuple[str, Callable[..., Any], Callable[..., Any]], ...] = (
    ("unary_unary", _unary, grpc.unary_unary_rpc_method_handler),
    ("unary_stream", _stream, grpc.unary_stream_rpc_method_handler),
    ("stream_unary", _unary, grpc.stream_unary_rpc_method_handler),
    ("stream_stream", _stream, grpc.stream_stream_rpc_method_handler),
)
