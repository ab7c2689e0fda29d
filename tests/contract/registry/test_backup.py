"""Backup and restore on a real NATS server, with nodes that follow: consistent, whole, and never a right back in silence."""

from __future__ import annotations

import asyncio
import io
import uuid

import pytest

from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry import backup, cut, restoring, schema, streams
from lgsp.registry.store import Store, Write
from tests.contract.registry.stage import following
from tests.support.nats_server import running_nats, until

CITY = "H26"


@pytest.fixture
def server(tmp_path):
    with running_nats(tmp_path) as running:
        yield running


@pytest.fixture
async def nc(server):
    connection = await server.connect()
    yield connection
    await connection.close()


async def put(store: Store, *writes: Write) -> list[int]:
    return await store.write(writes, operation_id=uuid.uuid4().hex, actor="H26/test")


def system(number: int) -> Write:
    return Write("system", f"H26.{number}/s", pb.System(id=f"H26.{number}/s"), 0)


def grant(identifier: str) -> Write:
    made = pb.Grant(id=identifier, consumer="H26.1/s", service="x.v1.A", methods=["*"], state=pb.GRANT_STATE_ACTIVE)
    return Write("grant", identifier, made, 0)


async def revoke(store: Store, identifier: str) -> None:
    entry = store.state.get("grant", identifier)
    made = pb.Grant()
    made.CopyFrom(entry.record.grant)
    made.state = pb.GRANT_STATE_REVOKED
    made.revoked_at.GetCurrentTime()
    await put(store, Write("grant", identifier, made, entry.revision))


async def save(nc, path) -> backup.Summary:
    stream = await streams.registry_stream(nc)
    header = cut.header(await streams.stream_info(nc, stream), CITY)
    with backup.creating(path, header) as writer:
        await cut.write_backup(nc, stream, writer, lambda *_: None)
        await cut.write_contracts(nc, writer, lambda *_: None)
        writer.finish()
    with path.open("rb") as file:
        return backup.check(file)


async def restore(nc, path, **options) -> restoring.Restored:
    with path.open("rb") as file:
        return await restoring.restore(nc, file, backup.check(file), path.with_suffix(".saved"), **options)


def content(store: Store) -> dict:
    return {(kind, key): (entry.revision, entry.record) for kind, key, entry in store.state.entries()}


async def test_what_is_restored_is_what_was_saved(server, nc, tmp_path):
    path = tmp_path / "a.lgspbak"
    async with following(server) as store, following(server) as other:
        digest = await store.put_contract(b"contract" * 100)
        await put(store, *(system(number) for number in range(700)))
        service = pb.Service(name="x.v1.A", contract_digest=digest, lifecycle=pb.LIFECYCLE_PUBLISHED, version=1)
        await put(store, Write("service", "x.v1.A", service, 0))
        (first,) = await put(store, grant("g1"))
        before, old = content(store), store.incarnation
        summary = await save(nc, path)
        assert path.stat().st_mode & 0o777 == 0o600
        assert (summary.end.messages, summary.end.contracts, summary.end.revision) == (702, 1, first)
        assert not summary.missing
        await put(store, grant("g2"))
        lost = await put(store, system(900))
        told: list = []
        store.listen(told.append)
        await nc.request("$JS.API.STREAM.DELETE.CONTRACTS", b"")
        done = await restore(nc, path)
        assert done.saved == path.with_suffix(".saved")
        await until(lambda: store.incarnation == other.incarnation == done.incarnation != old)
        assert content(store) == content(other) == before
        # Followers learnt it at once, and only what differs.
        assert [{(change.kind, change.key) for change in changes} for changes in told] == [
            {("grant", "g2"), ("system", "H26.900/s")}
        ]
        assert await other.get_contract(digest) == b"contract" * 100
        (again,) = await put(other, grant("g2"))
        assert again == first + 1 <= lost[0]
        with done.saved.open("rb") as file:
            assert backup.check(file).end.messages == 704


async def test_writes_go_on_while_it_is_saved_and_batches_stay_whole(server, nc, tmp_path):
    async with following(server) as store:

        async def load() -> None:
            for number in range(0, 400, 4):
                await put(store, *(system(number + each) for each in range(4)))

        task = asyncio.create_task(load())
        await until(lambda: store.state.revision >= 40)
        summary = await save(nc, tmp_path / "a.lgspbak")
        await task
        assert summary.end.messages % 4 == 0
        assert 40 <= summary.end.messages < 400


async def test_batches_are_whole_after_a_restore_too(server, nc, tmp_path):
    path = tmp_path / "a.lgspbak"
    async with following(server) as store:
        await put(store, system(1), system(2))
        await nc.request("registry.system.X", b"\xff no record")
        await put(store, system(3))
    assert (await save(nc, path)).unreadable == 1
    await restore(nc, path)
    async with following(server) as store:
        # The damaged message holds its own key; what a restore sent beside it is not held with it.
        assert set(store.state.all("system")) == {"H26.1/s", "H26.2/s", "H26.3/s"}
        assert (store.held.count, store.held.keys) == (1, 1)


@pytest.mark.parametrize("keep", [True, False])
async def test_a_right_that_ended_since_comes_back_only_when_told(server, nc, tmp_path, keep):
    path = tmp_path / "a.lgspbak"
    async with following(server) as store:
        await put(store, system(1), system(2), grant("g1"), grant("g2"))
        await save(nc, path)
        await revoke(store, "g1")
        gone = pb.System(id="H26.2/s")
        gone.revoked_at.GetCurrentTime()
        await put(store, Write("system", "H26.2/s", gone, 2))
        token = pb.TokenRevocation(token_id="t")
        token.expires_at.FromSeconds(int(asyncio.get_running_loop().time()) + 10**10)
        await put(store, Write("token_revocation", "t", token, 0), Write("node_key", "k", pb.NodeKey(kid="k"), 0))
        done = await restore(nc, path, keep_revocations=keep)
        await until(lambda: store.incarnation == done.incarnation)
        named = {(each.kind, each.key) for each in (done.kept if keep else done.undone) if not each.fact}
        assert named == {("grant", "g1"), ("system", "H26.2/s"), ("token_revocation", "t")}
        state = store.state
        assert (state.get("grant", "g1").record.grant.state == pb.GRANT_STATE_REVOKED) is keep
        assert state.get("system", "H26.2/s").record.system.HasField("revoked_at") is keep
        assert (state.get("token_revocation", "t") is not None) is keep
        assert state.get("grant", "g2").record.grant.state == pb.GRANT_STATE_ACTIVE
        # A key that a running node signs with is a fact, not a right.
        assert state.get("node_key", "k") is not None


async def test_a_restore_that_was_killed_is_recognised_and_run_again(server, nc, tmp_path, monkeypatch):
    monkeypatch.setattr("lgsp.registry.store.WRITE_BUDGET_S", 0.5)
    path = tmp_path / "a.lgspbak"
    async with following(server) as store:
        await put(store, system(1))
        await save(nc, path)
        await put(store, system(2))

        class Killed(BaseException):
            pass

        async def killed(*_):
            raise Killed

        async def too_dead_to_clean_up(step):
            step.close()

        with monkeypatch.context() as patched:
            patched.setattr(restoring, "_verify", killed)
            patched.setattr(restoring, "_best_effort", too_dead_to_clean_up)
            with pytest.raises(Killed):
                await restore(nc, path)
        with pytest.raises(BusError) as caught:
            await put(store, system(3))
        assert caught.value.reason.name == "REGISTRY_UNAVAILABLE"
        await until(lambda: store.frozen)
        assert store.state.get("system", "H26.2/s") is not None
        # A node that starts now takes neither the half filled stream nor none for the registry.
        async with following(server) as fresh:
            assert set(fresh.state.all("system")) == {"H26.1/s", "H26.2/s"}
        done = await restore(nc, path)
        await until(lambda: store.incarnation == done.incarnation)
        assert set(store.state.all("system")) == {"H26.1/s"}
        await put(store, system(3))
        names = (await streams.api(nc, "STREAM.NAMES"))["streams"]
        assert [name for name in names if name.startswith("REGISTRY")] == [done.stream]


async def test_a_frozen_registry_can_be_thawed(server, nc, tmp_path):
    async with following(server) as store:
        await put(store, system(1))
        assert not await restoring.thaw(nc)
        await restoring._set_subject(nc, "REGISTRY", streams.FROZEN)
        assert await restoring.thaw(nc)
        await put(store, system(2))


async def test_a_failure_on_the_way_leaves_the_registry_as_it_was(server, nc, tmp_path, monkeypatch):
    path = tmp_path / "a.lgspbak"
    async with following(server) as store:
        await put(store, system(1))
        await save(nc, path)

        async def refused(*_):
            raise streams.JetStreamError(1, "refused")

        monkeypatch.setattr(restoring, "_verify", refused)
        old = store.incarnation
        with pytest.raises(streams.JetStreamError):
            await restore(nc, path)
        await put(store, system(2))
        assert store.incarnation == old
        assert (await streams.api(nc, "STREAM.NAMES", {"subject": "restoring.>"}))["streams"] is None


async def test_writes_meant_for_the_registry_before_are_refused(server, nc, tmp_path):
    path = tmp_path / "a.lgspbak"
    async with following(server) as store:
        await put(store, system(1))
        await save(nc, path)
        store._stream = "REGISTRY_before"
        with pytest.raises(BusError) as caught:
            await put(store, system(2))
        assert caught.value.reason.name == "REGISTRY_UNAVAILABLE"
        with pytest.raises(BusError):
            await put(store, system(2), system(3))


async def test_damaged_foreign_and_newer_files_are_refused(server, nc, tmp_path):
    path = tmp_path / "a.lgspbak"
    async with following(server) as store:
        await put(store, *(system(number) for number in range(50)))
        await save(nc, path)
    whole = path.read_bytes()
    for at in (5, 30, len(whole) // 2, len(whole) - 1):
        with pytest.raises(backup.BackupError):
            backup.check(io.BytesIO(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]))
    for short in (b"", b"PK\x03\x04" * 20, whole[:10], whole[:-1], whole[: len(whole) // 2]):
        with pytest.raises(backup.BackupError):
            backup.check(io.BytesIO(short))
    newer = backup.Header(backup.FORMAT, schema.CURRENT + 1, CITY, "i", 0, "t")
    with backup.creating(path, newer) as writer:
        writer.finish()
    with path.open("rb") as file, pytest.raises(backup.BackupError, match="newer release"):
        backup.check(file)


def test_a_block_that_fails_leaves_the_file_before(tmp_path):
    path = tmp_path / "a.lgspbak"
    path.write_bytes(b"before")
    header = backup.Header(backup.FORMAT, schema.CURRENT, CITY, "i", 0, "t")

    def interrupted():
        with backup.creating(path, header) as writer:
            writer.message(backup.Stored(1, "registry.x.y", True, b""))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [each.name for each in tmp_path.iterdir()] == ["a.lgspbak"]
    assert path.read_bytes() == b"before"
