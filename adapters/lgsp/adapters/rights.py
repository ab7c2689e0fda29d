"""What each consumer sees of this provider's responses, followed from the registry, and the interceptor that keeps to it.

Rule 1: nothing is answered before the registry told the rights once; what it told last holds while it is away.
Rule 2: every message is judged when it is sent: a narrowed right narrows a running stream, a lost one ends it.
        Masked or not: a stream is not longer than the right to it.
Rule 3: a caller that the rights do not name sees nothing. It may be newer than what was told, so it is waited for, shortly.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Final

import grpc

from lgsp.adapters.masking import Tree, keep, tree_of
from lgsp.api.errors import BusError
from lgsp.api.errors.serving import answer
from lgsp.api.registry.v1.registry_pb2 import MethodViews, WatchRightsRequest, WatchRightsResponse
from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub

log = logging.getLogger("lgsp.adapters")
CLIENT, PURPOSE = "x-lgsp-client", "x-lgsp-purpose"
# Longer than a grant needs from the registry to here, shorter than a caller's patience.
NEWS_S: Final = 2.0
_RETRY_S: Final = 1.0
_STREAM_S: Final = 290.0
# Who, for what → the tree of what is seen; None is the whole.
_Views = dict[tuple[str, str], "Tree | None"]


class Rights:
    """The rights on `services` as they were last told."""

    def __init__(self, services: Sequence[str]) -> None:
        self.services = frozenset(services)
        self.known = asyncio.Event()
        self._methods: dict[str, dict[str, tuple[bool, _Views]]] = {}
        self._told = asyncio.Condition()

    async def take(self, response: WatchRightsResponse) -> None:
        """What is true from now on."""
        if response.service:
            told = [(each.methods, each.masked, _views(each)) for each in response.methods]
            self._methods[response.service] = {name: (masked, views) for names, masked, views in told for name in names}
        if response.complete:
            self.known.set()
        async with self._told:
            self._told.notify_all()

    def seen(self, path: str, client: str, purpose: str) -> Tree | None:
        """What a caller of `/service/Method` sees; None is the whole. GRANT_MISSING for one that sees nothing."""
        _, service, method = path.split("/")
        if not self.known.is_set():
            raise BusError("PROVIDER_UNAVAILABLE", "this provider has not been told yet who may see what")
        found = self._methods.get(service, {}).get(method)
        # Who has no name did not come through a gateway; nothing of an unmasked method is hidden from anybody here.
        if found is None or (not client and not found[0]):
            return None
        views = found[1]
        for key in ((client, purpose), (client, "")):
            if client and key in views:
                return views[key]
        raise BusError("GRANT_MISSING", "the provider knows of no grant that lets this caller see the response")

    async def awaited(self, path: str, client: str, purpose: str) -> Tree | None:
        """As `seen`, for a call that begins."""
        try:
            async with asyncio.timeout(NEWS_S if client else 0), self._told:
                while True:
                    with suppress(BusError):
                        return self.seen(path, client, purpose)
                    await self._told.wait()
        except TimeoutError:
            return self.seen(path, client, purpose)


def _views(told: MethodViews) -> _Views:
    found: _Views = {}
    for view in told.views:
        tree = None if view.whole else tree_of(view.leaves)
        found.update(((viewer.consumer, viewer.purpose), tree) for viewer in view.viewers)
    return found


@asynccontextmanager
async def following(
    factory: Callable[[], AbstractAsyncContextManager[grpc.aio.Channel]] | None, rights: Rights
) -> AsyncIterator[None]:
    """Follow the registry while inside; without a channel there are no rights to keep to."""
    if factory is None:
        rights.known.set()
        yield
        return
    async with factory() as channel:
        task = asyncio.create_task(_follow(channel, rights))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _follow(channel: grpc.aio.Channel, rights: Rights) -> None:
    request = WatchRightsRequest(services=sorted(rights.services))
    while True:
        try:
            async for response in RegistryServiceStub(channel).WatchRights(request, timeout=_STREAM_S):
                await rights.take(response)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                continue
            log.warning("rights are not followed: %s", error.details())
        await asyncio.sleep(_RETRY_S)


# --- the interceptor -------------------------------------------------------------------------------------------------


class MaskInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Goes last, next to the handlers: what it passes on is serialized and holds only what the caller may see."""

    def __init__(self, rights: Rights) -> None:
        self._rights = rights

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or details.method.split("/")[1] not in self._rights.services:
            return handler
        for kind, wrap, make in _KINDS:
            behaviour = getattr(handler, kind)
            if behaviour is not None:
                serialize = handler.response_serializer or bytes
                masked = wrap(self._rights, details.method, behaviour, serialize)
                return make(masked, request_deserializer=handler.request_deserializer)
        return handler


class _Masked:
    """A call's context whose `write` masks."""

    def __init__(self, rights: Rights, path: str, context: Any, serialize: Callable[[Any], bytes]) -> None:
        self._rights, self._path, self._context, self._serialize = rights, path, context, serialize
        found: dict[str, list[str]] = {CLIENT: [], PURPOSE: []}
        for key, value in context.invocation_metadata() or ():
            if key in found and isinstance(value, str):
                found[key].append(value)
        # Said twice is said not at all.
        self._client, self._purpose = ("".join(found[key][:1]) if len(found[key]) == 1 else "" for key in found)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def begin(self) -> None:
        await self._rights.awaited(self._path, self._client, self._purpose)

    def masked(self, message: Any) -> bytes:
        tree = self._rights.seen(self._path, self._client, self._purpose)
        serialized = self._serialize(message)
        return serialized if tree is None else keep(serialized, tree)

    async def write(self, message: Any) -> None:
        await self._context.write(self.masked(message))


def _unary(rights: Rights, path: str, behaviour: Any, serialize: Any) -> Callable[[Any, Any], Awaitable[bytes]]:
    async def serve(request: Any, context: Any) -> bytes:
        masked = _Masked(rights, path, context, serialize)
        await masked.begin()
        return masked.masked(await behaviour(request, masked))

    return serve


def _stream(rights: Rights, path: str, behaviour: Any, serialize: Any) -> Callable[[Any, Any], Awaitable[None]]:
    async def serve(request: Any, context: Any) -> None:
        masked = _Masked(rights, path, context, serialize)
        await masked.begin()
        await answer(behaviour(request, masked), masked)

    return serve


_KINDS: Final[tuple[tuple[str, Callable[..., Any], Callable[..., Any]], ...]] = (
    ("unary_unary", _unary, grpc.unary_unary_rpc_method_handler),
    ("unary_stream", _stream, grpc.unary_stream_rpc_method_handler),
    ("stream_unary", _unary, grpc.stream_unary_rpc_method_handler),
    ("stream_stream", _stream, grpc.stream_stream_rpc_method_handler),
)
