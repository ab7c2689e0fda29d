"""What a provider is told of who sees what, on a real store: at once, after every change, and at the instants that grants name."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest

from lgsp.api.registry.v1 import registry_pb2 as pb
from tests.contract.registry.stage import CONSUMER, OPERATOR, PROVIDER, SERVICE, operation, refused

MASK = [{"method": "GetWard", "paths": ["code", "name"]}]


class Told:
    """What a provider knows of one method, response by response."""

    def __init__(self, api, caller: str = PROVIDER, *services: str) -> None:
        request = pb.WatchRightsRequest(services=services or (SERVICE,))
        self.call = api.stub.WatchRights(request, metadata=[("x-lgsp-client", caller)], timeout=60)
        self.responses: list[pb.WatchRightsResponse] = []

    async def next(self) -> pb.WatchRightsResponse:
        async with asyncio.timeout(20):
            response = await self.call.read()
        assert response is not grpc.aio.EOF
        self.responses.append(response)
        return response

    async def views(self, method: str = "GetWard") -> dict[tuple[str, str], list[str] | None]:
        """Of the next response: viewer → paths, None for the whole."""
        response = await self.next()
        found = {}
        for each in response.methods:
            for view in each.views if method in each.methods else ():
                paths = None if view.whole else [leaf.path for leaf in view.leaves]
                found |= {(viewer.consumer, viewer.purpose): paths for viewer in view.viewers}
        return found


@pytest.fixture
async def published(api):
    await api.publish()
    return api


async def create(api, **terms: object) -> None:
    grant = {"consumer": CONSUMER, "service": SERVICE, "methods": ["GetWard"]} | terms
    await api.operator.CreateGrant(grant=pb.Grant(**grant), operation_id=operation())


async def test_nothing_is_masked_until_a_grant_masks(published):
    told = Told(published)
    first = await told.next()
    assert (first.service, first.complete) == (SERVICE, True)
    # Nobody may see anything; one table for all methods that are alike in it.
    (table,) = first.methods
    assert (len(table.methods), table.masked, [len(view.viewers) for view in table.views]) == (4, False, [0])
    await create(published, id="g", masks=MASK)
    assert await told.views() == {(CONSUMER, ""): ["code", "name"]}
    (method,) = [each for each in told.responses[-1].methods if "GetWard" in each.methods]
    assert (list(method.methods), method.masked) == (["GetWard"], True)
    assert [list(leaf.numbers) for leaf in method.views[0].leaves] == [[1], [2]]


async def test_every_change_is_told_whole(published):
    await create(published, id="g", masks=[{"method": "GetWard", "paths": ["code", "name", "province_code"]}])
    told = Told(published)
    assert await told.views() == {(CONSUMER, ""): ["code", "name", "province_code"]}
    await published.operator.NarrowGrant(id="g", terms=pb.Grant(masks=MASK), reason="x", operation_id=operation())
    assert await told.views() == {(CONSUMER, ""): ["code", "name"]}
    await create(published, id="whole", consumer=OPERATOR)
    assert await told.views() == {(CONSUMER, ""): ["code", "name"], (OPERATOR, ""): None}
    await published.operator.RevokeGrant(id="g", reason="x", operation_id=operation())
    assert await told.views() == {(OPERATOR, ""): None}
    assert not any(each.masked for each in told.responses[-1].methods)


async def test_grants_of_an_agency_and_a_group_are_told_by_their_systems(published):
    await create(published, id="a", consumer="", agency="H26.2", masks=MASK)
    told = Told(published)
    assert await told.views() == {(CONSUMER, ""): ["code", "name"]}
    await published.operator.CreateSystem(system=pb.System(id="H26.2/late"), operation_id=operation())
    assert set(await told.views()) == {(CONSUMER, ""), ("H26.2/late", "")}
    await published.operator.RevokeSystem(id=CONSUMER, reason="x", operation_id=operation())
    assert set(await told.views()) == {("H26.2/late", "")}
    await published.operator.PutGroup(group=pb.Group(id="clerks", members=[OPERATOR]), operation_id=operation())
    await create(published, id="b", consumer="", group="clerks")
    assert await told.views() == {("H26.2/late", ""): ["code", "name"], (OPERATOR, ""): None}


async def test_purposes_have_views_of_their_own(published):
    await create(published, id="free", masks=MASK)
    more = [{"method": "GetWard", "paths": ["province_name"]}]
    await create(published, id="bound", masks=more, purposes=[{"code": "tax"}])
    assert await Told(published).views() == {
        (CONSUMER, ""): ["code", "name"],
        (CONSUMER, "tax"): ["code", "name", "province_name"],
    }


async def test_a_grant_for_everyone_lifts_the_masks(published):
    await create(published, id="g", masks=MASK)
    told = Told(published)
    assert await told.views() == {(CONSUMER, ""): ["code", "name"]}
    await create(published, id="all", consumer="", group="everyone")
    assert await told.views() == {}


async def test_a_grant_that_begins_or_ends_by_itself_is_told_at_that_instant(published):
    soon = time.time() + 1.5
    await create(published, id="later", masks=MASK, not_before={"seconds": int(soon), "nanos": int(soon % 1 * 1e9)})
    told = Told(published)
    assert await told.views() == {}
    assert await told.views() == {(CONSUMER, ""): ["code", "name"]}
    assert time.time() >= soon


async def test_what_does_not_concern_the_service_is_not_told(published):
    await published.publish(f"{SERVICE[:-7]}Service")
    told = Told(published)
    await told.next()
    await published.operator.CreateAgency(agency=pb.Agency(id="H26.77", parent="H26"), operation_id=operation())
    await create(published, id="g", masks=MASK)
    assert await told.views() == {(CONSUMER, ""): ["code", "name"]}


async def test_only_the_provider_and_operators_are_told(published):
    for caller in (CONSUMER, "H26.9/stranger"):
        assert (await refused(Told(published, caller).call.read()))[0] == "SERVICE_OWNED_BY_ANOTHER"
    assert (await Told(published, OPERATOR).next()).service == SERVICE
    assert (await refused(Told(published, PROVIDER, "no.v1.Service").call.read()))[0] == "NOT_REGISTERED"
    many = Told(published, PROVIDER, *(f"s{number}.v1.S" for number in range(101)))
    assert (await refused(many.call.read()))[0] == "REQUEST_MALFORMED"
    nobody = published.stub.WatchRights(pb.WatchRightsRequest(services=[SERVICE]), timeout=20)
    assert (await refused(nobody.read()))[0] == "GRANT_MISSING"
