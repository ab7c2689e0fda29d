"""Bad input at a real node: each gets a clear refusal with a stable reason, and the node lives on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
import uuid

import grpc
import httpx
import psutil
import pytest
import pytest_asyncio

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lgsp.client import Identity, explain
from lgsp.client.tokens import AsyncTokens
from lgsp.gateway.datadir import file_name
from tests.support.city import CONSUMER, SYSTEM, THINGS, plug_things, running_city, until

KEY, GET = b"\x08\x03", f"/{THINGS}/Get"
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def city(tmp_path_factory):
    folder = tmp_path_factory.mktemp("city")
    async with running_city(folder / "node") as running:
        await plug_things(running, folder / "things")
        pids = running.pids()
        yield running
        assert running.pids() == pids, "a process ended and was restarted"


def identity(city, system=CONSUMER) -> Identity:
    return Identity.load(system, city.node.layout.system_keys / f"{file_name(system)}.jwk")


def trust(city) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(city.node.layout.ca))


async def token_of(city, system=CONSUMER) -> str:
    tokens = AsyncTokens(identity(city, system), f"{city.node.issuer}/oauth2/token", trust(city))
    try:
        return await tokens.get()
    finally:
        await tokens.close()


def http(city) -> httpx.AsyncClient:
    return httpx.AsyncClient(verify=trust(city), base_url=city.node.issuer, timeout=20)


async def refusal(call) -> tuple[str, str | None]:
    with pytest.raises(grpc.RpcError) as caught:
        await call
    told = explain(caught.value)
    assert told.request_id, "a refusal has a request id"
    return told.code().name, told.reason


async def raw(city, head: bytes, body: bytes = b"") -> bytes:
    """What the node answers to these bytes, until it closes or two seconds of silence; reads while it writes."""
    reader, writer = await asyncio.open_connection(city.node.public_host, city.node.listen_port, ssl=trust(city))
    found = bytearray()

    async def read() -> None:
        with contextlib.suppress(TimeoutError, ConnectionError):
            while part := await asyncio.wait_for(reader.read(65536), 2):
                found.extend(part)

    reading = asyncio.create_task(read())
    with contextlib.suppress(ConnectionError):
        for start in range(0, len(head + body), 65536):
            writer.write((head + body)[start : start + 65536])
            await writer.drain()
            await asyncio.sleep(0)
    await reading
    writer.close()
    return bytes(found)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


async def test_a_message_of_20_mb(city):
    async with city.connect(CONSUMER) as channel:
        # The provider's own gRPC library refuses it, before any code of ours; so it has no reason, but clear words.
        with pytest.raises(grpc.RpcError) as caught:
            await channel.unary_unary(GET)(b"\x12\x80\x80\x80\x0a" + bytes(20 << 20), timeout=20)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in (caught.value.details() or "")
        assert await channel.unary_unary(GET)(KEY, timeout=5)
    body = b'{"id": "' + b"1" * (20 << 20) + b'"}'
    head = (
        f"POST /{THINGS}/Find HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    )
    answer = await raw(city, f"{head}authorization: Bearer {await token_of(city)}\r\n\r\n".encode(), body)
    assert status(answer) in (400, 413), answer[:300]
    assert b"x-lgsp-reason: REQUEST_" in answer


async def test_ten_thousand_headers_and_one_long_one(city):
    many = b"".join(b"x-h%d: 1\r\n" % number for number in range(10_000))
    head = b"GET / HTTP/1.1\r\nhost: x\r\n"
    assert status(await raw(city, head + many + b"\r\n")) in (400, 431)
    assert status(await raw(city, head + b"x: " + b"a" * (1 << 20) + b"\r\n\r\n")) in (400, 431)


async def test_headers_that_only_the_gateway_sets_do_not_help(city):
    spoofed = (("x-lgsp-client", city.node.operator), ("x-lgsp-agency", "H26"), ("x-lgsp-token", "t"))
    async with city.connect(CONSUMER) as channel:
        hidden = channel.unary_unary(f"/{THINGS}/Hidden")
        assert await refusal(hidden(KEY, metadata=spoofed, timeout=5)) == ("PERMISSION_DENIED", "GRANT_MISSING")
        registry = RegistryServiceStub(channel)
        call = registry.ListSystems(pb.ListSystemsRequest(), metadata=spoofed, timeout=5)
        assert await refusal(call) == ("PERMISSION_DENIED", "GRANT_MISSING")


@pytest.mark.parametrize(
    "path",
    [
        f"/{THINGS}%2fGet",
        f"/oauth2/..%2f{THINGS}/Hidden",
        f"/oauth2/../{THINGS}/Hidden",
        f"/.well-known/../{THINGS}/Hidden",
        f"/oauth2/token/../../{THINGS}/Hidden",
        f"//{THINGS}/Hidden",
        f"/%2e%2e/{THINGS}/Hidden",
        "/oauth2/token%00",
        "/oauth2/TOKEN",
        "/oauth2/token/",
    ],
)
async def test_paths_that_mean_something_else(city, path):
    bearer = f"authorization: Bearer {await token_of(city)}\r\n".encode()
    line = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-type: application/json\r\n".encode()
    assert status(await raw(city, line + bearer + b"\r\n", b"{}")) in (400, 401, 403, 404)
    assert status(await raw(city, line + b"\r\n", b"{}")) in (400, 401, 404)


async def test_a_provider_cannot_take_anothers_service(city, tmp_path):
    text = '[component]\nsystem = "H26.9/thief"\nnames = { vi = "Kẻ trộm", en = "Thief" }\n'
    text += 'agency = { vi = "Sở khác", en = "Other" }\n[contract]\nproto = "things.proto"\n'
    text += '[adapter]\nkind = "sql"\nurl = "sqlite+aiosqlite:///things.db"\n'
    folder = tmp_path / "thief"
    await _copy_things(city, folder)
    (folder / "component.toml").write_text(text, "utf-8")
    answer = await city.lgsp("plug", folder / "component.toml")
    assert answer.code == 1
    assert "SERVICE_OWNED_BY_ANOTHER" in answer.err
    assert SYSTEM in answer.err


async def _copy_things(city, folder) -> None:
    import json as content
    import shutil
    from pathlib import Path

    plugged = content.loads((city.node.layout.components / file_name(SYSTEM) / "plugged.json").read_text())
    shutil.copytree(Path(plugged["folder"]), folder)


async def test_a_replayed_assertion(city):
    url = f"{city.node.issuer}/oauth2/token"
    kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    form = {"grant_type": "client_credentials", "client_assertion_type": kind}
    form["client_assertion"] = identity(city).assertion(url)
    async with http(city) as client:
        assert (await client.post("/oauth2/token", data=form)).status_code == 200
        again = await client.post("/oauth2/token", data=form)
        assert (again.status_code, again.json()["error"]) == (401, "invalid_client")
        assert again.headers["x-request-id"]
        assert "access_token" not in again.text


async def test_a_revoked_token_is_refused_at_the_gateway(city):
    token, url = await token_of(city), f"{city.node.issuer}/oauth2/token"
    kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    bearer = {"authorization": f"Bearer {token}"}
    async with http(city) as client:
        assert (await client.get(f"/{THINGS}/v1/things/3", headers=bearer)).json() == {"id": 3, "name": "Vật 3"}
        form = {"token": token, "client_assertion_type": kind, "client_assertion": identity(city).assertion(url)}
        assert (await client.post("/oauth2/revoke", data=form)).status_code == 200
        answer = await client.get(f"/{THINGS}/v1/things/3", headers=bearer)
        assert (answer.status_code, answer.headers["x-lgsp-reason"]) == (401, "TOKEN_REVOKED")


async def test_a_deadline_that_is_over(city):
    bearer = {"authorization": f"Bearer {await token_of(city)}", "te": "trailers", "content-type": "application/grpc"}
    frame = b"\x00" + len(KEY).to_bytes(4, "big") + KEY
    async with city.connect(CONSUMER) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            await channel.unary_unary(GET)(KEY, timeout=0)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with http(city) as client:
        began = time.monotonic()
        answer = await client.post(GET, headers=bearer | {"grpc-timeout": "1n"}, content=frame)
        assert time.monotonic() - began < 5
        assert answer.headers.get("grpc-status", "4") == "4", dict(answer.headers)


async def test_a_client_that_stops_reading(city):
    """Back-pressure holds: the stream waits, memory does not grow, and others are served."""
    envoy, adapter = (psutil.Process(city.pid(name)) for name in ("envoy", "component H26.7__things"))
    before = envoy.memory_info().rss + adapter.memory_info().rss
    async with city.connect(CONSUMER) as channel, city.connect(CONSUMER) as other:
        streams = [channel.unary_stream(f"/{THINGS}/Stream")(b"\x08\x01", timeout=60) for _ in range(4)]
        for stream in streams:
            assert await stream.read()
        for _ in range(50):
            assert await other.unary_unary(GET)(KEY, timeout=5)
        one_more = channel.unary_stream(f"/{THINGS}/Stream")(b"\x08\x01", timeout=20)
        assert await refusal(one_more.read()) == ("UNAVAILABLE", "OVERLOADED")
        grown = envoy.memory_info().rss + adapter.memory_info().rss - before
        for stream in streams:
            stream.cancel()
    assert grown < 100 << 20, f"{grown >> 20} MiB more"


@pytest.mark.parametrize(
    "head",
    [
        b"POST /oauth2/token HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /oauth2/token HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        b"GET /oauth2/token HTTP/1.0\r\n\r\n",
        b"GET / HTTP/9.9\r\nhost: x\r\n\r\n",
        b"\x00\xff\xfe garbage \r\n\r\n",
        b"GET /a b c HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
async def test_requests_that_are_not_http(city, head):
    found = await raw(city, head)
    assert found == b"" or status(found) in (400, 401, 404, 405, 426, 505), found[:200]


async def test_no_tls_and_broken_tls(city):
    for sent in (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(100)):
        reader, writer = await asyncio.open_connection(city.node.public_host, city.node.listen_port)
        writer.write(sent)
        answer = await asyncio.wait_for(reader.read(1000), 15)
        assert b"HTTP/1.1 200" not in answer
        writer.close()


@pytest.mark.parametrize(
    "body",
    [b"{", b'{"id": "ba"}', b'{"id": 99999999999999}', b"[" * 100_000, b'{"id": 3}{"id": 4}', b'{"id": \xff}'],
    ids=["half", "type", "range", "deep", "two", "utf8"],
)
async def test_json_that_does_not_fit(city, body):
    async with http(city) as client:
        bearer = {"authorization": f"Bearer {await token_of(city)}", "content-type": "application/json"}
        answer = await client.post(f"/{THINGS}/Find", headers=bearer, content=body)
    assert answer.status_code == 400, answer.text[:300]
    assert answer.headers["x-request-id"]
    assert answer.json()["details"][0]["reason"] == "REQUEST_MALFORMED", answer.text[:300]


async def test_a_request_id_finds_the_call_in_the_log_and_no_path_is_there(city):
    async with http(city) as client:
        bearer = {"authorization": f"Bearer {await token_of(city)}"}
        answer = await client.get(f"/{THINGS}/v1/things/3", headers=bearer)
        found = answer.headers["x-request-id"]
    log = city.node.access_log
    await until(lambda: found in log.read_text("utf-8"))
    text = log.read_text("utf-8")
    line = next(json.loads(each) for each in text.splitlines() if found in each)
    assert (line["client"], line["route"], line["status"]) == (CONSUMER, f"{THINGS}/Get", 200)
    assert "v1/things" not in text


async def test_a_system_that_is_revoked_stops_at_once(city):
    name = f"H26/gone-{uuid.uuid4().hex[:6]}"
    key = city.node.layout.system_keys / f"{file_name(name)}.jwk"
    made = await city.lgsp("system", "create", name, "--vi", "Sắp đi", "--en", "Gone", "--new-key", key)
    assert made.code == 0, made.err
    granted = await city.lgsp("grant", "create", "--consumer", name, "--service", THINGS, "--method", "Get")
    assert granted.code == 0, granted.err
    async with city.connect(name) as channel:
        call = channel.unary_unary(GET)
        assert await call(KEY, timeout=5)
        revoked = await city.lgsp("system", "revoke", name, "--reason", "khoá bị lộ")
        assert revoked.code == 0, revoked.err
        code, reason = await refusal(call(KEY, timeout=5))
        assert code == "UNAUTHENTICATED"
        assert reason in ("TOKEN_REVOKED", None)
