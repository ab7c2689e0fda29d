"""What a whole city costs: `python -m tests.bench.registry [--json] [--services 10000 --agencies 1000 --grants 200000]`.

A real node with the made city in its registry, and beside it one with ten services; every provider is one and the same
process, so that what differs is the gateway. Loads are made in interleaved rounds over both.

load_records_per_s     records written in atomic batches of 1,000, contracts apart
control_cold_s         from killing the control process until its successor has published all; calls go on meanwhile
cold_load_s            from killing Envoy until a fresh one answers a call to each of 200 services spread over all
change_effect_*_ms     from sending a grant or its revocation until a call is answered otherwise
publish_per_s          new services published through the gateway by one client, each with a contract of its own;
                       publish_at_once_per_s: 200 services of one contract by one request
watch_list_s           the whole registry to a watcher that begins; watch_resume_s: 1,000 changes to one that comes back
cpu_10000_over_10      CPU of Envoy a call with the whole city / with ten services, ten being called in both
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import grpc
from joserfc.jwk import ECKey

from lgsp import client
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lgsp.client import Identity, explain
from lgsp.client.tokens import AsyncTokens
from lgsp.client.watching import watch
from lgsp.gateway import nats
from lgsp.gateway.datadir import file_name, write_private
from lgsp.registry.api.publishing import MAX_SERVICES
from lgsp.registry.store import MAX_BATCH, Store, Write
from tests.bench import load, machine, made_city
from tests.bench.made_city import ANSWER, CALLER, FEW, REQUEST, MadeCity
from tests.support.city import City, running_city

_AT_ONCE: Final = 100
_BOUND_S: Final = 300.0
_RESUMED: Final = 1000


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="lgsp-bench-") as folder:
        key = ECKey.generate_key("P-256", {"kid": "bench"})
        jwks = json.dumps({"keys": [key.as_dict(private=False)]})
        async with _provider() as address:
            sizes = (options.services, options.agencies, options.grants), (10, 10, 200)
            cities = [MadeCity(*each, address, jwks, options.seed) for each in sizes]
            async with (
                running_city(Path(folder) / "whole") as whole,
                running_city(Path(folder) / "ten") as ten,
                _filled(whole, cities[0], key) as loaded,
                _filled(ten, cities[1], key),
            ):
                figures = loaded | await _restarts(whole, cities[0])
                figures |= await _changes(whole, cities[0], options.changes)
                figures |= await _publishing(whole, cities[0], options.published)
                figures |= await _watching(whole)
                figures |= _memory(whole)
                ratios, costs = await _costs(((whole, cities[0]), (ten, cities[1])), options.rounds, options.calls)
    told = machine.describe(load=load.generator(), **{k: v for k, v in vars(options).items() if k != "json"})
    return {"figures": figures | costs, "ratios": ratios, "machine": told}


# --- the city --------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _provider() -> AsyncIterator[str]:
    """A server of its own that answers every call alike."""
    command = [sys.executable, "-m", "tests.bench.answering"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        address = (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip()
        assert address, "the provider did not begin"
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def _filled(city: City, made: MadeCity, key: ECKey) -> AsyncIterator[dict[str, float]]:
    """The made city in a node's registry, its leases beaten as another node would; figures of filling it."""
    say(f"{made.services:,} services, {made.agencies:,} agencies, {made.grants:,} grants")
    path = city.node.layout.system_keys / f"{file_name(CALLER)}.jwk"
    write_private(path, json.dumps(key.as_dict(private=True)))

    async def connect(**callbacks: Any) -> Any:
        return await nats.connect_core(city.node, **callbacks)

    store = Store(connect, None, "made")
    async with asyncio.TaskGroup() as group:
        running = group.create_task(store.run())
        await asyncio.wait_for(store.synced.wait(), 30)
        beating = group.create_task(_beat(store, made.endpoint_ids()))
        contracts = await _spread(made.contracts(), store.put_contract)
        records = await _spread(_batches(made.records()), lambda batch: _write(store, batch), at_once=1)
        settled = await _timed(_settled(city))
        yield {
            "contracts_per_s": round(made.services / contracts),
            "load_records_per_s": round(store.state.revision / records),
            "load_settled_s": round(settled, 2),
        }
        beating.cancel()
        running.cancel()


def _batches(writes: Any) -> Any:
    while batch := list(itertools.islice(writes, MAX_BATCH)):
        yield batch


async def _write(store: Store, batch: list[Write]) -> None:
    await store.write(batch, operation_id=uuid.uuid4().hex, actor="H26/operator")


async def _beat(store: Store, endpoints: list[str]) -> None:
    while True:
        await store.publish_leases(dict.fromkeys(endpoints, 0.0))
        await asyncio.sleep(1.0)


async def _spread(items: Any, act: Callable[[Any], Any], at_once: int = _AT_ONCE) -> float:
    """Do it for each of `items`, some at once; seconds."""
    began, todo = time.perf_counter(), iter(items)

    async def worker() -> None:
        for each in todo:
            await act(each)

    await asyncio.gather(*(worker() for _ in range(at_once)))
    return time.perf_counter() - began


async def _timed(awaited: Any) -> float:
    began = time.perf_counter()
    await awaited
    return time.perf_counter() - began


async def _settled(city: City) -> None:
    """Until nothing is on its way to Envoy any more: a change is confirmed as effective."""
    request = pb.PutGroupRequest(group=pb.Group(id="settling", members=[CALLER]))
    async with city.connect() as operator, asyncio.timeout(_BOUND_S):
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                if (await RegistryServiceStub(operator).PutGroup(request, timeout=10)).effective:
                    return
            await asyncio.sleep(0.1)


# --- what is measured ------------------------------------------------------------------------------------------------


async def _restarts(city: City, made: MadeCity) -> dict[str, float]:
    paths = made.called_services()
    async with city.connect(CALLER) as caller:
        await _answered(caller, paths)
        say("restarting the control process under calls")
        before, lost, done = city.pid("control"), [], asyncio.Event()
        calling = asyncio.create_task(_call_on(caller, paths, lost, done))
        began = time.perf_counter()
        os.kill(before, 9)
        await city.up_again("control", before, _BOUND_S)
        await _settled(city)
        control = time.perf_counter() - began
        done.set()
        calls = await calling
    say("restarting Envoy")
    before, began = city.pid("envoy"), time.perf_counter()
    os.kill(before, 9)
    async with asyncio.timeout(_BOUND_S):
        while True:
            try:
                async with city.connect(CALLER) as caller:
                    await _answered(caller, paths)
                break
            except (grpc.aio.AioRpcError, client.TokenRefusedError):
                await asyncio.sleep(0.05)
    return {
        "control_cold_s": round(control, 2),
        "control_cold_calls": calls,
        "control_cold_calls_lost": len(lost),
        "cold_load_s": round(time.perf_counter() - began, 2),
    }


async def _call_on(caller: grpc.aio.Channel, services: list[str], lost: list[str], done: asyncio.Event) -> int:
    calls = 0
    for service in itertools.cycle(services):
        if done.is_set():
            return calls
        calls += 1
        try:
            assert await caller.unary_unary(f"/{service}/Get")(REQUEST, timeout=10) == ANSWER
        except grpc.aio.AioRpcError as error:
            lost.append(str(explain(error)))
    return calls


async def _answered(caller: grpc.aio.Channel, services: list[str]) -> None:
    """One good answer of each."""
    for service in services:
        assert await caller.unary_unary(f"/{service}/Get")(REQUEST, timeout=5) == ANSWER


async def _changes(city: City, made: MadeCity, changes: int) -> dict[str, float]:
    """From sending the change until a call of the caller is answered otherwise; each time another service."""
    say(f"{changes} changes of a right")
    times, confirmed = [], []
    services = [made_city.name(number * 7919 % made.services) for number in range(changes // 2)]
    async with city.connect() as operator, city.connect(CALLER) as caller:
        registry = RegistryServiceStub(operator)
        for service, granting in itertools.product(services, (True, False)):
            began = time.perf_counter()
            writing = asyncio.create_task(_change(registry, service, granting))
            while await _allowed(caller, service) is not granting:
                assert time.perf_counter() - began < 30, "the change never took effect"
            times.append((time.perf_counter() - began) * 1000)
            assert await writing, "the gateway did not confirm the change"
            confirmed.append((time.perf_counter() - began) * 1000)
    return _percentiles("change_effect", times) | _percentiles("change_confirmed", confirmed)


async def _change(registry: Any, service: str, granting: bool) -> bool:
    identifier = f"bench-{service.split('.')[1]}"
    if granting:
        made = pb.Grant(id=identifier, consumer=CALLER, service=service, methods=["Put"])
        answer = await registry.CreateGrant(pb.CreateGrantRequest(grant=made))
    else:
        answer = await registry.RevokeGrant(pb.RevokeGrantRequest(id=identifier, reason="bench"))
    return bool(answer.effective)


async def _allowed(channel: grpc.aio.Channel, service: str) -> bool:
    try:
        await channel.unary_unary(f"/{service}/Put")(REQUEST, timeout=10)
    except grpc.aio.AioRpcError as error:
        if explain(error).reason != "GRANT_MISSING":
            raise
        return False
    return True


def _percentiles(what: str, milliseconds: list[float]) -> dict[str, float]:
    rows = sorted(milliseconds)
    return {
        f"{what}_p50_ms": round(rows[len(rows) // 2], 2),
        f"{what}_p99_ms": round(rows[len(rows) * 99 // 100], 2),
    }


async def _publishing(city: City, made: MadeCity, count: int) -> dict[str, float]:
    """New services of one provider by one client: each with a contract of its own, and many of one contract at once."""
    say(f"publishing {count} services, and {MAX_SERVICES} at once")
    provider = made_city.system(0, made.agencies)
    contract, names = made_city.shared_contract(MAX_SERVICES)
    many = pb.PublishServicesRequest(contracts=[contract])
    for each in names:
        many.services.add(service=pb.Service(name=each, provider=provider))
    async with city.connect() as operator:
        registry = RegistryServiceStub(operator)

        async def publish(number: int) -> None:
            service = pb.Service(name=made_city.name(number), provider=provider)
            await registry.PublishService(
                pb.PublishServiceRequest(service=service, contract=made_city.contract(number)), timeout=60
            )

        singly = await _spread(range(90_000, 90_000 + count), publish, at_once=4)
        at_once = await _timed(registry.PublishServices(many, timeout=60))
    return {"publish_per_s": round(count / singly, 1), "publish_at_once_per_s": round(MAX_SERVICES / at_once)}


async def _watching(city: City) -> dict[str, float]:
    say("watching")
    async with city.connect() as operator:
        began = time.perf_counter()
        listed, where = 0, pb.WatchResponse()
        async for response in watch(operator):
            listed, where = listed + len(response.changes), response
            if response.complete:
                break
        list_s = time.perf_counter() - began
        await _disturb(city)
        began, resumed = time.perf_counter(), 0
        async for response in watch(operator, incarnation=where.incarnation, revision=where.revision):
            assert not response.relist
            resumed += len(response.changes)
            if resumed >= _RESUMED:
                break
        resume_s = time.perf_counter() - began
    assert resumed == _RESUMED, f"{resumed} changes instead of {_RESUMED}"
    return {"watch_records": listed, "watch_list_s": round(list_s, 2), "watch_resume_s": round(resume_s, 3)}


async def _disturb(city: City) -> None:
    """A thousand new agencies, in one import."""
    agencies = [pb.Agency(id=f"{made_city.CITY}.w{number}", parent=made_city.CITY) for number in range(_RESUMED)]
    async with city.connect() as operator:
        answer = await RegistryServiceStub(operator).ImportAgencies(pb.ImportAgenciesRequest(agencies=agencies))
    assert len(answer.created) == _RESUMED


def _memory(city: City) -> dict[str, float]:
    return {f"{name}_rss_mb": machine.resident_mib(city.pid(name)) for name in ("envoy", "control", "nats")}


async def _costs(
    cities: tuple[tuple[City, MadeCity], ...], rounds: int, calls: int
) -> tuple[dict[str, float], dict[str, float]]:
    """CPU a call of each city's Envoy, in interleaved rounds; and with many services in use instead of ten."""
    (whole, made), (ten, small) = cities
    ways = {
        "10_of_10000": (whole, made.spread(FEW)),
        "10_of_10": (ten, small.spread(FEW)),
        "200_of_10000": (whole, made.spread(made.called)),
    }
    seen: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        say(f"round {number} of {rounds}" if number else "warming up")
        for way, (city, services) in ways.items():
            paths = tuple(f"/{service}/Get" for service in services)
            target = load.Target(city.node.target, paths, REQUEST, ANSWER, await _token(city), city.node.layout.ca)
            before = machine.cpu_seconds(city.pid("envoy"))
            await load.run(target, calls)
            if number:
                seen[way].append((machine.cpu_seconds(city.pid("envoy")) - before) / calls * 1e6)
    ratio = statistics.median(a / b for a, b in zip(seen["10_of_10000"], seen["10_of_10"], strict=True))
    figures = {f"cpu_us_{way}": round(statistics.median(each), 1) for way, each in seen.items()}
    return {"cpu_10000_over_10": round(ratio, 3)}, figures


async def _token(city: City) -> str:
    identity = Identity.load(CALLER, city.node.layout.system_keys / f"{file_name(CALLER)}.jwk")
    tokens = AsyncTokens(identity, f"{city.node.issuer}/oauth2/token", load.trust(city.node.layout.ca))
    try:
        return await tokens.get()
    finally:
        await tokens.close()


def say(text: str) -> None:
    print(f"… {text}", file=sys.stderr, flush=True)


def show(result: dict[str, Any]) -> None:
    for part in ("figures", "ratios"):
        for name, value in result[part].items():
            print(f"{name:<34}{value:>12}")
    print(f"load by {result['machine']['load']} on {result['machine']['cores']} cores, {result['machine']['cpu']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object {figures, ratios, machine}")
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--agencies", type=int, default=1_000)
    parser.add_argument("--grants", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=4000, help="calls a round and city")
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--published", type=int, default=100)
    arguments = parser.parse_args()
    result = asyncio.run(measure(arguments))
    print(json.dumps(result, ensure_ascii=False, indent=2)) if arguments.json else show(result)


if __name__ == "__main__":
    main()
