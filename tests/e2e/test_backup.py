"""Backup and restore on a node that works: no call fails, revocations stay, and who watches is told to begin anew."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import uuid

import grpc
import pytest
import pytest_asyncio

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lgsp.client import explain
from lgsp.gateway.control import founding
from tests.e2e.test_outages import kill_and_wait, under_load
from tests.support.city import CONSUMER, LGSP, THINGS, lgsp, plug_things, running_city, until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]
# The grants of a registry in which nobody has done anything yet.
_FOUNDED = {key for kind, key, _ in founding.founding_records("H26", pb.Names(), "H26/operator", "") if kind == "grant"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("city")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def city_of(folder):
    async with running_city(folder / "node") as city:
        await plug_things(city, folder / "things")
        yield city


async def grant(channel, identifier: str, methods=("Hidden",)) -> None:
    made = pb.Grant(id=identifier, consumer=CONSUMER, service=THINGS, methods=methods)
    await RegistryServiceStub(channel).CreateGrant(pb.CreateGrantRequest(grant=made, operation_id=uuid.uuid4().hex))


async def known(channel, identifier: str) -> bool:
    try:
        await RegistryServiceStub(channel).GetGrant(pb.GetGrantRequest(id=identifier))
    except grpc.aio.AioRpcError as error:
        if explain(error).reason != "NOT_REGISTERED":
            raise
        return False
    return True


async def test_no_call_fails_during_backup_and_restore(city_of, folder):
    city, file = city_of, folder / "registry.lgspbak"
    async with city.connect() as operator, under_load(city) as load:
        await grant(operator, "kept")
        saved = await city.lgsp("registry", "backup", file, "--json")
        assert saved.code == 0, saved.err
        assert file.stat().st_mode & 0o777 == 0o600
        assert saved.json["records"] == saved.json["revision"] > 10
        assert (saved.json["contracts"], saved.json["missing_contracts"]) == (len(founding.PLATFORM) + 1, [])
        await grant(operator, "later")
        revoked = await city.lgsp("grant", "revoke", "kept", "--reason", "thử")
        assert revoked.code == 0, revoked.err
        # The node goes on signing with a key that the backup does not know.
        rotated = await city.lgsp("key", "rotate")
        assert rotated.code == 0, rotated.err
        watch = RegistryServiceStub(operator).Watch(pb.WatchRequest(kinds=["grant"]), timeout=60)
        assert (await watch.read()).relist

        restored = await city.lgsp("registry", "restore", file, "--yes", "--json")
        assert restored.code == 0, restored.err
        assert "grant kept: revoked" in restored.json["kept"]
        assert "Ended since, and kept so" in restored.err
        while not (told := await watch.read()).relist or told.incarnation != restored.json["incarnation"]:
            pass
        watch.cancel()
        async with asyncio.timeout(10):
            while await known(operator, "later"):
                await asyncio.sleep(0.05)
        found = await RegistryServiceStub(operator).GetGrant(pb.GetGrantRequest(id="kept"))
        assert found.grant.state == pb.GRANT_STATE_REVOKED
        await load.more(100)
        assert not load.failed
        # Changes, tokens and restarts are as before.
        await grant(operator, "after")
        await kill_and_wait(city, "control")
        await load.more(50)
        assert not load.failed
    async with city.connect(CONSUMER) as channel:
        await channel.unary_unary(f"/{THINGS}/Get")(b"\x08\x03", timeout=10)
    assert await _registry_state(city) == "ok"
    before = json.loads((await lgsp_verify(city, restored.json["saved"])).out)
    assert before["revision"] > saved.json["revision"]


async def lgsp_verify(city, file):
    answer = await lgsp("registry", "verify", file, "--json")
    assert answer.code == 0, answer.err
    return answer


async def test_a_registry_that_was_lost_is_joined_by_its_node_and_restored(city_of, folder):
    """Somebody deletes the stream: the node founds it anew, with its key, and a restore brings the rest back."""
    from lgsp.gateway import nats
    from lgsp.registry import streams

    city, file = city_of, folder / "before-loss.lgspbak"
    assert (await city.lgsp("registry", "backup", file)).code == 0
    nc = await nats.connect_core(city.node)
    try:
        await streams.api(nc, f"STREAM.DELETE.{await streams.registry_stream(nc)}")
    finally:
        await nc.close()
    async with city.connect() as operator:
        async with asyncio.timeout(20):
            while not await _answers(operator):
                await asyncio.sleep(0.1)
        assert not await known(operator, "after")
        restored = await city.lgsp("registry", "restore", file, "--yes", "--json")
        assert restored.code == 0, restored.err
        async with asyncio.timeout(20):
            while not await known(operator, "after"):
                await asyncio.sleep(0.1)
    async with under_load(city) as load:
        await load.more(20)


async def _answers(channel) -> bool:
    try:
        found = await RegistryServiceStub(channel).ListGrants(pb.ListGrantsRequest(page_size=1000), timeout=2)
    except grpc.aio.AioRpcError:
        return False
    return {each.id for each in found.grants} == _FOUNDED


async def test_a_wrong_file_changes_nothing(city_of, folder):
    city = city_of
    wrong = folder / "wrong.lgspbak"
    wrong.write_bytes(b"LGSP-REGISTRY-BACKUP\n" + bytes(100))
    answer = await city.lgsp("registry", "restore", wrong, "--yes")
    assert (answer.code, answer.out) == (1, "")
    assert "nothing was changed" in answer.err
    assert (await city.lgsp("registry", "restore", wrong)).code == 2
    async with city.connect() as operator:
        assert await known(operator, "operator-nodeservice")


async def test_ctrl_c_leaves_no_half_file(city_of, folder):
    target = folder / "kept" / "registry.lgspbak"
    target.parent.mkdir()
    process = await asyncio.create_subprocess_exec(
        *LGSP, "registry", "backup", target, "--data-dir", city_of.data_dir, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    await until(lambda: any(target.parent.iterdir()) or process.returncode is not None)
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.wait_for(process.communicate(), 20)
    left = [each.name for each in target.parent.iterdir()]
    # It may have come too late; what must not be is a half file, under this name or another.
    assert left in ([], ["registry.lgspbak"]), err.decode()
    if left:
        await lgsp_verify(city_of, target)
    else:
        assert process.returncode == 130


async def test_a_restore_that_is_killed_leaves_a_registry_and_can_be_run_again(city_of, folder):
    city, file = city_of, folder / "killed.lgspbak"
    assert (await city.lgsp("registry", "backup", file)).code == 0
    command = (*LGSP, "registry", "restore", file, "--yes", "--data-dir", city.data_dir)
    async with city.connect() as operator, under_load(city) as load:
        for lines in (1, 2, 3):
            process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
            for _ in range(lines):  # its progress: the further, the later it is killed
                await asyncio.wait_for(process.stderr.readline(), 20)
            process.kill()
            await process.wait()
            assert await known(operator, "operator-nodeservice")
        await load.more(30)
        thawed = await city.lgsp("registry", "thaw", "--json")
        assert thawed.code == 0, thawed.err
        await grant(operator, f"after-{uuid.uuid4().hex[:8]}")
        assert (await city.lgsp("registry", "restore", file, "--yes")).code == 0
        await load.more(30)
        assert not load.failed
    async with asyncio.timeout(20):
        while await _registry_state(city) != "ok":
            pass


async def _registry_state(city) -> str:
    found = (await city.lgsp("doctor", "--json")).json["findings"]
    return next((each["state"] for each in found if each["part"] == "registry"), "unknown")


async def test_a_new_machine_takes_the_registry_of_the_old_one_over(city_of, folder):
    """As docs/operate.md says: a new node, the operator's key and `keys/` of the old one, a restore."""
    file, old = folder / "moved.lgspbak", city_of.node.layout
    assert (await city_of.lgsp("registry", "backup", file)).code == 0
    async with running_city(folder / "new"):
        pass
    away = await lgsp("registry", "backup", folder / "none.lgspbak", "--data-dir", folder / "new")
    assert (away.code, "NATS does not answer" in away.err) == (3, True)
    assert not (folder / "none.lgspbak").exists()
    for name in ("operator.jwk", "keys/nats-core.seed"):
        shutil.copy(old.root / name, folder / "new" / name)
    for each in (*old.keys.glob("token-*.jwk"), *old.system_keys.glob("*.jwk")):
        shutil.copy(each, folder / "new" / each.relative_to(old.root))
    async with running_city(folder / "new") as city:
        restored = await city.lgsp("registry", "restore", file, "--yes", "--json")
        assert restored.code == 0, restored.err
        async with city.connect() as operator:
            async with asyncio.timeout(20):
                while not await _is_known(operator, "after"):
                    await asyncio.sleep(0.1)


async def _is_known(channel, identifier: str) -> bool:
    """False also while the gateway does not know the operator yet."""
    try:
        return await known(channel, identifier)
    except grpc.aio.AioRpcError:
        return False
