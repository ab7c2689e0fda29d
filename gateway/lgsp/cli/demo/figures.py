"""Calls a second and p50/p99 through the gateway, beside the same adapter called directly by the same client."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import grpc

from lgsp.api.demo.admunits.v1.admunits_pb2 import GetWardRequest
from lgsp.api.demo.admunits.v1.admunits_pb2_grpc import AdministrativeUnitServiceStub
from lgsp.api.registry.v1.registry_pb2 import ListEndpointsRequest
from lgsp.cli.demo.city import UNITS
from lgsp.cli.demo.stage import Outcome, Stage, expect

_ROUNDS, _CALLS, _AT_ONCE = 3, 400, 8
_FIRST_WARD: Final = 70


async def measure(stage: Stage) -> Outcome:
    """Interleaved rounds, so that a noisy machine is as noisy for one as for the other."""
    found = (await stage.registry.ListEndpoints(ListEndpointsRequest(service=UNITS))).endpoints
    address = next(each.endpoint.address for each in found if each.live)
    taken: dict[str, list[float]] = {"gateway": [], "direct": []}
    spent = {"gateway": 0.0, "direct": 0.0}
    async with grpc.aio.insecure_channel(address) as direct:
        channels = {"direct": direct, "gateway": stage.shop}
        for _ in range(_ROUNDS):
            for name, channel in channels.items():
                began = time.perf_counter()
                taken[name] += await _burst(AdministrativeUnitServiceStub(channel))
                spent[name] += time.perf_counter() - began
    figures = {}
    for name, times in taken.items():
        times.sort()
        expect(len(times) == _ROUNDS * _CALLS, f"{name}: {len(times)} answers")
        figures[f"{name}_calls_per_s"] = round(len(times) / spent[name], 1)
        figures[f"{name}_p50_ms"] = round(times[len(times) // 2] * 1000, 2)
        figures[f"{name}_p99_ms"] = round(times[len(times) * 99 // 100] * 1000, 2)
    text = " · ".join(
        f"{label} {figures[f'{name}_calls_per_s']:.0f} calls/s, p50 {figures[f'{name}_p50_ms']} ms, p99 {figures[f'{name}_p99_ms']} ms"
        for name, label in (("gateway", "through the gateway"), ("direct", "the adapter alone"))
    )
    return Outcome(f"{text} ({_AT_ONCE} at once from one Python client)", figures=figures)


async def _burst(stub: Any) -> list[float]:
    async def worker(count: int) -> list[float]:
        times = []
        for _ in range(count):
            began = time.perf_counter()
            answer = await stub.GetWard(GetWardRequest(code=_FIRST_WARD))
            times.append(time.perf_counter() - began)
            expect(answer.code == _FIRST_WARD, "another ward was answered")
        return times

    return [t for part in await asyncio.gather(*(worker(_CALLS // _AT_ONCE) for _ in range(_AT_ONCE))) for t in part]
