"""Watching on a real store: from nothing, from a revision, through a replaced stream; each sees what it may."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from lgsp.api.registry.v1 import registry_pb2 as pb
from tests.contract.registry.stage import CONSUMER, CONTRACT, OPERATOR, PROVIDER, SERVICE, refused


class Watched:
    """What a watcher knows, and where it is."""

    def __init__(self, call) -> None:
        self.call, self.known, self.relists = call, {}, 0
        self.incarnation, self.revision = "", 0
        self.batches: list[list[str]] = []

    async def read(self, until=lambda response: response.complete) -> Watched:
        async with asyncio.timeout(20):
            while True:
                response = await self.call.read()
                assert response is not grpc.aio.EOF
                self.take(response)
                if until(response):
                    return self

    def take(self, response: pb.WatchResponse) -> None:
        if response.relist:
            self.known, self.relists = {}, self.relists + 1
        assert response.revision >= self.revision or response.relist
        self.incarnation, self.revision = response.incarnation, response.revision
        self.batches.append([key_of(record) for record in response.changes])
        self.known.update({key_of(record): record for record in response.changes})

    @property
    def position(self) -> dict:
        return {"incarnation": self.incarnation, "revision": self.revision}


def key_of(record: pb.Record) -> str:
    kind = record.WhichOneof("value")
    value = getattr(record, kind)
    return f"{kind} {getattr(value, 'id', '') or getattr(value, 'name', '') or f'{value.service}@{value.number}'}"


async def test_a_watcher_begins_with_all_there_is_and_gets_every_change(api):
    await api.publish()
    seen = await Watched(api.operator.watch()).read()
    assert seen.relists == 1
    assert {
        f"service {SERVICE}",
        f"service_version {SERVICE}@1",
        "agency H26",
        f"system {CONSUMER}",
    } <= seen.known.keys()
    assert seen.revision == api.revision
    await api.operator.CreateGrant(grant=pb.Grant(id="g", consumer=CONSUMER, service=SERVICE, methods=["*"]))
    await seen.read()
    assert (seen.batches[-1], seen.revision) == (["grant g"], api.revision)


async def test_a_watcher_goes_on_where_it_was(api):
    seen = await Watched(api.operator.watch()).read()
    seen.call.cancel()
    await api.publish()
    await api.operator.CreateGrant(grant=pb.Grant(id="g", consumer=CONSUMER, service=SERVICE, methods=["*"]))
    await api.operator.RevokeGrant(id="g")
    again = await Watched(api.operator.watch(**seen.position)).read()
    assert again.relists == 0
    # The grant changed twice and is told once, as it is.
    assert sorted(again.known) == ["grant g", f"service {SERVICE}", f"service_version {SERVICE}@1"]
    assert again.known["grant g"].grant.HasField("revoked_at")


async def test_what_is_written_together_is_told_together(api):
    seen = await Watched(api.operator.watch()).read()
    await api.publish()
    await seen.read()
    assert sorted(seen.batches[-1]) == [f"service {SERVICE}", f"service_version {SERVICE}@1"]


@pytest.mark.parametrize("position", [{"incarnation": "another"}, {"revision": 10**9}], ids=str)
async def test_a_position_that_the_registry_does_not_know_is_relisted(api, position):
    here = (await Watched(api.operator.watch()).read()).position
    again = await Watched(api.operator.watch(**(here | position))).read()
    assert again.relists == 1
    assert again.position == here


async def test_a_watcher_sees_what_it_may(api):
    await api.publish()
    await api.operator.CreateSystem(system=pb.System(id="H26.2/other", development_secret="scrypt$a$b"))
    for grant in ({"id": "mine", "consumer": CONSUMER}, {"id": "theirs", "consumer": "H26.2/other"}):
        await api.operator.CreateGrant(grant=pb.Grant(service=SERVICE, methods=["*"], **grant))
    kinds = ("system", "grant")
    mine = await Watched(api.consumer.watch(kinds=kinds)).read()
    assert sorted(mine.known) == ["grant mine", f"system {CONSUMER}"]
    provider = await Watched(api.provider.watch(kinds=kinds)).read()
    assert sorted(provider.known) == ["grant mine", "grant theirs", f"system {PROVIDER}"]
    everything = await Watched(api.operator.watch()).read()
    assert everything.known["system H26.2/other"].system.development_secret == ""
    assert not any(record.operation_id for record in everything.known.values())


async def test_one_service_can_be_watched_alone(api):
    await api.publish()
    await api.operator.CreateGrant(grant=pb.Grant(id="g", consumer=CONSUMER, service=SERVICE, methods=["*"]))
    seen = await Watched(api.provider.watch(kinds=["grant"], service=SERVICE)).read()
    assert sorted(seen.known) == ["grant g"]
    none = await Watched(api.provider.watch(kinds=["grant"], service="a.b.Other")).read()
    assert none.known == {}


async def test_what_is_not_watched_is_refused(api):
    assert (await refused(api.operator.watch(kinds=["node_key"]).read()))[0] == "REQUEST_MALFORMED"
    for named in ((), (OPERATOR, PROVIDER)):
        assert (await refused(api.as_(*named).watch().read()))[0] == "GRANT_MISSING"


async def test_many_changes_reach_a_watcher_that_does_not_read(api):
    seen = await Watched(api.operator.watch()).read()
    for number in range(60):
        group = pb.Group(id="g", names=pb.Names(vi="đ" * 8000), members=[CONSUMER][: number % 2])
        await api.operator.PutGroup(group=group)
    async with asyncio.timeout(20):
        while seen.revision < api.revision:
            seen.take(await seen.call.read())
    assert list(seen.known["group g"].group.members) == [CONSUMER]


async def test_a_draft_is_watched_by_who_decides_on_it_and_by_all_once_it_is_published(api):
    service = pb.Service(name=SERVICE, provider=PROVIDER)
    await api.provider.PublishService(service=service, contract=CONTRACT, draft=True)
    own = await Watched(api.provider.watch(kinds=["service"])).read()
    assert own.known.keys() == {f"service {SERVICE}"}
    other = await Watched(api.consumer.watch(kinds=["service"])).read()
    assert not other.known
    await api.publish()
    await other.read(lambda response: response.changes)
    assert other.known.keys() == {f"service {SERVICE}"}


# --- leases ----------------------------------------------------------------------------------------------------------


async def _registered(api, port: int = 7001) -> str:
    made = await api.provider.RegisterEndpoint(services=[SERVICE], address=f"127.0.0.1:{port}")
    return made.endpoint.id


async def _leases(call) -> dict[str, bool]:
    """What the next response with leases says: endpoint → live."""
    async with asyncio.timeout(20):
        while not (response := await call.read()).leases:
            assert response is not grpc.aio.EOF
    assert response.complete
    assert not response.changes
    return {each.endpoint.id: each.live for each in response.leases}


def _look(api) -> frozenset[str]:
    """What the control process does once a second."""
    known = api.store.state.all("endpoint").items()
    return api.leases.look(key for key, entry in known if not entry.record.endpoint.HasField("ended_at"))


async def test_a_lease_that_runs_out_and_comes_back_is_told_without_a_record(api):
    await api.publish()
    endpoint, revision = await _registered(api), api.revision
    _look(api)
    seen = await Watched(api.provider.watch(kinds=["lease"])).read()
    assert seen.known == {}
    api.now += 40  # past the time in which nothing expires after a start, and past the lease
    assert _look(api) == {endpoint}
    assert await _leases(seen.call) == {endpoint: False}
    await api.provider.Heartbeat(endpoint_id=endpoint)
    assert _look(api) == {endpoint}
    assert await _leases(seen.call) == {endpoint: True}
    assert _look(api) == frozenset()
    assert api.revision == revision


async def test_a_list_names_the_leases_of_what_is_in_being(api):
    await api.publish()
    ended, kept = await _registered(api), await _registered(api, 7002)
    await api.provider.DeregisterEndpoint(endpoint_id=ended)
    api.now += 40
    call = api.operator.watch()
    leases = {}
    async with asyncio.timeout(20):
        while not (response := await call.read()).complete:
            leases |= {each.endpoint.id: each.live for each in response.leases}
    assert leases == {kept: False}


async def test_an_end_is_told_by_the_record_alone(api):
    await api.publish()
    endpoint = await _registered(api)
    _look(api)
    seen = await Watched(api.operator.watch(kinds=["endpoint", "lease"])).read()
    await api.provider.DeregisterEndpoint(endpoint_id=endpoint)
    assert _look(api) == {endpoint}
    await seen.read()
    assert seen.known[f"endpoint {endpoint}"].endpoint.HasField("ended_at")
    other = await _registered(api, 7002)
    await seen.read()
    _look(api)
    assert await _leases(seen.call) == {other: True}


async def test_others_see_no_leases(api):
    await api.publish()
    await _registered(api)
    _look(api)
    mine = await Watched(api.consumer.watch(kinds=["lease", "grant"])).read()
    elsewhere = await Watched(api.operator.watch(kinds=["lease", "grant"], service="a.b.Other")).read()
    api.now += 40
    _look(api)
    await api.operator.CreateGrant(grant=pb.Grant(id="g", consumer=CONSUMER, service=SERVICE, methods=["*"]))
    assert [each.grant.id for each in (await mine.call.read()).changes] == ["g"]
    await api.operator.CreateGrant(grant=pb.Grant(id="h", consumer=CONSUMER, service=SERVICE, methods=["*"]))
    assert (await mine.call.read()).leases == []
    elsewhere.call.cancel()
