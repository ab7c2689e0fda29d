"""When the last call came in: a gateway that was told to send no more may have one on its way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc

_POLL_S: Final = 0.02
_HEALTH: Final = "/grpc.health.v1."


class Quiet(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Notes each call's arrival, health checks aside; `wait` returns when none has come for a while."""

    def __init__(self) -> None:
        self._last = float("-inf")

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        if not handler_call_details.method.startswith(_HEALTH):
            self._last = asyncio.get_running_loop().time()
        return await continuation(handler_call_details)

    async def wait(self, quiet_s: float, bound_s: float) -> None:
        """Until no call has come for `quiet_s`, counted from now at the earliest; `bound_s` at most."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while loop.time() - max(began, self._last) < quiet_s and loop.time() - began < bound_s:
            await asyncio.sleep(_POLL_S)
