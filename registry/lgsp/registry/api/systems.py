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
        agency = self.need_active_agency(identifiers.agency_of(system.id)).id
        # Named only where it is another than the identifier says: by an older identifier, or after a reform.
        system.agency = "" if agency == identifiers.agency_of(system.id) else agency
        if system.HasField("revoked_at") or system.revoked_reason:
            raise BusError("REQUEST_MALFORMED", "a system is revoked with RevokeSystem, not created so")
        system.jwks = check_jwks(system.jwks)
        kept, revision = await self.create("system", system.id, system, request.operation_id, caller)
        return pb.CreateSystemResponse(system=_shown(kept), revision=revision)

    async def GetSystem(self, request: pb.GetSystemRequest, context: Context) -> pb.GetSystemResponse:
        caller, entry = self.caller(context), self.need("system", request.id)
        whole = self.visible(caller, "system", entry.record)
        return pb.GetSystemResponse(system=_shown(entry.record.system, whole=whole), revision=entry.revision)

    async def ListSystems(self, request: pb.ListSystemsRequest, context: Context) -> pb.ListSystemsResponse:
        caller = self.caller(context)
        found, token = paging.page(self.state, "system", request)
        whole = self.operators(caller)
        systems = [_shown(each, whole=whole or each.id == caller) for each in (each.record.system for each in found)]
        return pb.ListSystemsResponse(systems=systems, next_page_token=token)

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


def _shown(system: pb.System, *, whole: bool = True) -> pb.System:
    """A system without what is never returned, and for others than itself without why it was revoked."""
    shown = copied(system)
    shown.ClearField("development_secret")
    if not whole:
        shown.ClearField("revoked_reason")
    return shown
