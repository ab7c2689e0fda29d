"""Reflection and health over a real store: each caller sees its own, and what it may not see is like what is not there."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2 as pb

from lgsp.adapters.manifest import compile_proto
from lgsp.api.errors.serving import ErrorInterceptor
from lgsp.api.registry.v1 import registry_pb2
from lgsp.gateway.control import standard
from lgsp.gateway.control.health import Health, Serving
from lgsp.gateway.control.reflection import Reflection
from lgsp.registry.api.base import caller_of
from lgsp.registry.store import Write
from tests.contract.registry.stage import ADDRESS, CONSUMER, OPERATOR, PROVIDER, SERVICE, refused

STATUS = health_pb2.HealthCheckResponse
COMMON = 'syntax = "proto3"; package city.common; message Money {{ int64 dong = 1; {more} }}'
SHOP = """
syntax = "proto3";
package city.{name}.v1;
import "common.proto";
import "google/protobuf/descriptor.proto";
extend google.protobuf.FieldOptions {{ string note_{name} = {number}; }}
message Ask {{}}
service {service} {{ rpc Pay(Ask) returns (city.common.Money); }}
service {service}Inner {{ rpc Look(Ask) returns (Ask); }}
"""


class Stage:
    """A server with reflection and health, and the ways to ask it."""

    def __init__(self, api, channel: grpc.aio.Channel) -> None:
        self.api, self._channel = api, channel
        self.ready = True

    async def ask(self, caller: str, *questions, version: str = standard.REFLECTION) -> list:
        """One stream with these questions."""
        call = self._channel.stream_stream(
            f"/{version}/ServerReflectionInfo",
            pb.ServerReflectionRequest.SerializeToString,
            pb.ServerReflectionResponse.FromString,
        )(metadata=[("x-lgsp-client", caller)], timeout=20)
        answers = []
        for each in questions:
            await call.write(pb.ServerReflectionRequest(**each))
            answers.append(await call.read())
        await call.done_writing()
        assert await call.read() == grpc.aio.EOF
        return answers

    async def services(self, caller: str = CONSUMER, **more) -> list[str]:
        (answer,) = await self.ask(caller, {"list_services": ""}, **more)
        return [each.name for each in answer.list_services_response.service]

    def health(self, caller: str = CONSUMER):
        stub, metadata = health_pb2_grpc.HealthStub(self._channel), [("x-lgsp-client", caller)]

        async def check(name: str) -> int:
            return (await stub.Check(health_pb2.HealthCheckRequest(service=name), metadata=metadata, timeout=20)).status

        self.watch = lambda name: stub.Watch(health_pb2.HealthCheckRequest(service=name), metadata=metadata, timeout=60)
        self.list = lambda: stub.List(health_pb2.HealthListRequest(), metadata=metadata, timeout=20)
        return check

    async def grant(self, service: str, **fields) -> None:
        made = registry_pb2.Grant(**({"consumer": CONSUMER} | fields), service=service, methods=["*"])
        await self.api.operator.CreateGrant(grant=made)

    async def shop(self, folder, name: str, number: int, more: str = "", **fields) -> str:
        """A service with its own copy of a shared file."""
        service = f"city.{name}.v1.{name.title()}Service"
        place = folder / name
        place.mkdir()
        (place / "common.proto").write_text(COMMON.format(more=more))
        text = SHOP.format(name=name, number=number, service=service.rpartition(".")[2])
        (place / f"{name}.proto").write_text(text)
        published = registry_pb2.Service(name=service, provider=PROVIDER)
        contract = compile_proto(place / f"{name}.proto")
        await self.api.provider.PublishService(service=published, contract=contract, **fields)
        return service


@pytest.fixture
async def stage(api):
    made = Stage(api, None)
    instances = Serving(api.store.state, api.leases.live, frozenset({"own.Service"}))
    health = Health(
        api.store.state,
        instances,
        caller=caller_of,
        operators=api.operators.__contains__,
        ready=lambda: made.ready,
    )
    api.store.listen(health.note)
    made.note = health.note
    server = grpc.aio.server(interceptors=[ErrorInterceptor()])
    server.add_generic_rpc_handlers((health.handler(), *Reflection(api.store, caller_of).handlers()))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        made._channel = channel
        yield made
    await server.stop(0)


def files(answer) -> list[descriptor_pb2.FileDescriptorProto]:
    parse = descriptor_pb2.FileDescriptorProto.FromString
    return [parse(each) for each in answer.file_descriptor_response.file_descriptor_proto]


def error(answer) -> tuple[int, str]:
    return answer.error_response.error_code, answer.error_response.error_message


# --- reflection ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [standard.REFLECTION, standard.REFLECTION_ALPHA])
async def test_both_versions_list_what_the_caller_may_call_now(stage, api, version):
    await api.publish()
    assert await stage.services(version=version) == []
    await stage.grant(SERVICE, id="one")
    assert await stage.services(version=version) == [SERVICE]
    assert await stage.services(PROVIDER, version=version) == []
    await api.operator.RevokeGrant(id="one", reason="x")
    assert await stage.services(version=version) == []


@pytest.mark.parametrize("by", [{"agency": "H26.2"}, {"group": "readers"}, {"group": "everyone"}])
async def test_grants_of_agencies_groups_and_everyone_count(stage, api, by):
    await api.publish()
    names = registry_pb2.Names(vi="Nhóm", en="Group")
    await api.operator.PutGroup(group=registry_pb2.Group(id="readers", names=names, members=[CONSUMER]))
    await stage.grant(SERVICE, consumer="", **by)
    assert await stage.services() == [SERVICE]


async def test_deprecated_services_are_told_and_retired_ones_not(stage, api):
    await api.publish()
    await stage.grant(SERVICE)
    await api.provider.DeprecateService(name=SERVICE)
    assert await stage.services() == [SERVICE]
    await api.provider.RetireService(name=SERVICE)
    assert await stage.services() == []


async def test_a_symbol_comes_with_all_it_needs_once(stage, api):
    await api.publish()
    await stage.grant(SERVICE)
    first, again, other = await stage.ask(
        CONSUMER,
        {"file_containing_symbol": SERVICE},
        {"file_containing_symbol": f"{SERVICE}.GetWard"},
        {"file_by_filename": "google/api/http.proto"},
    )
    pool = DescriptorPool()
    for each in reversed(files(first)):
        pool.Add(each)
    assert pool.FindServiceByName(SERVICE).methods
    assert first.original_request.file_containing_symbol == SERVICE
    # What this stream has already is not sent again, except what is asked for by its name.
    assert [each.name for each in files(again)] == ["lgsp/api/demo/admunits/v1/admunits.proto"]
    assert [each.name for each in files(other)] == ["google/api/http.proto"]


async def test_what_may_not_be_called_is_answered_like_what_is_not_there(stage, tmp_path):
    mine, other = await stage.shop(tmp_path, "left", 50001), await stage.shop(tmp_path, "right", 50002)
    await stage.grant(mine)
    hidden = [
        {"file_containing_symbol": other},
        {"file_containing_symbol": f"{other}.Pay"},
        {"file_containing_symbol": "city.right.v1.Ask"},
        # Declared beside the service that is granted, and not granted itself.
        {"file_containing_symbol": f"{mine}Inner"},
        {"file_by_filename": "right.proto"},
        {"file_containing_extension": {"containing_type": "google.protobuf.FieldOptions", "extension_number": 50002}},
        {"all_extension_numbers_of_type": "city.right.v1.Ask"},
    ]
    unknown = [
        {"file_containing_symbol": "no.such.Thing"},
        {"file_by_filename": "nothing.proto"},
        {"all_extension_numbers_of_type": "no.such.Thing"},
    ]
    answers = await stage.ask(CONSUMER, *hidden, *unknown)
    assert {error(each) for each in answers} == {(5, "not found")}
    (told,) = await stage.ask(CONSUMER, {"file_containing_symbol": mine})
    assert [each.name for each in files(told)[0].service] == ["LeftService"]


async def test_extensions_are_those_of_contracts_that_the_caller_may_use(stage, tmp_path):
    left, right = await stage.shop(tmp_path, "left", 50001), await stage.shop(tmp_path, "right", 50002)
    await stage.grant(left)
    options = "google.protobuf.FieldOptions"
    question = {"containing_type": options, "extension_number": 50001}
    numbers, place = await stage.ask(
        CONSUMER, {"all_extension_numbers_of_type": options}, {"file_containing_extension": question}
    )
    assert list(numbers.all_extension_numbers_response.extension_number) == [50001]
    assert files(place)[0].name == "left.proto"
    await stage.grant(right)
    (numbers,) = await stage.ask(CONSUMER, {"all_extension_numbers_of_type": options})
    assert list(numbers.all_extension_numbers_response.extension_number) == [50001, 50002]


async def test_each_service_is_answered_with_its_own_copy_of_a_shared_file(stage, tmp_path):
    left = await stage.shop(tmp_path, "left", 50001)
    right = await stage.shop(tmp_path, "right", 50002, more="string currency = 2;")
    await stage.grant(left)
    await stage.grant(right)
    for service, fields in ((left, ["dong"]), (right, ["dong", "currency"])):
        symbol, named = await stage.ask(
            CONSUMER, {"file_containing_symbol": service}, {"file_by_filename": "common.proto"}
        )
        for answer in (symbol, named):
            common = next(each for each in files(answer) if each.name == "common.proto")
            assert [field.name for field in common.message_type[0].field] == fields
    # On one stream the second service's copy differs from what was sent, and so it is sent.
    answers = await stage.ask(CONSUMER, {"file_containing_symbol": left}, {"file_containing_symbol": right})
    assert [[each.name for each in files(answer)].count("common.proto") for answer in answers] == [1, 1]


async def test_a_question_without_a_question_is_told_so(stage):
    (answer,) = await stage.ask(CONSUMER, {"host": "x"})
    assert (answer.error_response.error_code, answer.valid_host) == (3, "x")


def test_the_stable_version_is_the_published_one():
    """grpc/reflection/v1/reflection.proto, as other clients have it: `buf curl` uses it in the end-to-end test."""
    stable = standard.CONTRACTS[standard.REFLECTION]
    alpha = standard.CONTRACTS[standard.REFLECTION_ALPHA]
    assert stable.services_by_name["ServerReflection"].full_name == standard.REFLECTION
    for name, message in alpha.message_types_by_name.items():
        fields = [(each.name, each.number, each.type) for each in message.fields]
        assert [(each.name, each.number, each.type) for each in stable.message_types_by_name[name].fields] == fields


# --- health ----------------------------------------------------------------------------------------------------------


async def test_a_service_serves_while_an_instance_lives(stage, api):
    await api.publish()
    check = stage.health()
    assert await check(SERVICE) == STATUS.NOT_SERVING
    made = await api.provider.RegisterEndpoint(services=[SERVICE], address=ADDRESS)
    assert await check(SERVICE) == STATUS.SERVING
    api.leases.beat(made.endpoint.id)
    api.now += 60
    assert await check(SERVICE) == STATUS.NOT_SERVING
    api.leases.beat(made.endpoint.id)
    assert await check(SERVICE) == STATUS.SERVING
    await api.provider.DeregisterEndpoint(endpoint_id=made.endpoint.id)
    assert await check(SERVICE) == STATUS.NOT_SERVING


async def test_the_gateway_itself_has_the_empty_name(stage):
    check = stage.health()
    assert await check("") == STATUS.SERVING
    stage.ready = False
    assert await check("") == STATUS.NOT_SERVING


async def test_an_http_system_behind_the_gateway_is_unknown(stage, api):
    rest = registry_pb2.RestUpstream(base_url="https://land.hanoi.gov.vn")
    service = registry_pb2.Service(
        name=SERVICE, provider=PROVIDER, rest=rest, lifecycle=registry_pb2.LIFECYCLE_PUBLISHED, version=1
    )
    await api.store.write([Write("service", SERVICE, service, 0)], operation_id="rest", actor=OPERATOR)
    assert await stage.health()(SERVICE) == STATUS.UNKNOWN


async def test_health_of_what_may_not_be_seen_is_not_found(stage, api, tmp_path):
    draft = await stage.shop(tmp_path, "left", 50001, draft=True)
    unknown = await refused(stage.health()("no.such.Service"))
    reason, detail = await refused(stage.health()(draft))
    assert (reason, detail.replace(draft, "no.such.Service")) == unknown
    assert reason == "NOT_REGISTERED"
    for owner in (PROVIDER, OPERATOR):
        assert await stage.health(owner)(draft) == STATUS.NOT_SERVING


async def test_all_that_may_be_seen_is_listed(stage, api, tmp_path):
    await api.publish()
    draft = await stage.shop(tmp_path, "left", 50001, draft=True)
    stage.health()
    assert set((await stage.list()).statuses) == {"", SERVICE}
    stage.health(PROVIDER)
    assert set((await stage.list()).statuses) == {"", SERVICE, draft}


async def test_a_watcher_is_told_of_every_change_and_of_nothing_else(stage, api):
    stage.health()
    watch = stage.watch(SERVICE)

    async def next_status() -> int:
        return (await asyncio.wait_for(watch.read(), 10)).status

    assert await next_status() == STATUS.SERVICE_UNKNOWN
    await api.publish()
    assert await next_status() == STATUS.NOT_SERVING
    made = await api.provider.RegisterEndpoint(services=[SERVICE], address=ADDRESS)
    assert await next_status() == STATUS.SERVING
    await api.publish(contact="x@hanoi.gov.vn")
    api.leases.beat(made.endpoint.id)
    api.now += 60
    stage.note()
    assert await next_status() == STATUS.NOT_SERVING
    await api.provider.RetireService(name=SERVICE)
    assert await next_status() == STATUS.SERVICE_UNKNOWN
    watch.cancel()
