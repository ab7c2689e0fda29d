"""Every kind of call through a real node: unary, the three streams, gRPC-Web, REST; a server that ran already is plugged in."""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
from datetime import UTC, datetime, timedelta

import grpc
import httpx
import pytest
import pytest_asyncio
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool

from lgsp import client
from lgsp.adapters.manifest import compile_proto
from lgsp.api.errors import BusError
from lgsp.api.errors.serving import ErrorInterceptor
from lgsp.client import CallError, GrantMissingError, TokenRefusedError, explain
from lgsp.gateway.datadir import file_name
from tests.e2e.test_refusals import token_of
from tests.support.city import City, lgsp, running_city, until

SERVICE, OWNER, READER = "kinds.v1.KindService", "H26.20/kinds", "H26.21/kinds-reader"
CONTRACT = """
syntax = "proto3";
package kinds.v1;
import "google/api/annotations.proto";
service KindService {
  rpc Unary(Text) returns (Text) { option (google.api.http) = {get: "/v1/texts/{text}"}; }
  rpc Server(Text) returns (stream Text);
  rpc Client(stream Text) returns (Text);
  rpc Both(stream Text) returns (stream Text);
  rpc Meta(Text) returns (Text);
  rpc Fail(Text) returns (Text);
}
message Text { string text = 1; }
"""
MANIFEST = """
[component]
system = "{owner}"
names = {{ vi = "Các kiểu", en = "Kinds" }}
agency = {{ vi = "Sở kiểu", en = "Kinds" }}
[contract]
proto = "kinds.proto"
[endpoint]
address = "{address}"
"""
CONSUMER = """
[component]
system = "{reader}"
names = {{ vi = "Đọc", en = "Reader" }}
agency = {{ vi = "Sở đọc", en = "Reading" }}
[[grants]]
consumer = "{reader}"
service = "{service}"
"""
pytestmark = pytest.mark.asyncio(loop_scope="module")


class Server:
    """An agency's own server on stock grpcio: nothing of ours in it but the errors."""

    def __init__(self, contract: bytes) -> None:
        pool = DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(contract).file:
            pool.Add(file)
        self.text = message_factory.GetMessageClass(pool.FindMessageTypeByName("kinds.v1.Text"))
        self.remaining: list[float | None] = []

    async def unary(self, request, context):
        self.remaining.append(context.time_remaining())
        return self.text(text=f"một: {request.text}")

    async def server(self, request, context):
        for number in range(3):
            yield self.text(text=f"{number}: {request.text}")

    async def client(self, requests, context):
        return self.text(text=" ".join([each.text async for each in requests]))

    async def both(self, requests, context):
        async for each in requests:
            yield self.text(text=each.text.upper())

    async def meta(self, request, context):
        return self.text(text="\n".join(f"{key}={value}" for key, value in context.invocation_metadata()))

    async def fail(self, request, context):
        raise BusError("RECORD_NOT_FOUND", "không có")

    def handler(self) -> grpc.GenericRpcHandler:
        make = {
            "Unary": (grpc.unary_unary_rpc_method_handler, self.unary),
            "Server": (grpc.unary_stream_rpc_method_handler, self.server),
            "Client": (grpc.stream_unary_rpc_method_handler, self.client),
            "Both": (grpc.stream_stream_rpc_method_handler, self.both),
            "Meta": (grpc.unary_unary_rpc_method_handler, self.meta),
            "Fail": (grpc.unary_unary_rpc_method_handler, self.fail),
        }
        methods = {
            name: kind(serve, self.text.FromString, self.text.SerializeToString) for name, (kind, serve) in make.items()
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bus(tmp_path_factory):
    """(city, server): the node, and the agency's server behind it."""
    folder = tmp_path_factory.mktemp("city")
    (folder / "kinds.proto").write_text(CONTRACT, "utf-8")
    own = Server(compile_proto(folder / "kinds.proto"))
    server = grpc.aio.server(interceptors=[ErrorInterceptor()])
    server.add_generic_rpc_handlers((own.handler(),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with running_city(folder / "node", "--profile", "standard") as city:
        (folder / "component.toml").write_text(MANIFEST.format(owner=OWNER, address=address), "utf-8")
        (folder / "reader.toml").write_text(CONSUMER.format(reader=READER, service=SERVICE), "utf-8")
        for name in ("component.toml", "reader.toml"):
            answer = await city.lgsp("plug", folder / name)
            assert answer.code == 0, answer.err
        yield city, own
    await server.stop(0)


def call(bus, channel, name: str):
    _, own = bus
    kinds = {"Server": channel.unary_stream, "Client": channel.stream_unary, "Both": channel.stream_stream}
    return kinds.get(name, channel.unary_unary)(f"/{SERVICE}/{name}", own.text.SerializeToString, own.text.FromString)


async def test_the_four_kinds(bus):
    city, own = bus

    async def sent():
        for word in ("một", "hai", "ba"):
            yield own.text(text=word)

    async with city.connect(READER) as channel:
        assert (await call(bus, channel, "Unary")(own.text(text="x"))).text == "một: x"
        assert [each.text async for each in call(bus, channel, "Server")(own.text(text="x"))] == [
            "0: x",
            "1: x",
            "2: x",
        ]
        assert (await call(bus, channel, "Client")(sent())).text == "một hai ba"
        assert [each.text async for each in call(bus, channel, "Both")(sent())] == ["MỘT", "HAI", "BA"]


async def test_a_two_way_stream_answers_before_it_is_over(bus):
    city, own = bus
    async with city.connect(READER) as channel:
        stream = call(bus, channel, "Both")()
        for word in ("a", "b"):
            await stream.write(own.text(text=word))
            assert (await asyncio.wait_for(stream.read(), 5)).text == word.upper()
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF


async def test_the_deadline_reaches_the_provider(bus):
    city, own = bus
    async with city.connect(READER) as channel:
        await call(bus, channel, "Unary")(own.text(text="x"), timeout=7)
        assert 0 < own.remaining[-1] <= 7
        await call(bus, channel, "Unary")(own.text(text="x"), timeout=3600)
        assert 0 < own.remaining[-1] <= 30.1


async def test_the_provider_sees_who_calls_and_not_what_the_caller_claims(bus):
    city, own = bus
    spoofed = (
        ("x-lgsp-client", "H26/operator"),
        ("x-lgsp-agency", "H26"),
        ("baggage", "a=b"),
        ("x-forwarded-for", "1.2.3.4"),
    )
    async with city.connect(READER) as channel:
        lines = (await call(bus, channel, "Meta")(own.text(), metadata=spoofed)).text.splitlines()
    seen = [line.partition("=")[::2] for line in lines]
    assert [value for key, value in seen if key == "x-lgsp-client"] == [READER]
    assert [value for key, value in seen if key == "x-lgsp-agency"] == ["H26.21"]
    assert len([value for key, value in seen if key == "x-request-id"]) == 1
    assert not [
        key for key, _ in seen if key in ("authorization", "baggage", "x-lgsp-token", "x-forwarded-client-cert")
    ]


async def test_the_providers_own_errors_arrive_whole(bus):
    city, own = bus
    async with city.connect(READER) as channel:
        with pytest.raises(CallError) as caught:
            await call(bus, channel, "Fail")(own.text())
    assert (caught.value.reason, caught.value.code()) == ("RECORD_NOT_FOUND", grpc.StatusCode.NOT_FOUND)
    assert "không có" in (caught.value.details() or "")
    assert caught.value.request_id
    assert caught.value.remedy


async def test_rest_and_grpc_web_from_the_same_contract(bus):
    city, own = bus
    token = await token_of(city, READER)
    trust = ssl.create_default_context(cafile=str(city.node.layout.ca))
    frame = own.text(text="web").SerializeToString()
    frame = b"\0" + len(frame).to_bytes(4, "big") + frame
    async with httpx.AsyncClient(verify=trust, base_url=city.node.issuer) as http:
        bearer = {"authorization": f"Bearer {token}"}
        assert (await http.get(f"/{SERVICE}/v1/texts/xin%20chào", headers=bearer)).json() == {"text": "một: xin chào"}
        posted = await http.post(f"/{SERVICE}/Server", headers=bearer, json={"text": "r"})
        assert posted.json() == [{"text": f"{n}: r"} for n in range(3)]
        failed = await http.post(f"/{SERVICE}/Fail", headers=bearer, json={})
        assert (failed.status_code, failed.json()["details"][0]["reason"]) == (404, "RECORD_NOT_FOUND")
        web = await http.post(
            f"/{SERVICE}/Unary", headers=bearer | {"content-type": "application/grpc-web+proto"}, content=frame
        )
        length = int.from_bytes(web.content[1:5], "big")
        assert own.text.FromString(web.content[5 : 5 + length]).text == "một: web"
        assert b"grpc-status: 0" in web.content[5 + length :].replace(b":0", b": 0")
        kind = {"content-type": "application/grpc-web-text", "accept": "application/grpc-web-text"}
        text = await http.post(f"/{SERVICE}/Unary", headers=bearer | kind, content=base64.b64encode(frame))
        groups = (text.content[start : start + 4] for start in range(0, len(text.content), 4))
        decoded = b"".join(map(base64.b64decode, groups))  # message and trailers are padded each
        assert own.text.FromString(decoded[5 : 5 + length]).text == "một: web"


async def test_a_grant_begins_and_ends_by_itself(bus):
    city, own = bus
    name = "H26.21/timed"
    made = await city.lgsp("system", "create", name, "--vi", "Có hạn", "--en", "Timed", "--new-key", key_of(city, name))
    assert made.code == 0, made.err
    start = datetime.now(UTC) + timedelta(seconds=1.5)
    end = start + timedelta(seconds=1.5)
    times = ("--from", start.isoformat(), "--until", end.isoformat())
    granted = await city.lgsp("grant", "create", "--consumer", name, "--service", SERVICE, "--method", "Unary", *times)
    assert granted.code == 0, granted.err
    allowed_at, refused_at = None, None
    async with city.connect(name) as channel, asyncio.timeout(15):
        while refused_at is None:
            try:
                await call(bus, channel, "Unary")(own.text())
                allowed_at = allowed_at or time.time()
            except GrantMissingError:
                refused_at = time.time() if allowed_at else None
            await asyncio.sleep(0.01)
    assert start.timestamp() <= allowed_at < start.timestamp() + 1
    assert end.timestamp() - 0.05 <= refused_at < end.timestamp() + 1


async def test_keys_rotate_under_load_and_no_call_is_refused(bus):
    city, own = bus
    good, stop = 0, asyncio.Event()

    async def fresh_tokens() -> None:
        nonlocal good
        while not stop.is_set():
            async with city.connect(READER) as channel:  # each channel fetches a token of its own
                await call(bus, channel, "Unary")(own.text())
                good += 1

    loading = [asyncio.create_task(fresh_tokens()) for _ in range(3)]
    for _ in range(3):
        answer = await city.lgsp("key", "rotate", "--json")
        assert answer.code == 0, answer.err
        assert answer.json["kid"] != answer.json["previous_kid"]
        reached = good + 10
        await until(lambda reached=reached: good >= reached)
    stop.set()
    await asyncio.gather(*loading)


async def test_the_sync_channel_and_typed_errors(bus):
    city, own = bus
    layout = city.node.layout
    who = {"system": READER, "key": key_of(city, READER)}

    def calls() -> str:
        with client.connect_sync(city.node.target, ca=layout.ca, **who) as channel:
            good = call(bus, channel, "Unary")(own.text(text="s")).text
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/lgsp.api.node.v1.NodeService/GetStatus")(b"")
            told = explain(caught.value)
            assert isinstance(told, GrantMissingError)
            assert told.request_id
            return good

    assert await asyncio.to_thread(calls) == "một: s"
    stranger = client.Identity.generate(READER)  # the right name, another key
    async with client.connect(city.node.target, identity=stranger, ca=layout.ca) as channel:
        with pytest.raises(TokenRefusedError):
            await call(bus, channel, "Unary")(own.text())


async def test_nobody_answers_and_the_wrong_authority(bus, tmp_path):
    city, own = bus
    who = {"system": READER, "key": key_of(city, READER)}
    async with client.connect("127.0.0.1:1", ca=city.node.layout.ca, **who) as channel:
        with pytest.raises(CallError) as caught:
            await call(bus, channel, "Unary")(own.text())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    told = await lgsp(
        "call",
        f"{SERVICE}/Unary",
        "--gateway",
        "127.0.0.1:1",
        "--as",
        READER,
        "--key",
        who["key"],
        "--ca",
        city.node.layout.ca,
    )
    assert told.code == 3, told.err
    from tests.support.certificates import self_signed

    other = tmp_path / "other.pem"
    other.write_bytes(self_signed()[0])
    async with client.connect(city.node.target, ca=other, **who) as channel:
        with pytest.raises(CallError) as caught:
            await call(bus, channel, "Unary")(own.text())
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def key_of(city: City, system: str):
    return city.node.layout.system_keys / f"{file_name(system)}.jwk"
