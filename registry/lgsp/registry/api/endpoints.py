"""Endpoints: running instances of providers and their leases."""

from __future__ import annotations

from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry import paging
from lgsp.registry.api.base import EFFECTIVE_S, Context, Part, copied, fresh_id, now
from lgsp.registry.state import Entry


class Endpoints(Part):
    """The methods about endpoints."""

    async def RegisterEndpoint(
        self, request: pb.RegisterEndpointRequest, context: Context
    ) -> pb.RegisterEndpointResponse:
        caller = self.caller(context)
        self.endpoint_policy(request.address)
        if not 0 < len(request.services) <= 100:
            raise BusError("REQUEST_MALFORMED", "an endpoint serves 1 to 100 services")
        for name in request.services:
            service = self.need_active_service(name)
            if service.provider != caller:
                raise BusError("SERVICE_OWNED_BY_ANOTHER", f"{name} belongs to {service.provider}")
            if service.HasField("rest"):
                raise BusError(
                    "ENDPOINT_REFUSED", f"{name} is a legacy HTTP/JSON system, which gateways call themselves"
                )
        again = self._registered(caller, request)
        if again is None:
            endpoint = pb.Endpoint(
                id=fresh_id(caller, request.operation_id),
                system=caller,
                services=sorted(set(request.services)),
                address=request.address,
            )
            endpoint.registered_at.CopyFrom(now())
            self.leases.beat(endpoint.id)
            revision = await self.replace("endpoint", endpoint.id, endpoint, None, request.operation_id, caller)
        else:
            endpoint, revision = again.record.endpoint, again.revision
            if not endpoint.HasField("ended_at"):
                self.leases.beat(endpoint.id)
        await self.effective(revision, EFFECTIVE_S)
        return pb.RegisterEndpointResponse(endpoint=endpoint, revision=revision, lease_seconds=int(self.leases.ttl_s))

    def _registered(self, caller: str, request: pb.RegisterEndpointRequest) -> Entry | None:
        """The same endpoint registered before and not ended: a restarted provider on a fixed address; or what this
        very operation registered."""
        same_operation = self.state.get("endpoint", fresh_id(caller, request.operation_id))
        if same_operation is not None:
            return same_operation
        wanted = sorted(set(request.services))
        for entry in self.state.endpoints_by_service(wanted[0]):
            known = entry.record.endpoint
            same = (known.system, known.address, list(known.services)) == (caller, request.address, wanted)
            if same and not known.HasField("ended_at"):
                return entry
        return None

    async def Heartbeat(self, request: pb.HeartbeatRequest, context: Context) -> pb.HeartbeatResponse:
        entry = self._own_endpoint(self.caller(context), request.endpoint_id)
        if entry.record.endpoint.HasField("ended_at"):
            raise BusError("LEASE_UNKNOWN", "this endpoint was deregistered")
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
        self.caller(context)

        def wanted(entry: Entry) -> bool:
            each = entry.record.endpoint
            return not each.HasField("ended_at") and (not request.service or request.service in each.services)

        found, token = paging.page(self.state, "endpoint", request, wanted)
        states = [self._endpoint_state(each.record.endpoint) for each in found]
        return pb.ListEndpointsResponse(endpoints=states, next_page_token=token)

    def _endpoint_state(self, endpoint: pb.Endpoint) -> pb.EndpointState:
        state = pb.EndpointState(endpoint=endpoint, live=self.leases.live(endpoint.id))
        state.lease_until.FromNanoseconds(now().ToNanoseconds() + int(self.leases.remaining(endpoint.id) * 1e9))
        return state

    def _own_endpoint(self, caller: str, endpoint_id: str) -> Entry:
        entry = self.state.get("endpoint", endpoint_id)
        if entry is None:
            raise BusError("LEASE_UNKNOWN", "no such endpoint")
        self.need_owner(caller, entry.record.endpoint.system)
        return entry
