"""What the gateway costs: `python -m tests.bench.broker [--json]`.

In one run, in interleaved rounds: (a) the adapter called directly, (b) through an Envoy with no checks, (c) through the
gateway. CPU is what the processes themselves used. Then: from a granted or revoked right to its effect, over 200 changes.
And what every process costs while nothing happens.

cpu_gateway_over_bare    CPU of the gateway's Envoy a call / CPU of the bare Envoy a call
cpu_gateway_over_direct  CPU of gateway and adapter a call / CPU of the adapter a call when called directly
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lgsp.client import Identity, explain
from lgsp.client.tokens import AsyncTokens
from lgsp.gateway.datadir import file_name
from tests.bench import load, machine
from tests.bench.bare import bare_envoy
from tests.support.city import CONSUMER, THINGS, City, plug_things, running_city

REQUEST, ANSWER = b"\x08\x03", b"\x08\x03\x12\x08V\xe1\xba\xadt 3"
IDLE_S = 5.0


async def measure(rounds: int, calls: int, changes: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="lgsp-bench-") as name:
        folder = Path(name)
        say("starting a city")
        began = time.perf_counter()
        async with running_city(folder / "node") as city:
            start_s = time.perf_counter() - began
            await plug_things(city, folder / "things")
            idle = await _idle(city)
            figures, ratios = await _broker(city, folder, rounds, calls)
            figures |= await _changes(city, changes)
    figures |= {"start_s": round(start_s, 2), "idle": idle}
    told = machine.describe(
        load=load.generator(), rounds=rounds, calls_a_round=calls, at_once=load.CONNECTIONS * load.STREAMS
    )
    return {"figures": figures, "ratios": ratios, "machine": told}


async def _idle(city: City) -> dict[str, dict[str, float]]:
    say(f"idle for {IDLE_S:.0f} s")
    pids = {"supervisor": city.process.pid} | {each["name"]: each["pid"] for each in city.status()["parts"]}
    before = {name: machine.cpu_seconds(pid) for name, pid in pids.items()}
    await asyncio.sleep(IDLE_S)
    return {
        name: {
            "memory_mib": machine.resident_mib(pid),
            "cpu_percent": round((machine.cpu_seconds(pid) - before[name]) / IDLE_S * 100, 2),
        }
        for name, pid in pids.items()
    }


async def _broker(city: City, folder: Path, rounds: int, calls: int) -> tuple[dict[str, Any], dict[str, float]]:
    adapter = city.pid(f"component {file_name('H26.7/things')}")
    async with city.connect() as operator:
        found = await RegistryServiceStub(operator).ListEndpoints(pb.ListEndpointsRequest(service=THINGS))
    address = found.endpoints[0].endpoint.address
    token, path, ca = await _token(city), (f"/{THINGS}/Get",), city.node.layout.ca
    async with bare_envoy(folder / "bare", city.node, address) as (bare, bare_pid):
        ways = {
            "direct": (load.Target(address, path, REQUEST, ANSWER), None),
            "bare": (load.Target(bare, path, REQUEST, ANSWER, ca=ca), bare_pid),
            "gateway": (load.Target(city.node.target, path, REQUEST, ANSWER, token, ca), city.pid("envoy")),
        }
        for target, _ in ways.values():
            await load.run(target, max(200, calls // 10))
        seen: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            for name, (target, proxy) in ways.items():
                seen[name].append(await _once(target, calls, proxy, adapter))
    figures = {
        f"{name}_{key}": round(statistics.median(each[key] for each in rows), 2)
        for name, rows in seen.items()
        for key in rows[0]
    }
    ratios = {
        "cpu_gateway_over_bare": _ratio(seen, "gateway", "proxy_cpu_us", "bare", "proxy_cpu_us"),
        "cpu_gateway_over_direct": _ratio(seen, "gateway", "total_cpu_us", "direct", "total_cpu_us"),
        "p50_gateway_over_direct": _ratio(seen, "gateway", "p50_ms", "direct", "p50_ms"),
        "calls_per_s_gateway_over_direct": _ratio(seen, "gateway", "calls_per_s", "direct", "calls_per_s"),
    }
    return figures, ratios


def _ratio(seen: dict[str, list[dict[str, float]]], above: str, key: str, below: str, other: str) -> float:
    """The median of the rounds' own ratios: a noisy round is noisy for both."""
    return round(statistics.median(a[key] / b[other] for a, b in zip(seen[above], seen[below], strict=True)), 3)


async def _once(target: load.Target, calls: int, proxy: int | None, adapter: int) -> dict[str, float]:
    before = machine.cpu_seconds(proxy) if proxy else 0.0, machine.cpu_seconds(adapter)
    run = await load.run(target, calls)
    after = machine.cpu_seconds(proxy) if proxy else 0.0, machine.cpu_seconds(adapter)
    used = [(b - a) / calls * 1e6 for a, b in zip(before, after, strict=True)]
    return {
        "proxy_cpu_us": used[0],
        "total_cpu_us": sum(used),
        "calls_per_s": calls / run.seconds,
        "p50_ms": run.times_ms[len(run.times_ms) // 2],
        "p99_ms": run.times_ms[len(run.times_ms) * 99 // 100],
    }


async def _token(city: City) -> str:
    key = city.node.layout.system_keys / f"{file_name(CONSUMER)}.jwk"
    tokens = AsyncTokens(
        Identity.load(CONSUMER, key), f"{city.node.issuer}/oauth2/token", load.trust(city.node.layout.ca)
    )
    try:
        return await tokens.get()
    finally:
        await tokens.close()


async def _changes(city: City, changes: int) -> dict[str, float]:
    """From sending the change until a call of the consumer is answered otherwise than before."""
    say(f"{changes} changes of a right")
    times, confirmed = [], []
    async with city.connect() as operator, city.connect(CONSUMER) as consumer:
        registry = RegistryServiceStub(operator)
        for number in range(changes):
            granting = number % 2 == 0
            began = time.perf_counter()
            writing = asyncio.create_task(_change(registry, number, granting))
            while await _allowed(consumer) is not granting:
                assert time.perf_counter() - began < 30, "the change never took effect"
            times.append((time.perf_counter() - began) * 1000)
            assert await writing, "the gateway did not confirm the change"
            confirmed.append((time.perf_counter() - began) * 1000)
    times.sort()
    confirmed.sort()
    return {
        "changes": changes,
        "change_effect_p50_ms": round(times[len(times) // 2], 2),
        "change_effect_p99_ms": round(times[len(times) * 99 // 100], 2),
        "change_confirmed_p50_ms": round(confirmed[len(confirmed) // 2], 2),
        "change_confirmed_p99_ms": round(confirmed[len(confirmed) * 99 // 100], 2),
    }


async def _change(registry: Any, number: int, granting: bool) -> bool:
    identifier, operation = f"bench-{number // 2}", f"bench {number} {time.time_ns()}"
    if granting:
        made = pb.Grant(id=identifier, consumer=CONSUMER, service=THINGS, methods=["Hidden"])
        answer = await registry.CreateGrant(pb.CreateGrantRequest(grant=made, operation_id=operation))
    else:
        request = pb.RevokeGrantRequest(id=identifier, reason="bench", operation_id=operation)
        answer = await registry.RevokeGrant(request)
    return bool(answer.effective)


async def _allowed(channel: grpc.aio.Channel) -> bool:
    try:
        await channel.unary_unary(f"/{THINGS}/Hidden")(REQUEST, timeout=10)
    except grpc.RpcError as error:
        told = explain(error)
        assert told.reason == "GRANT_MISSING", told
        return False
    return True


def say(text: str) -> None:
    print(f"… {text}", file=sys.stderr, flush=True)


def show(result: dict[str, Any]) -> None:
    figures = result["figures"]
    print(f"{'':<10}{'proxy CPU µs':>14}{'total CPU µs':>14}{'calls/s':>10}{'p50 ms':>9}{'p99 ms':>9}")
    for name in ("direct", "bare", "gateway"):
        row = [figures[f"{name}_{key}"] for key in ("proxy_cpu_us", "total_cpu_us", "calls_per_s", "p50_ms", "p99_ms")]
        print(f"{name:<10}{row[0]:>14.1f}{row[1]:>14.1f}{row[2]:>10.0f}{row[3]:>9.2f}{row[4]:>9.2f}")
    for name, value in result["ratios"].items():
        print(f"{name:<34}{value:>8.3f}")
    print(f"change in effect: p50 {figures['change_effect_p50_ms']} ms, p99 {figures['change_effect_p99_ms']} ms")
    for name, cost in figures["idle"].items():
        print(f"idle {name:<28}{cost['memory_mib']:>8.1f} MiB {cost['cpu_percent']:>6.2f} % CPU")
    print(f"load by {result['machine']['load']} on {result['machine']['cores']} cores, {result['machine']['cpu']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one object {figures, ratios, machine}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=3000, help="calls a round and way")
    parser.add_argument("--changes", type=int, default=200)
    arguments = parser.parse_args()
    result = asyncio.run(measure(arguments.rounds, arguments.calls, arguments.changes))
    print(json.dumps(result, ensure_ascii=False, indent=2)) if arguments.json else show(result)


if __name__ == "__main__":
    main()
