"""Endpoints: running instances of providers and their leases."""

from __future__ import annotations

from typing import Final

from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry import identifiers, paging
from lgsp.registry.api.base import EFFECTIVE_S, Context, Part, copied, fresh_id, now, repeated
from lgsp.registry.state import Entry

MAX_WEIGHT: Final = 128


class Endpoints(Part):
    """The methods about endpoints."""

    async def RegisterEndpoint(
        self, request: pb.RegisterEndpointRequest, context: Context
    ) -> pb.RegisterEndpointResponse:
        caller = self.caller(context)
        address = self.endpoint_policy(caller, request.address)
        if request.weight > MAX_WEIGHT:
            raise BusError("REQUEST_MALFORMED", f"a weight is 1 to {MAX_WEIGHT}")
        if request.zone:
            identifiers.check_zone(request.zone)
        if not 0 < len(request.services) <= 100:
            raise BusError("REQUEST_MALFORMED", "an endpoint serves 1 to 100 services")
        for name in request.services:
            self.need_visible("service", name, caller)
            service = self.need_active_service(name)
            if service.provider != caller:
                raise BusError("SERVICE_OWNED_BY_ANOTHER", f"{name} belongs to {service.provider}")
            if service.HasField("rest"):
                raise BusError(
                    "ENDPOINT_REFUSED", f"{name} is a legacy HTTP/JSON system, which gateways call themselves"
                )
        wanted = pb.Endpoint(
            system=caller,
            services=sorted(set(request.services)),
            address=address,
            weight=request.weight or 1,
            zone=request.zone,
            health_checked=request.health_checked,
        )
        endpoint, revision = await self._register(wanted, request.operation_id)
        if await self.effective(revision, EFFECTIVE_S):
            await self.taken(endpoint)
        return pb.RegisterEndpointResponse(endpoint=endpoint, revision=revision, lease_seconds=int(self.leases.ttl_s))

    async def _register(self, wanted: pb.Endpoint, operation_id: str) -> tuple[pb.Endpoint, int]:
        """The endpoint as it is kept: a new record, or the one that is there with what changed."""
        entry = self._registered(wanted, operation_id)
        if entry is None:
            wanted.id = fresh_id(wanted.system, operation_id)
            wanted.registered_at.CopyFrom(now())
            self.leases.beat(wanted.id)
            return wanted, await self.replace("endpoint", wanted.id, wanted, None, operation_id, wanted.system)
        known = entry.record.endpoint
        if known.HasField("ended_at"):
            return known, entry.revision
        self.leases.beat(known.id)
        changed = copied(known)
        changed.weight, changed.zone, changed.health_checked = wanted.weight, wanted.zone, wanted.health_checked
        if changed == known or repeated(entry, wanted.system, operation_id):
            return known, entry.revision
        return changed, await self.replace("endpoint", known.id, changed, entry, operation_id, wanted.system)

    def _registered(self, wanted: pb.Endpoint, operation_id: str) -> Entry | None:
        """The same endpoint registered before and not ended: a restarted provider on a fixed address; or what this
        very operation registered."""
        same_operation = self.state.get("endpoint", fresh_id(wanted.system, operation_id))
        if same_operation is not None:
            return same_operation
        for entry in self.state.endpoints_by_service(wanted.services[0]):
            known = entry.record.endpoint
            same = (known.system, known.address, known.services) == (wanted.system, wanted.address, wanted.services)
            if same and not known.HasField("ended_at"):
                return entry
        return None

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Context) -> pb.HeartbeatResponse:
        entry = self._own_endpoint(self.caller(context), request.endpoint_id)
        if entry.record.endpoint.HasField("ended_at"):
            raise BusError("LEASE_UNKNOWN", "this endpoint was deregistered")
        # Its agency's networks may have been narrowed since: then it gets no calls, and is told.
        self.endpoint_policy(entry.record.endpoint.system, entry.record.endpoint.address)
        self.leases.beat(request.endpoint_id)
        return pb.HeartbeatResponse(lease_seconds=int(self.leases.ttl_s))

    async def DeregisterEndpoint(
        self, request: pb.DeregisterEndpointRequest, context: Context
    ) -> pb.DeregisterEndpointResponse:
        caller = self.caller(context)
        entry = self._own_endpoint(caller, request.endpoint_id)
        revision = entry.revision
        if not entry.record.endpoint.HasField("ended_at"):
            endpoint = copied(entry.record.endpoint)
            endpoint.ended_at.CopyFrom(now())
            revision = await self.replace("endpoint", endpoint.id, endpoint, entry, request.operation_id, caller)
        self.leases.drop(request.endpoint_id)
        done = await self.effective(revision, EFFECTIVE_S)
        return pb.DeregisterEndpointResponse(revision=revision, effective=done)

    async def ListEndpoints(self, request: pb.ListEndpointsRequest, context: Context) -> pb.ListEndpointsResponse:
        caller = self.caller(context)

        def wanted(entry: Entry) -> bool:
            each = entry.record.endpoint
            asked = not each.HasField("ended_at") and request.service in ("", *each.services)
            return asked and self.visible(caller, "endpoint", entry.record)

        found, token = paging.page(self.state, "endpoint", request, wanted)
        states = [self.endpoint_state(each.record.endpoint) for each in found]
        return pb.ListEndpointsResponse(endpoints=states, next_page_token=token)

    def _own_endpoint(self, caller: str, endpoint_id: str) -> Entry:
        entry = self.state.get("endpoint", endpoint_id)
        if entry is None:
            raise BusError("LEASE_UNKNOWN", "no such endpoint")
        self.need_owner(caller, entry.record.endpoint.system)
        return entry
