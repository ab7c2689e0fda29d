"""Fields through a real node and a provider on the SDK: both walls, contracts that grow, rights that change under a stream."""

from __future__ import annotations

import asyncio
import json
import uuid

import grpc
import httpx
import psutil
import pytest
import pytest_asyncio
from google.protobuf import descriptor_pb2, json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool

from lgsp.adapters.manifest import compile_proto
from lgsp.adapters.provider import Provider
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lgsp.client import explain
from lgsp.gateway.datadir import file_name
from tests.contract.envoy.stage import LEAVES, PROTO, SERVICE, WHOLE, bare, only
from tests.contract.envoy.test_fields import UNKNOWN, leaks
from tests.e2e.test_refusals import token_of, trust
from tests.support.city import running_city
from tests.support.raw_upstream import framed, raw_upstream

OWNER, SEES, WHOLLY, BOUND = "H26/records", "H26/sees", "H26/wholly", "H26/bound"
NAME = {"name": "Nguyễn Văn A"}
GROWN = PROTO.replace(
    "repeated string aliases = 12;", "repeated string aliases = 12;\n  string religion = 31;"
).replace("int32 code = 1; string note = 2;", "int32 code = 1; string note = 2; string quarter = 31;")
pytestmark = pytest.mark.asyncio(loop_scope="module")


class Records:
    """The provider: answers what it is told, in a stream whenever it is told to."""

    def __init__(self, folder) -> None:
        (folder / "record.proto").write_text(PROTO, "utf-8")
        (folder / "grown.proto").write_text(GROWN, "utf-8")
        self.contract, self.grown = compile_proto(folder / "record.proto"), compile_proto(folder / "grown.proto")
        self.pool, self.grown_pool = pool(self.contract), pool(self.grown)
        self.citizen, self.grown_citizen = citizen(self.pool), citizen(self.grown_pool)
        self.whole = json_format.ParseDict(WHOLE, self.citizen(), descriptor_pool=self.pool).SerializeToString()
        self.answer = self.whole
        self.more: asyncio.Queue[bytes] = asyncio.Queue()

    async def one(self, request: bytes, context) -> bytes:
        return self.answer

    async def many(self, request: bytes, context):
        yield self.answer
        while answer := await self.more.get():
            yield answer

    def handler(self):
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        methods = {"Get": unary(self.one), "Free": unary(self.one), "List": stream(self.many)}
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def read(self, raw: bytes) -> dict:
        return json_format.MessageToDict(
            self.citizen.FromString(raw), preserving_proto_field_name=True, descriptor_pool=self.pool
        )

    def read_grown(self, raw: bytes) -> dict:
        return json_format.MessageToDict(
            self.grown_citizen.FromString(raw), preserving_proto_field_name=True, descriptor_pool=self.grown_pool
        )


def pool(contract: bytes) -> DescriptorPool:
    made = DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(contract).file:
        made.Add(file)
    return made


def citizen(pool: DescriptorPool):
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.mask.v1.Citizen"))


class Bus:
    """The node, the provider, and what an operator and consumers do."""

    def __init__(self, city, records: Records, operator: grpc.aio.Channel) -> None:
        self.city, self.records, self.registry = city, records, RegistryServiceStub(operator)
        self.address = ""

    async def grant(self, identifier: str, *paths: str, consumer: str = SEES, **terms: object) -> None:
        masks = [{"method": name, "paths": paths} for name in ("Get", "List")] if paths else []
        terms = {"consumer": consumer, "methods": ["Get", "List"], "masks": masks} | terms
        made = pb.Grant(id=identifier, service=SERVICE, **terms)
        answer = await self.registry.CreateGrant(pb.CreateGrantRequest(grant=made, operation_id=uuid.uuid4().hex))
        assert answer.effective

    async def revoke(self, *identifiers: str) -> None:
        for each in identifiers:
            await self.registry.RevokeGrant(pb.RevokeGrantRequest(id=each, reason="x", operation_id=uuid.uuid4().hex))

    async def get(self, client: str = SEES, *metadata: tuple[str, str], method: str = "Get") -> bytes:
        async with self.city.connect(client) as channel:
            return await channel.unary_unary(f"/{SERVICE}/{method}")(b"\x08\x01", metadata=metadata, timeout=15)

    async def at_the_provider(self, client: str, *metadata: tuple[str, str]) -> bytes:
        """As if a gateway had let everything through: the first wall alone."""
        async with grpc.aio.insecure_channel(self.address) as channel:
            told = (("x-lgsp-client", client), *metadata)
            return await channel.unary_unary(f"/{SERVICE}/Get")(b"\x08\x01", metadata=told, timeout=15)

    async def both(self, client: str = SEES, *metadata: tuple[str, str]) -> dict:
        """What arrives through both walls, which is what the first lets through."""
        through = self.records.read(await self.get(client, *metadata))
        assert self.records.read(await self.at_the_provider(client, *metadata)) == through
        return through


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("city")
    records = Records(folder)
    async with running_city(folder / "node") as city:
        for name in (OWNER, SEES, WHOLLY, BOUND):
            key = city.node.layout.system_keys / f"{file_name(name)}.jwk"
            made = await city.lgsp("system", "create", name, "--vi", "Hồ sơ", "--en", "Records", "--new-key", key)
            assert made.code == 0, made.err
        async with city.connect() as operator:
            made = Bus(city, records, operator)
            rights = ("PublishService", "RegisterEndpoint", "Heartbeat", "DeregisterEndpoint")
            grant = pb.Grant(id="owner", consumer=OWNER, service="lgsp.api.registry.v1.RegistryService", methods=rights)
            await made.registry.CreateGrant(pb.CreateGrantRequest(grant=grant))
            await publish(made, records.contract)
            await made.grant("whole", consumer=WHOLLY)
            provider = Provider((SERVICE,), handlers=(records.handler(),), channel=lambda: city.connect(OWNER))
            stop = asyncio.Event()
            serving = asyncio.create_task(provider.serve(stop))
            await asyncio.wait_for(provider.registered.wait(), 20)
            made.address = provider.address
            yield made
            stop.set()
            await asyncio.wait_for(serving, 20)


async def publish(bus: Bus, contract: bytes) -> None:
    service = pb.Service(name=SERVICE, names=pb.Names(vi="Hồ sơ", en="Records"), provider=OWNER)
    async with bus.city.connect(OWNER) as own:
        request = pb.PublishServiceRequest(service=service, contract=contract, operation_id=uuid.uuid4().hex)
        await RegistryServiceStub(own).PublishService(request)


async def refused(call) -> str | None:
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return explain(caught.value).reason


async def test_each_kind_of_field_is_kept_alone_by_both_walls(bus):
    for number, leaf in enumerate(LEAVES):
        await bus.grant(f"leaf-{number}", leaf)
        expected = only(WHOLE, leaf.split("."))
        seen = await bus.both()
        assert bare(seen) == bare(expected), leaf
        await bus.revoke(f"leaf-{number}")
    assert await refused(bus.get()) == "GRANT_MISSING"
    assert await bus.both(WHOLLY) == WHOLE


async def test_every_protocol_shows_the_same(bus):
    await bus.grant("name", "name")
    headers = {"authorization": f"Bearer {await token_of(bus.city, SEES)}"}
    async with httpx.AsyncClient(verify=trust(bus.city), base_url=f"{bus.city.node.issuer}/{SERVICE}") as http:
        rest = await http.get("/v1/records/1", headers=headers)
        web = await http.post(
            "/Get", content=framed(b"\x08\x01"), headers=headers | {"content-type": "application/grpc-web+proto"}
        )
        odd = await http.post("/Get", content=b"\x08\x01", headers=headers | {"content-type": "application/proto"})
    assert rest.json() == NAME
    assert bus.records.read(web.content[5 : 5 + int.from_bytes(web.content[1:5], "big")]) == NAME
    assert odd.headers["x-lgsp-reason"] == "METHOD_UNKNOWN"
    async with bus.city.connect(SEES) as channel:
        call = channel.unary_unary(f"/{SERVICE}/Get")(b"\x08\x01", timeout=15, compression=grpc.Compression.Gzip)
        assert await refused(call) == "ENCODING_REFUSED"
    await bus.revoke("name")


async def test_purposes_are_told_apart_by_both_walls(bus):
    await bus.grant("p1", "name", consumer=BOUND, purposes=[{"code": "P1"}])
    await bus.grant("p2", "dob", consumer=BOUND, purposes=[{"code": "P2"}])
    assert await bus.both(BOUND, ("x-lgsp-purpose", "P1")) == NAME
    assert await bus.both(BOUND, ("x-lgsp-purpose", "P2")) == {"dob": "1990-01-01"}
    assert await refused(bus.get(BOUND)) == "PURPOSE_NOT_GRANTED"
    assert await refused(bus.at_the_provider(BOUND)) == "GRANT_MISSING"
    await bus.revoke("p1", "p2")


async def test_a_group_s_members_are_known_to_both_walls(bus):
    async def put(*members: str) -> None:
        group = pb.Group(id="readers", names=pb.Names(vi="Đọc", en="Readers"), members=members)
        answer = await bus.registry.PutGroup(pb.PutGroupRequest(group=group, operation_id=uuid.uuid4().hex))
        assert answer.effective

    await put(SEES)
    await bus.grant("group", "name", consumer="", group="readers")
    assert await bus.both(SEES) == NAME
    await put(BOUND)
    assert await bus.both(BOUND) == NAME
    assert await refused(bus.get(SEES)) == "GRANT_MISSING"
    assert await refused(bus.at_the_provider(SEES)) == "GRANT_MISSING"
    await bus.revoke("group")


async def test_a_grant_for_everyone_shows_the_whole_to_everyone(bus):
    await bus.grant("masked", "name")
    await bus.grant("everyone", consumer="", group="everyone")
    assert await eventually(bus, SEES, WHOLE)
    await bus.revoke("everyone")
    assert await eventually(bus, SEES, NAME)
    assert bus.records.read(await bus.get(SEES)) == NAME
    await bus.revoke("masked")


async def eventually(bus: Bus, client: str, expected: dict) -> bool:
    """The provider is told without anybody waiting for it: soon it shows the same as the gateway."""
    async with asyncio.timeout(10):
        while bus.records.read(await bus.at_the_provider(client)) != expected:
            pass
    return bus.records.read(await bus.get(client)) == expected


async def test_what_a_later_contract_adds_is_hidden_until_it_is_granted(bus):
    records = bus.records
    await bus.grant("before", "name", "address.ward", "homes")
    new = {
        "religion": "kín",
        "address": {"ward": {"code": 4, "quarter": "SECRET"}},
        "homes": {"quê": {"ward": {"quarter": "SECRET"}}},
    }
    content = json_format.ParseDict(WHOLE, records.grown_citizen(), descriptor_pool=records.grown_pool)
    content.MergeFrom(json_format.ParseDict(new, records.grown_citizen(), descriptor_pool=records.grown_pool))
    records.answer = content.SerializeToString()
    try:
        # The provider is ahead of its published contract.
        for raw in (await bus.get(), await bus.at_the_provider(SEES)):
            assert b"SECRET" not in raw
            assert set(records.read_grown(raw)) == {"name", "address", "homes"}
        await publish(bus, records.grown)
        for raw in (await bus.get(), await bus.at_the_provider(SEES)):
            assert b"SECRET" not in raw
            assert set(records.read_grown(raw)) == {"name", "address", "homes"}
        assert records.read_grown(await bus.get(WHOLLY))["religion"] == "kín"
        await bus.grant("after", "religion", "address.ward.quarter")
        seen = records.read_grown(await bus.get())
        assert (seen["religion"], seen["address"]["ward"]["quarter"]) == ("kín", "SECRET")
        assert "quarter" not in json.dumps(seen["homes"])
    finally:
        records.answer = records.whole
        await bus.revoke("before", "after")


async def test_a_field_in_no_contract_is_removed(bus):
    await bus.grant("unknown", "name")
    bus.records.answer = bus.records.whole + UNKNOWN
    try:
        assert leaks(await bus.get()) == []
        assert leaks(await bus.at_the_provider(SEES)) == []
    finally:
        bus.records.answer = bus.records.whole
        await bus.revoke("unknown")


async def test_a_stream_is_narrowed_and_ended_while_it_runs(bus):
    await bus.grant("stream", "name", "dob")
    async with bus.city.connect(SEES) as channel:
        call = channel.unary_stream(f"/{SERVICE}/List")(b"\x08\x01", timeout=30)
        assert bus.records.read(await call.read()) == NAME | {"dob": "1990-01-01"}
        terms = pb.Grant(masks=[{"method": name, "paths": ["name"]} for name in ("Get", "List")])
        request = pb.NarrowGrantRequest(id="stream", terms=terms, reason="x", operation_id=uuid.uuid4().hex)
        await bus.registry.NarrowGrant(request)
        async with asyncio.timeout(10):
            while True:
                await bus.records.more.put(bus.records.whole)
                if bus.records.read(await call.read()) == NAME:
                    break
        await bus.revoke("stream")
        assert await refused(bus.get()) == "GRANT_MISSING"
        assert await refused(drain(bus, call)) == "GRANT_MISSING"


async def drain(bus: Bus, call) -> None:
    async with asyncio.timeout(10):
        while True:
            await bus.records.more.put(bus.records.whole)
            assert bus.records.read(await call.read()) == NAME


async def test_rights_hold_while_the_control_process_is_away(bus):
    await bus.grant("kept", "name")
    assert await bus.both() == NAME
    before = bus.city.pid("control")
    async with bus.city.connect(SEES) as channel:
        get = channel.unary_unary(f"/{SERVICE}/Get")
        await get(b"\x08\x01", timeout=15)  # a token is in hand
        psutil.Process(before).kill()
        while bus.city.part("control")["state"] == "up" and bus.city.pid("control") == before:
            assert bus.records.read(await get(b"\x08\x01", timeout=15)) == NAME
        assert bus.records.read(await get(b"\x08\x01", timeout=15)) == NAME
        assert bus.records.read(await bus.at_the_provider(SEES)) == NAME
    await bus.city.up_again("control", before)
    async with asyncio.timeout(20):
        while not await is_known(bus, "kept"):  # until it has read what its snapshot did not have
            await asyncio.sleep(0.05)
    # It is followed again: what changes from now on arrives.
    await bus.revoke("kept")
    await bus.grant("anew", "dob")
    assert await eventually(bus, SEES, {"dob": "1990-01-01"})
    await bus.revoke("anew")


async def is_known(bus: Bus, grant: str) -> bool:
    try:
        await bus.registry.GetGrant(pb.GetGrantRequest(id=grant))
    except grpc.RpcError:
        return False
    return True


async def test_the_doctor_tells_what_could_not_be_masked(bus):
    def fields(answer) -> dict:
        return next(each for each in answer.json["findings"] if each["part"] == "fields")

    assert fields(await bus.city.lgsp("doctor", "--json"))["state"] == "ok"
    await bus.grant("doctor", "name")
    async with bus.city.connect(OWNER) as own, raw_upstream() as other:
        # Another instance of the provider, which keeps no rules.
        other.says(framed(bus.records.whole + b"\x0f"))
        registry = RegistryServiceStub(own)
        request = pb.RegisterEndpointRequest(services=[SERVICE], address=other.address, operation_id=uuid.uuid4().hex)
        endpoint = (await registry.RegisterEndpoint(request)).endpoint.id
        reasons = {await reason_of_a_call(bus) for _ in range(30)}
        await registry.DeregisterEndpoint(pb.DeregisterEndpointRequest(endpoint_id=endpoint))
    assert reasons == {None, "PROVIDER_FAULT"}
    found = fields(await bus.city.lgsp("doctor", "--json"))
    assert (found["state"], "could not be read" in found["detail"]) == ("warning", True)
    assert found["remedy"]
    await bus.revoke("doctor")


async def reason_of_a_call(bus: Bus) -> str | None:
    try:
        assert bus.records.read(await bus.get()) == NAME
    except grpc.RpcError as error:
        return explain(error).reason
    return None
