"""The provider's own mask on a real gRPC server: every kind of call and handler, callers of every kind, rights that change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from lgsp.adapters import rights as rights_module
from lgsp.adapters.rights import MaskInterceptor, Rights
from lgsp.api.demo.admunits.v1.admunits_pb2 import GetWardRequest, GetWardResponse
from lgsp.api.errors.serving import ErrorInterceptor
from lgsp.api.registry.v1.registry_pb2 import Leaf, MethodViews, View, Viewer, WatchRightsResponse
from tests.support.edge import refusal

SERVICE = "w.v1.WardService"
SEES, WHOLLY, BOUND = "H26/sees", "H26/wholly", "H26/bound"
WARD = GetWardResponse(code=70, name="Hoàn Kiếm", division_type="phường", province_code=1, province_name="Hà Nội")
METHODS = ("UnaryUnary", "UnaryStream", "UnaryWrites", "StreamUnary", "StreamStream", "Bytes")
SHOWN = GetWardResponse(name="Hoàn Kiếm")


def told(*names: str, numbers=((2,),), more: tuple[View, ...] = ()) -> WatchRightsResponse:
    viewers = [Viewer(consumer=SEES), Viewer(consumer=BOUND, purpose="P")]
    views = [View(viewers=viewers, leaves=[Leaf(numbers=each) for each in numbers])]
    views += [View(viewers=[Viewer(consumer=WHOLLY)], whole=True), *more]
    methods = MethodViews(methods=names or METHODS, views=views, masked=True)
    return WatchRightsResponse(service=SERVICE, complete=True, methods=[methods])


class Wards:
    """`go` lets the second message of a stream out."""

    def __init__(self) -> None:
        self.go, self.calls = asyncio.Event(), 0
        self.go.set()

    async def unary(self, request, context):
        self.calls += 1
        return WARD

    async def stream(self, request, context):
        yield WARD
        await self.go.wait()
        yield WARD

    async def writes(self, request, context):
        for _ in range(2):
            await context.write(WARD)

    async def raw(self, request, context):
        return WARD.SerializeToString()

    def handler(self):
        read, write = GetWardRequest.FromString, GetWardResponse.SerializeToString
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "UnaryUnary": grpc.unary_unary_rpc_method_handler(self.unary, read, write),
                "UnaryStream": grpc.unary_stream_rpc_method_handler(self.stream, read, write),
                "UnaryWrites": grpc.unary_stream_rpc_method_handler(self.writes, read, write),
                "StreamUnary": grpc.stream_unary_rpc_method_handler(self.unary, read, write),
                "StreamStream": grpc.stream_stream_rpc_method_handler(self.stream, read, write),
                "Bytes": grpc.unary_unary_rpc_method_handler(self.raw),
            },
        )


class Stage:
    def __init__(self, wards: Wards, rights: Rights, channel: grpc.aio.Channel) -> None:
        self.wards, self.rights, self.channel = wards, rights, channel

    async def call(self, name: str, client: str | None = SEES, *more: tuple[str, str]) -> list[GetWardResponse]:
        metadata = [*([("x-lgsp-client", client)] if client else []), *more]
        path, request = f"/{SERVICE}/{name}", GetWardRequest().SerializeToString
        options = {"metadata": metadata, "timeout": 10}
        if name in {"UnaryUnary", "Bytes"}:
            call = self.channel.unary_unary(path, None, GetWardResponse.FromString)
            return [await call(request(), **options)]
        if name == "StreamUnary":
            call = self.channel.stream_unary(path, None, GetWardResponse.FromString)
            return [await call(iter([request()]), **options)]
        if name == "StreamStream":
            both = self.channel.stream_stream(path, None, GetWardResponse.FromString)
            return [each async for each in both(iter([request()]), **options)]
        many = self.channel.unary_stream(path, None, GetWardResponse.FromString)
        return [each async for each in many(request(), **options)]

    async def refused(self, *arguments) -> str | None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(*arguments)
        return refusal(caught.value)[1]


@asynccontextmanager
async def serving(*responses: WatchRightsResponse) -> AsyncIterator[Stage]:
    rights, wards = Rights([SERVICE]), Wards()
    for response in responses:
        await rights.take(response)
    server = grpc.aio.server(interceptors=[ErrorInterceptor("PROVIDER_FAULT"), MaskInterceptor(rights)])
    server.add_generic_rpc_handlers((wards.handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Stage(wards, rights, channel)
    await server.stop(0)


@pytest.fixture
async def stage():
    async with serving(told()) as made:
        yield made


@pytest.fixture
def no_patience(monkeypatch):
    """Rights that are not known are not waited for."""
    monkeypatch.setattr(rights_module, "NEWS_S", 0.05)


@pytest.mark.parametrize("name", METHODS)
async def test_every_kind_of_call_is_masked(stage, name):
    seen = await stage.call(name)
    assert seen == [SHOWN] * len(seen)
    assert await stage.call(name, WHOLLY) == [WARD] * len(seen)
    assert len(seen) == (2 if name in {"UnaryStream", "UnaryWrites", "StreamStream"} else 1)


async def test_a_purpose_is_what_the_call_says(stage, no_patience):
    assert await stage.call("UnaryUnary", BOUND, ("x-lgsp-purpose", "P")) == [SHOWN]
    assert await stage.refused("UnaryUnary", BOUND, ("x-lgsp-purpose", "p")) == "GRANT_MISSING"
    assert await stage.refused("UnaryUnary", BOUND) == "GRANT_MISSING"
    twice = (("x-lgsp-purpose", "P"), ("x-lgsp-purpose", "P"))
    assert await stage.refused("UnaryUnary", BOUND, *twice) == "GRANT_MISSING"


@pytest.mark.parametrize("name", METHODS)
async def test_whom_nobody_named_gets_nothing_and_nothing_is_done_for_it(stage, no_patience, name):
    assert await stage.refused(name, "H26/stranger") == "GRANT_MISSING"
    assert stage.wards.calls == 0


async def test_who_did_not_come_through_a_gateway_gets_nothing_where_fields_are_masked(stage):
    assert await stage.refused("UnaryUnary", None) == "GRANT_MISSING"
    assert await stage.refused("UnaryUnary", WHOLLY, ("x-lgsp-client", WHOLLY)) == "GRANT_MISSING"
    await stage.rights.take(told("Bytes"))
    assert await stage.call("UnaryUnary", None) == [WARD]


async def test_an_unmasked_method_is_for_those_who_are_named_and_for_callers_without_a_gateway(stage, no_patience):
    whole = View(viewers=[Viewer(consumer=WHOLLY), Viewer(consumer=BOUND, purpose="P")], whole=True)
    methods = [MethodViews(methods=["UnaryUnary", "UnaryStream"], views=[whole])]
    await stage.rights.take(WatchRightsResponse(service=SERVICE, complete=True, methods=methods))
    assert await stage.call("UnaryUnary", WHOLLY) == await stage.call("UnaryUnary", None) == [WARD]
    assert await stage.call("UnaryUnary", BOUND, ("x-lgsp-purpose", "P")) == [WARD]
    assert await stage.refused("UnaryUnary", BOUND) == "GRANT_MISSING"
    assert await stage.refused("UnaryStream", SEES) == "GRANT_MISSING"
    # A method that is not told of is everyone's.
    assert await stage.call("Bytes", SEES) == [WARD]


async def test_a_caller_that_is_newer_than_the_news_is_waited_for(stage):
    calling = asyncio.create_task(stage.call("UnaryUnary", "H26/new"))
    await asyncio.sleep(0)
    seen = View(viewers=[Viewer(consumer="H26/new")], leaves=[Leaf(numbers=[1])])
    await stage.rights.take(told(more=(seen,)))
    assert await calling == [GetWardResponse(code=70)]


async def test_nothing_is_answered_before_the_rights_are_known(no_patience):
    async with serving() as stage:
        assert await stage.refused("UnaryUnary", WHOLLY) == "PROVIDER_UNAVAILABLE"
        await stage.rights.take(WatchRightsResponse(service=SERVICE))
        assert await stage.refused("UnaryUnary", WHOLLY) == "PROVIDER_UNAVAILABLE"
        await stage.rights.take(told())
        assert await stage.call("UnaryUnary", WHOLLY) == [WARD]


async def test_a_running_stream_is_narrowed_and_ended(stage):
    stage.wards.go.clear()
    call = stage.channel.unary_stream(f"/{SERVICE}/UnaryStream", None, GetWardResponse.FromString)
    narrowed = call(b"", metadata=[("x-lgsp-client", SEES)], timeout=10)
    lost = call(b"", metadata=[("x-lgsp-client", WHOLLY)], timeout=10)
    assert (await narrowed.read(), await lost.read()) == (SHOWN, WARD)
    only_sees = View(viewers=[Viewer(consumer=SEES)], leaves=[Leaf(numbers=[1])])
    views = [MethodViews(methods=["UnaryStream"], views=[only_sees], masked=True)]
    await stage.rights.take(WatchRightsResponse(service=SERVICE, complete=True, methods=views))
    stage.wards.go.set()
    assert await narrowed.read() == GetWardResponse(code=70)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await lost.read()
    assert refusal(caught.value)[1] == "GRANT_MISSING"


async def test_what_is_no_message_is_not_passed_on(stage):
    async def broken(request, context):
        return b"\x12\x7fcut"

    stage.wards.raw = broken
    server = grpc.aio.server(interceptors=[ErrorInterceptor("PROVIDER_FAULT"), MaskInterceptor(stage.rights)])
    server.add_generic_rpc_handlers((stage.wards.handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert await Stage(stage.wards, stage.rights, channel).refused("Bytes") == "PROVIDER_FAULT"
    await server.stop(0)
