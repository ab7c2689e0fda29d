"""Reforms of agencies on a real store: each step, what goes with it, all or nothing, and what is refused."""

from __future__ import annotations

import asyncio

import pytest

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry.store import Write
from tests.contract.registry.stage import CONSUMER, SERVICE, operation, refused

ACT = "Nghị quyết 1/2026/NQ-HĐND"
MOVE, END = pb.GRANT_RULE_MOVE, pb.GRANT_RULE_END
NAMES = pb.Names(vi="Sở mới", en="New department")


def merge(*sources: str, into: str, **fields) -> pb.Reorganization:
    return pb.Reorganization(
        merge=pb.Reorganization.Merge(**{"from": sources, "into": pb.Agency(id=into, parent="H26", **fields)})
    )


def split(source: str, *into: str) -> pb.Reorganization:
    return pb.Reorganization(
        split=pb.Reorganization.Split(**{"from": source, "into": [pb.Agency(id=each, parent="H26") for each in into]})
    )


def rename(identifier: str, **fields) -> pb.Reorganization:
    return pb.Reorganization(rename=pb.Reorganization.Rename(id=identifier, **fields))


def abolish(identifier: str, *successors: str) -> pb.Reorganization:
    return pb.Reorganization(abolish=pb.Reorganization.Abolish(id=identifier, successors=successors))


def reform(api, *changes: pb.Reorganization, **fields):
    return api.operator.ReorganizeAgencies(**({"changes": changes, "act": ACT, "date": {"seconds": 1000}} | fields))


async def agency(api, identifier: str, **when) -> pb.Agency:
    return (await api.consumer.GetAgency(id=identifier, **when)).agency


async def test_a_merge_ends_its_sources_and_they_keep_resolving(api):
    await reform(api, merge("H26.1", "H26.2", into="H26.3", names=NAMES), grants=MOVE)
    gone, made = await agency(api, "H26.1"), await agency(api, "H26.3")
    assert (list(gone.successors), gone.act, gone.valid_until.seconds) == (["H26.3"], ACT, 1000)
    assert (made.names, made.valid_from.seconds) == (NAMES, 1000)
    assert (await agency(api, "H26.1", as_of={"seconds": 999})).id == "H26.1"
    assert (await refused(agency(api, "H26.1", as_of={"seconds": 1000})))[0] == "NOT_REGISTERED"
    assert (await refused(agency(api, "H26.3", as_of={"seconds": 999})))[0] == "NOT_REGISTERED"
    reason, detail = await refused(api.operator.CreateSystem(system=pb.System(id="H26.1/late")))
    assert (reason, "now it is H26.3" in detail) == ("NOT_REGISTERED", True)


async def test_systems_and_grants_move_with_their_agency(api):
    await api.publish()
    for grant in ({"id": "system", "consumer": CONSUMER}, {"id": "agency", "agency": "H26.2"}):
        await api.operator.CreateGrant(grant=pb.Grant(service=SERVICE, methods=["*"], **grant))
    done = await reform(api, merge("H26.2", into="H26.3"), grants=MOVE)
    assert [(each.id, each.agency) for each in done.systems] == [(CONSUMER, "H26.3")]
    assert [(each.id, each.agency) for each in done.grants] == [("agency", "H26.3")]
    moved = (await api.consumer.GetGrant(id="agency")).grant
    assert (moved.steps[-1].action, moved.steps[-1].reason) == ("moved", ACT)
    assert CONSUMER in api.store.state.members(moved)
    assert not (await api.consumer.GetGrant(id="system")).grant.HasField("revoked_at")


async def test_systems_and_grants_end_with_their_agency(api):
    await api.publish()
    for grant in ({"id": "system", "consumer": CONSUMER}, {"id": "agency", "agency": "H26.2"}):
        await api.operator.CreateGrant(grant=pb.Grant(service=SERVICE, methods=["*"], **grant))
    await reform(api, abolish("H26.2"), grants=END)
    for grant in ("system", "agency"):
        ended = (await api.consumer.GetGrant(id=grant)).grant
        assert (ended.state, ACT in ended.revoked_reason) == (pb.GRANT_STATE_REVOKED, True)
    assert (await api.consumer.GetSystem(id=CONSUMER)).system.HasField("revoked_at")


async def test_names_and_places_are_remembered(api):
    await reform(api, rename("H26.1", names=NAMES), date={"seconds": 1000})
    await reform(api, rename("H26.1", parent="H26.2"), date={"seconds": 2000})
    assert (await agency(api, "H26.1")).parent == "H26.2"
    for second, names, parent in ((999, pb.Names(), "H26"), (1500, NAMES, "H26"), (2000, NAMES, "H26.2")):
        then = await agency(api, "H26.1", as_of={"seconds": second})
        assert (then.names, then.parent) == (names, parent)
    below = await api.consumer.ListAgencies(parent="H26.2", as_of={"seconds": 2000})
    assert [each.id for each in below.agencies] == ["H26.1"]
    assert not (await api.consumer.ListAgencies(parent="H26.2", as_of={"seconds": 1999})).agencies


async def test_a_part_splits_off_and_the_rest_goes_on(api):
    await reform(api, split("H26.1", "H26.1", "H26.5"))
    assert not (await agency(api, "H26.1")).HasField("valid_until")
    assert (await agency(api, "H26.5")).act == ACT


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([], "no steps"),
        ([pb.Reorganization()], "step 1"),
        ([merge("H26.1", into="H26.1")], "into itself"),
        ([merge(into="H26.3")], "names agencies"),
        ([merge("H26.1", "H26.1", into="H26.3")], "each once"),
        ([merge("H26.404", into="H26.3")], "is no agency"),
        ([split("H26.1")], "each once"),
        ([split("H26.1", "H26.1")], "itself alone"),
        ([abolish("H26.1", "H26.1")], "other agencies"),
        ([abolish("H26.1"), abolish("H26.1")], "step 2: H26.1 has ended already"),
        ([abolish("H26")], "is below H26"),
        ([rename("H26", parent="H26.1")], "below itself"),
        ([rename("H26.1")], "as before"),
        ([abolish("H26.2")], "move or end"),
    ],
    ids=str,
)
async def test_a_reform_that_does_not_hold_together_changes_nothing(api, changes, words):
    before = api.revision
    reason, detail = await refused(reform(api, *changes))
    assert (reason, words in detail) == ("REORGANIZATION_INVALID", True), detail
    assert api.revision == before


async def test_only_an_operator_reforms_and_names_the_act(api):
    assert (await refused(api.provider.ReorganizeAgencies(changes=[abolish("H26.1")])))[0] == "NOT_OWNER"
    assert (await refused(api.provider.ImportAgencies(agencies=[pb.Agency(id="X")])))[0] == "NOT_OWNER"
    assert (await refused(reform(api, abolish("H26.1"), act=" ")))[0] == "REORGANIZATION_INVALID"
    moving = reform(api, abolish("H26.2"), grants=MOVE)
    assert "no successor" in (await refused(moving))[1]


async def test_a_dry_run_tells_and_changes_nothing(api):
    before = api.revision
    told = await reform(api, merge("H26.1", "H26.2", into="H26.3"), grants=MOVE, dry_run=True)
    assert sorted(each.id for each in told.agencies) == ["H26.1", "H26.2", "H26.3"]
    assert (api.revision, told.revision) == (before, 0)


async def test_a_reform_repeated_is_carried_out_once(api):
    op = operation()
    first = await reform(api, merge("H26.1", "H26.2", into="H26.3"), grants=MOVE, operation_id=op)
    again = await reform(api, merge("H26.1", "H26.2", into="H26.3"), grants=MOVE, operation_id=op)
    assert (again.revision, sorted(e.id for e in again.agencies)) == (first.revision, ["H26.1", "H26.2", "H26.3"])
    assert api.revision == first.revision


async def test_five_hundred_grants_move_together_or_not_at_all(api):
    await api.publish()
    grants = [pb.Grant(id=f"g{n}", agency="H26.2", service=SERVICE, methods=["*"]) for n in range(500)]
    writes = [Write("grant", each.id, each, 0) for each in grants]
    await api.store.write(writes, operation_id=operation(), actor="test")

    def agencies() -> set[str]:
        return {entry.record.grant.agency for entry in api.store.state.all("grant").values()}

    # Somebody else changes one of them in the moment of the reform: one of the two is refused, never half of one.
    one = api.store.state.get("grant", "g250")
    changed = pb.Grant(id="g250", agency="H26.2", service=SERVICE, methods=["GetWard"])
    outcomes = await asyncio.gather(
        api.store.write([Write("grant", "g250", changed, one.revision)], operation_id=operation(), actor="test"),
        reform(api, merge("H26.2", into="H26.3"), grants=MOVE, operation_id=operation()),
        return_exceptions=True,
    )
    refusals = [each for each in outcomes if isinstance(each, BaseException)]
    assert len(refusals) <= 1
    if isinstance(outcomes[1], BaseException):
        assert agencies() == {"H26.2"}
        await reform(api, merge("H26.2", into="H26.3"), grants=MOVE, operation_id=operation())
    assert agencies() == {"H26.3"}


async def test_who_ends_in_the_same_reform_hands_on_to_its_own_successor(api):
    await api.publish()
    await api.operator.CreateGrant(grant=pb.Grant(id="g", agency="H26.2", service=SERVICE, methods=["*"]))
    done = await reform(api, merge("H26.2", into="H26.1"), merge("H26.1", into="H26.4"), grants=MOVE)
    assert {each.id: each.agency for each in done.systems} == {"H26.1/provider": "H26.4", CONSUMER: "H26.4"}
    assert (await api.operator.GetGrant(id="g")).grant.agency == "H26.4"


async def test_a_reform_larger_than_one_write_is_refused_whole(api):
    await api.publish()
    for start in (0, 1000):
        grants = [pb.Grant(id=f"g{start + n}", agency="H26.2", service=SERVICE, methods=["*"]) for n in range(1000)]
        writes = [Write("grant", each.id, each, 0) for each in grants]
        await api.store.write(writes, operation_id=operation(), actor="test")
    before = api.revision
    for dry_run in (True, False):
        reason, detail = await refused(reform(api, merge("H26.2", into="H26.3"), grants=MOVE, dry_run=dry_run))
        assert (reason, "at most 1000" in detail, "divide the reform" in detail) == (
            "REORGANIZATION_INVALID",
            True,
            True,
        )
    assert api.revision == before
    assert not (await agency(api, "H26.2")).HasField("valid_until")


async def test_a_system_under_an_older_identifier_belongs_to_its_agency(api):
    made = await api.operator.CreateSystem(system=pb.System(id="000.00.02.H26/old", agency="H26.1"))
    assert made.system.agency == "H26.2"
    await api.publish()
    grant = await api.operator.CreateGrant(
        grant=pb.Grant(id="g", agency="000.00.02.H26", service=SERVICE, methods=["*"])
    )
    assert grant.grant.agency == "H26.2"
    assert api.store.state.members(grant.grant) == {CONSUMER, "000.00.02.H26/old"}


async def test_an_import_forgets_no_history_and_ends_nobody_in_use(api):
    await reform(api, rename("H26.1", names=NAMES))
    await api.operator.CreateAgency(agency=pb.Agency(id="H26.9", parent="H26"))
    await api.operator.RevokeAgency(id="H26.9", reason="nhầm")
    was = await agency(api, "H26.1")
    bare = pb.Agency(id="H26.1", names=NAMES, parent="H26", act=ACT)
    told = await api.operator.ImportAgencies(agencies=[bare, pb.Agency(id="H26.9", parent="H26")])
    assert (told.unchanged, list(told.changed)) == (2, [])
    bare.names.en = "Another"
    changed = await api.operator.ImportAgencies(agencies=[bare])
    assert [(e.id, e.field, e.before, e.after) for e in changed.differences] == [
        ("H26.1", "names.en", "New department", "Another")
    ]
    assert (await agency(api, "H26.1")).former == was.former
    before = api.revision
    ends = pb.Agency(id="H26.2", parent="H26", valid_until={"seconds": 5}, successors=["H26.1"])
    reason, detail = await refused(api.operator.ImportAgencies(agencies=[ends]))
    assert (reason, "by a reform" in detail) == ("REORGANIZATION_INVALID", True)
    revived = pb.Agency(id="H26.9", parent="H26", names=NAMES)
    assert (await refused(api.operator.ImportAgencies(agencies=[revived])))[0] == "REORGANIZATION_INVALID"
    assert api.revision == before


async def test_an_import_is_checked_whole_and_repeatable(api):
    rows = [pb.Agency(id="H26.7", parent="H26"), pb.Agency(id="H26.7.1", parent="H26.7", aliases=["000.01.07.H26"])]
    told = await api.operator.ImportAgencies(agencies=rows, dry_run=True)
    assert (list(told.created), told.revision) == (["H26.7", "H26.7.1"], 0)
    made = await api.operator.ImportAgencies(agencies=rows, operation_id=operation())
    assert made.revision == api.revision
    assert (await api.operator.ImportAgencies(agencies=rows)).unchanged == 2
    rows[1].names.vi = "Phường mới"
    assert list((await api.operator.ImportAgencies(agencies=rows)).changed) == ["H26.7.1"]
    assert (await agency(api, "000.01.07.H26")).names.vi == "Phường mới"
    before = api.revision
    for wrong in (
        [],
        [pb.Agency(id="A", parent="B")],
        [pb.Agency(id="A", parent="B"), pb.Agency(id="B", parent="A")],
        [pb.Agency(id="A"), pb.Agency(id="A")],
        [pb.Agency(id="A", aliases=["H26.1"])],
        [pb.Agency(id="A", successors=["Z"])],
        [pb.Agency(id="A", valid_from={"seconds": 2}, valid_until={"seconds": 1})],
        [pb.Agency(id="A"), pb.Agency(id="B", revoked_at={"seconds": 1})],
    ):
        assert (await refused(api.operator.ImportAgencies(agencies=wrong)))[0] == "REORGANIZATION_INVALID"
    for wrong, reason in (
        (pb.Agency(id="Н26"), "IDENTIFIER_INVALID"),
        (pb.Agency(id="H26."), "IDENTIFIER_INVALID"),
        (pb.Agency(id="H26/1"), "IDENTIFIER_INVALID"),
        (pb.Agency(id="A" * 10_000), "IDENTIFIER_INVALID"),
        (pb.Agency(id="A", networks=["10.0.0.1/8x"]), "REQUEST_MALFORMED"),
        (pb.Agency(id="A", act="x" * 201), "REQUEST_TOO_LARGE"),
    ):
        assert (await refused(api.operator.ImportAgencies(agencies=[wrong])))[0] == reason
    assert api.revision == before


async def test_an_import_keeps_what_it_says_nothing_about(bare):
    whole = pb.Agency(id="H26.1", parent="H26", names=pb.Names(vi="Một", en="One"), aliases=["000.00.01.H26"])
    await bare.operator.ImportAgencies(agencies=[pb.Agency(id="H26"), whole])
    renamed = pb.Agency(id="H26.1", names=pb.Names(vi="Một mới"))
    answer = await bare.operator.ImportAgencies(agencies=[renamed], fields=["names.vi"])
    assert [(each.field, each.after) for each in answer.differences] == [("names.vi", "Một mới")]
    kept = (await bare.operator.GetAgency(id="H26.1")).agency
    assert (kept.names.vi, kept.names.en, kept.parent, list(kept.aliases)) == (
        "Một mới", "One", "H26", ["000.00.01.H26"],
    )  # fmt: skip
    assert (await bare.operator.ImportAgencies(agencies=[pb.Agency(id="H26.1")], fields=["id"])).unchanged == 1
    reason, detail = await refused(bare.operator.ImportAgencies(agencies=[renamed], fields=["nonsense"]))
    assert (reason, "no field of an agency" in detail) == ("REORGANIZATION_INVALID", True)
    cleared = await bare.operator.ImportAgencies(agencies=[pb.Agency(id="H26.1")], fields=["aliases"])
    assert [(each.field, each.after) for each in cleared.differences] == [("aliases", "")]


async def test_a_hundred_requests_may_wait_and_no_more(api):
    await api.publish()
    for number in range(100):
        grant = pb.Grant(id=f"ask-{number}", consumer=CONSUMER, service=SERVICE, methods=["GetWard"])
        await api.consumer.RequestGrant(grant=grant, reason="x")
    more = pb.Grant(id="more", consumer=CONSUMER, service=SERVICE, methods=["GetWard"])
    reason, detail = await refused(api.consumer.RequestGrant(grant=more, reason="x"))
    assert (reason, "withdraw" in detail) == ("GRANT_TERMS_REFUSED", True)
    await api.consumer.RevokeGrant(id="ask-7", reason="thôi")
    assert (await api.consumer.RequestGrant(grant=more, reason="x")).grant.id == "more"


async def test_an_operation_id_of_something_else_is_no_reform(api):
    """What was done under the id before is not answered as if the reform had been."""
    op = operation()
    await api.operator.CreateAgency(agency=pb.Agency(id="H26.5", parent="H26"), operation_id=op)
    await reform(api, abolish("H26.5"), operation_id=op)
    assert (await agency(api, "H26.5")).valid_until.seconds == 1000
