"""Rights on a real Envoy: purposes, rates, used-up days, and fields that a consumer must never see however it asks."""

from __future__ import annotations

import base64

import grpc
import httpx
import pytest
import pytest_asyncio

from lgsp.gateway.xds.policy import Limit
from tests.contract.envoy.stage import (
    BY_PURPOSE,
    CAPPED,
    LEAVES,
    SEES,
    SERVICE,
    SPENT,
    WHOLE,
    WHOLLY,
    bare,
    only,
    staged,
)
from tests.support.edge import refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory):
    async with staged(tmp_path_factory.mktemp("r")) as made:
        yield made


async def test_only_named_fields_arrive(stage):
    assert stage.dict(await stage.call(WHOLLY)) == WHOLE
    assert bare(stage.dict(await stage.call(SEES))) == {"name": "Nguyễn Văn A", "address": {"ward": {"code": 4}}}


async def test_messages_larger_than_a_window_are_masked_too(stage):
    kept, text = stage.answer, "x" * (3 << 20)
    try:
        stage.answer = stage.citizen(name=text, dob="1990-01-01").SerializeToString()
        assert stage.dict(await stage.call(SEES)) == {"name": text}
    finally:
        stage.answer = kept


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
    async with httpx.AsyncClient(verify=stage.tls, base_url=stage.edge.url) as http:
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
    async with httpx.AsyncClient(verify=stage.tls, base_url=stage.edge.url) as http:
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
