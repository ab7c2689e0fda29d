"""The delta ADS server: keeps every connected Envoy at the desired resources (xDS protocol, incremental variant).

Laws of a connection: one response of a type is in flight at a time; types go in make-before-break order (clusters before
the routes that need them, removals the other way round), each after the answer to the one before; every re-subscription is
answered; a NACK is remembered and its resource is sent again only when it changes.
The one exception: Envoy answers for a cluster only when it has its endpoints and certificates, so those go without waiting.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import structlog

from lgsp.gateway.xds.cache import Resource
from lgsp.gateway.xds.messages import TYPE_PREFIX, message_class

log = structlog.get_logger("lgsp.ads")
CLUSTER = TYPE_PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINTS = TYPE_PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
SECRET = TYPE_PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"
EXTENSION = TYPE_PREFIX + "envoy.config.core.v3.TypedExtensionConfig"
LISTENER = TYPE_PREFIX + "envoy.config.listener.v3.Listener"
SCOPE = TYPE_PREFIX + "envoy.config.route.v3.ScopedRouteConfiguration"
ROUTES = TYPE_PREFIX + "envoy.config.route.v3.RouteConfiguration"
PUSH_ORDER: Final = (CLUSTER, ENDPOINTS, SECRET, EXTENSION, LISTENER, SCOPE, ROUTES)
_NEEDED_BY_CLUSTERS: Final = frozenset({ENDPOINTS, SECRET})
WILDCARD: Final = frozenset({CLUSTER, LISTENER, SCOPE})
ACK_SECONDS: Final = 10.0
# Resources in one response: bounds a message well below gRPC's 4 MiB for route configurations of ordinary size.
BATCH: Final = 200
_SERVICE: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"


@dataclass(frozen=True, slots=True)
class Rejection:
    """A NACK: what Envoy refused, when (Unix seconds) and in its own words."""

    type_url: str
    names: tuple[str, ...]
    message: str
    time: float


@dataclass(frozen=True, slots=True)
class _Flight:
    """A response that Envoy has not answered yet; `until` is on the event loop's clock."""

    nonce: str
    resources: list[Resource]
    removed: list[str]
    until: float


@dataclass(slots=True)
class _Subscription:
    """One type on one connection: what Envoy asked for and what it was sent."""

    wildcard: bool = False
    names: set[str] = field(default_factory=set)
    sent: dict[str, str] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names


class AdsServer:
    """Desired resources and the Envoys that follow them. All calls belong to one event loop."""

    def __init__(self, *, now: Callable[[], float], accepted: Callable[[list[Resource]], None] | None = None) -> None:
        self.desired: dict[str, dict[str, Resource]] = {type_url: {} for type_url in PUSH_ORDER}
        self.generation = 0
        self.connections: set[_Connection] = set()
        self.rejections: dict[tuple[str, str], Rejection] = {}
        self.now = now
        self._accepted = accepted
        self._settled = asyncio.Condition()

    def update(self, upserts: Iterable[Resource], removals: Iterable[tuple[str, str]] = ()) -> int:
        """Change what is desired; answers the generation to wait for with `settled`."""
        changed = False
        for each in upserts:
            known = self.desired[each.type_url].get(each.name)
            if known is None or known.version != each.version:
                self.desired[each.type_url][each.name] = each
                changed = True
        for type_url, name in removals:
            changed |= self.desired[type_url].pop(name, None) is not None
            self.rejections.pop((type_url, name), None)
        return self._bump() if changed else self.generation

    def replace(self, resources: Iterable[Resource]) -> int:
        """Make exactly these the desired ones."""
        fresh = {(each.type_url, each.name): each for each in resources}
        gone = [(t, n) for t, named in self.desired.items() for n in named if (t, n) not in fresh]
        return self.update(fresh.values(), gone)

    def _bump(self) -> int:
        self.generation += 1
        for connection in self.connections:
            connection.wake.set()
        return self.generation

    async def settled(self, generation: int, timeout_s: float) -> bool:
        """True once every connected Envoy has acknowledged `generation`; False after the time, or with no Envoy."""

        def done() -> bool:
            return bool(self.connections) and all(c.settled >= generation for c in self.connections)

        try:
            async with asyncio.timeout(timeout_s), self._settled:
                await self._settled.wait_for(done)
        except TimeoutError:
            return False
        return True

    async def note_settled(self, connection: _Connection) -> None:
        """A connection reached a generation: tell who waits, and keep what it accepted."""
        async with self._settled:
            self._settled.notify_all()
        if self._accepted is not None:
            self._accepted(list(connection.accepted.values()))

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """The service's handler for a grpc.aio server."""
        method = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=message_class("envoy.service.discovery.v3.DeltaDiscoveryRequest").FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
        return grpc.method_handlers_generic_handler(_SERVICE, {"DeltaAggregatedResources": method})

    async def _stream(self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> None:  # type: ignore[type-arg]
        connection = _Connection(self, context)
        self.connections.add(connection)
        reader = asyncio.create_task(connection.read(requests))
        try:
            await connection.push()
        finally:
            reader.cancel()
            self.connections.discard(connection)


class _Connection:
    """One Envoy: its subscriptions, what it holds, and the loop that closes the gap."""

    def __init__(self, server: AdsServer, context: Any) -> None:
        self.server, self.context = server, context
        self.node = ""
        self.wake = asyncio.Event()
        self.subscriptions: dict[str, _Subscription] = {}
        self.accepted: dict[tuple[str, str], Resource] = {}
        self.settled = -1
        self._nonces = itertools.count(1)
        self._in_flight: dict[str, _Flight] = {}
        self._closed = False

    @property
    def pending(self) -> int:
        """Resources that differ from what this Envoy was sent."""
        return sum(len(up) + len(down) for up, down in map(self._difference, self.subscriptions))

    async def read(self, requests: AsyncIterator[Any]) -> None:
        try:
            async for request in requests:
                self._take(request)
                self.wake.set()
        finally:
            self._closed = True
            self.wake.set()

    def _take(self, request: Any) -> None:
        self.node = self.node or request.node.id
        flight = self._in_flight.get(request.type_url)
        if flight is not None and request.response_nonce == flight.nonce:
            del self._in_flight[request.type_url]
            self._take_answer(request, flight)
        if request.type_url not in self.server.desired:
            return
        known = self.subscriptions.get(request.type_url)
        entry = known or self.subscriptions.setdefault(request.type_url, _Subscription())
        names = set(request.resource_names_subscribe)
        if known is None:
            entry.sent.update(request.initial_resource_versions)
            entry.wildcard = not names and request.type_url in WILDCARD
        entry.wildcard |= "*" in names
        for name in names - {"*"}:
            entry.names.add(name)
            if known is not None or name not in request.initial_resource_versions:
                entry.sent.pop(name, None)
                entry.absent.discard(name)
        for name in request.resource_names_unsubscribe:
            entry.names.discard(name)
            entry.sent.pop(name, None)
            if name == "*":
                entry.wildcard = False

    def _take_answer(self, request: Any, flight: _Flight) -> None:
        type_url = request.type_url
        if request.HasField("error_detail"):
            names = tuple(each.name for each in flight.resources)
            nack = Rejection(type_url, names, request.error_detail.message[:2000], self.server.now())
            self.server.rejections.update({(type_url, name): nack for name in names})
            return
        for each in flight.resources:
            self.accepted[type_url, each.name] = each
            self.server.rejections.pop((type_url, each.name), None)
        for name in flight.removed:
            self.accepted.pop((type_url, name), None)

    async def push(self) -> None:
        """Follow the desired resources until the stream ends."""
        while not self._closed:
            self.wake.clear()
            generation = self.server.generation
            if await self._send_next():
                continue
            done = not self._in_flight and not self.pending and self._complete()
            if done and self.settled != generation:
                self.settled = generation
                self._adopt_known()
                await self.server.note_settled(self)
            await self._wait()

    async def _wait(self) -> None:
        """Until something changes. Without an answer nothing is known of what Envoy holds: a new stream begins by asking."""
        late = min(self._in_flight.items(), key=lambda each: each[1].until, default=None)
        try:
            async with asyncio.timeout_at(late[1].until if late is not None else None):
                await self.wake.wait()
        except TimeoutError:
            assert late is not None
            names = [each.name for each in late[1].resources] + late[1].removed
            log.error("Envoy did not answer", node=self.node, type=late[0], resources=names[:20])
            await self.context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer to {late[0]}")

    def _complete(self) -> bool:
        """True when Envoy has asked for everything it needs: a new service's routes come only after its scope."""
        return all(
            self.server.desired[type_url].keys() <= entry.names
            for type_url in PUSH_ORDER
            if type_url not in WILDCARD and (entry := self.subscriptions.get(type_url, _Subscription()))
        )

    async def _send_next(self) -> bool:
        """Send what may go now: upserts in push order, then removals in reverse; False when nothing may."""
        for type_url in PUSH_ORDER:
            if self._in_flight.keys() - ({CLUSTER} if type_url in _NEEDED_BY_CLUSTERS else set()):
                continue
            upserts, _ = self._difference(type_url)
            if upserts:
                await self._send(type_url, upserts[:BATCH], [])
                return True
        if self._in_flight:
            return False
        for type_url in reversed(PUSH_ORDER):
            _, removed = self._difference(type_url)
            if removed:
                await self._send(type_url, [], removed)
                return True
        return False

    def _difference(self, type_url: str) -> tuple[list[Resource], list[str]]:
        entry = self.subscriptions.get(type_url)
        if entry is None:
            return [], []
        desired = self.server.desired[type_url]
        wanted = desired.values() if entry.wildcard else (desired[n] for n in sorted(entry.names) if n in desired)
        upserts = [each for each in wanted if entry.sent.get(each.name) != each.version]
        gone = [name for name in entry.sent if name not in desired]
        unknown = [n for n in entry.names if n not in desired and n not in entry.sent and n not in entry.absent]
        return upserts, gone + unknown

    async def _send(self, type_url: str, resources: list[Resource], removed: list[str]) -> None:
        entry = self.subscriptions[type_url]
        response: Any = message_class("envoy.service.discovery.v3.DeltaDiscoveryResponse")(type_url=type_url)
        for each in resources:
            slot = response.resources.add(name=each.name, version=each.version)
            slot.resource.type_url, slot.resource.value = each.type_url, each.value
            entry.sent[each.name] = each.version
            entry.absent.discard(each.name)
        for name in removed:
            response.removed_resources.append(name)
            entry.sent.pop(name, None)
            entry.absent.add(name)
        response.nonce = str(next(self._nonces))
        until = asyncio.get_running_loop().time() + ACK_SECONDS
        self._in_flight[type_url] = _Flight(response.nonce, resources, removed, until)
        await self.context.write(response)

    def _adopt_known(self) -> None:
        """After a reconnect Envoy names what it holds already: that counts as accepted."""
        for type_url, entry in self.subscriptions.items():
            for name, version in entry.sent.items():
                each = self.server.desired[type_url].get(name)
                if each and each.version == version and (type_url, name) not in self.server.rejections:
                    self.accepted.setdefault((type_url, name), each)
