"""A legacy HTTP/JSON system behind a real Envoy: what reaches it, how each of its answers is read, what never passes."""

from __future__ import annotations

import gzip
import json
import re
import ssl

import grpc
import httpx
import pytest
import pytest_asyncio
from google.protobuf import descriptor_pb2, json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool

from lgsp.adapters.manifest import compile_proto
from lgsp.api.errors import TABLE
from lgsp.gateway.xds import clusters, connection, resources, upstream_cluster
from lgsp.gateway.xds.cache import Resource
from lgsp.gateway.xds.policy import FieldRule, Limit, MethodPolicy, RestPolicy, ServicePolicy
from tests.support.certificates import self_signed
from tests.support.edge import free_port, refusal, running_edge
from tests.support.legacy import running_legacy

pytestmark = pytest.mark.asyncio(loop_scope="module")
SERVICE = "legacy.v1.WardService"
PROTO = """
syntax = "proto3";
package legacy.v1;
import "google/api/annotations.proto";
service WardService {
  rpc Get(Key) returns (Ward) {
    option idempotency_level = NO_SIDE_EFFECTS;
    option (google.api.http) = {get: "/v1/wards/{ward_code}"};
  }
  rpc Note(Name) returns (Ward) { option (google.api.http) = {get: "/v1/names/{name}/note"}; }
  rpc File(Name) returns (Ward) { option (google.api.http) = {get: "/v1/{name=files/**}"}; }
  rpc Change(Changed) returns (Ward) { option (google.api.http) = {put: "/v1/wards/{ward_code}" body: "ward"}; }
  rpc Make(Ward) returns (Ward) { option (google.api.http) = {post: "/v1/wards" body: "*"}; }
  rpc Remove(Key) returns (Nothing) { option (google.api.http) = {delete: "/v1/wards/{ward_code}"}; }
}
message Key { int32 ward_code = 1; string page_token = 2; }
message Name { string name = 1; }
message Changed { int32 ward_code = 1; Ward ward = 2; }
message Ward {
  int32 code = 1;
  string full_name = 2 [json_name = "tenPhuong"];
  string secret_note = 3;
  repeated string tags = 4;
}
message Nothing {}
"""
CALLER, MASKED, SLOW = "H26/caller", "H26/masked", "H26/slow"
MAX_BODY, DEADLINE_MS = 64 << 10, 1500
SECRET = "Bí mật 0123456789"


class Stage:
    """`call` by gRPC, `rest` by REST: both answer (reason or None, what came)."""

    def __init__(self, edge, legacy, contract: bytes) -> None:
        self.edge, self.legacy, self.contract = edge, legacy, contract
        self.pool = DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(contract).file:
            self.pool.Add(file)

    def message(self, name: str):
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(f"legacy.v1.{name}"))

    def policy(self, rest: RestPolicy) -> ServicePolicy:
        who = frozenset({CALLER, MASKED, SLOW})
        leaves = (
            FieldRule("code", who),
            FieldRule("full_name", frozenset({CALLER, SLOW})),
            FieldRule("secret_note", frozenset({CALLER, SLOW})),
            FieldRule("tags", frozenset({CALLER, SLOW})),
        )
        methods = tuple(
            MethodPolicy(name, consumers=who, idempotent=name == "Get", fields=leaves if name == "Get" else ())
            for name in ("Get", "Note", "File", "Change", "Make", "Remove")
        )
        limits = (Limit(SLOW, ("Get",), 1),)
        return ServicePolicy(SERVICE, methods, (), self.contract, (), limits, unary_ms=DEADLINE_MS, rest=rest)

    async def publish(self, rest: RestPolicy, *more: Resource) -> None:
        await self.edge.apply(
            Resource.of(SERVICE, clusters.rest_cluster(SERVICE, rest)),
            *more,
            Resource.of(SERVICE, resources.scope(SERVICE, SERVICE)),
            Resource.of(SERVICE, resources.service_routes(self.policy(rest))),
        )

    def plain(self, **fields: object) -> RestPolicy:
        return RestPolicy("127.0.0.1", self.legacy.port, tls=False, prefix="/api", max_body=MAX_BODY, **fields)

    async def call(self, method: str, request: str, *metadata, client: str = CALLER, answer: str = "Ward", **fields):
        token = ("authorization", f"Bearer {self.edge.token(client_id=client, sub=client, jti=client)}")
        async with self.edge.channel() as channel:
            call = channel.unary_unary(
                f"/{SERVICE}/{method}", lambda each: each.SerializeToString(), self.message(answer).FromString
            )
            try:
                got = await call(self.message(request)(**fields), metadata=(token, *metadata), timeout=10)
            except grpc.aio.AioRpcError as error:
                return _told(error)
        assert got is not None, "a success without a message"
        return None, json_format.MessageToDict(got, preserving_proto_field_name=True, descriptor_pool=self.pool)

    async def rest(self, method: str, path: str, *, client: str = CALLER, headers=(), **options):
        token = {"authorization": f"Bearer {self.edge.token(client_id=client, sub=client, jti=client)}"}
        trust = ssl.create_default_context(cadata=self.edge.certificate.decode())
        async with httpx.AsyncClient(verify=trust, base_url=self.edge.url, timeout=10) as http:
            got = await http.request(method, f"/{SERVICE}{path}", headers=token | dict(headers), **options)
        if got.status_code == 200:
            return None, got.json()
        reason = got.headers["x-lgsp-reason"]
        assert got.status_code == TABLE[reason].http
        assert got.json()["details"][0]["reason"] == reason
        assert SECRET not in f"{got.text} {got.headers}"
        return reason, dict(got.headers)


def _told(error: grpc.aio.AioRpcError):
    code, reason = refusal(error)
    assert reason is not None, f"{code}: {error.details()}"
    assert TABLE[reason].code.name == code
    assert SECRET not in f"{error.details()} {error.trailing_metadata()} {error.initial_metadata()}"
    return reason, dict(error.trailing_metadata() or ())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("l")
    (folder / "ward.proto").write_text(PROTO, "utf-8")
    async with running_legacy() as legacy, running_edge(folder) as edge:
        made = Stage(edge, legacy, compile_proto(folder / "ward.proto"))
        await made.publish(made.plain())
        yield made


@pytest.fixture(autouse=True)
def fresh(stage):
    stage.legacy.hangs = False
    stage.legacy.says({"code": 4})
    stage.legacy.seen.clear()


# --- what reaches the system -------------------------------------------------------------------------------------------


async def test_a_call_becomes_a_request_by_its_annotation(stage):
    stage.legacy.says({"code": 4, "tenPhuong": "Hoàn Kiếm", "secret_note": "x", "themSau": {"a": [1]}})
    want = {"code": 4, "full_name": "Hoàn Kiếm", "secret_note": "x"}
    assert await stage.call("Get", "Key", ward_code=4, page_token="a b&c") == (None, want)
    assert await stage.rest("GET", "/v1/wards/5") == (None, want)
    ward = stage.message("Ward")(code=4, full_name="Đống Đa")
    await stage.call("Change", "Changed", ward_code=6, ward=ward)
    await stage.call("Make", "Ward", full_name="Đ", tags=["a"])
    got = [(each.method, each.target) for each in stage.legacy.seen]
    assert got == [
        ("GET", "/api/v1/wards/4?pageToken=a%20b%26c"),
        ("GET", "/api/v1/wards/5"),
        ("PUT", "/api/v1/wards/6"),
        ("POST", "/api/v1/wards"),
    ]
    get, _, put, post = stage.legacy.seen
    assert (put.json, post.json) == ({"code": 4, "tenPhuong": "Đống Đa"}, {"tenPhuong": "Đ", "tags": ["a"]})
    assert get.headers["host"] == f"127.0.0.1:{stage.legacy.port}"
    assert "transfer-encoding" not in get.headers
    assert post.headers["content-type"] == "application/json"


async def test_only_what_the_gateway_means_reaches_the_system(stage):
    claimed = (
        ("x-http-method-override", "DELETE"),
        ("cookie", "admin=1"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-lgsp-client", "H26/operator"),
        ("x-lgsp-transcoded", "spoofed"),
        ("accept-encoding", "gzip"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("x-lgsp-purpose", "P1"),
    )
    await stage.call("Get", "Key", *claimed, ward_code=4)
    await stage.rest("GET", "/v1/wards/4", headers=claimed)
    for asked in stage.legacy.seen:
        assert set(asked.headers) <= {*upstream_cluster.FORWARDED, "host", "accept", "accept-encoding"}
        assert (asked.headers["x-lgsp-client"], asked.headers["x-lgsp-agency"]) == (CALLER, "H26")
        assert (asked.headers["accept"], asked.headers["accept-encoding"]) == ("application/json", "identity")
        assert asked.headers["traceparent"].startswith("00-0af7651916cd43dd8448eb211c80319c-")
        assert asked.headers["x-lgsp-purpose"] == "P1"
        assert asked.headers["x-request-id"]
    assert [each.headers["x-lgsp-transcoded"] for each in stage.legacy.seen] == ["application/grpc", "GET"]


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/../b", "\\..\\x", "..\\"])
async def test_a_value_that_would_name_another_resource_is_refused(stage, name):
    assert (await stage.call("Note", "Name", name=name))[0] == "REQUEST_MALFORMED"
    assert not stage.legacy.seen


@pytest.mark.parametrize("name", ["files/../x", "files/..", "files/a//b", "files/", "other/x", "files/./a"])
async def test_a_path_outside_its_template_is_refused(stage, name):
    assert (await stage.call("File", "Name", name=name))[0] == "REQUEST_MALFORMED"
    assert not stage.legacy.seen


async def test_a_path_variable_that_is_not_set_is_refused(stage):
    assert (await stage.call("Remove", "Key", answer="Nothing"))[0] == "REQUEST_MALFORMED"
    assert not stage.legacy.seen


@pytest.mark.parametrize(
    "name", ["a/b", "a?x=1", "a#b", "a%2Fb", "%2e%2e", "..%2f", "đ ộ", "a;b", "a\r\nX: y", "a&b", "..."]
)
async def test_values_stay_values(stage, name):
    await stage.call("Note", "Name", name=name)
    (asked,) = stage.legacy.seen
    assert re.fullmatch(r"/api/v1/names/[A-Za-z0-9.%]+/note", asked.target)
    assert httpx.URL(f"http://x{asked.target}").raw_path.decode() == asked.target
    assert "x" not in asked.headers


async def test_the_way_from_transcoder_to_system_is_no_way_in(stage):
    for headers in ((), (("x-lgsp-transcoded", "application/grpc"), ("te", "trailers"))):
        assert (await stage.rest("GET", "/Get/v1/wards/4", headers=headers))[0] == "METHOD_UNKNOWN"
        assert (await stage.rest("GET", "/Get/v1/wards/../x", headers=headers))[0] == "METHOD_UNKNOWN"
    assert (await stage.rest("GET", "/v1/wards/4", client="H26/stranger"))[0] == "GRANT_MISSING"
    assert (await stage.call("Get", "Key", client="H26/stranger", ward_code=4))[0] == "GRANT_MISSING"
    assert not stage.legacy.seen


async def test_compressed_messages_are_refused(stage):
    assert (await stage.call("Make", "Ward", ("grpc-encoding", "gzip"), code=1))[0] == "ENCODING_REFUSED"
    assert not stage.legacy.seen


# --- how its answers are read ------------------------------------------------------------------------------------------

STATUSES = {
    "REQUEST_MALFORMED": (400, 422),
    "PROVIDER_FAULT": (301, 304, 401, 403, 405, 418, 499, 500, 501, 206),
    "RECORD_NOT_FOUND": (404, 410),
    "DEADLINE_EXCEEDED": (408, 504),
    "RECORD_CONFLICT": (409,),
    "RECORD_PRECONDITION_FAILED": (412, 428),
    "REQUEST_TOO_LARGE": (413,),
    "PROVIDER_BUSY": (429,),
    "PROVIDER_UNAVAILABLE": (502, 503),
}


@pytest.mark.parametrize(("reason", "status"), [(name, each) for name, found in STATUSES.items() for each in found])
async def test_an_error_status_is_a_reason_and_nothing_of_it_passes(stage, reason, status):
    spoofed = ("location: http://evil.test/", "set-cookie: a=b", "grpc-status: 0", "x-lgsp-reason: GRANT_MISSING")
    body = b"" if status == 304 else f"<html>{SECRET}</html>".encode()
    stage.legacy.says(body, f"{status} {SECRET[:1]}", *spoofed, content_type="text/html")
    for got, told in (
        await stage.call("Make", "Ward", code=1),
        await stage.rest("POST", "/v1/wards", json={"code": 1}),
    ):
        assert got == reason
        assert not {"location", "set-cookie"} & told.keys()
    assert len(stage.legacy.seen) == 2


async def test_what_may_be_repeated_is_tried_again(stage):
    stage.legacy.says({}, "503 Busy")
    assert (await stage.call("Get", "Key", ward_code=1))[0] == "PROVIDER_UNAVAILABLE"
    assert len(stage.legacy.seen) == 3


MISFITS = {
    "HTML": f"<html>{SECRET}</html>".encode(),
    "truncated": f'{{"code": 4, "tenPhuong": "{SECRET}'.encode(),
    "text": SECRET.encode(),
    "another type": json.dumps({"code": SECRET}).encode(),
    "a list": json.dumps([{"tenPhuong": SECRET}]).encode(),
    "a number": b"17",
    "a string": json.dumps(SECRET).encode(),
    "null": b"null",
    "spaces": b"   ",
    "two": b'{"code": 1}{"code": 2}',
    "more behind": b'{"code": 1} ' + SECRET.encode(),
    "compressed": gzip.compress(b'{"code": 1}'),
    "no UTF-8": b'{"tenPhuong": "\xff\xfe"}',
    "out of range": b'{"code": 99999999999}',
}


@pytest.mark.parametrize("what", MISFITS)
async def test_an_answer_that_does_not_fit_is_no_success(stage, what):
    stage.legacy.says(MISFITS[what])
    assert (await stage.call("Get", "Key", ward_code=1))[0] == "RECORD_DOES_NOT_FIT_CONTRACT"
    assert (await stage.rest("GET", "/v1/wards/1"))[0] == "RECORD_DOES_NOT_FIT_CONTRACT"
    assert SECRET not in (stage.edge.folder / "envoy.log").read_text("utf-8", "replace")
    stage.legacy.says({"code": 4})
    assert await stage.call("Get", "Key", ward_code=1) == (None, {"code": 4})


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
BROKEN = {
    "cut off": HEAD + b'content-length: 100\r\n\r\n{"code": 4',
    "no HTTP": b"garbage\r\n\r\n",
    "huge header": HEAD + b"x: " + b"y" * 100_000 + b"\r\n\r\n{}",
    "says gRPC": HEAD.replace(b"application/json", b"application/grpc") + b"content-length: 5\r\n\r\n\0\0\0\0\0",
    "too large": HEAD + b"\r\n" + json.dumps({"tenPhuong": "x" * MAX_BODY}).encode(),
    "large error": b"HTTP/1.1 500 No\r\nconnection: close\r\n\r\n" + b"x" * 3_000_000,
}


@pytest.mark.parametrize("what", BROKEN)
async def test_a_broken_answer_is_the_providers_fault(stage, what):
    stage.legacy.answer = BROKEN[what]
    assert (await stage.call("Make", "Ward", code=1))[0] == "PROVIDER_FAULT"
    assert (await stage.rest("POST", "/v1/wards", json={"code": 1}))[0] == "PROVIDER_FAULT"
    stage.legacy.says({"code": 4})
    assert await stage.rest("GET", "/v1/wards/1") == (None, {"code": 4})


async def test_of_a_good_answers_headers_none_but_its_form_passes(stage):
    given = (
        "set-cookie: a=b",
        "x-powered-by: PHP",
        "grpc-status: 5",
        "grpc-encoding: gzip",
        "x-lgsp-reason: X",
        "x-a: b",
    )
    stage.legacy.says({"code": 4}, "200 OK", *given)
    assert await stage.call("Get", "Key", ward_code=1) == (None, {"code": 4})
    trust = ssl.create_default_context(cadata=stage.edge.certificate.decode())
    async with httpx.AsyncClient(verify=trust, base_url=stage.edge.url) as http:
        token = {"authorization": f"Bearer {stage.edge.token()}"}
        got = await http.get(f"/{SERVICE}/v1/wards/1", headers=token)
    assert (got.status_code, got.json()) == (200, {"code": 4})
    ours = {"content-type", "content-length", "date", "server", "x-request-id", "grpc-status"}
    ours |= {"x-envoy-upstream-service-time", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"}
    assert set(got.headers) <= ours
    assert (got.headers["server"], got.headers["grpc-status"]) == ("lgsp", "0")


async def test_messages_of_the_usual_limit_pass(stage):
    try:
        await stage.publish(RestPolicy("127.0.0.1", stage.legacy.port, tls=False))
        text = "y" * (3 << 20)
        stage.legacy.says({"code": 4, "tags": [text]})
        assert (await stage.call("Get", "Key", ward_code=1))[1] == {"code": 4, "tags": [text]}
        assert (await stage.rest("GET", "/v1/wards/1"))[1] == {"code": 4, "tags": [text]}
        stage.legacy.says({"code": 4})
        assert (await stage.call("Make", "Ward", full_name=text))[0] is None
        assert (await stage.rest("POST", "/v1/wards", json={"full_name": text}))[0] is None
        assert [each.json["tenPhuong"] for each in stage.legacy.seen[-2:]] == [text, text]
    finally:
        await stage.publish(stage.plain())


async def test_json_that_does_not_fit_is_the_callers_fault(stage):
    for body in (b"{", b'{"code": 1', b'{"code": "x"}', b"[]"):
        got = await stage.rest("POST", "/v1/wards", content=body, headers=[("content-type", "application/json")])
        assert got[0] == "REQUEST_MALFORMED"
    assert not stage.legacy.seen


async def test_no_content_is_an_empty_message(stage):
    stage.legacy.answer = b"HTTP/1.1 204 No Content\r\n\r\n"
    assert await stage.call("Remove", "Key", answer="Nothing", ward_code=1) == (None, {})
    assert await stage.rest("DELETE", "/v1/wards/1") == (None, {})


async def test_a_slow_system_ends_with_the_deadline(stage):
    stage.legacy.hangs = True
    assert (await stage.call("Make", "Ward", code=1))[0] == "DEADLINE_EXCEEDED"
    assert (await stage.rest("POST", "/v1/wards", json={"code": 1}))[0] == "DEADLINE_EXCEEDED"


async def test_a_request_that_is_too_large_is_refused_before_the_system(stage):
    text = "y" * (MAX_BODY + 1000)
    assert (await stage.call("Make", "Ward", full_name=text))[0] == "REQUEST_TOO_LARGE"
    assert (await stage.rest("POST", "/v1/wards", json={"full_name": text}))[0] == "REQUEST_TOO_LARGE"
    assert not stage.legacy.seen
    assert (await stage.call("Make", "Ward", full_name=text[:60_000]))[0] is None


async def test_grpc_web_callers_get_answers_and_reasons(stage):
    raw = stage.message("Key")(ward_code=9).SerializeToString()
    headers = (("content-type", "application/grpc-web+proto"),)
    token = {"authorization": f"Bearer {stage.edge.token()}"}
    trust = ssl.create_default_context(cadata=stage.edge.certificate.decode())
    async with httpx.AsyncClient(verify=trust, base_url=stage.edge.url) as http:
        for status, expected in (("200 OK", "0"), ("404 No", "5")):
            stage.legacy.says({"code": 9}, status)
            body = b"\0" + len(raw).to_bytes(4, "big") + raw
            got = await http.post(f"/{SERVICE}/Get", headers=token | dict(headers), content=body)
            told = got.headers.get("grpc-status") or re.findall(rb"grpc-status: ?(\d+)", got.content)[0].decode()
            assert told == expected
            assert got.headers.get("x-lgsp-reason") == (None if expected == "0" else "RECORD_NOT_FOUND")


# --- what is between ---------------------------------------------------------------------------------------------------


async def test_masks_hold_by_grpc_and_by_rest(stage):
    stage.legacy.says({"code": 4, "tenPhuong": SECRET, "secretNote": SECRET, "tags": [SECRET]})
    assert await stage.call("Get", "Key", client=MASKED, ward_code=4) == (None, {"code": 4})
    assert await stage.rest("GET", "/v1/wards/4", client=MASKED) == (None, {"code": 4})
    assert len((await stage.call("Get", "Key", ward_code=4))[1]) == 4


async def test_rates_hold(stage):
    got = [(await stage.call("Get", "Key", client=SLOW, ward_code=4))[0] for _ in range(5)]
    assert "RATE_EXCEEDED" in got
    assert got[0] is None


async def test_a_system_that_is_away_or_closed_is_unavailable(stage):
    away = RestPolicy("127.0.0.1", free_port(), tls=False)
    nameless = RestPolicy("nowhere.test", 80, tls=False)
    for rest in (away, nameless, stage.plain(closed="no credential")):
        try:
            await stage.publish(rest)
            assert (await stage.call("Get", "Key", ward_code=1))[0] == "PROVIDER_UNAVAILABLE"
            assert (await stage.rest("GET", "/v1/wards/1"))[0] == "PROVIDER_UNAVAILABLE"
        finally:
            await stage.publish(stage.plain())
    assert not stage.legacy.seen


async def test_a_credential_goes_with_every_call_and_can_be_rotated(stage):
    name = "credential/land"
    rest = stage.plain(header="X-Api-Key", secret=name)
    try:
        await stage.publish(rest, Resource.of(name, upstream_cluster.secret(name, b"first")))
        spoofed = ("x-api-key", "mine")
        await stage.call("Get", "Key", spoofed, ward_code=1)
        await stage.rest("GET", "/v1/wards/1", headers=[spoofed])
        await stage.edge.apply(Resource.of(name, upstream_cluster.secret(name, b"second")))
        await stage.call("Get", "Key", spoofed, ward_code=1)
        assert [each.headers["x-api-key"] for each in stage.legacy.seen] == ["first", "first", "second"]
        assert not any("authorization" in each.headers for each in stage.legacy.seen)
    finally:
        await stage.publish(stage.plain())
        stage.edge.ads.update([], [(connection.SECRET, name)])


async def test_tls_is_verified_down_to_the_name(stage):
    certificate, key = self_signed()
    folder = stage.edge.folder
    (folder / "legacy.pem").write_bytes(certificate)
    (folder / "legacy.key").write_bytes(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "legacy.pem", folder / "legacy.key")
    foreign = self_signed()[0].decode()
    async with running_legacy(context) as secured:
        secured.says({"code": 7})
        good = {"ca": certificate.decode(), "port": secured.port, "prefix": "/s"}
        cases = (
            (RestPolicy("127.0.0.1", **good), None),
            (RestPolicy("localhost", **good), None),
            (RestPolicy("127.0.0.1", **(good | {"ca": foreign})), "PROVIDER_UNAVAILABLE"),
            (RestPolicy("127.0.0.2", **good), "PROVIDER_UNAVAILABLE"),
        )
        try:
            for rest, reason in cases:
                secured.seen.clear()
                await stage.publish(rest)
                assert (await stage.call("Get", "Key", ward_code=1))[0] == reason, rest.host
                assert [each.target for each in secured.seen] == ([] if reason else ["/s/v1/wards/1"])
        finally:
            await stage.publish(stage.plain())
