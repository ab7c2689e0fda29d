"""The steps of the demo, in the order in which they are shown. Each is a claim and the call that proves it."""

from __future__ import annotations

import json
import secrets
import ssl
import time
from typing import Any, Final

import grpc
import httpx

from lgsp import client
from lgsp.api.demo.admunits.v1 import admunits_pb2
from lgsp.api.demo.admunits.v1.admunits_pb2_grpc import AdministrativeUnitServiceStub
from lgsp.api.demo.population.v1 import population_pb2
from lgsp.api.demo.population.v1.population_pb2_grpc import PopulationServiceStub
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.cli.demo import database
from lgsp.cli.demo.city import POPULATION, SHOP, UNITS
from lgsp.cli.demo.figures import measure
from lgsp.cli.demo.stage import Outcome, Stage, Step, expect, milliseconds, refused, request_id
from lgsp.cli.records import new_operation

_WARDS_OF_HANOI: Final = 126
_GRANT: Final = "demo-shop-counts-citizens"
_TRACE_WAIT_S: Final = 15.0
_FIRST_WARD: Final = 70


async def agencies(stage: Stage) -> Outcome:
    """Hà Nội's wards become agencies of the city. (Their identifiers are the demo's own: the city has not given any.)"""
    for ward in database.hanoi_wards():
        names = pb.Names(vi=ward["name"], en=ward["name"])
        made = pb.Agency(id=f"H26.ward-{ward['code']}", names=names, parent="H26")
        await stage.registry.CreateAgency(pb.CreateAgencyRequest(agency=made, operation_id=new_operation()))
    answer = await stage.registry.ListAgencies(pb.ListAgenciesRequest(parent="H26", page_size=1000))
    wards = [each for each in answer.agencies if each.id.startswith("H26.ward-")]
    expect(len(wards) == _WARDS_OF_HANOI, f"{len(wards)} wards are registered")
    return Outcome(f"{len(wards)} wards of Hà Nội are agencies of the city, from {wards[0].names.vi}")


async def unary(stage: Stage) -> Outcome:
    call = AdministrativeUnitServiceStub(stage.shop).GetProvince(admunits_pb2.GetProvinceRequest(code=database.HANOI))
    province = await call
    expect(province.ward_count == _WARDS_OF_HANOI, f"{province.ward_count} wards were answered")
    return Outcome(f"GetProvince(1) = {province.name}, {province.ward_count} wards", await request_id(call))


async def stream(stage: Stage) -> Outcome:
    stub = AdministrativeUnitServiceStub(stage.shop)
    call = stub.StreamWards(admunits_pb2.StreamWardsRequest(province_code=database.HANOI))
    names = [ward.name async for ward in call]
    expect(len(set(names)) == _WARDS_OF_HANOI, f"{len(set(names))} wards were streamed")
    return Outcome(f"StreamWards(1) = {len(names)} wards, {names[0]} … {names[-1]}", await request_id(call))


async def rest(stage: Stage) -> Outcome:
    """The same contract by REST, as any HTTP client would, with a token of its own."""
    node = stage.node
    path = f"/{UNITS}/v1/wards/{_FIRST_WARD}"
    async with httpx.AsyncClient(verify=_trust(stage)) as http:
        token = await _token(stage, http)
        answer = await http.get(f"{node.issuer}{path}", headers={"authorization": f"Bearer {token}"})
    expect(answer.status_code == 200, f"HTTP {answer.status_code}: {answer.text[:200]}")
    body = answer.json()
    expect(body.get("code") == _FIRST_WARD, f"{body} was answered")
    curl = f'curl --cacert {node.layout.ca} -H "authorization: Bearer $TOKEN" {node.issuer}{path}'
    return Outcome(f"{json.dumps(body, ensure_ascii=False)}\n{curl}", answer.headers.get("x-request-id", ""))


async def plain_stub(stage: Stage) -> Outcome:
    """No SDK: stock grpcio, a generated stub and a token."""
    async with httpx.AsyncClient(verify=_trust(stage)) as http:
        token = await _token(stage, http)
    credentials = grpc.ssl_channel_credentials(stage.node.layout.ca.read_bytes())
    async with grpc.aio.secure_channel(stage.node.target, credentials) as channel:
        stub = AdministrativeUnitServiceStub(channel)
        call = stub.GetWard(
            admunits_pb2.GetWardRequest(code=_FIRST_WARD), metadata=(("authorization", f"Bearer {token}"),), timeout=10
        )
        ward = await call
        found = await request_id(call)
    expect(ward.code == _FIRST_WARD, f"{ward} was answered")
    return Outcome(
        f"grpc.aio.secure_channel, stock stub: GetWard({_FIRST_WARD}) = {ward.name}, {ward.province_name}", found
    )


async def refusal(stage: Stage) -> Outcome:
    told = await refused(_count(stage))
    expect(told.reason == "GRANT_MISSING", f"{told.code().name}, {told.reason}")
    return Outcome(f"{told.code().name}, reason {told.reason}: {told.remedy}", told.request_id or "")


async def grant(stage: Stage) -> Outcome:
    made = pb.Grant(id=_GRANT, consumer=SHOP, service=POPULATION, methods=["CountCitizens"])
    began = time.perf_counter()
    answer = await stage.registry.CreateGrant(pb.CreateGrantRequest(grant=made, operation_id=new_operation()))
    took = milliseconds(began)
    expect(answer.effective, "the gateway did not confirm the grant")
    call = _count(stage)
    counted = await call
    each = database.CITIZENS // _WARDS_OF_HANOI
    expect(counted.citizens == each, f"{counted.citizens} citizens were counted")
    return Outcome(
        f"granted and in effect in {took:.0f} ms: CountCitizens = {counted.citizens:,} synthetic citizens",
        await request_id(call),
    )


async def revocation(stage: Stage) -> Outcome:
    """On the channel that was open, and answered, all along."""
    await _count(stage)
    request = pb.RevokeGrantRequest(id=_GRANT, reason="demo", operation_id=new_operation())
    began = time.perf_counter()
    answer = await stage.registry.RevokeGrant(request)
    took = milliseconds(began)
    expect(answer.effective, "the gateway did not confirm the revocation")
    told = await refused(_count(stage))
    expect(told.reason == "GRANT_MISSING", f"{told.code().name}, {told.reason}")
    return Outcome(
        f"revoked and in effect in {took:.0f} ms; the next call on the same channel: {told.reason}",
        told.request_id or "",
    )


async def trace(stage: Stage) -> Outcome:
    trace_id = secrets.token_hex(16)
    parent = f"00-{trace_id}-{secrets.token_hex(8)}-01"
    stub = AdministrativeUnitServiceStub(stage.shop)
    call = stub.GetWard(admunits_pb2.GetWardRequest(code=_FIRST_WARD), metadata=(("traceparent", parent),))
    await call
    spans = await stage.collector.wait_for(trace_id, {"lgsp-gateway", "lgsp-adapter"}, _TRACE_WAIT_S)
    seen = {span.service for span in spans}
    expect({"lgsp-gateway", "lgsp-adapter"} <= seen, f"spans came only from {sorted(seen) or 'nobody'}")
    text = ", ".join(f"{span.service} {span.duration_ms:.1f} ms" for span in spans)
    return Outcome(f"trace {trace_id}: {text}", await request_id(call))


STEPS: Final[tuple[tuple[str, Step], ...]] = (
    ("agencies", agencies),
    ("unary call", unary),
    ("server stream", stream),
    ("REST", rest),
    ("plain stub", plain_stub),
    ("refusal", refusal),
    ("grant", grant),
    ("revocation", revocation),
    ("trace", trace),
    ("figures", measure),
)


def _count(stage: Stage) -> Any:
    return PopulationServiceStub(stage.shop).CountCitizens(population_pb2.CountCitizensRequest(ward_code=_FIRST_WARD))


def _trust(stage: Stage) -> Any:
    return ssl.create_default_context(cafile=str(stage.node.layout.ca))


async def _token(stage: Stage, http: httpx.AsyncClient) -> str:
    """An access token by RFC 7523, without the SDK's channel."""
    url = f"{stage.node.issuer}/oauth2/token"
    assertion = client.Identity.load(SHOP, stage.key_of(SHOP)).assertion(url)
    kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    form = {"grant_type": "client_credentials", "client_assertion_type": kind, "client_assertion": assertion}
    answer = await http.post(url, data=form)
    expect(answer.status_code == 200, f"no token: HTTP {answer.status_code}: {answer.text[:200]}")
    return str(answer.json()["access_token"])
