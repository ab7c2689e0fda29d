"""Several instances of one provider at a real node: they share calls, die, fall ill, fail and leave, and no call is lost."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
import pytest_asyncio

from lgsp.adapters.manifest import compile_proto
from lgsp.api.node.v1.node_pb2 import Instance, ListInstancesRequest
from lgsp.api.node.v1.node_pb2_grpc import NodeServiceStub
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lgsp.client import explain
from lgsp.gateway.datadir import file_name
from tests.support.city import City, plug_things, running_city
from tests.support.instance import CONTRACT
from tests.support.instance import Instance as Silent

OWNER, READER = "H26/pool-provider", "H26/pool-reader"
HERE, THERE = "ha-dong", "soc-son"
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]


class Process:
    """One instance as a process; `name` is what it answers."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, address: str) -> None:
        self.name, self.process, self.address = name, process, address

    async def say(self, word: str) -> None:
        """Tell it something, and wait until it has done so."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{word}\n".encode())
        assert (await asyncio.wait_for(self.process.stdout.readline(), 10)).decode().strip() == word

    async def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)
        await asyncio.wait_for(self.process.wait(), 20)


class Pool:
    """A service of its own for one test, its instances, and calls to it as the reader."""

    def __init__(self, city: City, service: str, channel: grpc.aio.Channel, operator: grpc.aio.Channel) -> None:
        self.city, self.service, self._operator = city, service, operator
        self.who = channel.unary_unary(f"/{service}/Who")
        self.once = channel.unary_unary(f"/{service}/Once")
        self.running: list[Process] = []

    async def start(self, name: str, **options: object) -> Process:
        node = self.city.node
        key = node.layout.system_keys / f"{file_name(OWNER)}.jwk"
        said = {"target": node.target, "system": OWNER, "key": key, "ca": node.layout.ca} | options
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.instance", name, self.service),
            *(text for option, value in said.items() for text in (f"--{option}", str(value))),
            stdin=pipe,
            stdout=pipe,
        )
        self.running.append(Process(name, process, ""))
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode().split()
        assert line[:1] == ["registered"], line
        self.running[-1].address = line[1]
        return self.running[-1]

    async def answers(self, calls: int, method=None) -> collections.Counter[str]:
        """Who answered that many calls, one after the other; a failed call fails the test."""
        return collections.Counter([_name(await (method or self.who)(b"", timeout=10)) for _ in range(calls)])

    async def views(self) -> dict[str, Instance]:
        """Both views of every instance, by the name that it answers with, or else by its address."""
        answer = await NodeServiceStub(self._operator).ListInstances(ListInstancesRequest(service=self.service))
        assert answer.proxy_reached
        names = {each.address: each.name for each in self.running}
        return {names.get(each.address, each.address): each for each in answer.instances}

    async def until(self, holds, within_s: float = 20) -> dict[str, Instance]:
        """Wait until both views say so; a control process that is just coming back is waited for."""
        async with asyncio.timeout(within_s):
            while True:
                with contextlib.suppress(grpc.RpcError):
                    if holds(found := await self.views()):
                        return found
                await asyncio.sleep(0.05)


class Load:
    """Calls of many callers at once for as long as the block lasts; every answer is looked at."""

    def __init__(self, call) -> None:
        self._call, self.names, self.failed = call, collections.Counter[str](), collections.Counter[str]()

    async def _one(self) -> None:
        while True:
            try:
                self.names[_name(await self._call(b"", timeout=10))] += 1
            except grpc.RpcError as error:
                told = explain(error)
                self.failed[f"{told.reason or told.code().name}: {told.details()}"] += 1
                await asyncio.sleep(0.01)

    async def more(self, calls: int, within_s: float = 30) -> None:
        """Wait until that many further calls are over."""
        wanted = self.done + calls
        async with asyncio.timeout(within_s):
            while self.done < wanted:
                await asyncio.sleep(0.01)

    @property
    def done(self) -> int:
        return self.names.total() + self.failed.total()

    @classmethod
    @asynccontextmanager
    async def running(cls, call, callers: int = 12) -> AsyncIterator[Load]:
        load = cls(call)
        tasks = [asyncio.create_task(load._one()) for _ in range(callers)]
        try:
            await load.more(50)
            yield load
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _name(answer: bytes) -> str:
    assert answer[0] == 0x0A
    assert answer[1] == len(answer) - 2
    return answer[2:].decode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def city(tmp_path_factory):
    """A node in the zone ha-dong, with a provider and a reader, and no service yet."""
    folder = tmp_path_factory.mktemp("city")
    async with running_city(folder / "node", "--zone", HERE) as running:
        await _enrol(running)
        yield running


async def _enrol(city: City) -> None:
    for name in (OWNER, READER):
        key = city.node.layout.system_keys / f"{file_name(name)}.jwk"
        made = await city.lgsp("system", "create", name, "--vi", "Nhóm", "--en", "Pool", "--new-key", key)
        assert made.code == 0, made.err
    async with city.connect() as operator:
        rights = ("PublishService", "RegisterEndpoint", "Heartbeat", "DeregisterEndpoint")
        await _grant(operator, OWNER, "lgsp.api.registry.v1.RegistryService", *rights)


@pytest_asyncio.fixture(loop_scope="module")
async def pool(city, tmp_path):
    """A new service; whatever instance of it still runs at the end is killed."""
    service = await _publish(city, tmp_path)
    async with city.connect() as operator, city.connect(READER) as channel:
        await _grant(operator, READER, service, "*")
        made = Pool(city, service, channel, operator)
        try:
            yield made
        finally:
            for each in made.running:
                await each.end(signal.SIGKILL)


async def _publish(city: City, folder) -> str:
    package = f"pool{uuid.uuid4().hex[:8]}.v1"
    (folder / "pool.proto").write_text(CONTRACT.format(package=package), "utf-8")
    service = pb.Service(name=f"{package}.PoolService", names=pb.Names(vi="Nhóm", en="Pool"), provider=OWNER)
    async with city.connect(OWNER) as own:
        contract = compile_proto(folder / "pool.proto")
        await RegistryServiceStub(own).PublishService(pb.PublishServiceRequest(service=service, contract=contract))
    return service.name


async def _grant(operator, consumer: str, service: str, *methods: str) -> None:
    made = pb.Grant(id=f"g-{uuid.uuid4().hex[:8]}", consumer=consumer, service=service, methods=methods)
    assert (await RegistryServiceStub(operator).CreateGrant(pb.CreateGrantRequest(grant=made))).effective


# --- sharing ---------------------------------------------------------------------------------------------------------


async def test_instances_share_calls_by_weight(pool):
    await pool.start("one", weight=1)
    await pool.start("three", weight=3)
    answers = await pool.answers(200)
    assert answers.total() == 200
    assert 45 <= answers["one"] <= 55, answers


async def test_the_first_call_after_registration_is_answered(pool):
    for number in range(5):
        instance = await pool.start(f"n{number}")
        assert await pool.answers(1) == {instance.name: 1}
        await instance.end()


async def test_a_changed_weight_is_the_same_instance(pool):
    first = await pool.start("one")
    await pool.start("other")
    await first.end(signal.SIGKILL)
    again = await pool.start("again", listen=first.address, weight=9)
    views = await pool.until(lambda found: found["again"].serving and found["other"].serving)
    assert len(views) == 2
    assert (views["again"].registry.weight, views["again"].proxy.weight, again.address) == (9, 9, first.address)


async def test_calls_stay_in_the_zone_while_it_lives(pool):
    near = await pool.start("near", zone=HERE)
    await pool.start("far", zone=THERE, weight=100)
    assert await pool.answers(50) == {"near": 50}
    views = await pool.views()
    assert {name: (each.proxy.zone, each.proxy.priority) for name, each in views.items()} == {
        "near": (HERE, 0),
        "far": (THERE, 1),
    }
    async with Load.running(pool.who, callers=1) as load:  # too few to have it ejected first
        await near.end(signal.SIGKILL)
        await load.more(100)
        assert not load.failed
    assert await pool.answers(20) == {"far": 20}


# --- dying -----------------------------------------------------------------------------------------------------------


async def test_a_killed_instance_costs_no_call(pool):
    first, _ = await pool.start("first"), await pool.start("second")
    async with Load.running(pool.who) as load:
        assert set(load.names) == {"first", "second"}
        await first.end(signal.SIGKILL)
        await load.more(500)
        assert not load.failed
    assert await pool.answers(20) == {"second": 20}
    # It is not gone for the registry yet: its lease runs, and the gateway knows better.
    view = (await pool.views())["first"]
    assert (view.registry.live, view.proxy.healthy, view.serving) == (True, False, False)


async def test_a_second_try_goes_to_another_instance(pool):
    first, _ = await pool.start("first", weight=100), await pool.start("second")
    async with Load.running(pool.who, callers=1) as load:
        await first.end(signal.SIGKILL)
        await load.more(100)
        assert not load.failed


async def test_lost_memory_of_leases_empties_nothing(pool):
    """The leases are in the control process's memory; no provider beats again before a third of the lease is over."""
    await pool.start("first")
    await pool.start("second")
    before = pool.city.pid("control")
    async with Load.running(pool.who) as load:
        os.kill(before, signal.SIGKILL)
        await pool.city.up_again("control", before)
        views = await pool.until(lambda found: len(found) == 2)
        assert all(each.registry.live and each.serving for each in views.values())
        await load.more(100)
        assert not load.failed
        assert set(load.names) == {"first", "second"}


async def test_an_instance_that_leaves_costs_no_call_though_none_is_repeated(pool):
    first, _ = await pool.start("first"), await pool.start("second")
    async with Load.running(pool.once) as load:
        assert set(load.names) == {"first", "second"}
        await first.end(signal.SIGTERM)
        await load.more(200)
        assert not load.failed
    assert set(await pool.views()) == {"second"}


# --- falling ill -----------------------------------------------------------------------------------------------------


async def test_an_instance_that_says_it_does_not_serve_gets_no_call(pool):
    first, second = await pool.start("first"), await pool.start("second")
    assert set(await pool.answers(20)) == {"first", "second"}
    await first.say("off")
    views = await pool.until(lambda found: not found["first"].serving)
    assert views["first"].proxy.failed_health_check
    assert views["first"].registry.live
    assert await pool.answers(50) == {"second": 50}
    # Not even when it is the last: there is no panic.
    await second.say("off")
    await pool.until(lambda found: not found["second"].serving)
    with pytest.raises(grpc.RpcError) as caught:
        await pool.who(b"", timeout=10)
    assert explain(caught.value).reason == "PROVIDER_UNAVAILABLE"
    await first.say("on")
    await pool.until(lambda found: found["first"].serving)
    assert await pool.answers(20) == {"first": 20}


async def test_a_server_that_tells_no_health_is_not_asked(pool):
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Silent("silent").handler(pool.service),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        async with pool.city.connect(OWNER) as own:
            registry = RegistryServiceStub(own)
            request = pb.RegisterEndpointRequest(services=[pool.service], address=address)
            await registry.RegisterEndpoint(request)
            assert await pool.answers(20) == {"silent": 20}
            # Once it is said to tell its health, the gateway asks, and gets no answer that it could use.
            request.health_checked = True
            await registry.RegisterEndpoint(request)
            await pool.until(lambda found: found[address].proxy.failed_health_check)
    finally:
        await server.stop(0)


async def test_an_instance_that_fails_again_and_again_is_ejected_and_never_all(pool):
    first, second = await pool.start("first"), await pool.start("second")
    await first.say("fail")
    async with Load.running(pool.who) as load:
        views = await pool.until(lambda found: found["first"].proxy.ejected)
        assert not load.failed  # each was answered by the other one
    assert (views["first"].registry.live, views["first"].serving) == (True, False)
    assert views["first"].proxy.failed_requests >= 5
    assert await pool.answers(50, pool.once) == {"second": 50}
    await second.say("fail")
    for _ in range(20):
        with pytest.raises(grpc.RpcError) as caught:
            await pool.once(b"", timeout=10)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not (await pool.views())["second"].proxy.ejected
    await second.say("mend")
    assert await pool.answers(20, pool.once) == {"second": 20}


# --- both views ------------------------------------------------------------------------------------------------------


async def test_the_command_shows_both_views(pool):
    await pool.start("first", weight=2, zone=HERE)
    told = await pool.city.lgsp("service", "instances", pool.service, "--json")
    (row,) = told.json["instances"]
    assert (row["service"], row["serving"], told.json["proxy_reached"]) == (pool.service, True, True)
    assert (row["registry"]["system"], row["registry"]["weight"], row["proxy"]["weight"]) == (OWNER, 2, 2)
    table = await pool.city.lgsp("service", "instances")
    assert pool.running[0].address in table.out
    assert "healthy" in table.out
    unknown = await pool.city.lgsp("service", "instances", "a.b.NotThere")
    assert unknown.code == 1
    assert "NOT_REGISTERED" in unknown.err


async def test_instances_come_in_pages(pool):
    addresses = sorted([(await pool.start(name)).address for name in "abc"])
    seen, request = [], ListInstancesRequest(service=pool.service, page_size=2)
    async with pool.city.connect() as operator:
        for _ in range(2):
            answer = await NodeServiceStub(operator).ListInstances(request)
            seen += [each.address for each in answer.instances]
            request.page_token = answer.next_page_token
    assert (seen, answer.next_page_token) == (addresses, "")


# --- where an instance may be ----------------------------------------------------------------------------------------


async def test_outside_development_only_the_nodes_own_components_are_on_its_machine(tmp_path):
    async with running_city(tmp_path / "node", "--profile", "standard") as city:
        await plug_things(city, tmp_path / "things")  # it is live on loopback, because this node runs it
        await _enrol(city)
        service = await _publish(city, tmp_path)
        async with city.connect("H26.7/things") as things, city.connect(OWNER) as own:
            for stub, name in ((RegistryServiceStub(things), "t.v1.ThingService"), (RegistryServiceStub(own), service)):
                refusal = await _refused(stub, name, "127.0.0.1:9")
                assert "gateway's own machine" in refusal
            unset = await _refused(RegistryServiceStub(own), service, "10.20.0.9:7000")
            assert "lgsp agency networks" in unset
            told = await city.lgsp("agency", "networks", "H26", "10.20.0.0/16", "--json")
            assert told.json == {"agency": "H26", "networks": ["10.20.0.0/16"], "from": "H26"}
            below = await city.lgsp("agency", "networks", "H26.7", "--json")
            assert below.json == {"agency": "H26.7", "networks": ["10.20.0.0/16"], "from": "H26"}
            assert "outside" in await _refused(RegistryServiceStub(own), service, "10.21.0.9:7000")
            made = await RegistryServiceStub(own).RegisterEndpoint(
                pb.RegisterEndpointRequest(services=[service], address="[::ffff:10.20.0.9]:07000")
            )
            assert made.endpoint.address == "10.20.0.9:7000"
            await _narrowed(city, service, own, made.endpoint.id)


async def _narrowed(city: City, service: str, own: grpc.aio.Channel, endpoint: str) -> None:
    """An endpoint that its agency's networks do not hold any more gets no calls, and is told."""
    async with city.connect() as operator:
        assert (await _instance(operator, service)).HasField("proxy")
        assert (await city.lgsp("agency", "networks", "H26", "10.30.0.0/16")).code == 0
        async with asyncio.timeout(10):
            while (found := await _instance(operator, service)).HasField("proxy"):
                await asyncio.sleep(0.02)
        assert "outside" in found.registry.refused
        with pytest.raises(grpc.RpcError) as caught:
            await RegistryServiceStub(own).Heartbeat(pb.HeartbeatRequest(endpoint_id=endpoint))
        assert explain(caught.value).reason == "ENDPOINT_REFUSED"
        assert (await city.lgsp("agency", "networks", "H26", "10.20.0.0/16")).code == 0
        async with asyncio.timeout(10):
            while not (await _instance(operator, service)).HasField("proxy"):
                await asyncio.sleep(0.02)


async def _instance(operator: grpc.aio.Channel, service: str) -> Instance:
    answer = await NodeServiceStub(operator).ListInstances(ListInstancesRequest(service=service))
    (found,) = answer.instances
    return found


async def _refused(registry: RegistryServiceStub, service: str, address: str) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        await registry.RegisterEndpoint(pb.RegisterEndpointRequest(services=[service], address=address))
    told = explain(caught.value)
    assert told.reason == "ENDPOINT_REFUSED"
    return told.details() or ""
