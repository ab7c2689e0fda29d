"""A contract that Envoy refuses, come past every check: no right lives on by it."""

from __future__ import annotations

import asyncio
import ssl
import uuid

import grpc
import httpx
import pytest
from google.protobuf import descriptor_pb2

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lgsp.client import explain
from lgsp.gateway import nats
from lgsp.registry.store import Store, Write
from tests.support.city import CONSUMER, THINGS, plug_things, running_city, until


async def smuggle(city) -> None:
    """The contract with a field that cannot be packed, written as only a control process can."""

    async def connect(**callbacks):
        return await nats.connect_core(city.node, **callbacks)

    store = Store(connect, None, "smuggler")
    running = asyncio.create_task(store.run())
    await asyncio.wait_for(store.synced.wait(), 10)
    entry = store.state.get("service", THINGS)
    files = descriptor_pb2.FileDescriptorSet.FromString(await store.get_contract(entry.record.service.contract_digest))
    name = next(each for each in files.file[-1].message_type if each.name == "Thing").field[1]
    name.options.packed = True  # of a string: Python takes it, Envoy does not
    service = pb.Service()
    service.CopyFrom(entry.record.service)
    service.contract_digest = await store.put_contract(files.SerializeToString())
    write = Write("service", THINGS, service, entry.revision)
    await store.write([write], operation_id=uuid.uuid4().hex, actor=city.node.operator)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_rights_end_though_envoy_refuses_the_contract(tmp_path):
    async with running_city(tmp_path / "d") as city:
        await plug_things(city, tmp_path / "things")
        await smuggle(city)
        await until(lambda: "service falls back" in (city.node.layout.logs / "control.log").read_text("utf-8"))
        async with city.connect() as operator, city.connect(CONSUMER) as consumer:
            get = consumer.unary_unary(f"/{THINGS}/Get")
            assert (await get(b"\x08\x03", timeout=10)).startswith(b"\x08\x03")
            answer = await city.lgsp("doctor", "--json")
            assert THINGS in answer.out
            registry = RegistryServiceStub(operator)
            held = [each async for each in grants_of(registry)]
            assert held
            for grant in held:
                done = await registry.RevokeGrant(pb.RevokeGrantRequest(id=grant.id, reason="x"))
                assert done.effective
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await get(b"\x08\x03", timeout=10)
            assert explain(caught.value).reason == "GRANT_MISSING"
            token = (await city.lgsp("token", "--as", CONSUMER)).out.strip()
        trust = ssl.create_default_context(cafile=str(city.node.layout.ca))
        async with httpx.AsyncClient(verify=trust) as http:
            headers = {"authorization": f"Bearer {token}"}
            got = await http.get(f"https://{city.node.target}/{THINGS}/v1/things/3", headers=headers)
        assert got.status_code == 404


async def grants_of(registry):
    for grant in (await registry.ListGrants(pb.ListGrantsRequest(consumer=CONSUMER, service=THINGS))).grants:
        yield grant
