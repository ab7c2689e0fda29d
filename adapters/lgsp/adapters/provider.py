"""A provider: a gRPC server that registers its services, keeps its lease, and leaves without a failed call.

It masks its responses by the rights that the registry tells, and takes no calls before it knows them.
Order of leaving: deregister → the gateway acknowledged → health says NOT_SERVING → no call comes any more, bounded →
running calls end, bounded → stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final

import grpc

from lgsp.adapters.health import Health
from lgsp.adapters.quiet import Quiet
from lgsp.adapters.rights import MaskInterceptor, Rights, following
from lgsp.adapters.tracing import TraceInterceptor
from lgsp.api.errors.serving import ErrorInterceptor
from lgsp.api.registry.v1 import registry_pb2, registry_pb2_grpc

log = logging.getLogger("lgsp.adapters")
DRAIN_S: Final = 10.0
# A call may be on its way when the gateway acknowledges; a server that stops then would cancel it.
_QUIET_S: Final = 0.25
_QUIET_BOUND_S: Final = 2.0
_RETRY_S: Final = 1.0
_CALL_S: Final = 10.0
MAX_MESSAGE: Final = 4 << 20
ChannelFactory = Callable[[], AbstractAsyncContextManager[grpc.aio.Channel]]


@dataclass(frozen=True, slots=True)
class Share:
    """An instance's share of the calls, where it runs, and whether it answers grpc.health.v1."""

    weight: int = 1
    zone: str = ""
    health_checked: bool = False


class Provider:
    """Serves handlers for `services` at `listen` (`host:port`, port 0 for a free one).

    `channel` opens a channel to the bus as the provider's own system; None serves without registering. `advertise` is
    the address that gateways dial, where it differs from the one listened on. `weight` (1 to 128) is its share of the
    calls among instances, `zone` where it runs. `listening` is told the address before it is registered. Gateways ask
    `health`: `await provider.health.set(False)` sends their calls to other instances, while this one goes on.
    """

    def __init__(
        self,
        services: Sequence[str],
        *,
        handlers: Sequence[grpc.GenericRpcHandler[Any, Any]] = (),
        add: Sequence[Callable[[grpc.aio.Server], None]] = (),
        listen: str = "127.0.0.1:0",
        advertise: str | None = None,
        channel: ChannelFactory | None = None,
        max_concurrent: int = 1000,
        weight: int = 1,
        zone: str = "",
        listening: Callable[[str], None] = lambda address: None,
    ) -> None:
        self.services = tuple(services)
        self._handlers, self._add, self._listen, self._advertise = handlers, add, listen, advertise
        self._channel, self._max_concurrent = channel, max_concurrent
        self._share, self._listening = Share(weight, zone, health_checked=True), listening
        self.health = Health(self.services)
        self.address = ""
        self.registered = asyncio.Event()

    async def serve(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then drain."""
        quiet, rights = Quiet(), Rights(self.services)
        masks = [MaskInterceptor(rights)] if self._channel is not None else []
        server = grpc.aio.server(
            interceptors=[TraceInterceptor(), quiet, ErrorInterceptor("PROVIDER_FAULT"), *masks],
            maximum_concurrent_rpcs=self._max_concurrent,
            options=[("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.so_reuseport", 0)],
        )
        server.add_generic_rpc_handlers((self.health.handler(), *self._handlers))
        for add in self._add:
            add(server)
        host = self._listen.rpartition(":")[0]
        try:
            self.address = self._advertise or f"{host}:{server.add_insecure_port(self._listen)}"
        except RuntimeError as error:
            raise OSError(f"the address {self._listen} cannot be listened on: {error}") from None
        await server.start()
        self._listening(self.address)
        try:
            async with following(self._channel, rights):
                if await _first(rights.known, stop):
                    async with _lease(self._channel, self.services, self.address, self._share, self.registered):
                        await stop.wait()
        finally:
            await self.health.drain()
            if self._channel is not None:
                await quiet.wait(_QUIET_S, _QUIET_BOUND_S)
            await server.stop(DRAIN_S)


async def _first(wanted: asyncio.Event, stop: asyncio.Event) -> bool:
    """Wait for either; True when it is `wanted`."""
    waiting = [asyncio.create_task(each.wait()) for each in (wanted, stop)]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
    return wanted.is_set() and not stop.is_set()


@contextlib.asynccontextmanager
async def _lease(
    factory: ChannelFactory | None,
    services: tuple[str, ...],
    address: str,
    share: Share,
    registered: asyncio.Event,
) -> AsyncIterator[None]:
    """Hold a lease for `address` while inside."""
    if factory is None:
        yield
        return
    async with factory() as channel:
        stub = registry_pb2_grpc.RegistryServiceStub(channel)
        holder = LeaseHolder(stub, services, address, registered, share)
        task = asyncio.create_task(holder.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await holder.leave()


class LeaseHolder:
    """Registers an address and beats for it, through every outage of the bus."""

    def __init__(
        self,
        stub: Any,
        services: tuple[str, ...],
        address: str,
        registered: asyncio.Event,
        share: Share = Share(),
    ) -> None:
        self._stub, self._services, self._address, self._registered = stub, services, address, registered
        self._share = share
        self._endpoint = ""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                period = await (self._beat() if self._endpoint else self._register())
            except grpc.aio.AioRpcError as error:
                if _lost(error):
                    self._endpoint = ""
                log.warning("%s: %s", "no heartbeat" if self._endpoint else "not registered", error.details())
                period = _RETRY_S
            await asyncio.sleep(period)

    async def _register(self) -> float:
        request = registry_pb2.RegisterEndpointRequest(
            services=self._services,
            address=self._address,
            weight=self._share.weight,
            zone=self._share.zone,
            health_checked=self._share.health_checked,
            operation_id=uuid.uuid4().hex,
        )
        answer = await self._stub.RegisterEndpoint(request, timeout=_CALL_S)
        self._endpoint = answer.endpoint.id
        self._registered.set()
        log.info("registered %s at %s", ", ".join(self._services), self._address)
        return float(answer.lease_seconds) / 3

    async def _beat(self) -> float:
        answer = await self._stub.Heartbeat(registry_pb2.HeartbeatRequest(endpoint_id=self._endpoint), timeout=_CALL_S)
        return float(answer.lease_seconds) / 3

    async def leave(self) -> None:
        """Deregister; a bus that is away is told by the lease's end."""
        if not self._endpoint:
            return
        request = registry_pb2.DeregisterEndpointRequest(
            endpoint_id=self._endpoint, operation_id=f"leave {self._endpoint}"
        )
        try:
            await self._stub.DeregisterEndpoint(request, timeout=5)
        except grpc.aio.AioRpcError as error:
            log.warning("not deregistered: %s", error.details())
        self._endpoint = ""
        self._registered.clear()


def _lost(error: grpc.aio.AioRpcError) -> bool:
    """True when the registry does not know the lease any more."""
    trailers: Any = error.trailing_metadata() or ()
    return any(key == "x-lgsp-reason" and value == "LEASE_UNKNOWN" for key, value in trailers)


async def keep_lease(
    factory: ChannelFactory | None,
    services: tuple[str, ...],
    address: str,
    stop: asyncio.Event,
    registered: asyncio.Event,
    share: Share = Share(),
) -> None:
    """Hold the lease of a server that somebody else runs, while it accepts connections."""
    while not stop.is_set():
        if not await _accepts(address):
            log.warning("%s does not accept connections", address)
            await _wait(stop, _RETRY_S)
            continue
        async with _lease(factory, services, address, share, registered):
            while not stop.is_set() and await _accepts(address):
                await _wait(stop, _RETRY_S)


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


async def _accepts(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host.strip("[]"), int(port)), 2)
    except (OSError, TimeoutError, ValueError):
        return False
    writer.close()
    return True
