"""Who sees and decides what, on a real store: drafts, others' grants and groups, one's own request, the last operator."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2

from lgsp.api.adapter.v1 import options_pb2
from lgsp.api.registry.v1 import registry_pb2 as pb
from tests.contract.registry.stage import ADDRESS, CONSUMER, CONTRACT, OPERATOR, PROVIDER, SERVICE, refused
from tests.support.descriptors import descriptor_set

STEWARD, STRANGER = "H26.1/steward", "H26.2/stranger"
REGISTRY = "lgsp.api.registry.v1.RegistryService"


@pytest.fixture
async def people(api):
    """Besides the three: a steward of the service and a system that has nothing to do with it."""
    for system in (STEWARD, STRANGER):
        await api.operator.CreateSystem(system=pb.System(id=system))
    return api


async def draft(api) -> None:
    service = pb.Service(name=SERVICE, provider=PROVIDER, stewards=[STEWARD])
    await api.provider.PublishService(service=service, contract=CONTRACT, draft=True)


@pytest.mark.parametrize(
    ("rpc", "fields"),
    [
        ("GetService", {"name": SERVICE}),
        ("GetContract", {"service": SERVICE}),
        ("ListServiceVersions", {"service": SERVICE}),
        ("CheckContract", {"service": SERVICE, "contract": CONTRACT}),
        ("DeprecateService", {"name": SERVICE}),
        ("RetireService", {"name": SERVICE}),
        ("RegisterEndpoint", {"services": [SERVICE], "address": ADDRESS}),
        ("RequestGrant", {"grant": pb.Grant(consumer=STRANGER, service=SERVICE, methods=["*"])}),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
async def test_a_draft_is_not_there_for_others(people, rpc, fields):
    await draft(people)
    assert (await refused(getattr(people.as_(STRANGER), rpc)(**fields)))[0] == "NOT_REGISTERED"


async def test_neither_rights_nor_a_successor_tell_of_a_draft(people):
    await draft(people)
    rights = people.stub.WatchRights(
        pb.WatchRightsRequest(services=[SERVICE]), metadata=[("x-lgsp-client", STRANGER)], timeout=20
    )
    assert (await refused(rights.read()))[0] == "NOT_REGISTERED"
    own = descriptor_pb2.FileDescriptorProto(name="own.proto", package="own.v1", syntax="proto3")
    own.service.add(name="S")
    service = pb.Service(name="own.v1.S", provider=STRANGER)
    contract = descriptor_pb2.FileDescriptorSet(file=[own]).SerializeToString()
    await people.as_(STRANGER).PublishService(service=service, contract=contract)
    ends = people.as_(STRANGER).DeprecateService(name="own.v1.S", replaced_by=SERVICE)
    assert (await refused(ends))[0] == "NOT_REGISTERED"


async def test_where_a_provider_answers_is_told_to_itself_and_operators(people):
    await people.publish()
    await people.provider.RegisterEndpoint(services=[SERVICE], address=ADDRESS)
    for caller, seen in ((people.provider, 1), (people.operator, 1), (people.as_(STRANGER), 0)):
        assert len((await caller.ListEndpoints(service=SERVICE)).endpoints) == seen


async def test_a_draft_is_there_for_who_decides_on_it_until_all_see_it(people):
    await draft(people)

    async def names(caller) -> list[str]:
        return [each.name for each in (await caller.ListServices()).services]

    for caller in (people.provider, people.as_(STEWARD), people.operator):
        assert await names(caller) == [SERVICE]
        assert (await caller.GetContract(service=SERVICE)).contract == CONTRACT
    assert await names(people.as_(STRANGER)) == []
    await people.provider.RetireService(name=SERVICE)
    assert await names(people.as_(STRANGER)) == []  # it never was published
    await people.publish()
    assert await names(people.as_(STRANGER)) == [SERVICE]


async def test_a_grant_is_seen_by_its_holders_and_by_who_decides(people):
    await people.publish(stewards=[STEWARD])
    await people.operator.PutGroup(group=pb.Group(id="clinics", members=[CONSUMER]))
    for name, subject in (
        ("system", {"consumer": CONSUMER}),
        ("agency", {"agency": "H26.2"}),
        ("group", {"group": "clinics"}),
        ("all", {"group": "everyone"}),
    ):
        await people.operator.CreateGrant(grant=pb.Grant(id=name, service=SERVICE, methods=["*"], **subject))

    async def ids(caller) -> list[str]:
        return [each.id for each in (await caller.ListGrants()).grants]

    everything = ["agency", "all", "group", "system"]
    for caller in (people.operator, people.provider, people.as_(STEWARD), people.consumer):
        assert await ids(caller) == everything
    assert await ids(people.as_(STRANGER)) == ["agency", "all"]  # of the same agency
    assert (await refused(people.as_(STRANGER).GetGrant(id="system")))[0] == "NOT_OWNER"
    assert (await people.as_(STRANGER).GetGrant(id="agency")).grant.agency == "H26.2"
    assert [each.id for each in (await people.consumer.ListGroups()).groups] == ["clinics"]
    assert not (await people.as_(STRANGER).ListGroups()).groups


async def test_who_uses_a_service_is_told_to_who_decides_on_it(people):
    await people.publish(stewards=[STEWARD])
    for system in (CONSUMER, STRANGER):
        grant = pb.Grant(consumer=system, service=SERVICE, methods=["GetWard"])
        await people.operator.CreateGrant(grant=grant)
    broken = descriptor_pb2.FileDescriptorSet.FromString(CONTRACT)
    for file in broken.file:
        for service in file.service:
            del service.method[:]

    async def users(caller) -> list[str]:
        found = await caller.CheckContract(service=SERVICE, contract=broken.SerializeToString())
        return [use.consumer for use in found.affected]

    for caller in (people.provider, people.as_(STEWARD), people.operator):
        assert await users(caller) == [CONSUMER, STRANGER]
    assert await users(people.as_(STRANGER)) == [STRANGER]


async def test_a_steward_does_not_approve_what_it_would_hold(people):
    await people.publish(stewards=[STEWARD])
    for name, subject in (("own", {"consumer": STEWARD}), ("agency", {"agency": "H26.1"})):
        asked = pb.Grant(id=name, service=SERVICE, methods=["GetWard"], **subject)
        await people.as_(STEWARD).RequestGrant(grant=asked)
        before = people.revision
        reason, detail = await refused(people.as_(STEWARD).ApproveGrant(id=name))
        assert (reason, "another has to approve" in detail, people.revision) == ("NOT_OWNER", True, before)
        # The provider decides on its own data, also for its own agency.
        assert (await people.provider.ApproveGrant(id=name)).grant.state == pb.GRANT_STATE_ACTIVE


async def test_who_is_steward_no_more_decides_no_more(people):
    await people.publish(stewards=[STEWARD])
    await people.consumer.RequestGrant(grant=pb.Grant(id="g", consumer=CONSUMER, service=SERVICE, methods=["*"]))
    await people.publish()
    assert (await refused(people.as_(STEWARD).ApproveGrant(id="g")))[0] == "NOT_OWNER"


async def test_a_provider_that_moved_to_another_agency_still_decides(people):
    await people.publish()
    await people.operator.CreateAgency(agency=pb.Agency(id="H26.3", parent="H26"))
    merge = pb.Reorganization.Merge(**{"from": ["H26.1"], "into": pb.Agency(id="H26.3")})
    await people.operator.ReorganizeAgencies(
        changes=[pb.Reorganization(merge=merge)], act="Nghị quyết 1", grants=pb.GRANT_RULE_MOVE
    )
    assert (await people.consumer.GetSystem(id=PROVIDER)).system.agency == "H26.3"
    await people.consumer.RequestGrant(grant=pb.Grant(id="g", consumer=CONSUMER, service=SERVICE, methods=["*"]))
    assert (await people.provider.ApproveGrant(id="g")).grant.state == pb.GRANT_STATE_ACTIVE


async def test_the_last_operator_cannot_lock_everybody_out(people):
    people.platform.add(REGISTRY)
    for name, consumer in (("first", OPERATOR), ("second", STEWARD)):
        grant = pb.Grant(id=name, consumer=consumer, service=REGISTRY, methods=["*"], state=pb.GRANT_STATE_ACTIVE)
        await people.write("grant", name, grant)
    await people.operator.RevokeGrant(id="first", reason="đổi người")
    before = people.revision
    reason, detail = await refused(people.operator.RevokeGrant(id="second", reason="nhầm"))
    assert (reason, "last operator" in detail, people.revision) == ("GRANT_TERMS_REFUSED", True, before)
    await people.operator.RevokeSystem(id=STRANGER)
    await people.write(
        "grant", "third", pb.Grant(id="third", consumer=STRANGER, service=REGISTRY, methods=["CreateGrant"])
    )
    # A revoked system is no operator either.
    assert (await refused(people.operator.RevokeGrant(id="second")))[0] == "GRANT_TERMS_REFUSED"


async def test_an_operator_does_not_end_itself_by_a_reform(people):
    await people.operator.CreateAgency(agency=pb.Agency(id="H99"))
    moves = [pb.Reorganization(rename=pb.Reorganization.Rename(id=each, parent="H99")) for each in ("H26.1", "H26.2")]
    ends = pb.Reorganization(abolish=pb.Reorganization.Abolish(id="H26"))
    before = people.revision
    call = people.operator.ReorganizeAgencies(changes=[*moves, ends], act="x", grants=pb.GRANT_RULE_END)
    assert (await refused(call))[0] == "REORGANIZATION_INVALID"
    assert people.revision == before


async def test_the_platforms_own_services_are_not_for_operators_to_end(people):
    await people.publish()
    people.platform.add(SERVICE)
    before = people.revision
    for call in (
        people.operator.RetireService(name=SERVICE),
        people.operator.DeprecateService(name=SERVICE),
        people.publish(contact="x@hanoi.gov.vn"),
    ):
        assert (await refused(call))[0] == "LIFECYCLE_REFUSED"
    assert people.revision == before


async def test_a_query_is_between_a_provider_and_its_database(people):
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set(options_pb2.DESCRIPTOR))
    file = files.file.add(name="q.proto", package="q.v1", syntax="proto3", dependency=[options_pb2.DESCRIPTOR.name])
    file.message_type.add(name="K")
    method = file.service.add(name="S").method.add(name="Get", input_type=".q.v1.K", output_type=".q.v1.K")
    method.options.Extensions[options_pb2.sql].query = "SELECT secret FROM thing"
    service = pb.Service(name="q.v1.S", provider=PROVIDER, stewards=[STEWARD])
    await people.provider.PublishService(service=service, contract=files.SerializeToString())
    for caller, told in ((people.provider, 1), (people.as_(STEWARD), 1), (people.operator, 1), (people.consumer, 0)):
        assert (b"SELECT" in (await caller.GetContract(service="q.v1.S")).contract) == told
