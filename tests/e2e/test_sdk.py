"""The two SDKs against a real node: a provider that registers itself and leaves without a lost call; a trace carried on."""

from __future__ import annotations

import asyncio
import uuid

import grpc
import pytest
import pytest_asyncio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from lgsp.adapters.manifest import compile_proto
from lgsp.adapters.provider import Provider
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lgsp.client import explain
from tests.support.city import running_city

OWNER, READER, SERVICE = "H26/slow-provider", "H26/slow-reader", "slow.v1.SlowService"
CONTRACT = """
syntax = "proto3";
package slow.v1;
service SlowService { rpc Wait(Bytes) returns (Bytes); rpc Meta(Bytes) returns (Bytes); }
message Bytes { bytes content = 1; }
"""
pytestmark = pytest.mark.asyncio(loop_scope="module")


class Slow:
    """`Wait` answers when the test lets it."""

    def __init__(self) -> None:
        self.entered, self.release = asyncio.Event(), asyncio.Event()

    async def wait(self, request: bytes, context) -> bytes:
        self.entered.set()
        await self.release.wait()
        return request

    async def meta(self, request: bytes, context) -> bytes:
        text = "\n".join(
            f"{key}={value}" for key, value in context.invocation_metadata() if isinstance(value, str)
        ).encode()
        assert len(text) < 16384
        return b"\x0a" + bytes([len(text) & 127 | 128, len(text) >> 7]) + text

    def handler(self):
        methods = {
            "Wait": grpc.unary_unary_rpc_method_handler(self.wait),
            "Meta": grpc.unary_unary_rpc_method_handler(self.meta),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def city(tmp_path_factory):
    """A node with a published service whose provider and consumer are enrolled, and nobody serving it yet."""
    folder = tmp_path_factory.mktemp("city")
    (folder / "slow.proto").write_text(CONTRACT, "utf-8")
    async with running_city(folder / "node") as running:
        for name in (OWNER, READER):
            key = running.node.layout.system_keys / f"{name.replace('/', '__')}.jwk"
            made = await running.lgsp("system", "create", name, "--vi", "Chậm", "--en", "Slow", "--new-key", key)
            assert made.code == 0, made.err
        async with running.connect() as operator:
            registry = RegistryServiceStub(operator)
            rights = ("PublishService", "RegisterEndpoint", "Heartbeat", "DeregisterEndpoint")
            await _grant(registry, OWNER, "lgsp.api.registry.v1.RegistryService", *rights)
            async with running.connect(OWNER) as own:
                service = pb.Service(name=SERVICE, names=pb.Names(vi="Chậm", en="Slow"), provider=OWNER)
                contract = compile_proto(folder / "slow.proto")
                await RegistryServiceStub(own).PublishService(
                    pb.PublishServiceRequest(service=service, contract=contract)
                )
            await _grant(registry, READER, SERVICE, "*")
        yield running


async def _grant(registry, consumer: str, service: str, *methods: str) -> None:
    made = pb.Grant(id=f"g-{uuid.uuid4().hex[:8]}", consumer=consumer, service=service, methods=methods)
    assert (await registry.CreateGrant(pb.CreateGrantRequest(grant=made))).effective


async def test_a_provider_leaves_without_a_lost_call(city):
    slow, stop = Slow(), asyncio.Event()
    provider = Provider((SERVICE,), handlers=(slow.handler(),), channel=lambda: city.connect(OWNER))
    serving = asyncio.create_task(provider.serve(stop))
    await asyncio.wait_for(provider.registered.wait(), 10)
    async with city.connect(READER) as channel:
        running = asyncio.ensure_future(channel.unary_unary(f"/{SERVICE}/Wait")(b"\x0a\x02hi", timeout=20))
        await asyncio.wait_for(slow.entered.wait(), 10)
        stop.set()
        # It has said goodbye: nobody is sent to it any more, while its running call goes on.
        async with asyncio.timeout(10):
            while (found := await _reason(channel)) != "PROVIDER_UNAVAILABLE":
                assert found is None
        slow.release.set()
        assert await running == b"\x0a\x02hi"
    await asyncio.wait_for(serving, 10)


async def _reason(channel) -> str | None:
    try:
        await channel.unary_unary(f"/{SERVICE}/Meta")(b"", timeout=5)
    except grpc.RpcError as error:
        return explain(error).reason or "none"
    return None


async def test_a_provider_registers_again_when_its_lease_is_lost(city):
    slow, stop = Slow(), asyncio.Event()
    provider = Provider((SERVICE,), handlers=(slow.handler(),), channel=lambda: city.connect(OWNER))
    serving = asyncio.create_task(provider.serve(stop))
    await asyncio.wait_for(provider.registered.wait(), 10)
    async with city.connect() as operator, city.connect(READER) as channel:
        registry = RegistryServiceStub(operator)
        listed = await registry.ListEndpoints(pb.ListEndpointsRequest(service=SERVICE))
        (mine,) = [each.endpoint.id for each in listed.endpoints if each.live]
        await registry.DeregisterEndpoint(pb.DeregisterEndpointRequest(endpoint_id=mine))
        assert await _reason(channel) == "PROVIDER_UNAVAILABLE"
        async with asyncio.timeout(20):  # a third of the lease, and it notices
            while await _reason(channel) is not None:
                await asyncio.sleep(0.05)
    stop.set()
    await asyncio.wait_for(serving, 10)


async def test_the_current_trace_is_carried_on(city):
    slow, stop = Slow(), asyncio.Event()
    provider = Provider((SERVICE,), handlers=(slow.handler(),), channel=lambda: city.connect(OWNER))
    serving = asyncio.create_task(provider.serve(stop))
    await asyncio.wait_for(provider.registered.wait(), 10)
    tracer = TracerProvider().get_tracer("test")
    async with city.connect(READER) as channel:
        with tracer.start_as_current_span("the caller's") as span:
            seen = await channel.unary_unary(f"/{SERVICE}/Meta")(b"", timeout=5)
        wanted = trace.format_trace_id(span.get_span_context().trace_id)
        lines = seen.decode("utf-8", "replace").splitlines()
        assert [line.split("-")[1] for line in lines if line.startswith("traceparent=")] == [wanted]
    stop.set()
    await asyncio.wait_for(serving, 10)
