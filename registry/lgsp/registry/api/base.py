"""What every part of the registry's API stands on: who calls, what is there, and how a record is written."""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable, Container, Sequence
from datetime import UTC
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry import identifiers
from lgsp.registry.agencies import has_ended
from lgsp.registry.leases import Leases
from lgsp.registry.lifecycle import RETIRED
from lgsp.registry.state import Entry
from lgsp.registry.store import Store, Write
from lgsp.registry.visibility import sees

M = TypeVar("M", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]
EFFECTIVE_S: Final = 2.0
_MAX_RECORD: Final = 64 * 1024
_OPERATION: Final = re.compile(rf"[\x20-\x7e]{{0,{identifiers.MAX_BYTES}}}")


async def _at_once(endpoint: pb.Endpoint) -> None:
    """No Envoy to wait for."""


class Part:
    """`effective(revision, timeout_s)` awaits this node's Envoy; `endpoint_policy(system, address)` answers the address's
    one spelling or raises ENDPOINT_REFUSED; `taken` awaits, bounded, that this node's Envoy sends calls to an endpoint;
    `operators` says who may act for all; `uses` who called what of a service; `development` lets legacy systems be on
    this machine and without TLS; `platform` names the services that the platform itself offers and keeps."""

    def __init__(
        self,
        store: Store,
        leases: Leases,
        *,
        effective: Callable[[int, float], Awaitable[bool]],
        operators: Callable[[str], bool],
        endpoint_policy: Callable[[str, str], str],
        taken: Callable[[pb.Endpoint], Awaitable[None]] = _at_once,
        uses: Callable[[str], list[pb.Use]] = lambda service: [],
        development: bool = False,
        platform: Container[str] = (),
    ) -> None:
        self.store, self.state, self.leases = store, store.state, leases
        self.effective, self.operators, self.endpoint_policy = effective, operators, endpoint_policy
        self.uses, self.taken, self.development, self.platform = uses, taken, development, platform

    # --- who and what ------------------------------------------------------------------------------------------------

    def caller(self, context: Context) -> str:
        named = caller_of(context)
        if not self.store.synced.is_set() and not self.state.revision:
            raise BusError("REGISTRY_UNAVAILABLE", "this node has not read the registry yet")
        return named

    def operator(self, context: Context) -> str:
        caller = self.caller(context)
        if not self.operators(caller):
            raise BusError("NOT_OWNER", f"{caller} is no operator")
        return caller

    def need_owner(self, caller: str, owner: str) -> None:
        if caller != owner and not self.operators(caller):
            raise BusError("NOT_OWNER", f"this belongs to {owner}")

    def need(self, kind: str, key: str) -> Entry:
        entry = self.state.get(kind, key)
        if entry is None:
            raise BusError("NOT_REGISTERED", f"no {kind} {key[:64]!r}")
        return entry

    def visible(self, caller: str, kind: str, record: pb.Record) -> bool:
        """Whether the caller may read the record."""
        return sees(self.state, caller, kind, record) or self.operators(caller)

    def need_visible(self, kind: str, key: str, caller: str) -> Entry:
        """The record; for who may not read it, it is not there."""
        entry = self.state.get(kind, key)
        if entry is None or not self.visible(caller, kind, entry.record):
            raise BusError("NOT_REGISTERED", f"no {kind} {key[:64]!r}")
        return entry

    def need_not_platform(self, service: str) -> None:
        if service in self.platform:
            raise BusError("LIFECYCLE_REFUSED", f"{service} is the platform's own: its releases publish and end it")

    def need_active_agency(self, identifier: str) -> pb.Agency:
        entry = self.state.resolve_agency(identifier)
        if entry is None:
            raise BusError("NOT_REGISTERED", f"the agency {identifier[:64]!r} is not registered")
        if has_ended(entry.record.agency, now()):
            how = "was revoked" if entry.record.agency.HasField("revoked_at") else "has ended"
            after = ", ".join(entry.record.agency.successors)
            raise BusError(
                "NOT_REGISTERED",
                f"the agency {entry.record.agency.id} {how}" + (f"; now it is {after}" if after else ""),
            )
        return entry.record.agency

    def need_active_system(self, system: str) -> None:
        if self.need("system", system).record.system.HasField("revoked_at"):
            raise BusError("NOT_REGISTERED", f"the system {system} was revoked")

    def need_active_service(self, name: str) -> pb.Service:
        service = self.need("service", name).record.service
        if service.lifecycle == RETIRED:
            raise BusError("NOT_REGISTERED", f"the service {name} was retired")
        return service

    def endpoint_state(self, endpoint: pb.Endpoint) -> pb.EndpointState:
        """An endpoint with its lease as this node sees it."""
        state = pb.EndpointState(endpoint=endpoint, live=self.leases.live(endpoint.id))
        state.lease_until.FromNanoseconds(now().ToNanoseconds() + int(self.leases.remaining(endpoint.id) * 1e9))
        return state

    # --- writing -----------------------------------------------------------------------------------------------------

    async def create(self, kind: str, key: str, value: M, operation_id: str, caller: str) -> tuple[M, int]:
        """Write what must not be there yet; the same content again is the same answer."""
        entry = self.state.get(kind, key)
        if entry is not None:
            kept = getattr(entry.record, kind)
            if kept == value or repeated(entry, caller, operation_id):
                return kept, entry.revision
            raise BusError("ALREADY_EXISTS", f"the {kind} {key} exists with other content")
        return value, await self.replace(kind, key, value, None, operation_id, caller)

    async def replace(
        self, kind: str, key: str, value: Message, entry: Entry | None, operation_id: str, caller: str
    ) -> int:
        """Write one record in place of `entry`, which is None for a new one."""
        write = Write(kind, key, value, entry.revision if entry is not None else 0)
        return max(await self.write_all([write], operation_id, caller))

    async def write_all(self, writes: Sequence[Write], operation_id: str, caller: str) -> list[int]:
        """Write records that belong together, all or nothing; answers their revisions."""
        # The id travels in a NATS header.
        if not _OPERATION.fullmatch(operation_id):
            raise BusError(
                "IDENTIFIER_INVALID", f"an operation id has at most {identifiers.MAX_BYTES} ASCII characters"
            )
        for each in writes:
            if each.value.ByteSize() > _MAX_RECORD:
                raise BusError("REQUEST_TOO_LARGE", f"a {each.kind} has at most {_MAX_RECORD} bytes")
        operation = f"{caller} {operation_id}" if operation_id else uuid.uuid4().hex
        return await self.store.write(writes, operation_id=operation, actor=caller)


def caller_of(context: Context) -> str:
    """The system that the gateway says is calling; GRANT_MISSING when it says nothing."""
    named = [value for key, value in context.invocation_metadata() or () if key == "x-lgsp-client"]
    if len(named) != 1 or not isinstance(named[0], str) or not named[0]:
        raise BusError("GRANT_MISSING", "the call did not come through the gateway")
    return named[0]


def repeated(entry: Entry, caller: str, operation_id: str) -> bool:
    """True when this very operation of the caller wrote the record."""
    return bool(operation_id) and entry.record.operation_id == f"{caller} {operation_id}"


def fresh_id(caller: str, operation_id: str) -> str:
    """An id for a new record: the same for the same operation, so that it can be repeated."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"{caller} {operation_id}").hex if operation_id else uuid.uuid4().hex


def checked_time(stamp: Timestamp) -> Timestamp:
    """The instant; REQUEST_MALFORMED outside the years 1 to 9999, where nothing can reckon with it."""
    try:
        stamp.ToNanoseconds()
        stamp.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise BusError("REQUEST_MALFORMED", "a time of the request is outside the years 1 to 9999") from None
    return stamp


def copied(message: M) -> M:
    made = type(message)()
    made.CopyFrom(message)
    return made


def now() -> Timestamp:
    stamp = Timestamp()
    stamp.GetCurrentTime()
    return stamp
