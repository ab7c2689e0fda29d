"""Grants: which consumer may use which methods, for what, and until when."""

from __future__ import annotations

from datetime import UTC

from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry import contracts, identifiers, paging
from lgsp.registry.api.base import EFFECTIVE_S, Context, Part, copied, fresh_id, now, repeated
from lgsp.registry.state import Entry


class Grants(Part):
    """The methods about grants."""

    async def CreateGrant(self, request: pb.CreateGrantRequest, context: Context) -> pb.CreateGrantResponse:
        caller, grant = self.operator(context), copied(request.grant)
        grant.id = identifiers.check_grant(grant.id or fresh_id(caller, request.operation_id))
        known = self.state.get("grant", grant.id)
        if known is not None and repeated(known, caller, request.operation_id):
            done = await self.effective(known.revision, EFFECTIVE_S)
            return pb.CreateGrantResponse(grant=known.record.grant, revision=known.revision, effective=done)
        self.need_active_system(grant.consumer)
        await self._check_methods(grant)
        _check_validity(grant)
        kept, revision = await self.create("grant", grant.id, grant, request.operation_id, caller)
        done = await self.effective(revision, EFFECTIVE_S)
        return pb.CreateGrantResponse(grant=kept, revision=revision, effective=done)

    async def _check_methods(self, grant: pb.Grant) -> None:
        service = self.need_active_service(grant.service)
        if not grant.methods:
            raise BusError("REQUEST_MALFORMED", "a grant names its methods, or `*` for every one")
        contract = contracts.load_contract(await self.store.get_contract(service.contract_digest))
        known = {method.name for method in contract.methods(grant.service)}
        for method in grant.methods:
            if method not in known and list(grant.methods) != ["*"]:
                raise BusError("METHOD_UNKNOWN", f"{grant.service} has no method {method[:64]!r}")

    async def GetGrant(self, request: pb.GetGrantRequest, context: Context) -> pb.GetGrantResponse:
        self.caller(context)
        entry = self.need("grant", request.id)
        return pb.GetGrantResponse(grant=entry.record.grant, revision=entry.revision)

    async def ListGrants(self, request: pb.ListGrantsRequest, context: Context) -> pb.ListGrantsResponse:
        self.caller(context)

        def wanted(entry: Entry) -> bool:
            grant = entry.record.grant
            return request.consumer in ("", grant.consumer) and request.service in ("", grant.service)

        found, token = paging.page(self.state, "grant", request, wanted)
        return pb.ListGrantsResponse(grants=[each.record.grant for each in found], next_page_token=token)

    async def RevokeGrant(self, request: pb.RevokeGrantRequest, context: Context) -> pb.RevokeGrantResponse:
        caller, entry = self.operator(context), self.need("grant", request.id)
        grant, revision = entry.record.grant, entry.revision
        if not grant.HasField("revoked_at"):
            grant = copied(grant)
            grant.revoked_at.CopyFrom(now())
            grant.revoked_reason = request.reason[:500]
            revision = await self.replace("grant", grant.id, grant, entry, request.operation_id, caller)
        done = await self.effective(revision, EFFECTIVE_S)
        return pb.RevokeGrantResponse(grant=grant, revision=revision, effective=done)


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
