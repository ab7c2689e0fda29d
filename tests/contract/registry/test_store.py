"""The store on a real NATS server: compare-and-set, batches, outages, lost and replaced streams."""

from __future__ import annotations

import asyncio
import collections
import uuid
from contextlib import asynccontextmanager

import pytest

from lgsp.api.errors import BusError
from lgsp.api.registry.v1.registry_pb2 import GRANT_STATE_ACTIVE, Agency, Grant, Record
from lgsp.registry import schema
from lgsp.registry.store import Store, Write
from tests.support.nats_server import running_nats, until


@pytest.fixture
def server(tmp_path):
    with running_nats(tmp_path) as running:
        yield running


@asynccontextmanager
async def following(server, path=None, node="n1"):
    store = Store(server.connect, path, node)
    changes: list = []
    store.listen(changes.extend)
    task = asyncio.create_task(store.run())
    try:
        yield store, changes
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def agency(number: int, expected: int = 0, note: str = "") -> Write:
    return Write("agency", f"H26.{number}", Agency(id=f"H26.{number}", parent=note), expected)


async def put(store: Store, *writes: Write, operation: str | None = None) -> list[int]:
    return await store.write(writes, operation_id=operation or uuid.uuid4().hex, actor="H26/test")


def reason(caught) -> str:
    return caught.value.reason.name


async def test_a_write_is_in_the_state_when_it_returns(server):
    async with following(server) as (store, changes):
        await asyncio.wait_for(store.synced.wait(), 10)
        (revision,) = await put(store, agency(1))
        entry = store.state.get("agency", "H26.1")
        assert (entry.revision, entry.record.agency.id, entry.record.actor) == (revision, "H26.1", "H26/test")
        assert [change.key for change in changes] == ["H26.1"]


async def test_compare_and_set(server):
    async with following(server) as (store, _):
        (first,) = await put(store, agency(1))
        with pytest.raises(BusError) as caught:
            await put(store, agency(1))
        assert reason(caught) == "REVISION_CONFLICT"
        (second,) = await put(store, agency(1, first, "new"))
        assert second > first
        with pytest.raises(BusError):
            await put(store, agency(1, first))


async def test_the_same_operation_repeated_writes_once(server):
    async with following(server) as (store, changes):
        first = await put(store, agency(1), operation="same")
        assert await put(store, agency(1), operation="same") == first
        batch = await put(store, agency(2), agency(3), operation="both")
        assert await put(store, agency(2), agency(3), operation="both") == batch
        assert len(changes) == 3


async def test_a_batch_is_all_or_nothing(server):
    async with following(server) as (store, changes):
        await put(store, agency(1))
        revisions = await put(store, *(agency(number) for number in range(10, 60)))
        assert revisions == list(range(revisions[0], revisions[0] + 50))
        before = len(changes)
        with pytest.raises(BusError) as caught:
            await put(store, agency(70), agency(1), agency(71))
        assert reason(caught) == "REVISION_CONFLICT"
        assert store.state.get("agency", "H26.70") is None
        assert len(changes) == before


async def test_concurrent_writers_never_lose_a_write(server):
    async with following(server, node="a") as (one, _), following(server, node="b") as (two, _):

        async def claim(store: Store, number: int) -> str:
            try:
                await put(store, agency(number))
            except BusError as error:
                return error.reason.name
            return "written"

        both = await asyncio.gather(*(claim(store, n) for n in range(40) for store in (one, two)))
        assert collections.Counter(both) == {"written": 40, "REVISION_CONFLICT": 40}
        await until(lambda: one.state.revision == two.state.revision)
        same = [{key: e.revision for key, e in store.state.all("agency").items()} for store in (one, two)]
        assert same[0] == same[1]


async def test_nats_killed_under_load_loses_and_repeats_nothing(server):
    async with following(server, node="w") as (writer, _), following(server, node="r") as (_, seen):
        acknowledged: list[int] = []

        async def load() -> None:
            for number in range(200):
                (revision,) = await put(writer, agency(number))
                acknowledged.append(revision)

        task = asyncio.create_task(load())
        for mark in (50, 120):
            await until(lambda mark=mark: len(acknowledged) >= mark)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        await asyncio.wait_for(task, 60)
        await until(lambda: len(seen) >= 200)
        revisions = [change.entry.revision for change in seen]
        assert revisions == sorted(set(revisions))
        assert set(acknowledged) <= set(revisions)


async def test_without_nats_a_write_is_refused_and_reading_goes_on(server, monkeypatch):
    monkeypatch.setattr("lgsp.registry.store.WRITE_BUDGET_S", 0.5)
    async with following(server) as (store, _):
        await put(store, agency(1))
        await asyncio.to_thread(server.kill)
        await until(lambda: not store.connected)
        with pytest.raises(BusError) as caught:
            await put(store, agency(2))
        assert reason(caught) == "REGISTRY_UNAVAILABLE"
        with pytest.raises(BusError) as caught:
            await store.claim_once("x", 300)
        assert reason(caught) == "REGISTRY_UNAVAILABLE"
        assert store.state.get("agency", "H26.1") is not None


async def test_a_restart_resumes_from_its_snapshot(server, tmp_path):
    path = tmp_path / "registry.snapshot"
    async with following(server, path) as (store, _):
        await put(store, agency(1), agency(2))
    assert path.stat().st_mode & 0o777 == 0o600
    async with following(server) as (other, _):
        await put(other, agency(3))
    async with following(server, path) as (store, changes):
        assert store.state.get("agency", "H26.1") is not None
        await asyncio.wait_for(store.synced.wait(), 10)
        assert [change.key for change in changes] == ["H26.3"]
    path.write_bytes(path.read_bytes().replace(b"H26.3", b"H26.4"))
    async with following(server, path) as (store, changes):
        await asyncio.wait_for(store.synced.wait(), 10)
        assert {change.key for change in changes} == {"H26.1", "H26.2", "H26.3"}


async def test_a_replaced_stream_is_recognised_and_relisted(server):
    async with following(server) as (store, changes):
        await put(store, agency(1))
        await asyncio.to_thread(server.kill)
        server.forget()
        await asyncio.to_thread(server.start)
        await until(lambda: store.state.get("agency", "H26.1") is None)
        assert changes[-1].entry is None
        await put(store, agency(2))
        assert store.state.revision == 1


async def test_while_a_replaced_stream_is_read_the_store_is_not_synced(server):
    async with following(server) as (store, _):
        told: list[tuple[str, bool]] = []
        store.listen(lambda changes: told.extend((change.key, store.synced.is_set()) for change in changes))
        await asyncio.wait_for(store.synced.wait(), 10)
        await put(store, agency(1))
        await asyncio.to_thread(server.kill)
        server.forget()
        await asyncio.to_thread(server.start)
        await until(lambda: len(told) == 2)
        assert told == [("H26.1", True), ("H26.1", False)]
        await asyncio.wait_for(store.synced.wait(), 10)


async def test_contracts_and_one_time_names(server):
    async with following(server) as (store, _), following(server, node="n2") as (other, _):
        await asyncio.wait_for(store.synced.wait(), 10)
        digest = await store.put_contract(b"content" * 1000)
        assert await store.put_contract(b"content" * 1000) == digest
        assert await other.get_contract(digest) == b"content" * 1000
        with pytest.raises(BusError) as caught:
            await other.get_contract("0" * 64)
        assert reason(caught) == "NOT_REGISTERED"
        assert await store.claim_once("jti", 300)
        assert not await other.claim_once("jti", 300)


async def test_indexes_follow_the_records(server):
    async with following(server) as (store, _):
        grant = Grant(id="g", consumer="H26/a", service="x.v1.A", methods=["*"])
        (revision,) = await put(store, Write("grant", "g", grant, 0))
        moved = Grant(id="g", consumer="H26/a", service="x.v1.B", methods=["*"])
        await put(store, Write("grant", "g", moved, revision))
        assert store.state.grants_by_service("x.v1.A") == []
        assert [e.record.grant.id for e in store.state.grants_by_service("x.v1.B")] == ["g"]


async def raw(server, subject: str, data: bytes, **headers: str) -> None:
    nc = await server.connect()
    try:
        await nc.request(subject, data, headers=headers or None)
    finally:
        await nc.close()


def newer(number: int) -> bytes:
    return Record(schema=schema.CURRENT + 1, agency=Agency(id=f"H26.{number}")).SerializeToString()


async def test_what_is_written_carries_the_version_and_older_records_come_up(server):
    old = Record(operation_id="old", grant=Grant(id="g", consumer="H26/a", service="x.v1.A", methods=["*"]))
    async with following(server) as (store, _):
        await asyncio.wait_for(store.synced.wait(), 10)
        await raw(server, "registry.grant.g", old.SerializeToString())
        await put(store, agency(1))
        assert store.state.get("agency", "H26.1").record.schema == schema.CURRENT
        grant = store.state.get("grant", "g").record
        assert (grant.schema, grant.grant.state) == (schema.CURRENT, GRANT_STATE_ACTIVE)


async def test_a_newer_record_is_held_and_its_key_takes_no_write(server, tmp_path):
    path, reports = tmp_path / "registry.snapshot", []
    async with following(server, path) as (store, changes):
        store.held.report = reports.append
        (first,) = await put(store, agency(1))
        await raw(server, "registry.agency.H26=2E1", newer(1))
        await until(lambda: store.held.count == 1)
        # What was known goes on; other keys are followed and written.
        assert store.state.get("agency", "H26.1").revision == first
        with pytest.raises(BusError) as caught:
            await put(store, agency(1, first + 1))
        assert reason(caught) == "REGISTRY_UNAVAILABLE"
        assert f"schema version {schema.CURRENT + 1}" in caught.value.detail
        await put(store, agency(2))
        assert [change.key for change in changes] == ["H26.1", "H26.2"]
        assert reports == [store.held.last]
        assert "agency H26.1, revision 2" in reports[0]
    # A restart does not forget it: there is no copy on disk that would hide it.
    async with following(server, path) as (store, _):
        await asyncio.wait_for(store.synced.wait(), 10)
        assert (store.held.count, store.held.keys) == (1, 1)
        # Somebody writes the key in a form that is known here: it is followed again.
        await raw(server, "registry.agency.H26=2E1", Record(agency=Agency(id="H26.1", act="x")).SerializeToString())
        await until(lambda: not store.held.keys)
        assert store.state.get("agency", "H26.1").record.agency.act == "x"
        await put(store, agency(1, store.state.get("agency", "H26.1").revision))


@pytest.mark.parametrize(
    ("subject", "data", "keys"),
    [
        ("registry.agency.H26=2E9", b"\xff\xff\xff", 1),
        ("registry.agency.H26=2E9", b"", 1),
        ("registry.agency", b"x", 0),
        ("registry.agency.a.b", b"x", 0),
        ("registry.agency.=FF=FE", b"x", 0),
        ("registry.wish.w", Record(agency=Agency(id="H26.9")).SerializeToString(), 1),
        ("registry.agency.H26=2E9", Record(grant=Grant(id="g")).SerializeToString(), 1),
    ],
)
async def test_a_message_that_is_no_record_stops_nobody_and_is_counted(server, subject, data, keys):
    async with following(server) as (store, changes):
        await put(store, agency(1))
        await raw(server, subject, data)
        await put(store, agency(2))
        assert [change.key for change in changes] == ["H26.1", "H26.2"]
        assert (store.held.count, store.held.keys) == (1, keys)


async def test_a_batch_with_a_newer_record_is_held_whole(server):
    async with following(server) as (store, changes):
        await put(store, agency(1))
        nc = await server.connect()
        batch = {"Nats-Batch-Id": uuid.uuid4().hex}
        fine = Record(agency=Agency(id="H26.2")).SerializeToString()
        await nc.publish("registry.agency.H26=2E2", fine, headers=batch | {"Nats-Batch-Sequence": "1"})
        end = batch | {"Nats-Batch-Sequence": "2", "Nats-Batch-Commit": "1"}
        await nc.request("registry.agency.H26=2E3", newer(3), headers=end)
        await nc.close()
        await put(store, agency(4))
        assert [change.key for change in changes] == ["H26.1", "H26.4"]
        assert store.held.keys == 2
        with pytest.raises(BusError) as caught:
            await put(store, agency(2, 2))
        assert reason(caught) == "REGISTRY_UNAVAILABLE"


async def test_a_write_that_was_made_and_replaced_since_is_no_conflict(server):
    """The outcome of the first try was unknown; somebody replaced the record before the second."""
    async with following(server) as (store, _):
        (first,) = await put(store, agency(1), operation="mine")
        await put(store, agency(1, first, "other"))
        nc = store._nc
        found = await store._ours_already(nc, [agency(1)], "mine", "REGISTRY")
        assert found == [first]
        with pytest.raises(BusError) as caught:
            await store._ours_already(nc, [agency(1)], "yours", "REGISTRY")
        assert reason(caught) == "REVISION_CONFLICT"


@pytest.mark.parametrize("turns", range(6))
async def test_a_follower_ends_when_it_is_cancelled_while_a_message_arrives(server, turns):
    """`asyncio.wait_for` of Python 3.11 drops a cancellation that comes some turns of the loop after a message."""
    loop = asyncio.get_running_loop()
    async with following(server) as (writer, _):
        await put(writer, agency(0))
        store = Store(server.connect, None, "n2")
        task = asyncio.create_task(store.run())
        await asyncio.wait_for(store.synced.wait(), 10)
        (queue,) = [each._pending_queue for each in store._nc._subs.values() if each._cb is None]
        arrive = queue.put_nowait

        def cancel(left: int) -> None:
            loop.call_soon(cancel, left - 1) if left else task.cancel()

        def arrives(message) -> None:
            arrive(message)
            cancel(turns)

        queue.put_nowait = arrives
        await put(writer, agency(1))
        done, _ = await asyncio.wait([task], timeout=5)
        assert done, "the follower goes on though it was cancelled"
        assert task.cancelled()
