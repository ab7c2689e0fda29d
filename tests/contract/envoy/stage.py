"""One service with every kind of field behind a real Envoy, and a provider that masks nothing."""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf import descriptor_pb2, json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool

from lgsp.adapters.manifest import compile_proto
from lgsp.api.registry.v1.registry_pb2 import Grant, Mask, Purpose
from lgsp.gateway.xds import clusters, resources
from lgsp.gateway.xds.cache import Resource
from lgsp.gateway.xds.policy import Instance, MethodPolicy, ServicePolicy
from lgsp.registry.rights import Access, Right, access
from tests.support.edge import refusal, running_edge

SERVICE = "t.mask.v1.RecordService"
PROTO = """
syntax = "proto3";
package t.mask.v1;
import "google/api/annotations.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/any.proto";
import "google/protobuf/struct.proto";
service RecordService {
  rpc Get(Key) returns (Citizen) { option (google.api.http) = {get: "/v1/records/{id}"}; }
  rpc List(Key) returns (stream Citizen);
  rpc Free(Key) returns (Citizen);
  rpc Send(stream Key) returns (Citizen);
  rpc Both(stream Key) returns (stream Citizen);
}
message Key {
  int32 id = 1;
  Kind kind = 2;
  repeated Kind kinds = 3;
  Filter filter = 4;
  map<string, Kind> by_name = 5;
  google.protobuf.Struct more = 6;
}
message Filter { Kind kind = 1; repeated Filter any_of = 2; string text = 3; }
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
  Kind kind = 13;
  repeated Kind kinds = 14;
  optional int64 number = 15;
  map<int32, Kind> ranks = 16;
  repeated double scores = 1000;
}
enum Kind { KIND_UNSPECIFIED = 0; KIND_CITIZEN = 1; KIND_GUEST = 2; }
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
    "homes.value.street",
    "homes.value.ward.code",
    "homes.value.ward.note",
    "email",
    "office.street",
    "office.ward.code",
    "office.ward.note",
    "born",
    "more",
    "photo",
    "aliases",
    "kind",
    "kinds",
    "number",
    "ranks",
    "scores",
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
    "kind": "KIND_GUEST",
    "kinds": ["KIND_CITIZEN", "KIND_GUEST"],
    "number": "0",
    "ranks": {"7": "KIND_CITIZEN"},
    "scores": [1.5, -2.0],
}
SEES, WHOLLY, BY_PURPOSE, CAPPED, SPENT = "H26/sees", "H26/wholly", "H26/by-purpose", "H26/capped", "H26/spent"


def rights(kept: set[str]) -> list[Right]:
    """One sees all, one what is `kept`, one a name for P1 and a day of birth for P2, one has used up its day."""

    def right(consumer: str, *paths: str, purpose: str = "", exhausted: bool = False) -> Right:
        purposes = [Purpose(code=purpose)] if purpose else []
        methods = ["Get", "List", "Send", "Both"]
        masks = [Mask(method=method, paths=paths) for method in methods] if paths else []
        grant = Grant(consumer=consumer, methods=methods, purposes=purposes, masks=masks)
        return Right(grant, frozenset({consumer}), exhausted)

    return [
        right(WHOLLY),
        right(CAPPED),
        right(SEES, *sorted(kept)),
        right(BY_PURPOSE, "name", purpose="P1"),
        right(BY_PURPOSE, "dob", purpose="P2"),
        right(SPENT, exhausted=True),
    ]


def fields_of(found: Access) -> dict:
    return {each.name: getattr(found, each.name) for each in dataclasses.fields(found)}


class Stage:
    def __init__(self, edge, contract: bytes) -> None:
        self.edge, self.contract, self.answer = edge, contract, b""
        self.asked: list[bytes] = []
        pool = DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(contract).file:
            pool.Add(file)
        self.pool = pool
        self.citizen = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.mask.v1.Citizen"))
        self.key = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.mask.v1.Key"))
        self.answer = json_format.ParseDict(WHOLE, self.citizen(), descriptor_pool=pool).SerializeToString()

    @property
    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.edge.certificate.decode())

    def dict(self, message) -> dict:
        return json_format.MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=self.pool)

    def bearer(self, client: str) -> tuple[str, str]:
        return ("authorization", f"Bearer {self.edge.token(client_id=client, sub=client, jti=client)}")

    async def call(self, client: str, method: str = "Get", *metadata, compression=None, **request):
        async with self.edge.channel() as channel:
            call = channel.unary_unary(f"/{SERVICE}/{method}", self.key.SerializeToString, self.citizen.FromString)
            return await call(
                self.key(id=1, **request),
                metadata=(self.bearer(client), *metadata),
                timeout=10,
                compression=compression,
            )

    async def refused(self, client: str, method: str = "Get", *metadata, **options) -> str | None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(client, method, *metadata, **options)
        return refusal(caught.value)[1]

    async def set(self, *, kept=frozenset({"name", "address.ward.code"}), limits=(), endpoint: str) -> None:
        await self.grant(rights(set(kept)), endpoint, limits)

    async def grant(self, rights: list[Right], endpoint: str, limits=()) -> None:
        """Apply what these rights mean."""
        response = self.pool.FindMessageTypeByName("t.mask.v1.Citizen")
        methods = (
            MethodPolicy("Get", **fields_of(access(rights, "Get", response))),
            *(
                MethodPolicy(name, True, **fields_of(access(rights, name, response)))
                for name in ("List", "Send", "Both")
            ),
            MethodPolicy("Free", everyone=True),
        )
        policy = ServicePolicy(SERVICE, methods, (Instance(endpoint),), self.contract, (), limits)
        await self.edge.apply(
            Resource.of(SERVICE, clusters.cluster(SERVICE)),
            Resource.of(SERVICE, clusters.endpoints(policy)),
            Resource.of(SERVICE, resources.scope(SERVICE, SERVICE)),
            Resource.of(SERVICE, resources.service_routes(policy)),
        )


@asynccontextmanager
async def staged(folder: Path) -> AsyncIterator[Stage]:
    (folder / "record.proto").write_text(PROTO, "utf-8")
    async with running_edge(folder) as edge:
        made = Stage(edge, compile_proto(folder / "record.proto"))

        async def one(request, context):
            made.asked.append(request)
            return made.answer

        async def many(request, context):
            for _ in range(3):
                yield made.answer

        async def send(requests, context):
            made.asked.extend([each async for each in requests])
            return made.answer

        async def both(requests, context):
            async for each in requests:
                made.asked.append(each)
                yield made.answer

        handlers = {
            "Send": grpc.stream_unary_rpc_method_handler(send),
            "Both": grpc.stream_stream_rpc_method_handler(both),
            "Get": grpc.unary_unary_rpc_method_handler(one),
            "Free": grpc.unary_unary_rpc_method_handler(one),
            "List": grpc.unary_stream_rpc_method_handler(many),
        }
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        made.endpoint = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            await made.set(endpoint=made.endpoint)
            yield made
        finally:
            await server.stop(0)


def only(value, steps):
    """What is left of a value when one path is kept."""
    if isinstance(value, list):
        return [only(each, steps) for each in value]
    if not steps:
        return value
    if steps[0] == "value":
        return {key: only(each, steps[1:]) for key, each in value.items()}
    return {steps[0]: only(value[steps[0]], steps[1:])} if steps[0] in value else {}


def bare(value):
    """A value without messages that hold nothing: whether a masked message leaves an empty shell tells nothing."""
    if isinstance(value, list):
        return [each for each in map(bare, value) if each not in ({}, [])]
    if isinstance(value, dict):
        return {key: inner for key, each in value.items() if (inner := bare(each)) not in ({}, [])}
    return value
