"""One Envoy on the delta ADS stream: its subscriptions, what it holds, and the loop that closes the gap.

Laws: one response of a type is in flight at a time; types go in make-before-break order (clusters before the routes that
need them, removals the other way round), each after the answer to the one before; every re-subscription is answered.
A refused response of several resources is sent again one by one: what is sound must not wait for what is not.
The one exception: Envoy answers for a cluster only when it has its endpoints and certificates, so those go without waiting.
Cost: a change costs what it touches, however many resources there are.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import grpc
import structlog

from lgsp.gateway.xds.cache import Name, Resource
from lgsp.gateway.xds.messages import TYPE_PREFIX, message_class

if TYPE_CHECKING:
    from lgsp.gateway.xds.ads import AdsServer

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
# Resources and bytes in one response: well below gRPC's 4 MiB.
BATCH, BATCH_BYTES = 200, 2 << 20


@dataclass(frozen=True, slots=True)
class Rejection:
    """A NACK: what Envoy refused, when (Unix seconds), in its own words, and at which generation."""

    type_url: str
    names: tuple[str, ...]
    message: str
    time: float
    generation: int = 0


@dataclass(frozen=True, slots=True)
class _Flight:
    """A response that Envoy has not answered yet; `until` is on the event loop's clock."""

    nonce: str
    resources: list[Resource]
    removed: list[str]
    until: float


@dataclass(slots=True)
class _Subscription:
    """One type: what Envoy asked for, what it was sent, and the names where that may differ from what is desired."""

    asked: bool = False
    wildcard: bool = False
    names: set[str] = field(default_factory=set)
    sent: dict[str, str] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    # Ordered sets: to look at, to remove, desired but never asked for, to be sent alone.
    open: dict[str, None] = field(default_factory=dict)
    gone: dict[str, None] = field(default_factory=dict)
    missing: dict[str, None] = field(default_factory=dict)
    alone: set[str] = field(default_factory=set)

    def take(self, request: Any, desired: Mapping[str, Resource], type_url: str) -> None:
        """Envoy subscribes or unsubscribes."""
        names, known = set(request.resource_names_subscribe), self.asked
        if not known:
            self.asked = True
            self.sent.update(request.initial_resource_versions)
            self.wildcard = not names and type_url in WILDCARD
            self.open.update(dict.fromkeys(self.sent))
        if "*" in names or (self.wildcard and not known):
            self.wildcard = True
            self.open.update(dict.fromkeys(desired))
        for name in names - {"*"}:
            self.names.add(name)
            self.missing.pop(name, None)
            self.open[name] = None
            if known or name not in request.initial_resource_versions:
                self.sent.pop(name, None)
                self.absent.discard(name)
        for name in request.resource_names_unsubscribe:
            self._drop(name, desired)

    def _drop(self, name: str, desired: Mapping[str, Resource]) -> None:
        self.names.discard(name)
        self.sent.pop(name, None)
        self.gone.pop(name, None)
        if name == "*":
            self.wildcard = False
        elif name in desired:
            self.missing[name] = None

    def touch(self, name: str, *, wanted: bool) -> None:
        """What is desired under this name has changed."""
        self.open[name] = None
        if not wanted:
            self.missing.pop(name, None)
        elif name not in self.names:
            self.missing[name] = None

    def send_again(self, name: str) -> None:
        """Envoy forgets the endpoints of a cluster that changes, and does not ask for them again."""
        if self.sent.pop(name, None) is not None:
            self.open[name] = None

    def next_upserts(self, desired: Mapping[str, Resource]) -> list[Resource]:
        """What to send now; names that turn out to need nothing are closed on the way."""
        batch: list[Resource] = []
        while self.asked and self.open and not batch:
            size = 0
            for name in list(itertools.islice(self.open, BATCH)):
                resource = desired.get(name)
                if resource is None or not self._needs(name, resource):
                    self._close(name, resource)
                    continue
                size += len(resource.value)
                if batch and (name in self.alone or size > BATCH_BYTES):
                    break
                batch.append(resource)
                if name in self.alone:
                    break
        return batch

    def _needs(self, name: str, resource: Resource) -> bool:
        return (self.wildcard or name in self.names) and self.sent.get(name) != resource.version

    def _close(self, name: str, resource: Resource | None) -> None:
        del self.open[name]
        if resource is None and (name in self.sent or (name in self.names and name not in self.absent)):
            self.gone[name] = None

    def next_removals(self, desired: Mapping[str, Resource]) -> list[str]:
        return [name for name in self.gone if name not in desired]


class Connection:
    """One stream. `settled` is the generation that Envoy holds whole; `accepted` what it holds."""

    def __init__(self, server: AdsServer, context: Any) -> None:
        self.server, self.context = server, context
        self.node = ""
        self.wake = asyncio.Event()
        self.accepted: dict[Name, Resource] = {}
        self.settled = -1
        self._subscriptions = {type_url: _Subscription() for type_url in PUSH_ORDER}
        for type_url, named in server.desired.items():
            self._subscriptions[type_url].missing.update(dict.fromkeys(named))
        # What Envoy accepted or dropped since it was last told.
        self._news: dict[Name, Resource | None] = {}
        self._nonces = itertools.count(1)
        self._in_flight: dict[str, _Flight] = {}
        self._closed = False

    @property
    def pending(self) -> int:
        """Resources that may differ from what this Envoy was sent."""
        return sum(len(each.open) + len(each.gone) for each in self._subscriptions.values())

    def touch(self, names: Iterable[Name]) -> None:
        """What is desired under these names has changed."""
        for type_url, name in names:
            self._subscriptions[type_url].touch(name, wanted=name in self.server.desired[type_url])
        self.wake.set()

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
            if request.HasField("error_detail"):
                self._refused(request, flight)
            else:
                self._accepted(request.type_url, flight)
        if request.type_url in self._subscriptions:
            desired = self.server.desired[request.type_url]
            self._subscriptions[request.type_url].take(request, desired, request.type_url)

    def _refused(self, request: Any, flight: _Flight) -> None:
        names = tuple(each.name for each in flight.resources)
        if len(names) > 1:
            entry = self._subscriptions[request.type_url]
            for name in names:
                entry.sent.pop(name, None)
                entry.open[name] = None
            entry.alone.update(names)
            return
        message, server = request.error_detail.message[:2000], self.server
        nack = Rejection(request.type_url, names, message, server.now(), server.generation)
        self.server.rejections.update({(request.type_url, name): nack for name in names})
        self.server.refused(nack)

    def _accepted(self, type_url: str, flight: _Flight) -> None:
        for each in flight.resources:
            self.accepted[type_url, each.name] = self._news[type_url, each.name] = each
            self.server.rejections.pop((type_url, each.name), None)
            self._subscriptions[type_url].alone.discard(each.name)
        for name in flight.removed:
            self.accepted.pop((type_url, name), None)
            self._news[type_url, name] = None

    async def push(self) -> None:
        """Follow the desired resources until the stream ends."""
        while not self._closed:
            self.wake.clear()
            generation = self.server.generation
            if await self._send_next():
                continue
            if self.settled != generation and self._done():
                await self._settle(generation)
            await self._wait()

    def _done(self) -> bool:
        """True when nothing waits, and Envoy has asked for everything: a new service's routes come only after its scope."""
        return not self._in_flight and not any(
            each.open or each.gone or (each.missing and not each.wildcard) for each in self._subscriptions.values()
        )

    async def _settle(self, generation: int) -> None:
        first, self.settled = self.settled < 0, generation
        if first:
            self._adopt_known()
        news, self._news = self._news, {}
        await self.server.note_settled(self, None if first else news)

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

    async def _send_next(self) -> bool:
        """Send what may go now: upserts in push order, then removals in reverse; False when nothing may."""
        for type_url in PUSH_ORDER:
            if self._in_flight.keys() - ({CLUSTER} if type_url in _NEEDED_BY_CLUSTERS else set()):
                continue
            upserts = self._subscriptions[type_url].next_upserts(self.server.desired[type_url])
            if upserts:
                await self._send(type_url, upserts, [])
                return True
        if self._in_flight:
            return False
        for type_url in reversed(PUSH_ORDER):
            entry = self._subscriptions[type_url]
            removed = entry.next_removals(self.server.desired[type_url])
            entry.gone.clear()
            if removed:
                await self._send(type_url, [], removed)
                return True
        return False

    async def _send(self, type_url: str, resources: list[Resource], removed: list[str]) -> None:
        entry = self._subscriptions[type_url]
        response: Any = message_class("envoy.service.discovery.v3.DeltaDiscoveryResponse")(type_url=type_url)
        for each in resources:
            slot = response.resources.add(name=each.name, version=each.version)
            slot.resource.type_url, slot.resource.value = each.type_url, each.value
            entry.sent[each.name] = each.version
            entry.absent.discard(each.name)
            entry.open.pop(each.name, None)
            if type_url == CLUSTER:
                self._subscriptions[ENDPOINTS].send_again(each.name)
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
        for type_url, entry in self._subscriptions.items():
            for name, version in entry.sent.items():
                each = self.server.desired[type_url].get(name)
                if each and each.version == version and (type_url, name) not in self.server.rejections:
                    self.accepted.setdefault((type_url, name), each)
