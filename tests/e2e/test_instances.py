"""Several instances of one provider at a real node: they share calls, die, fall ill, fail and leave, and no call is lost."""

from __future__ import annotations

import asyncio
import os
import signal

import grpc
import pytest
import pytest_asyncio

from lgsp.api.node.v1.node_pb2 import Instance, ListInstancesRequest
from lgsp.api.node.v1.node_pb2_grpc import NodeServiceStub
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lgsp.client import explain
from tests.support.city import City, plug_things, running_city
from tests.support.instance import Instance as Silent
from tests.support.pool import OWNER, READER, Load, Pool, enrol, grant, publish

HERE, THERE = "ha-dong", "soc-son"
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def city(tmp_path_factory):
    """A node in the zone ha-dong, with a provider and a reader, and no service yet."""
    folder = tmp_path_factory.mktemp("city")
    async with running_city(folder / "node", "--zone", HERE) as running:
        await enrol(running)
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def pool(city, tmp_path):
    """A new service; whatever instance of it still runs at the end is killed."""
    service = await publish(city, tmp_path)
    async with city.connect() as operator, city.connect(READER) as channel:
        await grant(operator, READER, service, "*")
        made = Pool(city, service, channel, operator)
        try:
            yield made
        finally:
            for each in made.running:
                await each.end(signal.SIGKILL)


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
        await enrol(city)
        service = await publish(city, tmp_path)
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
