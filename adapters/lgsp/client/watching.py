"""Following the registry from anywhere: `watch` goes on through outages, with nothing missed and nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

import grpc

from lgsp.api.registry.v1.registry_pb2 import WatchRequest, WatchResponse
from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub

_PAUSE_S: Final = 1.0
# Refusals that waiting does not mend.
_FINAL: Final = frozenset(
    {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED}
)


async def watch(
    channel: grpc.aio.Channel,
    *,
    kinds: Sequence[str] = (),
    service: str = "",
    incarnation: str = "",
    revision: int = 0,
    pause_s: float = _PAUSE_S,
) -> AsyncIterator[WatchResponse]:
    """Responses of RegistryService.Watch, for ever: see WatchResponse for what to do with them.

    `incarnation` and `revision` of the last response applied are where to go on after a restart of one's own. Raises
    AioRpcError only for what waiting does not mend (no grant, a kind that is not watched).
    """
    request = WatchRequest(kinds=kinds, service=service, incarnation=incarnation, revision=revision)
    while True:
        try:
            async for response in RegistryServiceStub(channel).Watch(request, timeout=290):
                request.incarnation, request.revision = response.incarnation, response.revision
                yield response
        except grpc.aio.AioRpcError as error:
            if error.code() in _FINAL:
                raise
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                await asyncio.sleep(pause_s)
