"""Systems: what calls and what answers, each with its own public keys."""

from __future__ import annotations

from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry import identifiers, paging
from lgsp.registry.api.base import EFFECTIVE_S, Context, Part, copied, now
from lgsp.registry.keys import check_jwks


class Systems(Part):
    """The methods about systems."""

    async def CreateSystem(self, request: pb.CreateSystemRequest, context: Context) -> pb.CreateSystemResponse:
        caller, system = self.operator(context), request.system
        identifiers.check_system(system.id)
        self.need_active_agency(identifiers.agency_of(system.id))
        if system.HasField("revoked_at") or system.revoked_reason:
            raise BusError("REQUEST_MALFORMED", "a system is revoked with RevokeSystem, not created so")
        system.jwks = check_jwks(system.jwks)
        kept, revision = await self.create("system", system.id, system, request.operation_id, caller)
        return pb.CreateSystemResponse(system=_shown(kept), revision=revision)

    async def GetSystem(self, request: pb.GetSystemRequest, context: Context) -> pb.GetSystemResponse:
        self.caller(context)
        entry = self.need("system", request.id)
        return pb.GetSystemResponse(system=_shown(entry.record.system), revision=entry.revision)

    async def ListSystems(self, request: pb.ListSystemsRequest, context: Context) -> pb.ListSystemsResponse:
        self.caller(context)
        found, token = paging.page(self.state, "system", request)
        return pb.ListSystemsResponse(systems=[_shown(each.record.system) for each in found], next_page_token=token)

    async def RevokeSystem(self, request: pb.RevokeSystemRequest, context: Context) -> pb.RevokeSystemResponse:
        caller, entry = self.operator(context), self.need("system", request.id)
        if request.id == caller:
            raise BusError("NOT_OWNER", "an operator cannot revoke itself")
        system, revision = entry.record.system, entry.revision
        if not system.HasField("revoked_at"):
            system = copied(system)
            system.revoked_at.CopyFrom(now())
            system.revoked_reason = request.reason[:500]
            revision = await self.replace("system", request.id, system, entry, request.operation_id, caller)
        done = await self.effective(revision, EFFECTIVE_S)
        return pb.RevokeSystemResponse(system=_shown(system), revision=revision, effective=done)


def _shown(system: pb.System) -> pb.System:
    """A system without what is never returned."""
    shown = copied(system)
    shown.ClearField("development_secret")
    return shown
