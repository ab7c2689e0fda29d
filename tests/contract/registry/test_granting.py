"""Granting as a process, on a real store: who asks, who decides, what may change, and what is kept of it."""

from __future__ import annotations

import time

import pytest
from google.protobuf import descriptor_pb2

from lgsp.api.registry.v1 import registry_pb2 as pb
from tests.contract.registry.stage import CONSUMER, OPERATOR, PROVIDER, SERVICE, operation, refused

STEWARD = "H26.1/steward"
TERMS = {
    "methods": ["GetWard", "GetProvince"],
    "purposes": [
        {"code": "residence", "legal_basis": "Luật 68/2020/QH14"},
        {"code": "tax", "legal_basis": "Luật 38/2019/QH14"},
    ],
    "masks": [{"method": "GetWard", "paths": ["code", "name"]}],
    "rate": 50,
    "daily_quota": 1000,
    "not_after": {"seconds": 4_000_000_000},
}


@pytest.fixture
async def personal(api):
    """A service with personal data, whose grants a steward decides on."""
    await api.operator.CreateSystem(system=pb.System(id=STEWARD))
    await api.publish(classification=pb.CLASSIFICATION_PERSONAL, stewards=[STEWARD])
    return api


def asked(**changed: object) -> pb.Grant:
    return pb.Grant(**({"id": "g", "consumer": CONSUMER, "service": SERVICE} | TERMS | changed))


async def test_a_consumer_asks_and_a_steward_approves(personal):
    made = await personal.consumer.RequestGrant(grant=asked(), reason="kiểm tra cư trú", operation_id=operation())
    assert made.grant.state == pb.GRANT_STATE_REQUESTED
    approved = await personal.as_(STEWARD).ApproveGrant(id="g", reason="đúng luật", operation_id=operation())
    assert (approved.grant.state, approved.effective) == (pb.GRANT_STATE_ACTIVE, True)
    steps = [(step.actor, step.action, step.reason) for step in approved.grant.steps]
    assert steps == [(CONSUMER, "requested", "kiểm tra cư trú"), (STEWARD, "approved", "đúng luật")]
    assert all(step.time.seconds > 1_700_000_000 for step in approved.grant.steps)


async def test_every_way_of_asking_twice_is_asking_once(personal):
    op = operation()
    first = await personal.consumer.RequestGrant(grant=asked(id=""), operation_id=op)
    assert await personal.consumer.RequestGrant(grant=asked(id=""), operation_id=op) == first
    named = await personal.consumer.RequestGrant(grant=asked(id="n"), operation_id=operation())
    assert await personal.consumer.RequestGrant(grant=asked(id="n"), operation_id=operation()) == named
    other = personal.consumer.RequestGrant(grant=asked(id="n", rate=1), operation_id=operation())
    assert (await refused(other))[0] == "ALREADY_EXISTS"


async def test_only_who_decides_approves_narrows_and_refuses(personal):
    await personal.consumer.RequestGrant(grant=asked())
    for caller in (personal.consumer, personal.as_("H26.9/stranger")):
        assert (await refused(caller.ApproveGrant(id="g")))[0] == "NOT_OWNER"
        assert (await refused(caller.RefuseGrant(id="g", reason="x")))[0] == "NOT_OWNER"
        assert (await refused(caller.NarrowGrant(id="g", reason="x")))[0] == "NOT_OWNER"
    for caller in (personal.provider, personal.operator):
        assert (await refused(caller.RefuseGrant(id="g", reason=" ")))[0] == "REQUEST_MALFORMED"
    assert (await personal.consumer.GetGrant(id="g")).grant.state == pb.GRANT_STATE_REQUESTED


@pytest.mark.parametrize(
    ("changed", "narrowed"),
    [
        ({"methods": ["GetWard"], "rate": 10}, "methods, rate"),
        ({"purposes": [{"code": "tax", "legal_basis": "Luật 38/2019/QH14"}]}, "purposes"),
        ({"masks": [{"method": "GetWard", "paths": ["code"]}]}, "masks"),
        ({"masks": [{"method": m, "paths": ["code"]} for m in ("GetWard", "GetProvince")]}, "masks"),
        ({"daily_quota": 1}, "daily_quota"),
        ({"not_before": {"seconds": 5}, "not_after": {"seconds": 3_999_999_999}}, "not_before, not_after"),
    ],
    ids=str,
)
async def test_terms_get_narrower_at_approval_and_after(personal, changed, narrowed):
    await personal.consumer.RequestGrant(grant=asked())
    approved = await personal.provider.ApproveGrant(id="g", terms=pb.Grant(**changed), reason="chỉ cần vậy")
    assert approved.grant.steps[-1].detail == narrowed
    await personal.consumer.RequestGrant(grant=asked(id="h"))
    await personal.provider.ApproveGrant(id="h")
    after = await personal.provider.NarrowGrant(id="h", terms=pb.Grant(**changed), reason="chỉ cần vậy")
    assert (after.grant.steps[-1].action, after.grant.steps[-1].detail) == ("narrowed", narrowed)
    for name in changed:
        assert getattr(after.grant, name) == getattr(approved.grant, name)


@pytest.mark.parametrize(
    "changed",
    [
        {"methods": ["GetWard", "GetProvince", "ListWards"]},
        {"methods": ["*"]},
        {"purposes": [{"code": "marketing", "legal_basis": "?"}]},
        {"masks": [{"method": "GetWard", "paths": ["code", "name", "province_code"]}]},
        {"masks": [{"method": "GetProvince", "paths": ["code"]}]},
        {"rate": 51},
        {"daily_quota": 1001},
        {"not_after": {"seconds": 4_000_000_001}},
    ],
    ids=str,
)
async def test_terms_never_get_wider(personal, changed):
    await personal.consumer.RequestGrant(grant=asked())
    assert (await refused(personal.provider.ApproveGrant(id="g", terms=pb.Grant(**changed))))[
        0
    ] == "GRANT_TERMS_REFUSED"
    await personal.provider.ApproveGrant(id="g")
    call = personal.provider.NarrowGrant(id="g", terms=pb.Grant(**changed), reason="x")
    assert (await refused(call))[0] == "GRANT_TERMS_REFUSED"


async def test_what_is_decided_is_not_decided_again(personal):
    await personal.consumer.RequestGrant(grant=asked())
    op = operation()
    first = await personal.provider.RefuseGrant(id="g", reason="không có căn cứ", operation_id=op)
    assert first.grant.state == pb.GRANT_STATE_REFUSED
    assert await personal.provider.RefuseGrant(id="g", reason="không có căn cứ", operation_id=op) == first
    for call in (
        personal.provider.ApproveGrant(id="g"),
        personal.provider.RefuseGrant(id="g", reason="x"),
        personal.provider.NarrowGrant(id="g", terms=pb.Grant(rate=1), reason="x"),
        personal.operator.RevokeGrant(id="g"),
    ):
        assert (await refused(call))[0] == "GRANT_TERMS_REFUSED"


async def test_a_consumer_gives_back_its_own_grant_only(personal):
    await personal.consumer.RequestGrant(grant=asked())
    await personal.consumer.RequestGrant(grant=asked(id="withdrawn"))
    await personal.provider.ApproveGrant(id="g")
    assert (await refused(personal.as_("H26.2/another").RevokeGrant(id="g")))[0] == "NOT_OWNER"
    for grant in ("g", "withdrawn"):
        ended = await personal.consumer.RevokeGrant(id=grant, reason="không dùng nữa")
        assert ended.grant.state == pb.GRANT_STATE_REVOKED
        assert (ended.grant.steps[-1].actor, ended.grant.steps[-1].action) == (CONSUMER, "revoked")


async def test_nobody_asks_in_anothers_name(personal):
    assert (await refused(personal.as_("H26.9/evil").RequestGrant(grant=asked())))[0] == "NOT_OWNER"
    whole = asked(consumer="", agency="H26.2")
    assert (await refused(personal.provider.RequestGrant(grant=whole)))[0] == "NOT_OWNER"
    assert (await personal.consumer.RequestGrant(grant=whole)).grant.agency == "H26.2"
    await personal.operator.PutGroup(group=pb.Group(id="clinics", members=[CONSUMER]))
    for_group = asked(id="c", consumer="", group="clinics")
    assert (await refused(personal.consumer.RequestGrant(grant=for_group)))[0] == "NOT_OWNER"
    assert (await personal.operator.RequestGrant(grant=for_group)).grant.group == "clinics"


async def test_personal_data_ask_for_a_purpose_with_its_law(personal):
    for purposes in ([], [{"code": "residence"}], [{"code": "residence", "legal_basis": "  "}]):
        assert (await refused(personal.consumer.RequestGrant(grant=asked(purposes=purposes))))[0] == "PURPOSE_INVALID"


async def test_a_mask_is_kept_as_what_it_shows_today(personal):
    made = await personal.consumer.RequestGrant(grant=asked(masks=[{"method": "GetWard", "paths": ["name", "code"]}]))
    assert list(made.grant.masks[0].paths) == ["code", "name"]


async def test_history_cannot_be_brought_along(personal):
    forged = asked(state=pb.GRANT_STATE_ACTIVE, steps=[{"actor": OPERATOR, "action": "approved"}])
    made = await personal.consumer.RequestGrant(grant=forged)
    assert (made.grant.state, [step.action for step in made.grant.steps]) == (pb.GRANT_STATE_REQUESTED, ["requested"])


async def test_grants_are_found_by_state_by_end_and_by_who_decides(personal):
    soon = {"not_after": {"seconds": int(time.time()) + 600}}
    await personal.operator.CreateGrant(grant=asked(id="ends", **soon))
    await personal.operator.CreateGrant(grant=asked(id="over", not_after={"seconds": 2}))
    await personal.operator.CreateGrant(grant=asked(id="long"))
    await personal.consumer.RequestGrant(grant=asked(id="open", **soon))

    async def ids(caller=personal.operator, **wanted: object) -> list[str]:
        return [grant.id for grant in (await caller.ListGrants(**wanted)).grants]

    assert await ids(state=pb.GRANT_STATE_REQUESTED) == ["open"]
    assert await ids(expiring_within={"seconds": 3600}) == ["ends"]
    assert await ids(personal.as_(STEWARD), mine=True) == ["ends", "long", "open", "over"]
    assert await ids(personal.consumer, mine=True) == ["ends", "long", "open", "over"]
    assert await ids(personal.as_("H26.9/stranger"), mine=True) == []


async def test_groups_are_checked_and_repeatable(personal):
    op = operation()
    group = pb.Group(id="clinics", names=pb.Names(vi="Phòng khám"), members=[CONSUMER])
    first = await personal.operator.PutGroup(group=group, operation_id=op)
    assert await personal.operator.PutGroup(group=group, operation_id=op) == first
    assert [each.id for each in (await personal.consumer.ListGroups()).groups] == ["clinics"]
    assert (await refused(personal.consumer.PutGroup(group=group)))[0] == "NOT_OWNER"
    for wrong, reason in (
        (pb.Group(id="everyone"), "ALREADY_EXISTS"),
        (pb.Group(id="Xấu"), "IDENTIFIER_INVALID"),
        (pb.Group(id="c", members=["H26/none"]), "NOT_REGISTERED"),
        (pb.Group(id="c", members=[CONSUMER, CONSUMER]), "REQUEST_MALFORMED"),
    ):
        assert (await refused(personal.operator.PutGroup(group=wrong)))[0] == reason
    assert PROVIDER not in first.group.members


async def test_an_operation_id_that_is_used_again_loses_nothing(personal):
    """NATS takes a second message with the same id for the first one and acknowledges it without keeping it."""
    op = operation()
    await personal.operator.CreateGrant(grant=asked(), operation_id=op)
    narrowed = await personal.operator.NarrowGrant(id="g", terms=pb.Grant(rate=5), reason="x", operation_id=op)
    assert narrowed.grant.rate == (await personal.operator.GetGrant(id="g")).grant.rate == 5
    again = await personal.operator.NarrowGrant(id="g", terms=pb.Grant(rate=5), reason="x", operation_id=op)
    assert again.revision == narrowed.revision
    await personal.operator.RevokeGrant(id="g", reason="x", operation_id=op)
    assert (await personal.operator.GetGrant(id="g")).grant.HasField("revoked_at")
    for members in ([CONSUMER], []):
        await personal.operator.PutGroup(group=pb.Group(id="group", members=members), operation_id=op)
        assert (await personal.operator.ListGroups()).groups[0].members == members
    await personal.provider.DeprecateService(name=SERVICE, operation_id=op)
    await personal.provider.RetireService(name=SERVICE, operation_id=op)
    assert (await personal.operator.GetService(name=SERVICE)).service.HasField("retired_at")


def wide_contract() -> bytes:
    file = descriptor_pb2.FileDescriptorProto(name="w.proto", package="w.v1", syntax="proto3")
    holder, fields = file.message_type.add(name="Holder"), file.message_type.add(name="Fields")
    holder.field.add(name="all", number=1, label=1, type=11, type_name=".w.v1.Fields")
    for number in range(1, 301):
        fields.field.add(name=f"f{number}", number=number, label=1, type=9)
    file.service.add(name="S").method.add(name="Get", input_type=".w.v1.Holder", output_type=".w.v1.Holder")
    return descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString()


async def test_a_message_of_many_fields_is_approved_and_narrowed(api):
    """One path stands for more leaves than a request may name paths: those that are kept are not asked for anew."""
    service = pb.Service(name="w.v1.S", provider=PROVIDER)
    await api.provider.PublishService(service=service, contract=wide_contract())
    wide = {"consumer": CONSUMER, "service": "w.v1.S", "methods": ["Get"]}
    masks = [{"method": "Get", "paths": ["all"]}]
    await api.consumer.RequestGrant(grant=pb.Grant(id="w", masks=masks, **wide))
    assert len((await api.provider.ApproveGrant(id="w")).grant.masks[0].paths) == 300
    assert (await api.provider.NarrowGrant(id="w", terms=pb.Grant(rate=5), reason="x")).grant.rate == 5
    fewer = pb.Grant(masks=[{"method": "Get", "paths": ["all.f7"]}])
    narrowed = await api.provider.NarrowGrant(id="w", terms=fewer, reason="x")
    assert list(narrowed.grant.masks[0].paths) == ["all.f7"]
    assert (await refused(api.provider.NarrowGrant(id="w", terms=pb.Grant(masks=masks), reason="x")))[0] == (
        "GRANT_TERMS_REFUSED"
    )
