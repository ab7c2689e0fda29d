"""The data plane on a real Envoy: who gets in, what reaches the provider, and how each refusal reads."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import time

import grpc
import httpx
import pytest
from joserfc.jwk import ECKey

from lgsp.api.demo.admunits.v1.admunits_pb2 import GetWardRequest, GetWardResponse, StreamWardsRequest
from lgsp.api.demo.admunits.v1.admunits_pb2_grpc import AdministrativeUnitServiceStub
from lgsp.gateway.xds import clusters, policy, resources
from lgsp.gateway.xds.cache import Resource
from tests.support.edge import CONTRACT, SERVICE, Edge, refusal, running_edge


@pytest.fixture
async def edge(tmp_path_factory):
    async with running_edge(tmp_path_factory.mktemp("e")) as running:
        yield running


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


async def get_ward(edge: Edge, metadata=(), path: str = f"/{SERVICE}/GetWard") -> GetWardResponse:
    async with edge.channel() as channel:
        call = channel.unary_unary(path, GetWardRequest.SerializeToString, GetWardResponse.FromString)
        return await call(GetWardRequest(code=4), metadata=metadata, timeout=10)


async def refused(edge: Edge, metadata=(), path: str = f"/{SERVICE}/GetWard") -> tuple[str, str | None]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await get_ward(edge, metadata, path)
    headers = dict(caught.value.trailing_metadata() or ()) | dict(caught.value.initial_metadata() or ())
    assert headers["x-request-id"]
    return refusal(caught.value)


async def test_granted_calls_pass_with_the_gateways_headers_only(edge):
    spoofed = (("x-lgsp-client", "H26/evil"), ("x-lgsp-agency", "H99"), ("x-request-id", "mine"), ("baggage", "a=b"))
    answer = await get_ward(edge, (*bearer(edge.token()), *spoofed))
    assert answer.name == "Phường Hoàn Kiếm"
    seen = edge.units.seen[-1]
    assert (seen["x-lgsp-client"], seen["x-lgsp-agency"]) == ("H26/caller", "H26")
    assert seen["x-request-id"] != "mine"
    assert not seen.keys() & {"authorization", "baggage", "x-lgsp-token"}


async def test_server_streams_pass(edge):
    async with edge.channel() as channel:
        stream = AdministrativeUnitServiceStub(channel).StreamWards(
            StreamWardsRequest(province_code=1), metadata=bearer(edge.token()), timeout=10
        )
        assert [ward.code async for ward in stream] == [0, 1, 2]


async def test_bad_tokens_are_refused_each_with_its_reason(edge):
    now = int(time.time())
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    cases = {
        "TOKEN_MISSING": (),
        "TOKEN_EXPIRED": bearer(edge.token(iat=now - 300, exp=now - 60)),
        "TOKEN_WRONG_AUDIENCE": bearer(edge.token(aud="https://elsewhere")),
        "TOKEN_MALFORMED": bearer("not.a.token"),
    }
    for reason, metadata in cases.items():
        assert await refused(edge, metadata) == ("UNAUTHENTICATED", reason)
    assert await refused(edge, bearer(edge.token(iss="https://elsewhere"))) == ("UNAUTHENTICATED", "TOKEN_UNTRUSTED")
    foreign = edge.token(key=ECKey.generate_key("P-256"))
    assert await refused(edge, bearer(foreign)) == ("UNAUTHENTICATED", "TOKEN_UNTRUSTED")
    unsigned = ".".join((none, edge.token().split(".")[1], ""))
    assert (await refused(edge, bearer(unsigned)))[0] == "UNAUTHENTICATED"
    eternal = edge.token(exp=now + 86400)
    assert (await refused(edge, bearer(eternal)))[0] == "UNAUTHENTICATED"
    assert not edge.units.seen


async def test_nobody_passes_without_a_grant(edge):
    stranger = bearer(edge.token(client_id="H26/stranger"))
    assert await refused(edge, stranger) == ("PERMISSION_DENIED", "GRANT_MISSING")
    nameless = bearer(edge.token(client_id=None))
    assert await refused(edge, nameless) == ("PERMISSION_DENIED", "GRANT_MISSING")
    assert not edge.units.seen


async def test_unknown_names_are_refused(edge):
    mine = bearer(edge.token())
    assert await refused(edge, mine, "/no.such.Service/Get") == ("UNIMPLEMENTED", "SERVICE_UNKNOWN")
    assert await refused(edge, mine, f"/{SERVICE}/NoSuchMethod") == ("UNIMPLEMENTED", "METHOD_UNKNOWN")
    assert await refused(edge, (), "/no.such.Service/Get") == ("UNAUTHENTICATED", "TOKEN_MISSING")


async def test_a_grant_and_its_end_take_effect_on_a_live_channel(edge):
    async with edge.channel() as channel:
        stub = AdministrativeUnitServiceStub(channel)
        mine = bearer(edge.token(client_id="H26/late"))
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.GetWard(GetWardRequest(code=1), metadata=mine, timeout=10)
        await edge.apply(Resource.of(SERVICE, resources.service_routes(edge.service("H26/caller", "H26/late"))))
        assert (await stub.GetWard(GetWardRequest(code=1), metadata=mine, timeout=10)).code == 1
        await edge.apply(Resource.of(SERVICE, resources.service_routes(edge.service("H26/caller"))))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetWard(GetWardRequest(code=1), metadata=mine, timeout=10)
        assert refusal(caught.value) == ("PERMISSION_DENIED", "GRANT_MISSING")


async def test_revoked_systems_and_tokens_are_refused(edge):
    trust = edge.trust(revoked_systems=frozenset({"H26/caller"}), revoked_tokens=frozenset({"stolen"}))
    await edge.apply(
        Resource.of(SERVICE, resources.service_routes(edge.service("H26/caller", "H26/other"))),
        Resource.of(resources.REVOKED, resources.revoked_filter(trust)),
    )
    assert await refused(edge, bearer(edge.token())) == ("UNAUTHENTICATED", "TOKEN_REVOKED")
    other = {"client_id": "H26/other"}
    assert await refused(edge, bearer(edge.token(jti="stolen", **other))) == ("UNAUTHENTICATED", "TOKEN_REVOKED")
    assert (await get_ward(edge, bearer(edge.token(jti="fine", **other)))).code == 4


async def test_rest_obeys_the_same_lists(edge):
    async with httpx.AsyncClient(verify=_trusting(edge), base_url=edge.url, http2=False) as client:
        path = f"/{SERVICE}/v1/wards/4"
        answer = await client.get(path, headers=dict(bearer(edge.token())))
        assert (answer.status_code, answer.json()["name"]) == (200, "Phường Hoàn Kiếm")
        assert "x-envoy-original-path" not in edge.units.seen[-1]
        expected = {
            "TOKEN_MISSING": (401, await client.get(path)),
            "GRANT_MISSING": (403, await client.get(path, headers=dict(bearer(edge.token(client_id="H26/x"))))),
            "METHOD_UNKNOWN": (404, await client.get(f"/{SERVICE}/v1/none", headers=dict(bearer(edge.token())))),
            "SERVICE_UNKNOWN": (404, await client.get("/no.Such/v1", headers=dict(bearer(edge.token())))),
            "REQUEST_MALFORMED": (
                400,
                await client.get(f"/{SERVICE}/v1/wards/bốn", headers=dict(bearer(edge.token()))),
            ),
        }
        for reason, (status, got) in expected.items():
            assert (got.status_code, got.headers["x-lgsp-reason"]) == (status, reason)
            assert got.json()["details"][0] | {"metadata": 0} == {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": reason,
                "domain": "lgsp",
                "metadata": 0,
            }
            assert got.headers["x-request-id"]


async def test_other_content_types_never_reach_the_provider(edge):
    async with httpx.AsyncClient(verify=_trusting(edge), base_url=edge.url) as client:
        for content_type in ("application/proto", "application/grpc+json", "text/plain", ""):
            headers = dict(bearer(edge.token())) | {"content-type": content_type}
            got = await client.post(f"/{SERVICE}/GetWard", headers=headers, content=b"\x00\x00\x00\x00\x00")
            assert got.headers.get("x-lgsp-reason", got.headers.get("grpc-status")) not in (None, "0")
    assert not edge.units.seen


async def test_path_tricks_are_refused(edge):
    tricks = (
        f"/oauth2/..%2f{SERVICE}/GetWard",
        f"/oauth2/%2e%2e/{SERVICE}/GetWard",
        f"//{SERVICE}//GetWard",
        f"/x/../{SERVICE}/GetWard",
    )
    for trick in tricks:
        code, _ = await refused(edge, (), trick)
        assert code in ("UNAUTHENTICATED", "INVALID_ARGUMENT", "UNIMPLEMENTED")
    assert not edge.units.seen


async def test_grpc_web_with_cors(edge):
    origin = "https://portal.hanoi.test"
    await edge.apply(Resource.of(SERVICE, resources.service_routes(edge.service("H26/caller", origins=(origin,)))))
    async with httpx.AsyncClient(verify=_trusting(edge), base_url=edge.url) as client:
        asked = {"origin": origin, "access-control-request-method": "POST"}
        preflight = await client.options(f"/{SERVICE}/GetWard", headers=asked)
        assert preflight.headers["access-control-allow-origin"] == origin
        foreign = await client.options(f"/{SERVICE}/GetWard", headers=asked | {"origin": "https://evil.test"})
        assert "access-control-allow-origin" not in foreign.headers
        body = GetWardRequest(code=9).SerializeToString()
        headers = dict(bearer(edge.token())) | {"content-type": "application/grpc-web+proto", "origin": origin}
        got = await client.post(
            f"/{SERVICE}/GetWard", headers=headers, content=b"\x00" + len(body).to_bytes(4, "big") + body
        )
        size = int.from_bytes(got.content[1:5], "big")
        assert GetWardResponse.FromString(got.content[5 : 5 + size]).code == 9
        assert b"grpc-status:0" in got.content[5 + size :].replace(b" ", b"")


async def test_a_rejected_resource_keeps_the_last_good_one_and_is_told(edge):
    bad = edge.service("H26/caller")
    message = resources.service_routes(bad)
    message.virtual_hosts[0].routes[0].match.headers[0].string_match.safe_regex.regex = "("
    generation = edge.ads.update([Resource.of(SERVICE, message)])
    assert not await edge.ads.settled(generation, 10), "what Envoy refused is not in effect"
    rejection = edge.ads.rejections[Resource.of(SERVICE, message).type_url, SERVICE]
    assert "missing )" in rejection.message
    assert (await get_ward(edge, bearer(edge.token()))).code == 4
    await edge.apply(Resource.of(SERVICE, resources.service_routes(bad)))


async def test_the_log_names_the_call_but_no_personal_path(edge):
    async with httpx.AsyncClient(verify=_trusting(edge), base_url=edge.url) as client:
        got = await client.get(f"/{SERVICE}/v1/wards/424242", headers=dict(bearer(edge.token())))
    wanted = got.headers["x-request-id"]
    line = await _log_line(edge, wanted)
    assert (line["client"], line["route"], line["grpc_status"]) == ("H26/caller", f"{SERVICE}/GetWard", "OK")
    assert "424242" not in edge.access_log.read_text(encoding="utf-8")


async def _log_line(edge: Edge, request_id: str) -> dict[str, object]:
    async with asyncio.timeout(5):
        while True:
            for text in edge.access_log.read_text(encoding="utf-8").splitlines():
                line = json.loads(text)
                if line["request_id"] == request_id:
                    return line
            await asyncio.sleep(0.05)


def _trusting(edge: Edge):
    return ssl.create_default_context(cadata=edge.certificate.decode())


async def test_rest_is_told_in_json_that_nobody_answers(edge):
    nobody = policy.ServicePolicy(SERVICE, edge.service("H26/caller").methods, (), CONTRACT)
    await edge.apply(Resource.of(SERVICE, clusters.endpoints(nobody)))
    headers = dict(bearer(edge.token())) | {"x-lgsp-rest": "forged"}
    async with httpx.AsyncClient(verify=_trusting(edge), base_url=edge.url) as client:
        got = await client.get(f"/{SERVICE}/v1/wards/4", headers=headers)
    assert (got.status_code, got.headers["content-type"]) == (503, "application/json")
    assert got.json()["details"][0]["reason"] == "PROVIDER_UNAVAILABLE"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await get_ward(edge, (*bearer(edge.token()), ("x-lgsp-rest", "forged")))
    assert refusal(caught.value) == ("UNAVAILABLE", "PROVIDER_UNAVAILABLE")
    await edge.apply(Resource.of(SERVICE, clusters.endpoints(edge.service("H26/caller"))))
    assert (await get_ward(edge, bearer(edge.token()))).code == 4
