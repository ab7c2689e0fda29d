"""What a step of the demo gets and gives: the running city, and an outcome that is shown as one line."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lgsp.cli.demo.collector import Collector
from lgsp.client import CallError, explain
from lgsp.gateway.datadir import file_name
from lgsp.gateway.settings import Settings


class StepFailedError(Exception):
    """The step does not hold; the text says what was seen instead."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`detail` for people; `request_id` finds the call in every log; `figures` for programs."""

    detail: str
    request_id: str = ""
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Stage:
    """The running city. `shop` is a channel as the one-stop shop, `operator` one as the operator."""

    node: Settings
    collector: Collector
    shop: grpc.aio.Channel
    operator: grpc.aio.Channel

    @property
    def registry(self) -> Any:
        return RegistryServiceStub(self.operator)

    def key_of(self, system: str) -> str:
        return str(self.node.layout.system_keys / f"{file_name(system)}.jwk")


Step = Callable[[Stage], Awaitable[Outcome]]


async def request_id(call: Any) -> str:
    """The id that the gateway gave a call."""
    metadata = await call.initial_metadata()
    return next((str(value) for key, value in metadata or () if key == "x-request-id"), "")


async def refused(call: Any) -> CallError:
    """The refusal of a call; StepFailedError when it was answered."""
    try:
        await call
    except grpc.RpcError as error:
        return explain(error)
    raise StepFailedError("the call was answered, and should have been refused")


def expect(condition: bool, seen: str) -> None:
    """StepFailedError with what was seen, unless the condition holds."""
    if not condition:
        raise StepFailedError(seen)


def milliseconds(since: float) -> float:
    return (time.perf_counter() - since) * 1000
