"""Agencies: the tree of those who offer and use data."""

from __future__ import annotations

from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry import identifiers, paging
from lgsp.registry.api.base import Context, Part, copied, now


class Agencies(Part):
    """The methods about agencies."""

    async def CreateAgency(self, request: pb.CreateAgencyRequest, context: Context) -> pb.CreateAgencyResponse:
        caller, agency = self.operator(context), request.agency
        identifiers.check_agency(agency.id)
        if agency.HasField("revoked_at") or agency.revoked_reason:
            raise BusError("REQUEST_MALFORMED", "an agency is revoked with RevokeAgency, not created so")
        for name in (agency.id, *agency.aliases):
            known = self.state.resolve_agency(identifiers.check_agency(name))
            if known is not None and known.record.agency.id != agency.id:
                raise BusError("ALREADY_EXISTS", f"{name} means the agency {known.record.agency.id}")
        if agency.parent:
            if agency.parent in (agency.id, *agency.aliases):
                raise BusError("IDENTIFIER_INVALID", "an agency cannot be above itself")
            agency.parent = self.need_active_agency(agency.parent).id
        kept, revision = await self.create("agency", agency.id, agency, request.operation_id, caller)
        return pb.CreateAgencyResponse(agency=kept, revision=revision)

    async def GetAgency(self, request: pb.GetAgencyRequest, context: Context) -> pb.GetAgencyResponse:
        self.caller(context)
        entry = self.state.resolve_agency(request.id)
        if entry is None:
            raise BusError("NOT_REGISTERED", f"no agency {request.id[:64]!r}")
        return pb.GetAgencyResponse(agency=entry.record.agency, revision=entry.revision)

    async def ListAgencies(self, request: pb.ListAgenciesRequest, context: Context) -> pb.ListAgenciesResponse:
        self.caller(context)
        found, token = paging.page(
            self.state,
            "agency",
            request,
            lambda each: not request.parent or each.record.agency.parent == request.parent,
        )
        return pb.ListAgenciesResponse(agencies=[each.record.agency for each in found], next_page_token=token)

    async def RevokeAgency(self, request: pb.RevokeAgencyRequest, context: Context) -> pb.RevokeAgencyResponse:
        caller, entry = self.operator(context), self.need("agency", request.id)
        agency, revision = entry.record.agency, entry.revision
        if not agency.HasField("revoked_at"):
            agency = copied(agency)
            agency.revoked_at.CopyFrom(now())
            agency.revoked_reason = request.reason[:500]
            revision = await self.replace("agency", agency.id, agency, entry, request.operation_id, caller)
        return pb.RevokeAgencyResponse(agency=agency, revision=revision)
