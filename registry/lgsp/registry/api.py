"""The registry's gRPC API. The gateway has already checked the caller's grant on the method; here is what is owned by whom.

Rule 1: the caller is `x-lgsp-client`, which only the gateway can set on this socket; without it nothing is answered.
Rule 2: a system that may create grants is an operator and may act for all; any other acts in its own name alone.
Rule 3: repeating an operation id repeats the answer, for as long as no other write replaced the record (a replaced one
        is remembered for two minutes). Nothing is deleted: an end is a record.
Rule 4: what every node keeps in memory and every Envoy is told has a size and a form that were checked here.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.api.registry.v1 import registry_pb2_grpc
from lgsp.registry import contracts, identifiers, paging
from lgsp.registry.keys import check_jwks
from lgsp.registry.leases import Leases
from lgsp.registry.state import Entry
from lgsp.registry.store import Store, Write

M = TypeVar("M", bound=Message)
_EFFECTIVE_S = 2.0
_MAX_RECORD: Final = 64 * 1024
_MAX_ORIGINS: Final = 50
_OPERATION: Final = re.compile(rf"[\x20-\x7e]{{0,{identifiers.MAX_BYTES}}}")
_ORIGIN: Final = re.compile(r"https?://[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?(:[0-9]{1,5})?")
_Context = grpc.aio.ServicerContext[Any, Any]


class RegistryServicer(registry_pb2_grpc.RegistryServiceServicer):
    """`effective(revision, timeout_s)` awaits this node's Envoy; `endpoint_policy` raises ENDPOINT_REFUSED;
    `operators` says who may act for all."""

    def __init__(
        self,
        store: Store,
        leases: Leases,
        *,
        effective: Callable[[int, float], Awaitable[bool]],
        operators: Callable[[str], bool],
        endpoint_policy: Callable[[str], None],
    ) -> None:
        self._store, self._state, self._leases = store, store.state, leases
        self._effective, self._operators, self._endpoint_policy = effective, operators, endpoint_policy

    # --- agencies ----------------------------------------------------------------------------------------------------

    async def CreateAgency(self, request: pb.CreateAgencyRequest, context: _Context) -> pb.CreateAgencyResponse:
        caller, agency = self._operator(context), request.agency
        identifiers.check_agency(agency.id)
        if agency.HasField("revoked_at") or agency.revoked_reason:
            raise BusError("REQUEST_MALFORMED", "an agency is revoked with RevokeAgency, not created so")
        for name in (agency.id, *agency.aliases):
            known = self._state.resolve_agency(identifiers.check_agency(name))
            if known is not None and known.record.agency.id != agency.id:
                raise BusError("ALREADY_EXISTS", f"{name} means the agency {known.record.agency.id}")
        if agency.parent:
            if agency.parent in (agency.id, *agency.aliases):
                raise BusError("IDENTIFIER_INVALID", "an agency cannot be above itself")
            agency.parent = self._need_active_agency(agency.parent).id
        kept, revision = await self._create("agency", agency.id, agency, request.operation_id, caller)
        return pb.CreateAgencyResponse(agency=kept, revision=revision)

    async def GetAgency(self, request: pb.GetAgencyRequest, context: _Context) -> pb.GetAgencyResponse:
        self._caller(context)
        entry = self._state.resolve_agency(request.id)
        if entry is None:
            raise BusError("NOT_REGISTERED", f"no agency {request.id[:64]!r}")
        return pb.GetAgencyResponse(agency=entry.record.agency, revision=entry.revision)

    async def ListAgencies(self, request: pb.ListAgenciesRequest, context: _Context) -> pb.ListAgenciesResponse:
        self._caller(context)
        found, token = paging.page(
            self._state,
            "agency",
            request,
            lambda each: not request.parent or each.record.agency.parent == request.parent,
        )
        return pb.ListAgenciesResponse(agencies=[each.record.agency for each in found], next_page_token=token)

    async def RevokeAgency(self, request: pb.RevokeAgencyRequest, context: _Context) -> pb.RevokeAgencyResponse:
        caller, entry = self._operator(context), self._need("agency", request.id)
        agency, revision = entry.record.agency, entry.revision
        if not agency.HasField("revoked_at"):
            agency = _copy(agency)
            agency.revoked_at.CopyFrom(_now())
            agency.revoked_reason = request.reason[:500]
            revision = await self._replace("agency", agency.id, agency, entry, request.operation_id, caller)
        return pb.RevokeAgencyResponse(agency=agency, revision=revision)

    # --- systems -----------------------------------------------------------------------------------------------------

    async def CreateSystem(self, request: pb.CreateSystemRequest, context: _Context) -> pb.CreateSystemResponse:
        caller, system = self._operator(context), request.system
        identifiers.check_system(system.id)
        self._need_active_agency(identifiers.agency_of(system.id))
        if system.HasField("revoked_at") or system.revoked_reason:
            raise BusError("REQUEST_MALFORMED", "a system is revoked with RevokeSystem, not created so")
        system.jwks = check_jwks(system.jwks)
        kept, revision = await self._create("system", system.id, system, request.operation_id, caller)
        return pb.CreateSystemResponse(system=_shown(kept), revision=revision)

    async def GetSystem(self, request: pb.GetSystemRequest, context: _Context) -> pb.GetSystemResponse:
        self._caller(context)
        entry = self._need("system", request.id)
        return pb.GetSystemResponse(system=_shown(entry.record.system), revision=entry.revision)

    async def ListSystems(self, request: pb.ListSystemsRequest, context: _Context) -> pb.ListSystemsResponse:
        self._caller(context)
        found, token = paging.page(self._state, "system", request)
        return pb.ListSystemsResponse(systems=[_shown(each.record.system) for each in found], next_page_token=token)

    async def RevokeSystem(self, request: pb.RevokeSystemRequest, context: _Context) -> pb.RevokeSystemResponse:
        caller, entry = self._operator(context), self._need("system", request.id)
        if request.id == caller:
            raise BusError("NOT_OWNER", "an operator cannot revoke itself")
        system, revision = entry.record.system, entry.revision
        if not system.HasField("revoked_at"):
            system = _copy(system)
            system.revoked_at.CopyFrom(_now())
            system.revoked_reason = request.reason[:500]
            revision = await self._replace("system", request.id, system, entry, request.operation_id, caller)
        done = await self._effective(revision, _EFFECTIVE_S)
        return pb.RevokeSystemResponse(system=_shown(system), revision=revision, effective=done)

    # --- services ----------------------------------------------------------------------------------------------------

    async def PublishService(self, request: pb.PublishServiceRequest, context: _Context) -> pb.PublishServiceResponse:
        caller, service = self._caller(context), _copy(request.service)
        identifiers.check_service(service.name)
        if not self._operators(caller) and service.provider != caller:
            raise BusError("NOT_OWNER", f"{caller} cannot publish for {service.provider[:64]}")
        self._need_active_system(service.provider)
        entry = self._state.get("service", service.name)
        if entry is not None and entry.record.service.provider != service.provider:
            raise BusError("SERVICE_OWNED_BY_ANOTHER", f"{service.name} belongs to {entry.record.service.provider}")
        if entry is not None and _repeated(entry, caller, request.operation_id):
            return pb.PublishServiceResponse(service=entry.record.service, revision=entry.revision)
        _check_origins(service)
        contracts.load_contract(request.contract, service.name)
        service.ClearField("retired_at")
        service.contract_digest = await self._store.put_contract(request.contract)
        if entry is not None and entry.record.service == service:
            return pb.PublishServiceResponse(service=service, revision=entry.revision)
        revision = await self._replace("service", service.name, service, entry, request.operation_id, caller)
        await self._effective(revision, _EFFECTIVE_S)
        return pb.PublishServiceResponse(service=service, revision=revision)

    async def GetService(self, request: pb.GetServiceRequest, context: _Context) -> pb.GetServiceResponse:
        self._caller(context)
        entry = self._need("service", request.name)
        return pb.GetServiceResponse(service=entry.record.service, revision=entry.revision)

    async def ListServices(self, request: pb.ListServicesRequest, context: _Context) -> pb.ListServicesResponse:
        self._caller(context)
        found, token = paging.page(self._state, "service", request)
        return pb.ListServicesResponse(services=[each.record.service for each in found], next_page_token=token)

    async def RetireService(self, request: pb.RetireServiceRequest, context: _Context) -> pb.RetireServiceResponse:
        caller, entry = self._caller(context), self._need("service", request.name)
        self._need_owner(caller, entry.record.service.provider)
        service, revision = entry.record.service, entry.revision
        if not service.HasField("retired_at"):
            service = _copy(service)
            service.retired_at.CopyFrom(_now())
            revision = await self._replace("service", request.name, service, entry, request.operation_id, caller)
        await self._effective(revision, _EFFECTIVE_S)
        return pb.RetireServiceResponse(service=service, revision=revision)

    async def GetContract(self, request: pb.GetContractRequest, context: _Context) -> pb.GetContractResponse:
        self._caller(context)
        digest = self._need("service", request.service).record.service.contract_digest
        return pb.GetContractResponse(contract=await self._store.get_contract(digest), digest=digest)

    # --- endpoints ---------------------------------------------------------------------------------------------------

    async def RegisterEndpoint(
        self, request: pb.RegisterEndpointRequest, context: _Context
    ) -> pb.RegisterEndpointResponse:
        caller = self._caller(context)
        self._endpoint_policy(request.address)
        if not 0 < len(request.services) <= 100:
            raise BusError("REQUEST_MALFORMED", "an endpoint serves 1 to 100 services")
        for name in request.services:
            service = self._need_active_service(name)
            if service.provider != caller:
                raise BusError("SERVICE_OWNED_BY_ANOTHER", f"{name} belongs to {service.provider}")
        again = self._registered(caller, request)
        if again is None:
            endpoint = pb.Endpoint(
                id=_fresh_id(caller, request.operation_id),
                system=caller,
                services=sorted(set(request.services)),
                address=request.address,
            )
            endpoint.registered_at.CopyFrom(_now())
            self._leases.beat(endpoint.id)
            revision = await self._replace("endpoint", endpoint.id, endpoint, None, request.operation_id, caller)
        else:
            endpoint, revision = again.record.endpoint, again.revision
            if not endpoint.HasField("ended_at"):
                self._leases.beat(endpoint.id)
        await self._effective(revision, _EFFECTIVE_S)
        return pb.RegisterEndpointResponse(endpoint=endpoint, revision=revision, lease_seconds=int(self._leases.ttl_s))

    def _registered(self, caller: str, request: pb.RegisterEndpointRequest) -> Entry | None:
        """The same endpoint registered before and not ended: a restarted provider on a fixed address; or what this
        very operation registered."""
        same_operation = self._state.get("endpoint", _fresh_id(caller, request.operation_id))
        if same_operation is not None:
            return same_operation
        wanted = sorted(set(request.services))
        for entry in self._state.endpoints_by_service(wanted[0]):
            known = entry.record.endpoint
            same = (known.system, known.address, list(known.services)) == (caller, request.address, wanted)
            if same and not known.HasField("ended_at"):
                return entry
        return None

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: _Context) -> pb.HeartbeatResponse:
        entry = self._own_endpoint(self._caller(context), request.endpoint_id)
        if entry.record.endpoint.HasField("ended_at"):
            raise BusError("LEASE_UNKNOWN", "this endpoint was deregistered")
        self._leases.beat(request.endpoint_id)
        return pb.HeartbeatResponse(lease_seconds=int(self._leases.ttl_s))

    async def DeregisterEndpoint(
        self, request: pb.DeregisterEndpointRequest, context: _Context
    ) -> pb.DeregisterEndpointResponse:
        caller = self._caller(context)
        entry = self._own_endpoint(caller, request.endpoint_id)
        revision = entry.revision
        if not entry.record.endpoint.HasField("ended_at"):
            endpoint = _copy(entry.record.endpoint)
            endpoint.ended_at.CopyFrom(_now())
            revision = await self._replace("endpoint", endpoint.id, endpoint, entry, request.operation_id, caller)
        self._leases.drop(request.endpoint_id)
        done = await self._effective(revision, _EFFECTIVE_S)
        return pb.DeregisterEndpointResponse(revision=revision, effective=done)

    async def ListEndpoints(self, request: pb.ListEndpointsRequest, context: _Context) -> pb.ListEndpointsResponse:
        self._caller(context)

        def wanted(entry: Entry) -> bool:
            each = entry.record.endpoint
            return not each.HasField("ended_at") and (not request.service or request.service in each.services)

        found, token = paging.page(self._state, "endpoint", request, wanted)
        states = [self._endpoint_state(each.record.endpoint) for each in found]
        return pb.ListEndpointsResponse(endpoints=states, next_page_token=token)

    def _endpoint_state(self, endpoint: pb.Endpoint) -> pb.EndpointState:
        state = pb.EndpointState(endpoint=endpoint, live=self._leases.live(endpoint.id))
        now = _now()
        state.lease_until.FromNanoseconds(now.ToNanoseconds() + int(self._leases.remaining(endpoint.id) * 1e9))
        return state

    def _own_endpoint(self, caller: str, endpoint_id: str) -> Entry:
        entry = self._state.get("endpoint", endpoint_id)
        if entry is None:
            raise BusError("LEASE_UNKNOWN", "no such endpoint")
        self._need_owner(caller, entry.record.endpoint.system)
        return entry

    # --- grants ------------------------------------------------------------------------------------------------------

    async def CreateGrant(self, request: pb.CreateGrantRequest, context: _Context) -> pb.CreateGrantResponse:
        caller, grant = self._operator(context), _copy(request.grant)
        grant.id = identifiers.check_grant(grant.id or _fresh_id(caller, request.operation_id))
        known = self._state.get("grant", grant.id)
        if known is not None and _repeated(known, caller, request.operation_id):
            done = await self._effective(known.revision, _EFFECTIVE_S)
            return pb.CreateGrantResponse(grant=known.record.grant, revision=known.revision, effective=done)
        self._need_active_system(grant.consumer)
        await self._check_methods(grant)
        _check_validity(grant)
        kept, revision = await self._create("grant", grant.id, grant, request.operation_id, caller)
        done = await self._effective(revision, _EFFECTIVE_S)
        return pb.CreateGrantResponse(grant=kept, revision=revision, effective=done)

    async def _check_methods(self, grant: pb.Grant) -> None:
        service = self._need_active_service(grant.service)
        if not grant.methods:
            raise BusError("REQUEST_MALFORMED", "a grant names its methods, or `*` for every one")
        contract = contracts.load_contract(await self._store.get_contract(service.contract_digest))
        known = {method.name for method in contract.methods(grant.service)}
        for method in grant.methods:
            if method not in known and list(grant.methods) != ["*"]:
                raise BusError("METHOD_UNKNOWN", f"{grant.service} has no method {method[:64]!r}")

    async def GetGrant(self, request: pb.GetGrantRequest, context: _Context) -> pb.GetGrantResponse:
        self._caller(context)
        entry = self._need("grant", request.id)
        return pb.GetGrantResponse(grant=entry.record.grant, revision=entry.revision)

    async def ListGrants(self, request: pb.ListGrantsRequest, context: _Context) -> pb.ListGrantsResponse:
        self._caller(context)

        def wanted(entry: Entry) -> bool:
            grant = entry.record.grant
            return request.consumer in ("", grant.consumer) and request.service in ("", grant.service)

        found, token = paging.page(self._state, "grant", request, wanted)
        return pb.ListGrantsResponse(grants=[each.record.grant for each in found], next_page_token=token)

    async def RevokeGrant(self, request: pb.RevokeGrantRequest, context: _Context) -> pb.RevokeGrantResponse:
        caller, entry = self._operator(context), self._need("grant", request.id)
        grant, revision = entry.record.grant, entry.revision
        if not grant.HasField("revoked_at"):
            grant = _copy(grant)
            grant.revoked_at.CopyFrom(_now())
            grant.revoked_reason = request.reason[:500]
            revision = await self._replace("grant", grant.id, grant, entry, request.operation_id, caller)
        done = await self._effective(revision, _EFFECTIVE_S)
        return pb.RevokeGrantResponse(grant=grant, revision=revision, effective=done)

    # --- who and what ------------------------------------------------------------------------------------------------

    def _caller(self, context: _Context) -> str:
        named = [value for key, value in context.invocation_metadata() or () if key == "x-lgsp-client"]
        if len(named) != 1 or not isinstance(named[0], str) or not named[0]:
            raise BusError("GRANT_MISSING", "the call did not come through the gateway")
        if not self._store.synced.is_set() and not self._state.revision:
            raise BusError("REGISTRY_UNAVAILABLE", "this node has not read the registry yet")
        return named[0]

    def _operator(self, context: _Context) -> str:
        caller = self._caller(context)
        if not self._operators(caller):
            raise BusError("NOT_OWNER", f"{caller} is no operator")
        return caller

    def _need_owner(self, caller: str, owner: str) -> None:
        if caller != owner and not self._operators(caller):
            raise BusError("NOT_OWNER", f"this belongs to {owner}")

    def _need(self, kind: str, key: str) -> Entry:
        entry = self._state.get(kind, key)
        if entry is None:
            raise BusError("NOT_REGISTERED", f"no {kind} {key[:64]!r}")
        return entry

    def _need_active_agency(self, identifier: str) -> pb.Agency:
        entry = self._state.resolve_agency(identifier)
        if entry is None:
            raise BusError("NOT_REGISTERED", f"the agency {identifier[:64]!r} is not registered")
        if entry.record.agency.HasField("revoked_at"):
            raise BusError("NOT_REGISTERED", f"the agency {entry.record.agency.id} was revoked")
        return entry.record.agency

    def _need_active_system(self, system: str) -> None:
        if self._need("system", system).record.system.HasField("revoked_at"):
            raise BusError("NOT_REGISTERED", f"the system {system} was revoked")

    def _need_active_service(self, name: str) -> pb.Service:
        service = self._need("service", name).record.service
        if service.HasField("retired_at"):
            raise BusError("NOT_REGISTERED", f"the service {name} was retired")
        return service

    # --- writing -----------------------------------------------------------------------------------------------------

    async def _create(self, kind: str, key: str, value: M, operation_id: str, caller: str) -> tuple[M, int]:
        """Write what must not be there yet; the same content again is the same answer."""
        entry = self._state.get(kind, key)
        if entry is not None:
            kept = getattr(entry.record, kind)
            if kept == value or _repeated(entry, caller, operation_id):
                return kept, entry.revision
            raise BusError("ALREADY_EXISTS", f"the {kind} {key} exists with other content")
        return value, await self._replace(kind, key, value, None, operation_id, caller)

    async def _replace(
        self, kind: str, key: str, value: Message, entry: Entry | None, operation_id: str, caller: str
    ) -> int:
        # The id travels in a NATS header.
        if not _OPERATION.fullmatch(operation_id):
            raise BusError(
                "IDENTIFIER_INVALID", f"an operation id has at most {identifiers.MAX_BYTES} ASCII characters"
            )
        if value.ByteSize() > _MAX_RECORD:
            raise BusError("REQUEST_TOO_LARGE", f"a {kind} has at most {_MAX_RECORD} bytes")
        expected = entry.revision if entry is not None else 0
        operation = f"{caller} {operation_id}" if operation_id else uuid.uuid4().hex
        (revision,) = await self._store.write([Write(kind, key, value, expected)], operation_id=operation, actor=caller)
        return revision


def _repeated(entry: Entry, caller: str, operation_id: str) -> bool:
    """True when this very operation of the caller wrote the record."""
    return bool(operation_id) and entry.record.operation_id == f"{caller} {operation_id}"


def _fresh_id(caller: str, operation_id: str) -> str:
    """An id for a new record: the same for the same operation, so that it can be repeated."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"{caller} {operation_id}").hex if operation_id else uuid.uuid4().hex


def _shown(system: pb.System) -> pb.System:
    """A system without what is never returned."""
    shown = _copy(system)
    shown.ClearField("development_secret")
    return shown


def _copy(message: M) -> M:
    made = type(message)()
    made.CopyFrom(message)
    return made


def _now() -> Timestamp:
    stamp = Timestamp()
    stamp.GetCurrentTime()
    return stamp


def _check_origins(service: pb.Service) -> None:
    """RFC 6454: scheme, host, port; nothing behind it. Envoy compares them as text."""
    if len(service.browser_origins) > _MAX_ORIGINS:
        raise BusError("REQUEST_MALFORMED", f"a service has at most {_MAX_ORIGINS} browser origins")
    for origin in service.browser_origins:
        if not _ORIGIN.fullmatch(origin):
            raise BusError(
                "REQUEST_MALFORMED", f"{origin[:64]!r} is no origin, which looks like https://www.hanoi.gov.vn"
            )


def _check_validity(grant: pb.Grant) -> None:
    if grant.HasField("revoked_at") or grant.revoked_reason:
        raise BusError("REQUEST_MALFORMED", "a grant is revoked with RevokeGrant, not created so")
    times = [getattr(grant, name) for name in ("not_before", "not_after") if grant.HasField(name)]
    for time in times:
        try:
            time.ToDatetime(tzinfo=UTC)
        except (ValueError, OverflowError):
            raise BusError("REQUEST_MALFORMED", "a time of the grant is outside the years 1 to 9999") from None
    if len(times) == 2 and times[0].ToNanoseconds() >= times[1].ToNanoseconds():
        raise BusError("REQUEST_MALFORMED", "the grant ends before it begins")
