"""The endpoints over real HTTP: uvicorn with httptools as the control process runs it, and bytes that no client sends."""

from __future__ import annotations

import asyncio
import contextlib
import json
from urllib.parse import urlencode

import httpx
import pytest
import uvicorn

from lgsp.gateway.oauth.form import MAX_BODY
from tests.contract.oauth.stage import refused
from tests.support.nats_server import until

FORM = "application/x-www-form-urlencoded"


@pytest.fixture
async def port(stage):
    """The stage's endpoints on a TCP port."""
    config = uvicorn.Config(
        stage.app,
        host="127.0.0.1",
        port=0,
        log_config=None,
        access_log=False,
        lifespan="off",
        http="httptools",
        ws="none",
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await asyncio.wait_for(task, 10)


@pytest.fixture
async def http(port):
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        yield client


async def raw(port: int, content: bytes) -> tuple[int, bytes]:
    """Status and body of what comes back for these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(content)
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").lower().split("\r\n")
            length = next((int(line[15:]) for line in lines if line.startswith("content-length:")), 0)
            body = await reader.readexactly(length) if length else b""
        return int(head.split()[1]), body
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def post(body: bytes, *headers: str, path: str = "/oauth2/token", kind: str = FORM) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: gateway.test", f"content-type: {kind}", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + body


async def test_a_client_gets_a_token(stage, http):
    answer = await stage.ask(http=http)
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers.get_list("content-type") == ["application/json"]
    assert answer.headers.get_list("content-length") == [str(len(answer.content))]


@pytest.mark.parametrize("kind", [f"{FORM}; charset=utf-8", FORM.upper()])
async def test_the_content_type_may_be_spelled_otherwise(stage, http, kind):
    form = urlencode({"grant_type": "client_credentials"} | stage.form())
    answer = await http.post("/oauth2/token", content=form, headers={"content-type": kind})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "kind", ["application/json", "multipart/form-data; boundary=x", "text/plain", f"x{FORM}", None]
)
async def test_another_content_type_is_refused(stage, http, kind):
    headers = {"content-type": kind} if kind else {}
    answer = await http.post("/oauth2/token", content=json.dumps(stage.form()).encode(), headers=headers)
    refused(answer, "invalid_request", 400, "REQUEST_MALFORMED", FORM)


@pytest.mark.parametrize("path", ["/oauth2/token", "/oauth2/introspect", "/oauth2/revoke"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_another_method_is_refused(stage, http, path, method):
    answer = await http.request(method, path, params=stage.form(grant_type="client_credentials"))
    refused(answer, "invalid_request", 405, "REQUEST_MALFORMED", "POST")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/.well-known/oauth-authorization-server", "/.well-known/jwks.json"])
async def test_documents_are_for_reading(http, path):
    good = await http.get(path)
    head = await http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(good.content))
    refused(await http.post(path), "invalid_request", 405, "REQUEST_MALFORMED")


@pytest.mark.parametrize("path", ["/", "/oauth2/token/", "/oauth2", "/oauth2//token", "/OAUTH2/token", "/docs"])
async def test_there_is_nothing_else(stage, http, path):
    refused(await http.post(path, data=stage.form()), "invalid_request", 404, "METHOD_UNKNOWN")


async def test_parameters_in_the_address_count_nothing(stage, http):
    answer = await http.post("/oauth2/token", params=stage.form(grant_type="client_credentials"), data={"x": "y"})
    refused(answer, "unsupported_grant_type", 400, "REQUEST_MALFORMED")


@pytest.mark.parametrize("name", ["grant_type", "client_assertion", "client_assertion_type", "scope", "unknown"])
async def test_a_parameter_that_comes_twice_is_refused(stage, http, name):
    fields = {"grant_type": "client_credentials", "scope": "x", "unknown": "1"} | stage.form()
    for second in (fields[name], "", "other"):
        body = urlencode([*fields.items(), (name, second)])
        answer = await http.post("/oauth2/token", content=body, headers={"content-type": FORM})
        refused(answer, "invalid_request", 400, "REQUEST_MALFORMED", "twice")


async def test_unknown_parameters_are_ignored(stage, http):
    assert (await stage.ask(http=http, resource="x", scope="", vi="Hà Nội")).status_code == 200


@pytest.mark.parametrize(
    "body", [b"%ff=1", b"\xff=1", b"grant_type=%c3%28", b"&".join(b"f%d=1" % number for number in range(21))], ids=repr
)
async def test_a_form_that_cannot_be_read_is_refused(http, body):
    answer = await http.post("/oauth2/token", content=body, headers={"content-type": FORM})
    refused(answer, "invalid_request", 400, "REQUEST_MALFORMED", "cannot be read")


@pytest.mark.parametrize("body", [b"", b"&", b"=", b"&&=&", b"%", b"%zz=%", b"a;b=c", b"\x00=\x00"], ids=repr)
async def test_a_form_without_a_grant_type_is_refused(http, body):
    answer = await http.post("/oauth2/token", content=body, headers={"content-type": FORM})
    refused(answer, "unsupported_grant_type", 400, "REQUEST_MALFORMED")


async def test_a_body_at_the_limit_is_read_and_one_beyond_is_not(stage, http):
    form = urlencode({"grant_type": "client_credentials"} | stage.form()) + "&pad="
    headers = {"content-type": FORM}
    full = form + "x" * (MAX_BODY - len(form))
    assert (await http.post("/oauth2/token", content=full, headers=headers)).status_code == 200
    answer = await http.post("/oauth2/token", content=full + "x", headers=headers)
    refused(answer, "invalid_request", 413, "REQUEST_TOO_LARGE")


async def test_an_announced_oversize_body_is_refused_before_it_is_sent(port):
    for size in (MAX_BODY + 1, 10**12):
        head = post(b"").replace(b"content-length: 0", b"content-length: %d" % size)
        status, body = await raw(port, head)
        assert (status, json.loads(body)["reason"]) == (413, "REQUEST_TOO_LARGE")


async def test_an_endless_chunked_body_is_refused_early(port):
    head = post(b"").replace(b"content-length: 0", b"transfer-encoding: chunked")
    chunk = b"1000\r\n" + b"x" * 0x1000 + b"\r\n"
    status, body = await raw(port, head + chunk * (MAX_BODY // 0x1000 + 1))
    assert (status, json.loads(body)["reason"]) == (413, "REQUEST_TOO_LARGE")


@pytest.mark.parametrize(
    "extra",
    [("authorization: Basic eDp5", "authorization: Basic eDp6"), (f"content-type: {FORM}",)],
    ids=("auth", "type"),
)
async def test_a_header_that_comes_twice_is_refused(port, extra):
    status, body = await raw(port, post(b"grant_type=client_credentials", *extra))
    assert (status, json.loads(body)["error"]) == (400, "invalid_request")
    assert "twice" in json.loads(body)["error_description"]


@pytest.mark.parametrize(
    "content",
    [
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n",
        b"POST /oauth2/token HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"POST /oauth2/token HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /oauth2/token HTTP/9.9\r\nno colon\r\n\r\n",
    ],
    ids=("tls", "length", "negative", "header"),
)
async def test_bad_bytes_do_no_harm(stage, port, http, content, caplog):
    status, _ = await raw(port, content)
    assert status == 400
    assert (await stage.ask(http=http)).status_code == 200
    assert "Traceback" not in caplog.text


async def test_a_client_that_goes_away_does_no_harm(stage, port, http, caplog):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(post(b"").replace(b"content-length: 0", b"content-length: 100") + b"grant_type=")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert await reader.read() == b""
    assert (await stage.ask(http=http)).status_code == 200
    assert "unexpected" not in caplog.text
