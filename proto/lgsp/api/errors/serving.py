"""Errors on the server side of grpc.aio: BusError becomes a status with its reason, anything else one without its text."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from lgsp.api.errors.table import DETAILS_KEY, BusError, status_of

_log = logging.getLogger("lgsp.errors")


async def answer(result: Any, context: Any) -> None:
    """Send what a streaming handler gives, whichever of grpc.aio's two forms it has.

    A caller that goes away ends a generator here and now: grpc.aio itself leaves a suspended one to the garbage
    collector, and with it whatever the handler holds open.
    """
    if not hasattr(result, "__aiter__"):
        await result
        return
    async with contextlib.aclosing(result):
        async for message in result:
            await context.write(message)


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """`unexpected` is the reason for an exception that is no BusError: whose fault it is depends on who serves."""

    def __init__(self, unexpected: str = "INTERNAL") -> None:
        self._unexpected = unexpected

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        for kind, wrap, make in _KINDS:
            behaviour = getattr(handler, kind)
            if behaviour is not None:
                read = handler.request_deserializer
                if not kind.startswith("stream") and read is not None:
                    read = _reader(read)
                return make(wrap(self, behaviour), read, handler.response_serializer)
        return handler

    def _unary(self, behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def serve(request: Any, context: Any) -> Any:
            try:
                return await behaviour(_read(request), context)
            except Exception as error:
                await self._abort(error, context)

        return serve

    def _stream(self, behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Awaitable[None]]:
        async def serve(request: Any, context: Any) -> None:
            try:
                await answer(behaviour(_read(request), context), context)
            except Exception as error:
                await self._abort(error, context)

        return serve

    async def _abort(self, error: Exception, context: Any) -> None:
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if not isinstance(error, BusError):
            _log.error("unexpected %s while serving", type(error).__name__, exc_info=error)
            error = BusError(self._unexpected)
        status = status_of(error)
        trailers = ((DETAILS_KEY, status.SerializeToString()), ("x-lgsp-reason", error.reason.name))
        await context.abort(error.reason.code, f"{error.reason.name}: {error.detail}", trailers)


def _reader(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Turns bytes that are no message into a refusal to raise: grpc itself would answer without a reason."""

    def read(content: bytes) -> Any:
        try:
            return deserialize(content)
        except Exception:
            return BusError("REQUEST_MALFORMED", "the request is no message of this method")

    return read


def _read(request: Any) -> Any:
    if isinstance(request, BusError):
        raise request
    return request


_KINDS: tuple[tuple[str, Callable[..., Any], Callable[..., Any]], ...] = (
    ("unary_unary", ErrorInterceptor._unary, grpc.unary_unary_rpc_method_handler),
    ("unary_stream", ErrorInterceptor._stream, grpc.unary_stream_rpc_method_handler),
    ("stream_unary", ErrorInterceptor._unary, grpc.stream_unary_rpc_method_handler),
    ("stream_stream", ErrorInterceptor._stream, grpc.stream_stream_rpc_method_handler),
)
