"""Parts die, one at a time and together, under load: what can be served is served, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import collections
import os
import signal
import subprocess
import time
import uuid
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from lgsp.adapters.manifest import compile_proto
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lgsp.client import explain
from lgsp.gateway import nats
from lgsp.gateway.xds import cache, connection
from tests.support.city import CONSUMER, THINGS, alive, plug_things, running_city, until

KEY = b"\x08\x03"
ADAPTER = "component H26.7__things"
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("city")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def city_of(folder):
    async with running_city(folder / "node", "--profile", "standard") as city:
        await plug_things(city, folder / "things")
        yield city


class Load:
    """Calls one after the other as the consumer, and what became of them."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._call = channel.unary_unary(f"/{THINGS}/Get")
        self.good = 0
        self.failed: collections.Counter[str] = collections.Counter()
        self.longest_s = 0.0

    async def run(self) -> None:
        while True:
            began = time.monotonic()
            try:
                await self._call(KEY, timeout=5, wait_for_ready=False)
                self.good += 1
            except grpc.RpcError as error:
                told = explain(error)
                self.failed[told.reason or told.code().name] += 1
                await asyncio.sleep(0.01)
            self.longest_s = max(self.longest_s, time.monotonic() - began)

    async def more(self, calls: int = 20, within_s: float = 20) -> None:
        """Wait until that many further calls were answered well."""
        wanted = self.good + calls
        await until(lambda: self.good >= wanted, within_s)


@asynccontextmanager
async def under_load(city):
    async with city.connect(CONSUMER) as channel:
        load = Load(channel)
        await load._call(KEY, timeout=5)
        task = asyncio.create_task(load.run())
        try:
            await load.more()
            yield load
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def kill_and_wait(city, name: str) -> None:
    before = city.pid(name)
    os.kill(before, signal.SIGKILL)
    await city.up_again(name, before)


async def grant(channel, methods=("Get",), **options) -> str:
    made = pb.Grant(id=f"g-{uuid.uuid4().hex[:12]}", consumer=CONSUMER, service=THINGS, methods=methods)
    request = pb.CreateGrantRequest(grant=made, operation_id=uuid.uuid4().hex)
    return (await RegistryServiceStub(channel).CreateGrant(request, **options)).grant.id


async def test_no_call_fails_while_the_control_process_is_killed(city_of):
    async with under_load(city_of) as load:
        await kill_and_wait(city_of, "control")
        await load.more(100)
        assert not load.failed
    async with city_of.connect() as operator:
        # A new token, a new right: everything works as before.
        assert await grant(operator)


async def test_no_call_fails_while_nats_is_killed_and_no_grant_is_lost(city_of):
    async with city_of.connect() as operator:
        kept = [await grant(operator) for _ in range(5)]
        async with under_load(city_of) as load:
            await kill_and_wait(city_of, "nats")
            await load.more(100)
            assert not load.failed
        kept.append(await grant(operator, timeout=15))
        listed = await RegistryServiceStub(operator).ListGrants(pb.ListGrantsRequest(consumer=CONSUMER, page_size=1000))
        assert set(kept) <= {each.id for each in listed.grants}


async def test_envoy_comes_back(city_of):
    async with under_load(city_of) as load:
        await kill_and_wait(city_of, "envoy")
        await load.more(50)
        assert set(load.failed) <= {"UNAVAILABLE"}, load.failed


async def test_an_adapter_comes_back_by_itself(city_of):
    async with under_load(city_of) as load:
        await kill_and_wait(city_of, ADAPTER)
        await load.more(50)
        assert set(load.failed) <= {"PROVIDER_UNAVAILABLE"}, load.failed


async def test_envoy_control_and_nats_killed_together_come_back(city_of):
    async with under_load(city_of) as load:
        before = {name: city_of.pid(name) for name in ("control", "nats", "envoy")}
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        for name, pid in before.items():
            await city_of.up_again(name, pid)
        await load.more(50)
    doctor = await city_of.lgsp("doctor", "--json")
    assert doctor.json["ok"], doctor.out


async def test_a_stopped_provider_costs_no_more_than_the_deadline(city_of):
    pid = city_of.pid(ADAPTER)
    async with city_of.connect(CONSUMER) as channel:
        call = channel.unary_unary(f"/{THINGS}/Get")
        await call(KEY, timeout=5)
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(grpc.RpcError) as caught:
                await call(KEY, timeout=1)
            assert time.monotonic() - began < 3
            assert explain(caught.value).code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
        finally:
            os.kill(pid, signal.SIGCONT)
        async with asyncio.timeout(30):
            while True:
                try:
                    await call(KEY, timeout=5)
                    break
                except grpc.RpcError:
                    await asyncio.sleep(0.05)
    assert city_of.pid(ADAPTER) == pid


async def test_everything_is_there_after_a_restart_and_nothing_runs_in_between(folder, tmp_path):
    place = tmp_path / "node"
    async with running_city(place) as city:
        await plug_things(city, tmp_path / "things")
        async with city.connect() as operator:
            kept, port = await grant(operator, ("Hidden",)), city.node.listen_port
        pids = city.pids()
        assert await city.stop() == 0
        assert not any(alive(pid) for pid in pids)
    async with running_city(place) as city:
        assert city.node.listen_port == port
        await until(lambda: city.part(ADAPTER)["state"] == "up")
        async with under_load(city), city.connect() as operator:
            found = await RegistryServiceStub(operator).GetGrant(pb.GetGrantRequest(id=kept))
            assert found.grant.methods == ["Hidden"]


async def test_no_process_outlives_a_killed_supervisor(tmp_path):
    async with running_city(tmp_path / "node", "--profile", "standard") as city:
        await plug_things(city, tmp_path / "things")
        pids = city.pids()
        assert len(pids) == 5
        city.process.kill()
        await city.process.wait()
        await until(lambda: not any(alive(pid) for pid in pids), 10)


async def test_envoy_restarts_from_disk_while_nats_is_gone_for_good(tmp_path):
    """NATS is somebody else's here, and does not come back; then everything of the node's own is killed."""
    async with running_city(tmp_path / "node", "--profile", "standard") as city:
        seed, port = city.node, nats.url(city.node).rpartition(":")[2]
    server = subprocess.Popen(nats.write_config(seed, int(port)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        async with running_city(tmp_path / "node", "--nats-url", f"nats://127.0.0.1:{port}") as city:
            assert [each["name"] for each in city.status()["parts"]] == ["control", "envoy"]
            await plug_things(city, tmp_path / "things")
            async with under_load(city) as load:
                await until(lambda: _kept(city) >= {connection.ENDPOINTS, connection.ROUTES})
                server.kill()
                for name in ("control", "envoy"):
                    await kill_and_wait(city, name)
                await load.more(50)
                assert set(load.failed) <= {"UNAVAILABLE"}, load.failed
            # Without NATS nobody can tell a replayed assertion: no new token.
            told = await city.lgsp(
                "call", f"{THINGS}/Get", "-d", '{"id": 3}', "--as", CONSUMER, "--contract", _contract(tmp_path)
            )
            assert told.code == 1
            assert "REGISTRY_UNAVAILABLE" in told.err
            doctor = await city.lgsp("doctor", "--json")
            assert not doctor.json["ok"]
    finally:
        server.kill()
        server.wait()


def _kept(city) -> set[str]:
    """Types of the copy on disk that know the consumer or have an endpoint for it."""
    kept = cache.Copy(city.node.layout.envoy / "resources.db").load(time.time(), 3600)
    return {
        each.type_url
        for each in kept
        if each.name == THINGS and (CONSUMER.encode() in each.value or b"127.0.0.1" in each.value)
    }


def _contract(folder: Path) -> Path:
    path = folder / "contract.binpb"
    path.write_bytes(compile_proto(folder / "things" / "things.proto"))
    return path


async def test_a_running_stream_does_not_hold_up_the_end(tmp_path):
    async with running_city(tmp_path / "node", "--profile", "standard") as city:
        await plug_things(city, tmp_path / "things")
        async with city.connect(CONSUMER) as channel:
            stream = channel.unary_stream(f"/{THINGS}/Stream")(KEY, timeout=60)
            assert await stream.read()  # and then the client reads no more
            began = time.monotonic()
            assert await city.stop(signal.SIGINT) == 0
            assert time.monotonic() - began < 30
            stream.cancel()
