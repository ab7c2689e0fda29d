"""The registry's API: who may call, agencies, systems, pages; on a real server over a real store."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from joserfc.jwk import ECKey

from lgsp.api.registry.v1 import registry_pb2 as pb
from tests.contract.registry.stage import (
    CONSUMER,
    OPERATOR,
    PROVIDER,
    RPCS,
    following,
    jwks,
    operation,
    refused,
    serving,
)
from tests.support.nats_server import running_nats, until

# --- who -------------------------------------------------------------------------------------------------------------

FOR_OPERATORS = ("CreateAgency", "CreateGrant", "CreateSystem", "RevokeAgency", "RevokeSystem")


@pytest.mark.parametrize("rpc", RPCS)
async def test_who_did_not_come_through_the_gateway_gets_nothing(api, rpc):
    before = api.revision
    for named in ((), ("",), (OPERATOR, OPERATOR), (OPERATOR, PROVIDER)):
        reason, _ = await refused(getattr(api.as_(*named), rpc)())
        assert reason == "GRANT_MISSING", named
    assert api.revision == before


@pytest.mark.parametrize("rpc", FOR_OPERATORS)
async def test_only_an_operator_enrols_and_grants(api, rpc):
    before = api.revision
    for caller in (api.provider, api.as_("H26/nobody")):
        assert (await refused(getattr(caller, rpc)()))[0] == "NOT_OWNER"
    assert api.revision == before


@pytest.mark.parametrize("rpc", RPCS)
async def test_an_empty_request_is_refused_by_reason_or_answered(api, rpc):
    try:
        await getattr(api.operator, rpc)()
    except Exception:
        reason, _ = await refused(getattr(api.operator, rpc)())
        assert reason != "INTERNAL"


async def test_before_the_registry_was_read_nothing_is_called_unknown(tmp_path):
    with running_nats(tmp_path) as server:
        server.kill()
        async with following(server, synced=False) as store, serving(store) as api:
            reason, detail = await refused(api.operator.GetSystem(id=CONSUMER))
    assert reason == "REGISTRY_UNAVAILABLE"
    assert "not read" in detail


async def test_without_nats_reading_goes_on_and_writing_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("lgsp.registry.store.WRITE_BUDGET_S", 0.5)
    with running_nats(tmp_path) as server:
        async with following(server) as store, serving(store) as api:
            await api.enrol()
            await asyncio.to_thread(server.kill)
            await until(lambda: not store.connected)
            assert (await api.consumer.GetSystem(id=CONSUMER)).system.id == CONSUMER
            calls = (
                api.operator.CreateAgency(agency=pb.Agency(id="H26.9")),
                api.operator.RevokeSystem(id=CONSUMER),
                api.publish(),
            )
            for call in calls:
                assert (await refused(call))[0] == "REGISTRY_UNAVAILABLE"
            assert not (await api.consumer.GetSystem(id=CONSUMER)).system.HasField("revoked_at")


# --- agencies --------------------------------------------------------------------------------------------------------

VIETNAMESE = pb.Names(vi="Ủy ban nhân dân phường Văn Miếu – Quốc Tử Giám", en="Ward people’s committee ☂")


async def test_an_agency_comes_back_as_it_was_made(bare):
    agency = pb.Agency(id="H26", names=VIETNAMESE, aliases=["000.00.00.H26"])
    made = await bare.operator.CreateAgency(agency=agency, operation_id=operation())
    assert made.agency == agency
    assert made.revision == bare.revision
    for name in ("H26", "000.00.00.H26"):
        found = await bare.consumer.GetAgency(id=name)
        assert (found.agency, found.revision) == (agency, made.revision)


@pytest.mark.parametrize(
    "agency_id", ["", " ", "H26.", ".H26", "H26..1", "Hà26", "H26/x", "H26*", "H26>", "H" * 201, "a\nb", "Н26"]
)
async def test_a_malformed_agency_id_is_refused(bare, agency_id):
    for agency in (pb.Agency(id=agency_id), pb.Agency(id="H26", aliases=[agency_id])):
        assert (await refused(bare.operator.CreateAgency(agency=agency)))[0] == "IDENTIFIER_INVALID"
    assert bare.revision == 0


async def test_the_same_agency_again_is_the_same_answer_and_another_is_refused(api):
    first = await api.operator.GetAgency(id="H26.1")
    again = await api.operator.CreateAgency(agency=first.agency, operation_id=operation())
    assert (again.agency, again.revision) == (first.agency, first.revision)
    other = pb.Agency(id="H26.1", parent="H26", names=VIETNAMESE)
    assert (await refused(api.operator.CreateAgency(agency=other)))[0] == "ALREADY_EXISTS"


async def test_nothing_new_comes_below_a_revoked_agency_and_it_keeps_resolving(api):
    agency = pb.Agency(id="H26.8", aliases=["000.00.08.H26"])
    await api.operator.CreateAgency(agency=agency)
    first = await api.operator.RevokeAgency(id="H26.8", reason="sáp nhập", operation_id=operation())
    assert first.agency.HasField("revoked_at")
    assert first.agency.revoked_reason == "sáp nhập"
    again = await api.operator.RevokeAgency(id="H26.8", reason="khác", operation_id=operation())
    assert (again.agency, again.revision) == (first.agency, first.revision)
    for name in ("H26.8", "000.00.08.H26"):
        below = api.operator.CreateAgency(agency=pb.Agency(id="H26.8.1", parent=name))
        assert await refused(below) == ("NOT_REGISTERED", "NOT_REGISTERED: the agency H26.8 was revoked")
        assert (await api.consumer.GetAgency(id=name)).agency.revoked_reason == "sáp nhập"
    assert (await refused(api.operator.CreateSystem(system=pb.System(id="H26.8/new"))))[0] == "NOT_REGISTERED"
    assert (await refused(api.operator.CreateAgency(agency=first.agency)))[0] == "REQUEST_MALFORMED"
    assert (await refused(api.operator.RevokeAgency(id="H26.none")))[0] == "NOT_REGISTERED"


async def test_an_operation_repeated_is_written_once(api):
    op = operation()
    first = await api.operator.CreateAgency(agency=pb.Agency(id="H26.7"), operation_id=op)
    changed = pb.Agency(id="H26.7", names=VIETNAMESE)
    again = await api.operator.CreateAgency(agency=changed, operation_id=op)
    assert (again.agency, again.revision) == (first.agency, first.revision)
    assert api.revision == first.revision
    # Another caller's operation is another operation.
    api.operators.add(CONSUMER)
    assert (await refused(api.consumer.CreateAgency(agency=changed, operation_id=op)))[0] == "ALREADY_EXISTS"


@pytest.mark.parametrize("op", ["x" * 201, "a\r\nNats-Rollup: all", "é", "\x00"])
async def test_an_operation_id_that_cannot_travel_is_refused(api, op):
    before = api.revision
    calls = (
        api.operator.CreateAgency(agency=pb.Agency(id="H26.7"), operation_id=op),
        api.operator.RevokeSystem(id=CONSUMER, operation_id=op),
    )
    for call in calls:
        assert (await refused(call))[0] == "IDENTIFIER_INVALID"
    assert api.revision == before


async def test_no_name_means_two_agencies(api):
    create = api.operator.CreateAgency
    await create(agency=pb.Agency(id="H26.3", aliases=["000.00.03.H26"]))
    for agency in (
        pb.Agency(id="H26.4", aliases=["000.00.03.H26"]),
        pb.Agency(id="H26.4", aliases=["H26.1"]),
        pb.Agency(id="000.00.03.H26"),
    ):
        assert (await refused(create(agency=agency)))[0] == "ALREADY_EXISTS"


async def test_an_agency_hangs_below_one_that_is_there(api):
    create = api.operator.CreateAgency
    assert (await refused(create(agency=pb.Agency(id="H26.3", parent="H27"))))[0] == "NOT_REGISTERED"
    assert (await refused(create(agency=pb.Agency(id="H26.3", parent="H26.3"))))[0] == "IDENTIFIER_INVALID"
    loop = pb.Agency(id="H26.3", parent="X", aliases=["X"])
    assert (await refused(create(agency=loop)))[0] == "IDENTIFIER_INVALID"
    await create(agency=pb.Agency(id="H26.3", aliases=["000.00.03.H26"]))
    below = await create(agency=pb.Agency(id="H26.3.1", parent="000.00.03.H26"))
    assert below.agency.parent == "H26.3"
    found = await api.consumer.ListAgencies(parent="H26.3")
    assert [each.id for each in found.agencies] == ["H26.3.1"]


@pytest.mark.parametrize(("rpc", "field"), [("GetAgency", "id"), ("GetSystem", "id"), ("GetGrant", "id")])
@pytest.mark.parametrize("name", ["", "H99", "Hà Nội", "x" * 10_000])
async def test_what_is_not_there_is_not_registered(api, rpc, field, name):
    assert (await refused(getattr(api.consumer, rpc)(**{field: name})))[0] == "NOT_REGISTERED"


async def test_a_record_has_a_size_that_memory_can_bear(api):
    before = api.revision
    names = pb.Names(vi="ộ" * 30_000)
    calls = (
        api.operator.CreateAgency(agency=pb.Agency(id="H26.8", names=names)),
        api.operator.CreateSystem(system=pb.System(id="H26/x", names=names)),
        api.publish(names=names),
    )
    for call in calls:
        assert (await refused(call))[0] == "REQUEST_TOO_LARGE"
    assert api.revision == before


# --- systems ---------------------------------------------------------------------------------------------------------


async def test_a_system_comes_back_with_its_keys_and_without_its_secret(api):
    key = ECKey.generate_key("P-256")
    system = pb.System(
        id="H26.1/một".replace("ộ", "o"),
        names=VIETNAMESE,
        jwks=jwks(key.as_dict(private=False)),
        development_secret="scrypt$a$b",
    )
    made = await api.operator.CreateSystem(system=system, operation_id=operation())
    found = await api.consumer.GetSystem(id=system.id)
    listed = (await api.consumer.ListSystems()).systems
    revoked = await api.operator.RevokeSystem(id=system.id)
    for shown in (made.system, found.system, *listed, revoked.system):
        assert not shown.development_secret
    (kept,) = json.loads(found.system.jwks)["keys"]
    assert (kept["kid"], kept["x"], kept["y"]) == (key.thumbprint(), key.as_dict()["x"], key.as_dict()["y"])
    assert found.system.names == VIETNAMESE
    # It is kept for the token endpoint, also when the system is revoked.
    assert api.store.state.get("system", system.id).record.system.development_secret == "scrypt$a$b"


async def test_the_same_system_again_is_the_same_answer(api):
    system, op = pb.System(id="H26/x", jwks=jwks(), development_secret="scrypt$a$b"), operation()
    first = await api.operator.CreateSystem(system=system, operation_id=op)
    for again in ({"operation_id": op}, {"operation_id": operation()}, {}):
        assert await api.operator.CreateSystem(system=system, **again) == first
    other = pb.System(id="H26/x", jwks=jwks())
    assert (await refused(api.operator.CreateSystem(system=other)))[0] == "ALREADY_EXISTS"


@pytest.mark.parametrize(
    "name", ["", "H26", "H26/", "/x", "H26/x/y", "H26/một", "H26/x y", "H26/" + "x" * 200, "H26/x\r\ny: z"]
)
async def test_a_malformed_system_id_is_refused(api, name):
    assert (await refused(api.operator.CreateSystem(system=pb.System(id=name))))[0] == "IDENTIFIER_INVALID"


async def test_a_system_belongs_to_an_agency_and_is_not_made_revoked(api):
    create = api.operator.CreateSystem
    assert (await refused(create(system=pb.System(id="H27/x"))))[0] == "NOT_REGISTERED"
    for system in (pb.System(id="H26/x", revoked_at=Timestamp(seconds=1)), pb.System(id="H26/x", revoked_reason="x")):
        assert (await refused(create(system=system)))[0] == "REQUEST_MALFORMED"


async def test_a_system_is_revoked_once(api):
    reason, op = "khóa bị lộ", operation()
    first = await api.operator.RevokeSystem(id=CONSUMER, reason=reason, operation_id=op)
    assert first.effective
    assert api.effects[-1] == first.revision
    assert (first.system.revoked_reason, first.system.HasField("revoked_at")) == (reason, True)
    for again in ({"operation_id": op}, {"reason": "another", "operation_id": operation()}):
        assert await api.operator.RevokeSystem(id=CONSUMER, **again) == first
    assert (await api.operator.GetSystem(id=CONSUMER)).system == first.system
    others = (await api.provider.GetSystem(id=CONSUMER)).system
    assert (others.revoked_at, others.revoked_reason) == (first.system.revoked_at, "")
    assert api.revision == first.revision


async def test_what_did_not_reach_the_gateway_yet_is_not_called_effective(api):
    api.effective = False
    assert not (await api.operator.RevokeSystem(id=CONSUMER)).effective


async def test_an_operator_cannot_lock_itself_out_and_nobody_revokes_nobody(api):
    assert (await refused(api.operator.RevokeSystem(id=OPERATOR)))[0] == "NOT_OWNER"
    assert (await refused(api.operator.RevokeSystem(id="H26/nobody")))[0] == "NOT_REGISTERED"


# --- pages -----------------------------------------------------------------------------------------------------------


async def pages(call, field: str, **fields: object) -> list[list[str]]:
    """The ids of every page, to the end."""
    found, token = [], ""
    while True:
        answer = await call(page_token=token, **fields)
        found.append([getattr(each, "id", "") or each.endpoint.id for each in getattr(answer, field)])
        token = answer.next_page_token
        if not token:
            return found


async def test_pages_hold_everything_once_in_order(api):
    for number in range(10, 17):
        await api.operator.CreateAgency(agency=pb.Agency(id=f"H26.{number}", parent="H26"))
    every = sorted(["H26", "H26.1", "H26.2", *(f"H26.{number}" for number in range(10, 17))])
    assert await pages(api.consumer.ListAgencies, "agencies", page_size=4) == [every[:4], every[4:8], every[8:]]
    assert await pages(api.consumer.ListAgencies, "agencies", page_size=10) == [every]
    assert await pages(api.consumer.ListAgencies, "agencies") == [every]
    below = await pages(api.consumer.ListAgencies, "agencies", page_size=5, parent="H26")
    assert below == [every[1:6], every[6:]]
    assert await pages(api.consumer.ListSystems, "systems", page_size=2) == [
        [PROVIDER, CONSUMER],
        [OPERATOR],
    ]


async def test_a_page_goes_on_where_it_was_although_records_come(api):
    first = await api.consumer.ListAgencies(page_size=2)
    await api.operator.CreateAgency(agency=pb.Agency(id="H26.0"))
    second = await api.consumer.ListAgencies(page_size=2, page_token=first.next_page_token)
    assert [each.id for each in first.agencies] == ["H26", "H26.1"]
    assert [each.id for each in second.agencies] == ["H26.2"]


async def test_a_page_token_of_another_request_or_a_changed_one_is_refused(api):
    ask = api.consumer.ListAgencies
    token = (await ask(page_size=1)).next_page_token
    raw = base64.urlsafe_b64decode(token)
    changed = [bytes([*raw[:at], raw[at] ^ 1, *raw[at + 1 :]]) for at in range(len(raw))]
    tampered = [
        base64.urlsafe_b64encode(each).decode() for each in (*changed, raw[:-1], raw[:8], raw + b"x", b"\xff" * 12)
    ]
    for bad in (*tampered, "x", "é", token + "!", "\x00", token * 1000):
        assert (await refused(ask(page_size=1, page_token=bad)))[0] == "PAGE_TOKEN_INVALID", bad[:40]
    for call in (ask(parent="H26", page_token=token), api.consumer.ListGrants(page_token=token)):
        assert (await refused(call))[0] == "PAGE_TOKEN_INVALID"
    assert (await ask(page_size=5, page_token=token)).agencies


async def test_a_negative_page_is_refused(api):
    for rpc in ("ListAgencies", "ListSystems", "ListServices", "ListEndpoints", "ListGrants"):
        assert (await refused(getattr(api.consumer, rpc)(page_size=-1)))[0] == "REQUEST_MALFORMED"
