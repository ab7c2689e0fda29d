"""The registry's API on a real gRPC server over a real store; callers are named in metadata, as the gateway names them."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2
from joserfc.jwk import ECKey

from lgsp.api.demo.admunits.v1 import admunits_pb2
from lgsp.api.errors import TABLE, BusError, reason_of
from lgsp.api.errors.serving import ErrorInterceptor
from lgsp.api.errors.table import DETAILS_KEY
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.api.registry.v1 import registry_pb2_grpc
from lgsp.registry.api import RegistryServicer
from lgsp.registry.leases import Leases
from lgsp.registry.store import Store, Write
from tests.support.descriptors import descriptor_set

OPERATOR, PROVIDER, CONSUMER = "H26/operator", "H26.1/provider", "H26.2/consumer"
SERVICE = "lgsp.api.demo.admunits.v1.AdministrativeUnitService"
CONTRACT = descriptor_set(admunits_pb2.DESCRIPTOR)
ADDRESS = "127.0.0.1:7001"
RPCS = sorted(
    each.name for each in pb.DESCRIPTOR.services_by_name["RegistryService"].methods if not each.name.startswith("Watch")
)


class Caller:
    """`await caller.GetAgency(id=…)`: one call with this caller's name; `named` is what stands in the metadata."""

    def __init__(self, stub: registry_pb2_grpc.RegistryServiceStub, *named: str) -> None:
        self._stub, self._named = stub, named

    def __getattr__(self, rpc: str) -> Any:
        async def call(**fields: object) -> Any:
            request = getattr(pb, f"{rpc}Request")(**fields)
            metadata = [("x-lgsp-client", name) for name in self._named]
            return await getattr(self._stub, rpc)(request, metadata=metadata, timeout=20)

        return call

    def watch(self, **fields: object) -> Any:
        """The running call of Watch: iterate over it."""
        metadata = [("x-lgsp-client", name) for name in self._named]
        return self._stub.Watch(pb.WatchRequest(**fields), metadata=metadata, timeout=60)


class Api:
    """`operator`, `provider` and `consumer` call; `effects` are the revisions that were awaited."""

    def __init__(self, store: Store) -> None:
        self.store, self.now = store, 1000.0
        self.leases = Leases(15.0, 30.0, lambda: self.now)
        self.effects: list[int] = []
        self.effective = True
        self.operators = {OPERATOR}
        self.platform: set[str] = set()
        self.calls: list[pb.Use] = []

    async def await_effect(self, revision: int, timeout_s: float) -> bool:
        assert 0 < timeout_s < 10
        self.effects.append(revision)
        return self.effective

    @staticmethod
    def endpoint_policy(system: str, address: str) -> str:
        if not address.startswith("127.0.0.1:"):
            raise BusError("ENDPOINT_REFUSED", f"{address[:64]!r} is not allowed to {system}")
        return address

    def attach(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.stub = registry_pb2_grpc.RegistryServiceStub(channel)
        self.operator, self.provider, self.consumer = (self.as_(name) for name in (OPERATOR, PROVIDER, CONSUMER))

    def as_(self, *named: str) -> Caller:
        return Caller(self.stub, *named)

    @property
    def revision(self) -> int:
        return self.store.state.revision

    async def enrol(self) -> None:
        """Three agencies with a system each."""
        await self.operator.CreateAgency(agency=pb.Agency(id="H26", names=pb.Names(vi="Thành phố Hà Nội", en="Hanoi")))
        for number in (1, 2):
            await self.operator.CreateAgency(agency=pb.Agency(id=f"H26.{number}", parent="H26"))
        for name in (OPERATOR, PROVIDER, CONSUMER):
            await self.operator.CreateSystem(system=pb.System(id=name, jwks=jwks()))

    async def write(self, kind: str, key: str, value: Any) -> None:
        """A new record past the API."""
        await self.store.write([Write(kind, key, value, 0)], operation_id=operation(), actor="test")

    async def publish(self, name: str = SERVICE, **fields: object) -> pb.PublishServiceResponse:
        service = pb.Service(name=name, provider=PROVIDER, **fields)
        return await self.provider.PublishService(service=service, contract=CONTRACT)


def jwks(*keys: dict) -> str:
    return json.dumps({"keys": list(keys) or [ECKey.generate_key("P-256").as_dict(private=False)]})


def operation() -> str:
    return uuid.uuid4().hex


async def refused(call: Awaitable[object]) -> tuple[str, str]:
    """Reason and detail of a call that must be refused, whose code fits the reason."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return reason_of_error(caught.value), caught.value.details() or ""


def reason_of_error(error: grpc.aio.AioRpcError) -> str:
    """The reason that the refusal carries; its code must fit it."""
    packed = dict(error.trailing_metadata())[DETAILS_KEY]
    reason = reason_of(status_pb2.Status.FromString(packed))
    assert reason is not None
    assert error.code() is TABLE[reason].code
    return reason


@asynccontextmanager
async def following(server, *, synced: bool = True) -> AsyncIterator[Store]:
    store = Store(server.connect, None, "n1")
    task = asyncio.create_task(store.run())
    try:
        if synced:
            await asyncio.wait_for(store.synced.wait(), 10)
        yield store
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@asynccontextmanager
async def serving(store: Store) -> AsyncIterator[Api]:
    """The API with the limits that the control process sets."""
    api = Api(store)
    servicer = RegistryServicer(
        store,
        api.leases,
        effective=api.await_effect,
        operators=api.operators.__contains__,
        endpoint_policy=api.endpoint_policy,
        platform=api.platform,
        uses=lambda service: api.calls,
    )
    api.servicer = servicer
    server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=[("grpc.max_receive_message_length", 8 << 20)])
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            api.attach(channel)
            yield api
    finally:
        await server.stop(0)
