"""The registry's API: grants, their methods, their time, their end."""

from __future__ import annotations

import asyncio

import pytest

from lgsp.api.registry.v1 import registry_pb2 as pb
from tests.contract.registry.stage import CONSUMER, OPERATOR, PROVIDER, SERVICE, operation, refused


@pytest.fixture
async def granting(api):
    """The API with a service to grant."""
    await api.publish()
    return api


def terms(grant: pb.Grant) -> pb.Grant:
    """A grant without what the registry adds."""
    made = pb.Grant()
    made.CopyFrom(grant)
    for name in ("state", "steps"):
        made.ClearField(name)
    return made


def a_grant(**changed: object) -> pb.Grant:
    return pb.Grant(**({"id": "g", "consumer": CONSUMER, "service": SERVICE, "methods": ["GetWard"]} | changed))


async def test_a_grant_comes_back_as_it_was_made(granting):
    grant = a_grant(methods=["GetWard", "GetProvince"], not_before={"seconds": 1000}, not_after={"seconds": 2000})
    made = await granting.operator.CreateGrant(grant=grant, operation_id=operation())
    assert (terms(made.grant), made.grant.state, made.effective) == (grant, pb.GRANT_STATE_ACTIVE, True)
    assert granting.effects[-1] == made.revision
    found = await granting.consumer.GetGrant(id="g")
    assert (found.grant, found.revision) == (made.grant, made.revision)


async def test_a_grant_that_has_not_reached_the_gateway_is_not_called_effective(granting):
    granting.effective = False
    assert not (await granting.operator.CreateGrant(grant=a_grant())).effective


async def test_a_grant_without_id_gets_one(granting):
    first = await granting.operator.CreateGrant(grant=a_grant(id=""))
    second = await granting.operator.CreateGrant(grant=a_grant(id=""))
    assert first.grant.id
    assert first.grant.id != second.grant.id


@pytest.mark.parametrize("chosen", ["", "mine"])
async def test_a_grant_repeated_is_written_once(granting, chosen):
    op = operation()
    create = granting.operator.CreateGrant
    first = await create(grant=a_grant(id=chosen), operation_id=op)
    assert await create(grant=a_grant(id=chosen), operation_id=op) == first
    assert await create(grant=a_grant(id=chosen, methods=["*"]), operation_id=op) == first
    await granting.operator.RevokeSystem(id=CONSUMER)
    assert await create(grant=a_grant(id=chosen), operation_id=op) == first
    assert len((await granting.consumer.ListGrants()).grants) == 1


async def test_the_same_operation_at_once_is_written_once(granting):
    op = operation()
    create = granting.operator.CreateGrant
    answers = await asyncio.gather(*(create(grant=a_grant(id=""), operation_id=op) for _ in range(8)))
    assert len({(answer.grant.id, answer.revision) for answer in answers}) == 1
    assert len((await granting.consumer.ListGrants()).grants) == 1


async def test_another_grant_under_the_same_id_is_refused(granting):
    first = await granting.operator.CreateGrant(grant=a_grant())
    again = await granting.operator.CreateGrant(grant=a_grant(), operation_id=operation())
    assert again == first
    wider = a_grant(methods=["*"])
    assert (await refused(granting.operator.CreateGrant(grant=wider, operation_id=operation())))[0] == "ALREADY_EXISTS"
    assert list((await granting.consumer.GetGrant(id="g")).grant.methods) == ["GetWard"]


@pytest.mark.parametrize("grant_id", ["G", "-a", "a-", "a_b", "quyền", "a b", "x" * 65, "a.b", "a\n"])
async def test_a_malformed_grant_id_is_refused(granting, grant_id):
    assert (await refused(granting.operator.CreateGrant(grant=a_grant(id=grant_id))))[0] == "IDENTIFIER_INVALID"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"methods": ["Drop"]}, "METHOD_UNKNOWN"),
        ({"methods": ["getward"]}, "METHOD_UNKNOWN"),
        ({"methods": ["GetWard", "Drop"]}, "METHOD_UNKNOWN"),
        ({"methods": ["*", "GetWard"]}, "METHOD_UNKNOWN"),
        ({"methods": ["*", "*"]}, "METHOD_UNKNOWN"),
        ({"methods": ["Get*"]}, "METHOD_UNKNOWN"),
        ({"methods": [""]}, "METHOD_UNKNOWN"),
        ({"methods": ["Xoá" * 100]}, "METHOD_UNKNOWN"),
        ({"methods": []}, "REQUEST_MALFORMED"),
        ({"consumer": "H26/nobody"}, "NOT_REGISTERED"),
        ({"consumer": ""}, "REQUEST_MALFORMED"),
        ({"agency": "H26"}, "REQUEST_MALFORMED"),
        ({"consumer": "", "agency": "H26.404"}, "NOT_REGISTERED"),
        ({"consumer": "", "group": "nobody-made-it"}, "NOT_REGISTERED"),
        ({"rate": -1}, "REQUEST_MALFORMED"),
        ({"daily_quota": -1}, "REQUEST_MALFORMED"),
        ({"masks": [{"method": "GetWard", "paths": ["nothing"]}]}, "MASK_INVALID"),
        ({"masks": [{"method": "GetWard", "paths": []}]}, "MASK_INVALID"),
        ({"masks": [{"method": "GetProvince", "paths": ["name"]}]}, "MASK_INVALID"),
        ({"masks": [{"method": "GetWard", "paths": ["name"]}] * 2}, "MASK_INVALID"),
        ({"purposes": [{"code": "có dấu"}]}, "PURPOSE_INVALID"),
        ({"purposes": [{"code": "p"}, {"code": "p"}]}, "PURPOSE_INVALID"),
        ({"consumer": "", "group": "everyone", "rate": 1}, "GRANT_TERMS_REFUSED"),
        ({"service": "a.b.Unknown"}, "NOT_REGISTERED"),
        ({"service": ""}, "NOT_REGISTERED"),
        ({"revoked_at": {"seconds": 1}}, "REQUEST_MALFORMED"),
        ({"revoked_reason": "x"}, "REQUEST_MALFORMED"),
        ({"not_before": {"seconds": 2000}, "not_after": {"seconds": 1000}}, "REQUEST_MALFORMED"),
        ({"not_before": {"seconds": 2000}, "not_after": {"seconds": 2000}}, "REQUEST_MALFORMED"),
        (
            {"not_before": {"seconds": 2000, "nanos": 5}, "not_after": {"seconds": 2000, "nanos": 5}},
            "REQUEST_MALFORMED",
        ),
        ({"not_before": {"seconds": 10**12}}, "REQUEST_MALFORMED"),
        ({"not_after": {"seconds": -(10**12)}}, "REQUEST_MALFORMED"),
        ({"not_after": {"seconds": 2**63 - 1}}, "REQUEST_MALFORMED"),
        ({"not_after": {"nanos": -1}}, "REQUEST_MALFORMED"),
        ({"not_after": {"nanos": 10**9}}, "REQUEST_MALFORMED"),
        ({"methods": ["GetWard"] * 9000}, "REQUEST_TOO_LARGE"),
    ],
    ids=str,
)
async def test_a_grant_that_means_nothing_is_refused(granting, changed, expected):
    before = granting.revision
    assert (await refused(granting.operator.CreateGrant(grant=a_grant(**changed))))[0] == expected
    assert granting.revision == before


@pytest.mark.parametrize(
    "times",
    [
        {},
        {"not_before": {"seconds": 2000}},
        {"not_after": {"seconds": 2000}},
        {"not_before": {"seconds": 2000}, "not_after": {"seconds": 2000, "nanos": 1}},
        {"not_before": {"seconds": -62135596800}, "not_after": {"seconds": 253402300799, "nanos": 999_999_999}},
    ],
    ids=str,
)
async def test_any_time_that_exists_is_taken(granting, times):
    grant = (await granting.operator.CreateGrant(grant=a_grant(**times))).grant
    assert terms(grant) == a_grant(**times)


async def test_a_star_means_every_method(granting):
    assert list((await granting.operator.CreateGrant(grant=a_grant(methods=["*"]))).grant.methods) == ["*"]


async def test_neither_a_revoked_system_nor_a_retired_service_gets_a_grant(granting):
    await granting.operator.RevokeSystem(id=CONSUMER)
    reason, detail = await refused(granting.operator.CreateGrant(grant=a_grant()))
    assert (reason, "was revoked" in detail) == ("NOT_REGISTERED", True)
    await granting.operator.RetireService(name=SERVICE)
    reason, detail = await refused(granting.operator.CreateGrant(grant=a_grant(consumer=PROVIDER)))
    assert (reason, "was retired" in detail) == ("NOT_REGISTERED", True)


async def test_a_grant_is_revoked_once(granting):
    await granting.operator.CreateGrant(grant=a_grant())
    assert (await refused(granting.as_("H26.1/other").RevokeGrant(id="g")))[0] == "NOT_OWNER"
    op = operation()
    first = await granting.operator.RevokeGrant(id="g", reason="hết thời hạn thoả thuận", operation_id=op)
    assert (first.effective, first.grant.HasField("revoked_at")) == (True, True)
    assert first.grant.revoked_reason == "hết thời hạn thoả thuận"
    assert granting.effects[-1] == first.revision
    for again in ({"operation_id": op}, {"operation_id": operation(), "reason": "another"}, {}):
        assert await granting.operator.RevokeGrant(id="g", **again) == first
    assert granting.revision == first.revision
    # What was revoked does not come back under its id.
    assert (await refused(granting.operator.CreateGrant(grant=a_grant())))[0] == "ALREADY_EXISTS"


async def test_a_long_reason_is_cut_at_a_letter(granting):
    await granting.operator.CreateGrant(grant=a_grant())
    assert (await granting.operator.RevokeGrant(id="g", reason="ộ" * 9000)).grant.revoked_reason == "ộ" * 500


async def test_a_grant_that_is_not_there_is_not_revoked(granting):
    assert (await refused(granting.operator.RevokeGrant(id="gone")))[0] == "NOT_REGISTERED"


async def test_grants_are_listed_by_consumer_and_service(granting):
    for grant in (a_grant(id="a"), a_grant(id="b", consumer=PROVIDER), a_grant(id="c")):
        await granting.operator.CreateGrant(grant=grant)

    async def ids(**wanted: str) -> list[str]:
        return [grant.id for grant in (await granting.provider.ListGrants(**wanted)).grants]

    assert await ids() == ["a", "b", "c"]
    assert await ids(consumer=CONSUMER) == ["a", "c"]
    assert await ids(consumer=PROVIDER, service=SERVICE) == ["b"]
    assert await ids(service="a.b.Unknown") == []
    first = await granting.provider.ListGrants(consumer=CONSUMER, page_size=1)
    second = await granting.provider.ListGrants(consumer=CONSUMER, page_size=1, page_token=first.next_page_token)
    assert [grant.id for answer in (first, second) for grant in answer.grants] == ["a", "c"]
    assert second.next_page_token == ""
    reason, _ = await refused(granting.provider.ListGrants(consumer=PROVIDER, page_token=first.next_page_token))
    assert reason == "PAGE_TOKEN_INVALID"


async def test_every_write_names_who_wrote_it(granting):
    await granting.operator.CreateGrant(grant=a_grant())
    record = granting.store.state.get("grant", "g").record
    assert (record.actor, record.time.seconds > 0) == (OPERATOR, True)
