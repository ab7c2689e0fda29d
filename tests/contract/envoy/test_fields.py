"""Ways to a field that no grant names, each tried on a real Envoy before a provider that masks nothing: the second wall."""

from __future__ import annotations

import asyncio
import base64
import gzip

import grpc
import httpx
import pytest
import pytest_asyncio

from lgsp.api.errors import TABLE
from lgsp.api.registry.v1.registry_pb2 import Grant, Mask, Purpose
from lgsp.gateway.control.mask_alarms import mask_alarms
from lgsp.registry.rights import Right
from tests.contract.envoy.stage import BY_PURPOSE, SEES, SERVICE, WHOLE, WHOLLY, staged
from tests.support.edge import refusal
from tests.support.raw_upstream import framed, raw_upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")
SHOWN = {"name": "Nguyễn Văn A", "address": {"ward": {"code": 4}}}
# In no view of SEES: text of every hidden field, of a field that the contract does not have, and names of map keys.
HIDDEN = [
    each.encode() for each in ("1990", "Tràng", "kín", "cũ", "0912", "quê", "làng", "cơ quan", "bí mật", "hidden")
]
UNKNOWN = b"\xfa\x01\x06SECRET"  # field 31, in no contract
KEY = b"\x08\x01"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory):
    async with staged(tmp_path_factory.mktemp("f")) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def raw(stage):
    """A provider that answers with whatever it is told; masks as usual."""
    async with raw_upstream() as upstream:
        await stage.set(endpoint=upstream.address)
        yield upstream
        await stage.set(endpoint=stage.endpoint)


def leaks(content: bytes) -> list[bytes]:
    return [word for word in (*HIDDEN, b"SECRET") if word in content]


class Answer:
    """What came back, whole or broken off."""

    def __init__(self, way: str, response: httpx.Response, content: bytes) -> None:
        self.way, self.status, self.headers, self.content = way, response.status_code, response.headers, content

    @property
    def refused(self) -> bool:
        """Not a success, in whatever way that is said; HTTP/1 has no trailers to say it, only nothing to read."""
        ended_well = b"grpc-status:0" in self.content if self.way.startswith("web") else bool(self.content)
        return self.status >= 400 or self.headers.get("grpc-status", "0") != "0" or not ended_well


WAYS = {
    "rest": ("GET", "/v1/records/1", {}, b""),
    "rest post": ("POST", "/List", {"content-type": "application/json"}, b'{"id": 1}'),
    "web": ("POST", "/Get", {"content-type": "application/grpc-web+proto"}, framed(KEY)),
    "web text": (
        "POST",
        "/Get",
        {"content-type": "application/grpc-web-text", "accept": "application/grpc-web-text"},
        base64.b64encode(framed(KEY)),
    ),
    "http1": ("POST", "/Get", {"content-type": "application/grpc", "te": "trailers"}, framed(KEY)),
}


async def ask(stage, way: str, client: str = SEES, **more: str) -> Answer:
    method, path, headers, body = WAYS[way]
    return await send(
        stage, way, method, path, headers | {key.replace("_", "-"): v for key, v in more.items()}, body, client
    )


async def send(stage, way, method, path, headers, body, client=SEES) -> Answer:
    every = [stage.bearer(client), *(headers.items() if isinstance(headers, dict) else headers)]
    content = b""
    async with (
        httpx.AsyncClient(verify=stage.tls, base_url=f"{stage.edge.url}/{SERVICE}") as http,
        http.stream(method, path, headers=every, content=body) as response,
    ):
        try:
            async for chunk in response.aiter_raw():
                content += chunk
        except httpx.RemoteProtocolError:
            pass  # broken off
    if way == "web text" and response.headers.get("content-type", "").startswith("application/grpc-web-text"):
        content = base64.b64decode(content)
    return Answer(way, response, content)


# --- what a caller may try ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_every_way_of_calling_is_masked(stage, way):
    whole = await ask(stage, way, WHOLLY)
    assert leaks(whole.content), "the provider's answer has what must be hidden"
    seen = await ask(stage, way)
    assert (seen.status, leaks(seen.content)) == (200, [])
    assert "Nguyễn Văn A".encode() in seen.content


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/proto",
        "application/x-protobuf",
        "application/grpc+json",
        "application/grpc+proto2",
        "application/grpc;charset=x",
        "application/grpc+proto; a=b",
        "APPLICATION/GRPC",
        "application/GRPC+json",
        "application/grpc, application/json",
        "application/grpc-web+json",
        "application/grpc-web;v=1",
        "application/connect+proto",
        "text/plain",
        "",
    ],
)
async def test_no_content_type_leads_around(stage, content_type):
    for body in (framed(KEY), KEY, b'{"id": 1}'):
        for path in ("/Get", "/List"):
            answer = await send(stage, content_type, "POST", path, {"content-type": content_type}, body)
            assert leaks(answer.content) == [], (path, body)


@pytest.mark.parametrize(
    "headers",
    [
        {"accept": "application/grpc"},
        {"accept": "application/x-protobuf"},
        {"accept": "text/event-stream"},
        {"accept-encoding": "gzip, br"},
        {"te": "trailers"},
        {"x-http-method-override": "POST"},
        {"x-envoy-original-path": "/x"},
        {"x-envoy-original-method": "POST"},
        {"x-lgsp-client": WHOLLY},
        {"x-lgsp-purpose": "P2"},
        {"x-envoy-upstream-service-time": "1"},
        {"x-grpc-web": "1"},
        {"range": "bytes=0-100"},
    ],
)
@pytest.mark.parametrize("way", ["rest", "rest post", "http1", "web"])
async def test_no_header_leads_around(stage, way, headers):
    answer = await ask(stage, way, **headers)
    assert leaks(answer.content) == []


@pytest.mark.parametrize(
    "path",
    [
        "/v1/records/1?$alt=proto",
        "/v1/records/1?alt=proto",
        "/v1/records/1?$fields=dob",
        "/v1/records/1?fields=dob",
        "/v1/records/1?$prettyPrint=false",
        "/v1/records/1/",
        "/v1//records/1",
        "/v1/records/1:proto",
        "/v1/./records/1",
        "/Get?x=1",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "OPTIONS"])
async def test_no_path_or_verb_of_rest_leads_around(stage, method, path):
    answer = await send(stage, path, method, path, {}, b"{}" if method in {"POST", "PUT"} else b"")
    assert leaks(answer.content) == []
    told = {name: value for name, value in answer.headers.items() if name != "x-request-id"}  # any hex may be in that
    assert not any(leaks(value.encode()) for value in told.values()), told


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "snappy", "GZIP", "identity, gzip", "x"])
async def test_a_compressed_call_of_a_masked_method_is_refused(stage, encoding):
    answer = await ask(stage, "http1", grpc_encoding=encoding)
    assert (answer.headers["x-lgsp-reason"], leaks(answer.content)) == ("ENCODING_REFUSED", [])


async def test_the_sdk_s_compression_has_a_reason(stage):
    assert await stage.refused(SEES, compression=grpc.Compression.Gzip) == "ENCODING_REFUSED"
    assert TABLE["ENCODING_REFUSED"].remedy


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("x-lgsp-purpose", "P1"), ("x-lgsp-purpose", "P2")],
        [("x-lgsp-purpose", "P1,P2")],
        [("x-lgsp-purpose", "p1")],
        [("x-lgsp-purpose", "P.")],
        [("x-lgsp-purpose", ".*")],
        [("x-lgsp-purpose", "P3")],
        [("x-lgsp-purpose", "")],
    ],
)
async def test_a_purpose_is_one_that_was_granted_to_the_letter(stage, headers):
    answer = await send(
        stage, "purpose", "POST", "/Get", [("content-type", "application/grpc"), *headers], framed(KEY), BY_PURPOSE
    )
    assert (answer.headers["x-lgsp-reason"], leaks(answer.content)) == ("PURPOSE_NOT_GRANTED", [])


async def test_a_purpose_shows_what_its_own_grant_shows(stage):
    for purpose, shown in (("P1", {"name": "Nguyễn Văn A"}), ("P2", {"dob": "1990-01-01"})):
        assert stage.dict(await stage.call(BY_PURPOSE, "Get", ("x-lgsp-purpose", purpose))) == shown


async def test_requests_of_masked_methods_arrive_as_they_were_sent(stage):
    asked = {
        "kind": 2,
        "kinds": [1, 2],
        "filter": {"kind": 1, "any_of": [{"kind": 2, "any_of": [{"kind": 1, "text": "sâu"}]}, {"text": "x"}]},
        "by_name": {"a": 2},
        "more": {"không": None, "số": 1.5},
    }
    for method, client in (("Get", SEES), ("Get", WHOLLY), ("Free", SEES)):
        await stage.call(client, method, **asked)
        assert stage.key.FromString(stage.asked[-1]) == stage.key(id=1, **asked), (method, client)
        assert stage.dict(stage.key.FromString(stage.asked[-1]))["more"] == {"không": None, "số": 1.5}


async def test_streams_of_requests_go_on_while_answers_are_masked(stage):
    metadata = (stage.bearer(SEES),)
    requests = [stage.key(id=number, kind=2) for number in range(5)]
    async with stage.edge.channel() as channel:
        send = channel.stream_unary(f"/{SERVICE}/Send", stage.key.SerializeToString, stage.citizen.FromString)
        stage.asked.clear()
        assert stage.dict(await send(iter(requests), metadata=metadata, timeout=10)) == SHOWN
        assert [stage.key.FromString(each) for each in stage.asked] == requests
        both = channel.stream_stream(f"/{SERVICE}/Both", stage.key.SerializeToString, stage.citizen.FromString)
        call = both(metadata=metadata, timeout=10)
        for request in requests:  # each is answered before the next is sent
            await call.write(request)
            assert stage.dict(await call.read()) == SHOWN
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


async def test_a_name_is_no_pattern(stage):
    """Identifiers hold dots: none of them may stand for any letter, here or behind the name's end."""
    real = "H26.15/one-stop"
    others = [
        "H26x15/one-stop",
        "H26.15/one-stopp",
        "xH26.15/one-stop",
        "H26.15/one-sto",
        "H26.15|H26.15/one-stop",
        "(H26.15/one-stop)",
    ]

    def masked(consumer: str, *paths: str) -> Right:
        return Right(Grant(methods=["Get", "List"], masks=[Mask(method="Get", paths=paths)]), frozenset({consumer}))

    try:
        await stage.grant([masked(real, "dob"), *(masked(each, "name") for each in others)], stage.endpoint)
        assert stage.dict(await stage.call(real)) == {"dob": "1990-01-01"}
        for each in others:
            assert stage.dict(await stage.call(each)) == {"name": "Nguyễn Văn A"}, each
        assert await stage.refused("H26.15/one-sto.") == "GRANT_MISSING"
    finally:
        await stage.set(endpoint=stage.endpoint)


async def test_masked_and_unmasked_consumers_at_once_each_see_their_own(stage):
    seen = await asyncio.gather(*(stage.call(SEES if number % 2 else WHOLLY) for number in range(60)))
    assert [stage.dict(each) for each in seen] == [SHOWN if number % 2 else WHOLE for number in range(60)]


async def test_nothing_tells_that_something_was_there(stage):
    """No empty message, no count of them, no key of a map, no chosen member of a oneof."""
    assert stage.dict(await stage.call(SEES)) == SHOWN
    kept = {"former.street", "homes.value.street", "office.street"}
    try:
        masks = [Mask(method="Get", paths=sorted(kept))]
        other = Right(Grant(methods=["Get"], masks=masks), frozenset({"H26/other"}))
        sees = Right(Grant(methods=["Get"], masks=[Mask(method="Get", paths=["name"])]), frozenset({SEES}))
        await stage.grant([other, sees], stage.endpoint)
        assert stage.dict(await stage.call("H26/other")) == {
            "former": [{"street": "cũ 1"}, {"street": "cũ 2"}],
            "homes": {"quê": {"street": "làng"}},
            "office": {"street": "cơ quan"},
        }
        assert stage.dict(await stage.call(SEES)) == {"name": "Nguyễn Văn A"}
    finally:
        await stage.set(endpoint=stage.endpoint)


async def test_a_free_grant_and_one_by_purpose_add_up(stage):
    def right(*paths: str, **terms) -> Right:
        return Right(Grant(methods=["Get"], masks=[Mask(method="Get", paths=paths)], **terms), frozenset({SEES}))

    try:
        await stage.grant([right("name"), right("dob", purposes=[Purpose(code="P")])], stage.endpoint)
        assert stage.dict(await stage.call(SEES)) == {"name": "Nguyễn Văn A"}
        assert stage.dict(await stage.call(SEES, "Get", ("x-lgsp-purpose", "Q"))) == {"name": "Nguyễn Văn A"}
        both = {"name": "Nguyễn Văn A", "dob": "1990-01-01"}
        assert stage.dict(await stage.call(SEES, "Get", ("x-lgsp-purpose", "P"))) == both
    finally:
        await stage.set(endpoint=stage.endpoint)


async def test_a_narrowed_grant_holds_for_the_next_call_and_a_revoked_one_refuses_it(stage):
    try:
        await stage.set(kept={"name"}, endpoint=stage.endpoint)
        assert stage.dict(await stage.call(SEES)) == {"name": "Nguyễn Văn A"}
        await stage.grant([Right(Grant(methods=["Get"]), frozenset({WHOLLY}))], stage.endpoint)
        assert await stage.refused(SEES) == "GRANT_MISSING"
    finally:
        await stage.set(endpoint=stage.endpoint)


# --- what a provider may do --------------------------------------------------------------------------------------------


async def test_fields_that_the_contract_does_not_have_are_removed_at_every_level(stage, raw):
    ward = b"\x08\x04" + UNKNOWN
    address = UNKNOWN + b"\x12" + bytes([len(ward)]) + ward
    raw.says(framed(b"\x0a\x03abc" + UNKNOWN + b"\x1a" + bytes([len(address)]) + address + UNKNOWN))
    message = await stage.call(SEES)
    assert stage.dict(message) == {"name": "abc", "address": {"ward": {"code": 4}}}
    assert leaks(message.SerializeToString()) == []
    for way in WAYS:
        answer = await ask(stage, way)
        assert (answer.status, leaks(answer.content)) == (200, []), way


FIXED = b"\xf9\x01SECRET12"  # field 31 as fixed64
NUMBER = b"\xf8\x01\x2a"  # field 31 as a varint
SHORT = b"\xfd\x01SECR"  # field 31 as fixed32
AGAIN = b"\x12\x041990\x12\x041990"  # a hidden field twice
WRONG = b"\x18\x2a"  # a message's number with a varint


@pytest.mark.parametrize("more", [FIXED, NUMBER, SHORT, AGAIN], ids=["fixed64", "varint", "fixed32", "twice"])
async def test_no_form_of_a_field_goes_through(stage, raw, more):
    raw.says(framed(more + b"\x0a\x03abc" + more))
    message = await stage.call(SEES)
    assert message.SerializeToString() == b"\x0a\x03abc"


async def test_a_field_of_another_kind_than_the_contract_s_takes_the_rest_with_it(stage, raw):
    raw.says(framed(b"\x0a\x03abc" + WRONG + AGAIN))
    message = await stage.call(SEES)
    assert message.SerializeToString() in (b"\x0a\x03abc", b"")


BROKEN = {
    "cut message": lambda answer: (framed(answer + b"\x0a\xff"),),
    "no wire type": lambda answer: (framed(answer + b"\x0f\x0f"),),
    "a group": lambda answer: (framed(answer + b"\xfb\x01SECRET\xfc\x01"),),
    "field zero": lambda answer: (framed(answer + b"\x02\x01a"),),
    "endless number": lambda answer: (framed(answer + b"\xff" * 20),),
    "cut inside": lambda answer: (framed(answer + b"\x1a\x03\x12\x7fa"),),
    "no frame": lambda answer: (answer,),
    "cut frame": lambda answer: (framed(answer)[:-3],),
    "more behind": lambda answer: (framed(answer) + answer,),
    "compressed": lambda answer: (framed(gzip.compress(answer), compressed=True),),
    "said to be compressed": lambda answer: (framed(answer, compressed=True),),
    "unknown flag": lambda answer: (b"\2" + framed(answer)[1:],),
    "as trailers of gRPC-Web": lambda answer: (b"\x80" + framed(answer)[1:],),
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("way", WAYS)
async def test_what_cannot_be_read_is_not_passed_on(stage, raw, how, way):
    raw.says(*BROKEN[how](stage.answer))
    answer = await ask(stage, way)
    assert leaks(answer.content) == []
    # A stream's status is gone when it breaks, and REST has no trailers: there it just ends.
    assert answer.refused or way == "rest post"


@pytest.mark.parametrize("how", BROKEN)
async def test_what_cannot_be_read_is_the_provider_s_fault(stage, raw, how):
    raw.says(*BROKEN[how](stage.answer))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stage.call(SEES)
    assert refusal(caught.value) == ("INTERNAL", "PROVIDER_FAULT")


@pytest.mark.parametrize("status", [200, 201, 299, 400, 404, 500, 503])
@pytest.mark.parametrize(
    "content_type",
    ["application/grpc", "application/json", "application/grpc-web", "application/grpc+json", "application/proto", ""],
)
async def test_an_answer_that_does_not_look_like_grpc_is_not_passed_on(stage, raw, status, content_type):
    if (status, content_type) == (200, "application/grpc"):
        return
    headers = (("content-type", content_type),) if content_type else ()
    for trailers in ((("grpc-status", "0"),), None):
        for chunk in (framed(stage.answer), stage.answer):
            raw.says(chunk, status=status, headers=headers, trailers=trailers)
            for way in WAYS:
                answer = await ask(stage, way)
                assert (leaks(answer.content), answer.refused) == ([], True), (way, trailers)


async def test_an_answer_in_pieces_is_masked_alike(stage, raw):
    whole = framed(stage.answer)
    raw.says(*(whole[at : at + 1] for at in range(len(whole))))
    assert stage.dict(await stage.call(SEES)) == SHOWN


async def test_a_later_message_of_a_stream_is_masked_and_an_unreadable_one_ends_it(stage, raw):
    good = framed(stage.answer)

    async def listed() -> tuple[list[dict], str]:
        seen = []
        async with stage.edge.channel() as channel:
            call = channel.unary_stream(f"/{SERVICE}/List", stage.key.SerializeToString, stage.citizen.FromString)
            try:
                async for each in call(stage.key(id=1), metadata=(stage.bearer(SEES),), timeout=10):
                    assert leaks(each.SerializeToString()) == []
                    seen.append(stage.dict(each))
            except grpc.aio.AioRpcError as error:
                return seen, refusal(error)[1] or error.code().name
        return seen, "OK"

    raw.says(good + good[:10], good[10:] + good, good)
    assert await listed() == ([SHOWN] * 4, "OK")
    raw.says(good, framed(stage.answer + b"\x0f\x0f"), good)
    seen, outcome = await listed()
    assert (seen in ([SHOWN], []), outcome) == (True, "PROVIDER_FAULT")
    assert leaks((await ask(stage, "rest post")).content) == []


async def test_a_server_that_compresses_whoever_asks_is_refused(stage):
    """gRPC's own servers do, with their option `compression`, whatever the caller accepts."""

    async def one(request, context):
        return stage.answer + b"\x5a" + varint(6000) + b"hidden" * 1000  # worth compressing

    handlers = {"Get": grpc.unary_unary_rpc_method_handler(one)}
    server = grpc.aio.server(compression=grpc.Compression.Gzip)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        await stage.set(endpoint=address)
        assert await stage.refused(SEES) == "PROVIDER_FAULT"
        for way in ("rest", "http1", "web"):
            answer = await ask(stage, way)
            assert (leaks(answer.content), answer.refused) == ([], True)
    finally:
        await stage.set(endpoint=stage.endpoint)
        await server.stop(0)


async def test_a_large_answer_is_masked_and_one_too_large_is_refused(stage, raw):
    for size, fits in ((600_000, True), (4_000_000, True), (6_000_000, False)):
        whole = framed(stage.answer + b"\x5a" + varint(size) + b"hidden" + b"x" * (size - 6))
        raw.says(*(whole[at : at + 16384] for at in range(0, len(whole), 16384)))
        for way in ("http1", "web"):
            answer = await ask(stage, way)
            assert leaks(answer.content) == []
            assert ("Nguyễn Văn A".encode() in answer.content) == fits, (way, size)
        if fits:
            assert stage.dict(await stage.call(SEES)) == SHOWN
            assert len((await stage.call(WHOLLY, "Free")).SerializeToString()) > size
        else:
            assert await stage.refused(SEES) == "PROVIDER_FAULT"


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value % 128 + 128]), value // 128
    return out + bytes([value])


async def test_thousands_of_consumers_have_their_views(stage):
    def right(number: int) -> Right:
        masks = [Mask(method="Get", paths=[("name", "dob", "email")[number % 3]])]
        return Right(Grant(methods=["Get"], masks=masks), frozenset({f"H26.{number}/clerk"}))

    try:
        await stage.grant([right(number) for number in range(3000)], stage.endpoint)
        for number in (0, 1, 2999, 1500):
            expected = ({"name": "Nguyễn Văn A"}, {"dob": "1990-01-01"}, {})[number % 3]
            assert stage.dict(await stage.call(f"H26.{number}/clerk")) == expected
        assert await stage.refused("H26.3000/clerk") == "GRANT_MISSING"
    finally:
        await stage.set(endpoint=stage.endpoint)


async def test_errors_of_a_provider_arrive_as_they_are(stage, raw):
    """Their text and details are the provider's own words: no mask reaches there."""
    raw.says(trailers=(("grpc-status", "5"), ("grpc-message", "no such citizen")))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stage.call(SEES)
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.NOT_FOUND, "no such citizen")


async def test_what_could_not_be_masked_is_counted(stage, raw):
    socket = str(stage.edge.folder / "admin.sock")
    before = await mask_alarms(socket)
    raw.says(framed(stage.answer + b"\x0f\x0f"))
    await ask(stage, "http1")
    raw.says(framed(stage.answer, compressed=True))
    await ask(stage, "http1")
    after = await mask_alarms(socket)
    assert after.unreadable_responses == before.unreadable_responses + 2
    # Every test of this file ran through the guard, and it never failed.
    assert (after.guard_errors, after.unknown) == (0, False)
    assert (await mask_alarms(str(stage.edge.folder / "nobody.sock"))).unknown is True
