"""grpc.health.v1 for a provider, from two small messages written by hand: a status of SERVING or NOT_SERVING."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc

# HealthCheckResponse{status = 1}: SERVING = 1, NOT_SERVING = 2, SERVICE_UNKNOWN = 3 (grpc/health/v1/health.proto).
_SERVING, _NOT_SERVING, _UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"
_SERVICE: Final = "grpc.health.v1.Health"


class Health:
    """The state of one server; `services` are those it answers for beside the empty name, which is the server as a whole."""

    def __init__(self, services: tuple[str, ...]) -> None:
        self._services = frozenset(services) | {""}
        self._serving = True
        self._off = set[str]()
        self._changed = asyncio.Condition()

    async def drain(self) -> None:
        """Say NOT_SERVING from now on, for good."""
        self._serving = False
        await self._tell()

    async def set(self, serving: bool, service: str = "") -> None:
        """Whether a service can be served just now; the empty name is all of them. Gateways send calls elsewhere meanwhile."""
        if service not in self._services:
            raise ValueError(f"{service!r} is not served here")
        (self._off.discard if serving else self._off.add)(service)
        await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        methods = {
            "Check": grpc.unary_unary_rpc_method_handler(self._check, _service_of, bytes),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch, _service_of, bytes),
        }
        return grpc.method_handlers_generic_handler(_SERVICE, methods)

    def _status(self, service: str) -> bytes:
        if service not in self._services:
            return _UNKNOWN
        return _SERVING if self._serving and not self._off & {"", service} else _NOT_SERVING

    async def _check(self, service: str, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        status = self._status(service)
        if status is _UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return status

    async def _watch(self, service: str, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[bytes]:
        last = None
        while True:
            status = self._status(service)
            if status != last:
                yield status
                last = status
            async with self._changed:
                await self._changed.wait()


def _service_of(request: bytes) -> str:
    """HealthCheckRequest{service = 1}: one short string field or nothing."""
    if request[:1] == b"\x0a" and len(request) > 1 and request[1] == len(request) - 2:
        return request[2:].decode("utf-8", "replace")
    return ""
