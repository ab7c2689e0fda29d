"""The delta ADS server: keeps every connected Envoy at the desired resources (xDS protocol, incremental variant).

A NACK is remembered, and its resource is sent again only when it changes. How one Envoy is followed: connection.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Final

import grpc

from lgsp.gateway.xds.cache import Name, Resource
from lgsp.gateway.xds.connection import PUSH_ORDER, Connection, Rejection
from lgsp.gateway.xds.messages import message_class

_SERVICE: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"
# What Envoy accepted (None: dropped), and whether that is all that it holds.
Accepted = Callable[[Mapping[Name, Resource | None], bool], None]


class AdsServer:
    """Desired resources and the Envoys that follow them. All calls belong to one event loop."""

    def __init__(self, *, now: Callable[[], float], accepted: Accepted | None = None) -> None:
        self.desired: dict[str, dict[str, Resource]] = {type_url: {} for type_url in PUSH_ORDER}
        self.generation = 0
        self.connections: set[Connection] = set()
        self.rejections: dict[tuple[str, str], Rejection] = {}
        self.now = now
        self._accepted = accepted
        # Told of every refusal.
        self.refused: Callable[[Rejection], None] = lambda rejection: None
        self._settled = asyncio.Condition()

    def update(self, upserts: Iterable[Resource], removals: Iterable[tuple[str, str]] = ()) -> int:
        """Change what is desired; answers the generation to wait for with `settled`."""
        changed: dict[Name, None] = {}
        for each in upserts:
            known = self.desired[each.type_url].get(each.name)
            if known is None or known.version != each.version:
                self.desired[each.type_url][each.name] = each
                changed[each.type_url, each.name] = None
        for type_url, name in removals:
            if self.desired[type_url].pop(name, None) is not None:
                changed[type_url, name] = None
            self.rejections.pop((type_url, name), None)
        if changed:
            self.generation += 1
            for connection in self.connections:
                connection.touch(changed)
        return self.generation

    def replace(self, resources: Iterable[Resource]) -> int:
        """Make exactly these the desired ones."""
        fresh = {(each.type_url, each.name): each for each in resources}
        gone = [(t, n) for t, named in self.desired.items() for n in named if (t, n) not in fresh]
        return self.update(fresh.values(), gone)

    async def settled(self, generation: int, timeout_s: float) -> bool:
        """True once every connected Envoy has acknowledged `generation`; False after the time, with no Envoy, or when
        something was refused since."""

        def done() -> bool:
            return bool(self.connections) and all(c.settled >= generation for c in self.connections)

        try:
            async with asyncio.timeout(timeout_s), self._settled:
                await self._settled.wait_for(done)
        except TimeoutError:
            return False
        return all(each.generation < generation for each in self.rejections.values())

    async def note_settled(self, connection: Connection, news: Mapping[Name, Resource | None] | None) -> None:
        """A connection reached a generation: tell who waits, and what it accepted since then (None: all that it holds)."""
        async with self._settled:
            self._settled.notify_all()
        if self._accepted is not None:
            self._accepted(connection.accepted if news is None else news, news is None)

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """The service's handler for a grpc.aio server."""
        method = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=message_class("envoy.service.discovery.v3.DeltaDiscoveryRequest").FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
        return grpc.method_handlers_generic_handler(_SERVICE, {"DeltaAggregatedResources": method})

    async def _stream(self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> None:  # type: ignore[type-arg]
        connection = Connection(self, context)
        self.connections.add(connection)
        reader = asyncio.create_task(connection.read(requests))
        try:
            await connection.push()
        finally:
            reader.cancel()
            self.connections.discard(connection)
