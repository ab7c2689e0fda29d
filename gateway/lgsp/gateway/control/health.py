"""grpc.health.v1 for any service on the bus, told from leases: SERVING while an instance lives.

The empty name is the gateway itself. A service that the caller may not see is answered like one that is not there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2 as pb

from lgsp.api.errors import BusError
from lgsp.gateway.control.standard import HEALTH
from lgsp.registry.api.base import Context
from lgsp.registry.catalogue.rights import visible
from lgsp.registry.lifecycle import CARRIED
from lgsp.registry.state import State

_R: Final = pb.HealthCheckResponse
MAX_LISTED: Final = 10_000


class Serving:
    """Whether services are served, as leases tell it; `own` are the platform's, served by whoever answers here.

    This is the one place that knows; a gateway's own view of its upstreams belongs here too.
    """

    def __init__(self, state: State, live: Callable[[str], bool], own: Collection[str]) -> None:
        self._state, self._live, self._own = state, live, own

    def status(self, name: str) -> Any:
        """UNKNOWN where nobody beats: an HTTP system behind the gateway has no lease."""
        entry = self._state.get("service", name)
        if entry is None or entry.record.service.lifecycle not in CARRIED:
            return _R.NOT_SERVING
        if name in self._own:
            return _R.SERVING
        if entry.record.service.HasField("rest"):
            return _R.UNKNOWN
        found = (each.record.endpoint for each in self._state.endpoints_by_service(name))
        alive = any(not each.HasField("ended_at") and self._live(each.id) for each in found)
        return _R.SERVING if alive else _R.NOT_SERVING


class Health:
    """`caller` names who calls, or refuses; `operators` says who sees all; `ready` whether this gateway carries calls."""

    def __init__(
        self,
        state: State,
        instances: Serving,
        *,
        caller: Callable[[Context], str],
        operators: Callable[[str], bool],
        ready: Callable[[], bool],
    ) -> None:
        self._state, self._instances = state, instances
        self._caller, self._operators, self._ready = caller, operators, ready
        self._changed = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """The three methods of the contract."""
        request, answer = pb.HealthCheckRequest.FromString, _R.SerializeToString
        listed = (pb.HealthListRequest.FromString, pb.HealthListResponse.SerializeToString)
        methods = {
            "Check": grpc.unary_unary_rpc_method_handler(self._check, request, answer),
            "List": grpc.unary_unary_rpc_method_handler(self._list, *listed),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch, request, answer),
        }
        return grpc.method_handlers_generic_handler(HEALTH, methods)

    def note(self, changes: Iterable[Any] = ()) -> None:
        """Something changed that a watcher may wait for."""
        waiting, self._changed = self._changed, asyncio.Event()
        waiting.set()

    async def _check(self, request: Any, context: Any) -> Any:
        status = self._status(request.service, self._caller(context))
        if status == _R.SERVICE_UNKNOWN:
            raise BusError("NOT_REGISTERED", f"no service {request.service[:64]!r}")
        return _R(status=status)

    async def _list(self, request: Any, context: Any) -> Any:
        caller = self._caller(context)
        names = [name for name in self._state.all("service") if self._status(name, caller) != _R.SERVICE_UNKNOWN]
        if len(names) > MAX_LISTED:
            raise BusError("REQUEST_TOO_LARGE", f"there are more than {MAX_LISTED} services: ask for each by Check")
        return pb.HealthListResponse(
            statuses={name: _R(status=self._status(name, caller)) for name in ("", *sorted(names))}
        )

    async def _watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """The status now, and again whenever it becomes another; SERVICE_UNKNOWN until there is such a service."""
        caller, last = self._caller(context), None
        while True:
            changed = self._changed
            status = self._status(request.service, caller)
            if status != last:
                yield _R(status=status)
                last = status
            await changed.wait()

    def _status(self, name: str, caller: str) -> Any:
        if not name:
            return _R.SERVING if self._ready() else _R.NOT_SERVING
        entry = self._state.get("service", name)
        if entry is None or not visible(entry.record.service, caller, operator=self._operators(caller)):
            return _R.SERVICE_UNKNOWN
        return self._instances.status(name)
