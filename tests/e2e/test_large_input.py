"""Contracts beyond every limit at a real gateway: each protocol gets its reason, nothing is written, the node lives on."""

from __future__ import annotations

import base64
import os

import grpc
import httpx
import pytest
import pytest_asyncio
from google.protobuf import descriptor_pb2

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lgsp.client import explain
from lgsp.gateway.control.founding import contract_of
from tests.e2e.test_granting import bearer
from tests.e2e.test_refusals import trust
from tests.support.city import City, running_city

pytestmark = pytest.mark.asyncio(loop_scope="module")
PUBLISH = "lgsp.api.registry.v1.RegistryService/PublishService"
SERVICE = pb.Service(name="hanoi.large.v1.LargeService", provider="H26/operator")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def city(tmp_path_factory):
    async with running_city(tmp_path_factory.mktemp("l") / "d") as running:
        pids = running.pids()
        yield running
        assert running.pids() == pids, "a process ended and was restarted"


async def need_nothing_written(city: City) -> None:
    async with city.connect() as channel:
        answer = await RegistryServiceStub(channel).ListServices(pb.ListServicesRequest())
    assert SERVICE.name not in {each.name for each in answer.services}


@pytest.mark.parametrize(
    ("size", "code", "reason"),
    [
        (4 << 20, "INVALID_ARGUMENT", "CONTRACT_INVALID"),
        (6 << 20, "INVALID_ARGUMENT", "CONTRACT_INVALID"),
        (9 << 20, "RESOURCE_EXHAUSTED", "REQUEST_TOO_LARGE"),
        (50 << 20, "RESOURCE_EXHAUSTED", "REQUEST_TOO_LARGE"),
    ],
    ids=["4 MiB", "6 MiB", "9 MiB", "50 MiB"],
)
async def test_a_contract_by_grpc(city, size, code, reason):
    async with city.connect() as channel:
        request = pb.PublishServiceRequest(service=SERVICE, contract=os.urandom(1 << 10) * (size >> 10))
        with pytest.raises(grpc.RpcError) as caught:
            await RegistryServiceStub(channel).PublishService(request, timeout=60)
        told = explain(caught.value)
        assert (told.code().name, told.reason, bool(told.remedy)) == (code, reason, True)
        # A stock stub finds it too.
        sent = [*(told.initial_metadata() or ()), *(told.trailing_metadata() or ())]
        assert ("x-lgsp-reason", reason) in sent
    await need_nothing_written(city)


@pytest.mark.parametrize("size", [3 << 20, 50 << 20], ids=["3 MiB", "50 MiB"])
async def test_a_contract_by_rest(city, size):
    content = base64.b64encode(bytes(size)).decode()
    async with city.connect() as channel, httpx.AsyncClient(verify=trust(city), timeout=60) as http:
        headers = {"authorization": await bearer(channel)}
        body = {"service": {"name": SERVICE.name, "provider": SERVICE.provider}, "contract": content}
        answer = await http.post(f"https://{city.node.target}/{PUBLISH}", headers=headers, json=body)
    assert answer.headers["x-lgsp-reason"] in ("CONTRACT_INVALID", "REQUEST_TOO_LARGE"), answer.text
    assert answer.status_code in (400, 413)
    assert answer.json()["details"][0]["reason"] == answer.headers["x-lgsp-reason"]
    await need_nothing_written(city)


async def test_the_command_says_it_too(city, tmp_path):
    path = tmp_path / "large.binpb"
    path.write_bytes(bytes(50 << 20))
    names = ("--vi", "Lớn", "--en", "Large", "--provider", SERVICE.provider)
    answer = await city.lgsp("service", "publish", SERVICE.name, *names, "--contract", path)
    assert (answer.code, answer.out) == (1, "")
    assert "REQUEST_TOO_LARGE" in answer.err or "CONTRACT_INVALID" in answer.err
    assert "→" in answer.err


async def test_a_contract_that_cannot_be_compressed_is_kept(city):
    """The largest that is taken, as random as can be: it passes every message limit between gateway and registry."""
    files = descriptor_pb2.FileDescriptorSet.FromString(contract_of(pb.DESCRIPTOR))
    own = files.file.add(name="large.proto", package="hanoi.large.v1", syntax="proto3")
    own.service.add(name="LargeService")
    comment = own.source_code_info.location.add(path=[6, 0], span=[0, 0, 1])
    room = (4 << 20) - files.ByteSize() - 64
    comment.leading_comments = base64.b85encode(os.urandom(room * 4 // 5)).decode()[: room - 16]
    content = files.SerializeToString()
    assert (4 << 20) - 200 < len(content) <= 4 << 20
    async with city.connect() as channel:
        registry = RegistryServiceStub(channel)
        made = await registry.PublishService(pb.PublishServiceRequest(service=SERVICE, contract=content), timeout=60)
        assert made.service.version == 1
        kept = await registry.GetContract(pb.GetContractRequest(service=SERVICE.name), timeout=60)
        assert kept.contract == content
