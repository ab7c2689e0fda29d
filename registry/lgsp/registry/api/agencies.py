"""Agencies: the tree of those who offer and use data, its reforms, and what it was at any date."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry import identifiers, paging
from lgsp.registry.agencies import MAX_RECORDS, Reform, agency_at, check_agency
from lgsp.registry.agency_imports import MAX_DIFFERENCES, MAX_DRY_RUN, differences, only, with_history
from lgsp.registry.api.base import EFFECTIVE_S, Context, Part, checked_time, copied, now
from lgsp.registry.state import Entry
from lgsp.registry.store import Write

_MAX_ACT: Final = 200
_PAUSE_EVERY: Final = 500


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
        check_agency(agency)
        kept, revision = await self.create("agency", agency.id, agency, request.operation_id, caller)
        return pb.CreateAgencyResponse(agency=kept, revision=revision)

    async def GetAgency(self, request: pb.GetAgencyRequest, context: Context) -> pb.GetAgencyResponse:
        self.caller(context)
        entry = self.state.resolve_agency(request.id)
        found = entry.record.agency if entry is not None else None
        if found is not None and request.HasField("as_of"):
            found = agency_at(found, checked_time(request.as_of))
        if entry is None or found is None:
            then = " at that time" if entry is not None else ""
            raise BusError("NOT_REGISTERED", f"no agency {request.id[:64]!r}{then}")
        return pb.GetAgencyResponse(agency=found, revision=entry.revision)

    async def ListAgencies(self, request: pb.ListAgenciesRequest, context: Context) -> pb.ListAgenciesResponse:
        self.caller(context)
        checked_time(request.as_of)

        def then(entry: Entry) -> pb.Agency | None:
            agency = entry.record.agency
            return agency_at(agency, request.as_of) if request.HasField("as_of") else agency

        def wanted(entry: Entry) -> bool:
            agency = then(entry)
            return agency is not None and (not request.parent or agency.parent == request.parent)

        found, token = paging.page(self.state, "agency", request, wanted)
        return pb.ListAgenciesResponse(agencies=[each for each in map(then, found) if each], next_page_token=token)

    async def RevokeAgency(self, request: pb.RevokeAgencyRequest, context: Context) -> pb.RevokeAgencyResponse:
        caller, entry = self.operator(context), self.need("agency", request.id)
        agency, revision = entry.record.agency, entry.revision
        if not agency.HasField("revoked_at"):
            agency = copied(agency)
            agency.revoked_at.CopyFrom(now())
            agency.revoked_reason = request.reason[:500]
            revision = await self.replace("agency", agency.id, agency, entry, request.operation_id, caller)
        return pb.RevokeAgencyResponse(agency=agency, revision=revision)

    async def ReorganizeAgencies(
        self, request: pb.ReorganizeAgenciesRequest, context: Context
    ) -> pb.ReorganizeAgenciesResponse:
        caller = self.operator(context)
        done = self._done_already(caller, request)
        if done is not None:
            return done
        date = checked_time(request.date) if request.HasField("date") else now()
        if not request.act.strip() or len(request.act) > _MAX_ACT:
            raise BusError("REORGANIZATION_INVALID", f"name the decree or decision, in at most {_MAX_ACT} characters")
        reform = Reform(self.state, date, request.act, request.grants, now(), caller)
        reform.apply(request.changes)
        if caller in reform.systems and reform.systems[caller].HasField("revoked_at"):
            raise BusError("REORGANIZATION_INVALID", f"{caller} would revoke itself: let another operator do it")
        answer = pb.ReorganizeAgenciesResponse(
            agencies=reform.agencies.values(), systems=reform.systems.values(), grants=reform.grants.values()
        )
        if not request.dry_run:
            answer.revision = await self._write_reform(reform, request.operation_id, caller)
            answer.effective = await self.effective(answer.revision, EFFECTIVE_S)
        for system in answer.systems:
            system.ClearField("development_secret")
        return answer

    async def _write_reform(self, reform: Reform, operation_id: str, caller: str) -> int:
        writes = [self._over("agency", key, value) for key, value in reform.agencies.items()]
        writes += [self._over("system", key, value) for key, value in reform.systems.items()]
        writes += [self._over("grant", key, value) for key, value in reform.grants.items()]
        return max(await self.write_all(writes, operation_id, caller))

    def _over(self, kind: str, key: str, value: pb.Agency | pb.System | pb.Grant) -> Write:
        entry = self.state.get(kind, key)
        return Write(kind, key, value, entry.revision if entry is not None else 0)

    def _done_already(self, caller: str, request: pb.ReorganizeAgenciesRequest) -> pb.ReorganizeAgenciesResponse | None:
        """What this very operation wrote, as far as nothing replaced it since."""
        if not request.operation_id or request.dry_run:
            return None
        mine, answer = f"{caller} {request.operation_id}", pb.ReorganizeAgenciesResponse(effective=True)
        for kind, into in (("agency", answer.agencies), ("system", answer.systems), ("grant", answer.grants)):
            for entry in self.state.all(kind).values():
                if entry.record.operation_id == mine:
                    into.append(getattr(entry.record, kind))
                    answer.revision = max(answer.revision, entry.revision)
        for system in answer.systems:
            system.ClearField("development_secret")
        # Every reform changes an agency: without one by this act the id was that of another operation.
        return answer if any(each.act == request.act for each in answer.agencies) else None

    async def ImportAgencies(self, request: pb.ImportAgenciesRequest, context: Context) -> pb.ImportAgenciesResponse:
        caller = self.operator(context)
        given = {each.id: self._whole(each, request.fields) for each in request.agencies}
        most = MAX_DRY_RUN if request.dry_run else MAX_RECORDS
        if not given or len(given) < len(request.agencies) or len(given) > most:
            raise BusError("REORGANIZATION_INVALID", f"an import holds 1 to {most} agencies, each once")
        answer, writes = pb.ImportAgenciesResponse(), list[Write]()
        for number, each in enumerate(given.values(), start=1):
            if request.dry_run and number % _PAUSE_EVERY == 0:
                await asyncio.sleep(0)  # others are served meanwhile
            known = self._checked_import(each, given)
            agency = each if known is None else with_history(each, known)
            if known == agency:
                answer.unchanged += 1
                continue
            if known is None:
                answer.created.append(agency.id)
            else:
                answer.changed.append(agency.id)
                self._need_goes_on(known, agency)
                room = MAX_DIFFERENCES - len(answer.differences)
                answer.differences.extend(differences(known, agency)[:room])
            writes.append(self._over("agency", agency.id, agency))
        if writes and not request.dry_run:
            answer.revision = max(await self.write_all(writes, request.operation_id, caller))
        return answer

    def _whole(self, agency: pb.Agency, fields: Sequence[str]) -> pb.Agency:
        """What was given about an agency, with all that is known of it and was not given."""
        entry = self.state.get("agency", agency.id) if fields else None
        return only(fields, agency, entry.record.agency) if entry is not None else agency

    def _checked_import(self, agency: pb.Agency, given: dict[str, pb.Agency]) -> pb.Agency | None:
        """The record that `agency` replaces; it must fit those that are there and those that come with it."""
        check_agency(agency)
        entry = self.state.get("agency", agency.id)
        known = entry.record.agency if entry is not None else None
        if known is not None and with_history(agency, known) == known:
            return known
        if agency.HasField("revoked_at") or agency.revoked_reason:
            raise BusError(
                "REORGANIZATION_INVALID", f"{agency.id}: an agency is revoked with RevokeAgency, not imported so"
            )
        for name in (agency.id, *agency.aliases):
            entry = self.state.resolve_agency(name)
            if entry is not None and entry.record.agency.id != agency.id:
                raise BusError(
                    "REORGANIZATION_INVALID", f"{agency.id}: {name} means the agency {entry.record.agency.id}"
                )
        for name in (*([agency.parent] if agency.parent else []), *agency.successors):
            if name not in given and self.state.get("agency", name) is None:
                raise BusError("REORGANIZATION_INVALID", f"{agency.id}: {name} is neither registered nor in the import")
        self._need_no_circle(agency, given)
        if known is not None and known.HasField("revoked_at"):
            raise BusError("REORGANIZATION_INVALID", f"{agency.id} was revoked")
        return known

    def _need_goes_on(self, known: pb.Agency, agency: pb.Agency) -> None:
        """An import ends no agency that still has systems or grants: a reform says what becomes of them."""
        if known.HasField("valid_until") or not agency.HasField("valid_until"):
            return
        systems = any(not each.HasField("revoked_at") for each in self.state.systems_of(agency.id))
        grants = any(not each.HasField("revoked_at") for each in self.state.grants_by_agency(agency.id))
        if systems or grants:
            raise BusError(
                "REORGANIZATION_INVALID",
                f"{agency.id} has systems or grants: end it by a reform, which says where they go",
            )

    def _need_no_circle(self, agency: pb.Agency, given: dict[str, pb.Agency]) -> None:
        seen, above = {agency.id}, agency.parent
        while above:
            if above in seen:
                raise BusError("REORGANIZATION_INVALID", f"{agency.id} would stand below itself")
            seen.add(above)
            entry = self.state.get("agency", above)
            found = given.get(above) or (entry.record.agency if entry is not None else None)
            above = found.parent if found is not None else ""
