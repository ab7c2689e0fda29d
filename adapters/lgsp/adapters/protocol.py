"""What an adapter is: construct without side effects → provision → validate → serve → clean up.

`clean_up` works after half a provision, and more than once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import grpc


@runtime_checkable
class Adapter(Protocol):
    """Turns something that is no gRPC service into one, from a contract."""

    @property
    def services(self) -> tuple[str, ...]:
        """Full names of the services that it answers."""

    async def provision(self) -> None:
        """Take what it needs: connections, files."""

    async def validate(self) -> None:
        """Hold contract and system against each other; BusError CONTRACT_INVALID lists everything that does not fit."""

    def handlers(self) -> Sequence[grpc.GenericRpcHandler[Any, Any]]:
        """What a gRPC server needs to answer."""

    async def clean_up(self) -> None:
        """Give everything back."""


@dataclass(frozen=True, slots=True)
class Callers:
    """Who calls, as the gateway says it."""

    client: str
    agency: str
    request_id: str


def caller(context: grpc.aio.ServicerContext[Any, Any]) -> Callers:
    """The caller of a call; empty texts when it did not come through a gateway."""
    found = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    return Callers(found.get("x-lgsp-client", ""), found.get("x-lgsp-agency", ""), found.get("x-request-id", ""))
