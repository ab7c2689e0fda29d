"""Rights on a real Envoy: purposes, rates, used-up days, and fields that a consumer must never see however it asks."""

from __future__ import annotations

import base64

import grpc
import httpx
import pytest
import pytest_asyncio
from google.protobuf import descriptor_pb2, json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool

from lgsp.adapters.manifest import compile_proto
from lgsp.gateway.xds import clusters, resources
from lgsp.gateway.xds.cache import Resource
from lgsp.gateway.xds.policy import FieldRule, Instance, Limit, MethodPolicy, ServicePolicy
from tests.support.edge import refusal, running_edge

pytestmark = pytest.mark.asyncio(loop_scope="module")
SERVICE = "t.mask.v1.RecordService"
PROTO = """
syntax = "proto3";
package t.mask.v1;
import "google/api/annotations.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/any.proto";
service RecordService {
  rpc Get(Key) returns (Citizen) { option (google.api.http) = {get: "/v1/records/{id}"}; }
  rpc List(Key) returns (stream Citizen);
  rpc Free(Key) returns (Citizen);
}
message Key { int32 id = 1; }
message Citizen {
  string name = 1;
  string dob = 2;
  Address address = 3;
  repeated Address former = 4;
  map<string, string> phones = 5;
  map<string, Address> homes = 6;
  oneof contact { string email = 7; Address office = 8; }
  google.protobuf.Timestamp born = 9;
  google.protobuf.Any more = 10;
  bytes photo = 11;
  repeated string aliases = 12;
}
message Address { string street = 1; Ward ward = 2; }
message Ward { int32 code = 1; string note = 2; }
"""
LEAVES = [
    "name",
    "dob",
    "address.street",
    "address.ward.code",
    "address.ward.note",
    "former.street",
    "former.ward.code",
    "former.ward.note",
    "phones",
    "homes",
    "email",
    "office.street",
    "office.ward.code",
    "office.ward.note",
    "born",
    "more",
    "photo",
    "aliases",
]
WHOLE = {
    "name": "Nguyễn Văn A",
    "dob": "1990-01-01",
    "address": {"street": "Tràng Tiền", "ward": {"code": 4, "note": "kín"}},
    "former": [{"street": "cũ 1", "ward": {"code": 1, "note": "x"}}, {"street": "cũ 2"}],
    "phones": {"mobile": "0912"},
    "homes": {"quê": {"street": "làng", "ward": {"code": 9, "note": "y"}}},
    "office": {"street": "cơ quan", "ward": {"code": 7, "note": "z"}},
    "born": "1990-01-01T00:00:00Z",
    "more": {"@type": "type.googleapis.com/t.mask.v1.Ward", "code": 5, "note": "bí mật"},
    "photo": "aGlkZGVu",
    "aliases": ["A", "B"],
}
SEES, WHOLLY, BY_PURPOSE, CAPPED, SPENT = "H26/sees", "H26/wholly", "H26/by-purpose", "H26/capped", "H26/spent"


def rules(kept: set[str]) -> tuple[FieldRule, ...]:
    by_purpose = (("P2", frozenset({BY_PURPOSE})),)
    return tuple(
        FieldRule(
            leaf,
            frozenset({WHOLLY} | ({SEES} if leaf in kept else set())),
            by_purpose if leaf == "dob" else (("P1", frozenset({BY_PURPOSE})),) if leaf == "name" else (),
        )
        for leaf in LEAVES
    )


class Stage:
    def __init__(self, edge, contract: bytes) -> None:
        self.edge, self.contract, self.answer, self.content_type = edge, contract, b"", None
        pool = DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(contract).file:
            pool.Add(file)
        self.pool = pool
        self.citizen = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.mask.v1.Citizen"))
        self.key = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.mask.v1.Key"))
        self.answer = json_format.ParseDict(WHOLE, self.citizen(), descriptor_pool=pool).SerializeToString()

    def dict(self, message) -> dict:
        return json_format.MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=self.pool)

    def bearer(self, client: str) -> tuple[str, str]:
        return ("authorization", f"Bearer {self.edge.token(client_id=client, sub=client, jti=client)}")

    async def call(self, client: str, method: str = "Get", *metadata, compression=None):
        async with self.edge.channel() as channel:
            call = channel.unary_unary(f"/{SERVICE}/{method}", self.key.SerializeToString, self.citizen.FromString)
            return await call(
                self.key(id=1), metadata=(self.bearer(client), *metadata), timeout=10, compression=compression
            )

    async def refused(self, client: str, method: str = "Get", *metadata, **options) -> str | None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(client, method, *metadata, **options)
        return refusal(caught.value)[1]

    async def set(self, *, kept=frozenset({"name", "address.ward.code"}), limits=(), endpoint: str) -> None:
        consumers = frozenset({WHOLLY, SEES, CAPPED})
        purposes = ((BY_PURPOSE, frozenset({"P1", "P2"})),)
        fields = rules(set(kept))
        methods = (
            MethodPolicy("Get", consumers=consumers, purposes=purposes, exhausted=frozenset({SPENT}), fields=fields),
            MethodPolicy("List", streaming=True, consumers=consumers, fields=fields),
            MethodPolicy("Free", everyone=True),
        )
        policy = ServicePolicy(SERVICE, methods, (Instance(endpoint),), self.contract, (), limits)
        await self.edge.apply(
            Resource.of(SERVICE, clusters.cluster(SERVICE)),
            Resource.of(SERVICE, clusters.endpoints(policy)),
            Resource.of(SERVICE, resources.scope(SERVICE, SERVICE)),
            Resource.of(SERVICE, resources.service_routes(policy)),
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("r")
    (folder / "record.proto").write_text(PROTO, "utf-8")
    async with running_edge(folder) as edge:
        made = Stage(edge, compile_proto(folder / "record.proto"))

        async def one(request, context):
            return made.answer

        async def many(request, context):
            for _ in range(3):
                yield made.answer

        handlers = {
            "Get": grpc.unary_unary_rpc_method_handler(one),
            "Free": grpc.unary_unary_rpc_method_handler(one),
            "List": grpc.unary_stream_rpc_method_handler(many),
        }
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        made.endpoint = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        await made.set(endpoint=made.endpoint)
        yield made
        await server.stop(0)


async def test_only_named_fields_arrive(stage):
    assert stage.dict(await stage.call(WHOLLY)) == WHOLE
    assert bare(stage.dict(await stage.call(SEES))) == {"name": "Nguyễn Văn A", "address": {"ward": {"code": 4}}}


@pytest.mark.parametrize("leaf", LEAVES)
async def test_each_kind_of_field_is_kept_alone(stage, leaf):
    try:
        await stage.set(kept={leaf}, endpoint=stage.endpoint)
        seen = stage.dict(await stage.call(SEES))
        expected = only(WHOLE, leaf.split("."))
        assert only(seen, leaf.split(".")) == expected
        assert bare(seen) == bare(expected)
    finally:
        await stage.set(endpoint=stage.endpoint)


def only(value, steps):
    """What is left of a value when one path is kept."""
    if isinstance(value, list):
        return [only(each, steps) for each in value]
    if not steps:
        return value
    return {steps[0]: only(value[steps[0]], steps[1:])} if steps[0] in value else {}


def bare(value):
    """A value without messages that hold nothing: whether a masked message leaves an empty shell tells nothing."""
    if isinstance(value, list):
        return [each for each in map(bare, value) if each not in ({}, [])]
    if isinstance(value, dict):
        return {key: inner for key, each in value.items() if (inner := bare(each)) not in ({}, [])}
    return value


async def test_every_message_of_a_stream_is_masked(stage):
    async with stage.edge.channel() as channel:
        call = channel.unary_stream(f"/{SERVICE}/List", stage.key.SerializeToString, stage.citizen.FromString)
        seen = [
            bare(stage.dict(each)) async for each in call(stage.key(id=1), metadata=(stage.bearer(SEES),), timeout=10)
        ]
    assert seen == [{"name": "Nguyễn Văn A", "address": {"ward": {"code": 4}}}] * 3


async def test_rest_and_grpc_web_are_masked_alike(stage):
    authorization = dict([stage.bearer(SEES)])
    body = b"\0" + len(b"\x08\x01").to_bytes(4, "big") + b"\x08\x01"
    async with httpx.AsyncClient(verify=stage_tls(stage), base_url=stage.edge.url) as http:
        rest = await http.get(f"/{SERVICE}/v1/records/1", headers=authorization)
        posted = await http.post(f"/{SERVICE}/List", json={"id": 1}, headers=authorization)
        binary = await http.post(
            f"/{SERVICE}/Get", content=body, headers=authorization | {"content-type": "application/grpc-web+proto"}
        )
        text = await http.post(
            f"/{SERVICE}/Get",
            content=base64.b64encode(body),
            headers=authorization
            | {"content-type": "application/grpc-web-text", "accept": "application/grpc-web-text"},
        )
    assert bare(rest.json()) == {"name": "Nguyễn Văn A", "address": {"ward": {"code": 4}}}
    assert [bare(each) for each in posted.json()] == [{"name": "Nguyễn Văn A", "address": {"ward": {"code": 4}}}] * 3
    frame = binary.content[5 : 5 + int.from_bytes(binary.content[1:5], "big")]
    assert bare(stage.dict(stage.citizen.FromString(frame))) == bare(rest.json())
    frame = base64.b64decode(text.content)
    frame = frame[5 : 5 + int.from_bytes(frame[1:5], "big")]
    assert bare(stage.dict(stage.citizen.FromString(frame))) == bare(rest.json())


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/proto", "application/grpc+json", "application/grpc+proto2", "x/y"]
)
async def test_no_content_type_leads_around_the_mask(stage, content_type):
    body = b"\0\0\0\0\x02\x08\x01"
    async with httpx.AsyncClient(verify=stage_tls(stage), base_url=stage.edge.url) as http:
        answer = await http.post(
            f"/{SERVICE}/Get", content=body, headers=dict([stage.bearer(SEES)]) | {"content-type": content_type}
        )
    assert "1990" not in answer.text
    assert answer.status_code >= 400 or answer.headers.get("grpc-status", "0") != "0"


async def test_compressed_calls_are_refused_where_fields_are_masked(stage):
    assert await stage.refused(SEES, compression=grpc.Compression.Gzip) == "ENCODING_REFUSED"
    assert stage.dict(await stage.call(SEES, "Free", compression=grpc.Compression.Gzip)) == WHOLE


async def test_a_purpose_must_be_named_and_granted(stage):
    assert await stage.refused(BY_PURPOSE) == "PURPOSE_NOT_GRANTED"
    assert await stage.refused(BY_PURPOSE, "Get", ("x-lgsp-purpose", "P9")) == "PURPOSE_NOT_GRANTED"
    twice = (("x-lgsp-purpose", "P1"), ("x-lgsp-purpose", "P2"))
    assert await stage.refused(BY_PURPOSE, "Get", *twice) == "PURPOSE_NOT_GRANTED"
    assert bare(stage.dict(await stage.call(BY_PURPOSE, "Get", ("x-lgsp-purpose", "P1")))) == {"name": "Nguyễn Văn A"}
    assert bare(stage.dict(await stage.call(BY_PURPOSE, "Get", ("x-lgsp-purpose", "P2")))) == {"dob": "1990-01-01"}


async def test_everyone_may_call_what_everyone_may(stage):
    assert stage.dict(await stage.call("H26/stranger", "Free")) == WHOLE
    assert await stage.refused("H26/stranger") == "GRANT_MISSING"


async def test_a_used_up_day_says_so(stage):
    assert await stage.refused(SPENT) == "QUOTA_EXCEEDED"


async def test_a_rate_is_shared_by_the_methods_of_its_grant(stage):
    await stage.set(limits=(Limit(CAPPED, ("Get", "Free"), 5),), endpoint=stage.endpoint)
    outcomes = []
    for number in range(40):
        try:
            await stage.call(CAPPED, ("Get", "Free")[number % 2])
            outcomes.append("OK")
        except grpc.aio.AioRpcError as error:
            outcomes.append(refusal(error)[1])
    assert set(outcomes) == {"OK", "RATE_EXCEEDED"}
    assert outcomes[:5] == ["OK"] * 5
    assert stage.dict(await stage.call(WHOLLY)) == WHOLE
    await stage.set(endpoint=stage.endpoint)


def stage_tls(stage):
    import ssl

    return ssl.create_default_context(cadata=stage.edge.certificate.decode())
