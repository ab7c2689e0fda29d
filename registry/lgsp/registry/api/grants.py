"""Grants as a process: a consumer asks, who decides on the service approves, narrows, refuses or revokes; each step is kept.

requested → active → revoked, requested → refused, requested → revoked (withdrawn). Nothing leads back.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from google.protobuf.descriptor import Descriptor

from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry import contracts, identifiers, paging
from lgsp.registry.api.base import EFFECTIVE_S, Context, Part, copied, fresh_id, now, repeated
from lgsp.registry.grants import (
    EVERY_METHOD,
    EVERYONE,
    check_narrower,
    check_subject,
    check_terms,
    holds,
    with_terms,
)
from lgsp.registry.state import Entry
from lgsp.registry.visibility import decides, is_for, sees_grant

_MAX_REASON: Final = 500
_MAX_STEPS: Final = 100
_MAX_OPEN: Final = 100
_REGISTRY: Final = pb.DESCRIPTOR.services_by_name["RegistryService"].full_name
_MAKES_OPERATORS: Final = "CreateGrant"
REQUESTED, ACTIVE = pb.GRANT_STATE_REQUESTED, pb.GRANT_STATE_ACTIVE
REFUSED, REVOKED = pb.GRANT_STATE_REFUSED, pb.GRANT_STATE_REVOKED
_WORDS: Final = {REQUESTED: "still asked for", ACTIVE: "in force", REFUSED: "refused", REVOKED: "revoked"}


class Grants(Part):
    """The methods about grants."""

    async def CreateGrant(self, request: pb.CreateGrantRequest, context: Context) -> pb.CreateGrantResponse:
        caller, grant = self.operator(context), _without_history(request.grant)
        grant.id = identifiers.check_grant(grant.id or fresh_id(caller, request.operation_id))
        known = self.state.get("grant", grant.id)
        if known is None:
            await self._check_grant(grant)
            _add_step(grant, ACTIVE, caller, "created", "")
            _, revision = await self.create("grant", grant.id, grant, request.operation_id, caller)
        else:
            grant, revision = await self._same_grant(grant, known, caller, request.operation_id)
        done = await self.effective(revision, EFFECTIVE_S)
        return pb.CreateGrantResponse(grant=grant, revision=revision, effective=done)

    async def RequestGrant(self, request: pb.RequestGrantRequest, context: Context) -> pb.RequestGrantResponse:
        caller, grant = self.caller(context), _without_history(request.grant)
        grant.id = identifiers.check_grant(grant.id or fresh_id(caller, request.operation_id))
        check_subject(grant)
        self._need_asker(caller, grant)
        self.need_visible("service", grant.service, caller)
        known = self.state.get("grant", grant.id)
        if known is not None:
            kept, revision = await self._same_grant(grant, known, caller, request.operation_id)
            return pb.RequestGrantResponse(grant=kept, revision=revision)
        await self._check_grant(grant)
        self._need_few_open(caller)
        _add_step(grant, REQUESTED, caller, "requested", request.reason)
        _, revision = await self.create("grant", grant.id, grant, request.operation_id, caller)
        return pb.RequestGrantResponse(grant=grant, revision=revision)

    async def ApproveGrant(self, request: pb.ApproveGrantRequest, context: Context) -> pb.ApproveGrantResponse:
        caller, entry = self._decider(request.id, context)
        grant, revision = entry.record.grant, entry.revision
        if not _done(entry, caller, request.operation_id, "approved"):
            _need_state(grant, REQUESTED)
            self._need_another(caller, grant)
            narrowed, detail = await self._narrowed(grant, request.terms)
            self._need_subject(narrowed)
            _add_step(narrowed, ACTIVE, caller, "approved", request.reason, detail)
            grant = narrowed
            revision = await self.replace("grant", grant.id, grant, entry, request.operation_id, caller)
        done = await self.effective(revision, EFFECTIVE_S)
        return pb.ApproveGrantResponse(grant=grant, revision=revision, effective=done)

    async def NarrowGrant(self, request: pb.NarrowGrantRequest, context: Context) -> pb.NarrowGrantResponse:
        caller, entry = self._decider(request.id, context)
        grant, revision = entry.record.grant, entry.revision
        if not _done(entry, caller, request.operation_id, "narrowed"):
            _need_state(grant, ACTIVE)
            narrowed, detail = await self._narrowed(grant, request.terms)
            if not detail:
                raise BusError("GRANT_TERMS_REFUSED", "these terms change nothing")
            if not _makes_operators(narrowed, ends=True):
                self._need_other_operator(grant)
            _add_step(narrowed, ACTIVE, caller, "narrowed", _reason(request.reason), detail)
            grant = narrowed
            revision = await self.replace("grant", grant.id, grant, entry, request.operation_id, caller)
        done = await self.effective(revision, EFFECTIVE_S)
        return pb.NarrowGrantResponse(grant=grant, revision=revision, effective=done)

    async def RefuseGrant(self, request: pb.RefuseGrantRequest, context: Context) -> pb.RefuseGrantResponse:
        caller, entry = self._decider(request.id, context)
        grant, revision = copied(entry.record.grant), entry.revision
        if not _done(entry, caller, request.operation_id, "refused"):
            _need_state(grant, REQUESTED)
            _add_step(grant, REFUSED, caller, "refused", _reason(request.reason))
            revision = await self.replace("grant", grant.id, grant, entry, request.operation_id, caller)
        return pb.RefuseGrantResponse(grant=grant, revision=revision)

    async def RevokeGrant(self, request: pb.RevokeGrantRequest, context: Context) -> pb.RevokeGrantResponse:
        caller, entry = self.caller(context), self.need("grant", request.id)
        grant, revision = entry.record.grant, entry.revision
        if not self._decides(caller, grant.service) and not self._holds(caller, grant):
            raise BusError("NOT_OWNER", f"{caller} neither decides on this grant nor holds it")
        if not grant.HasField("revoked_at"):
            if grant.state == REFUSED:
                raise BusError("GRANT_TERMS_REFUSED", "the grant was refused: there is nothing to revoke")
            self._need_other_operator(grant)
            grant = copied(grant)
            grant.revoked_at.CopyFrom(now())
            grant.revoked_reason = request.reason[:_MAX_REASON]
            _add_step(grant, REVOKED, caller, "revoked", request.reason)
            revision = await self.replace("grant", grant.id, grant, entry, request.operation_id, caller)
        done = await self.effective(revision, EFFECTIVE_S)
        return pb.RevokeGrantResponse(grant=grant, revision=revision, effective=done)

    async def GetGrant(self, request: pb.GetGrantRequest, context: Context) -> pb.GetGrantResponse:
        caller, entry = self.caller(context), self.need("grant", request.id)
        if not self.operators(caller) and not sees_grant(self.state, caller, entry.record.grant):
            raise BusError("NOT_OWNER", f"{caller} neither holds this grant nor decides on it")
        return pb.GetGrantResponse(grant=entry.record.grant, revision=entry.revision)

    async def ListGrants(self, request: pb.ListGrantsRequest, context: Context) -> pb.ListGrantsResponse:
        caller, today = self.caller(context), now()
        ending = today.ToNanoseconds() + request.expiring_within.ToNanoseconds()
        everything = self.operators(caller)

        def wanted(entry: Entry) -> bool:
            grant = entry.record.grant
            return (
                request.consumer in ("", grant.consumer)
                and request.service in ("", grant.service)
                and request.state in (pb.GRANT_STATE_UNSPECIFIED, grant.state)
                and (not request.HasField("expiring_within") or _ends_between(grant, today.ToNanoseconds(), ending))
                and ((everything and not request.mine) or sees_grant(self.state, caller, grant))
            )

        found, token = paging.page(self.state, "grant", request, wanted)
        return pb.ListGrantsResponse(grants=[each.record.grant for each in found], next_page_token=token)

    def _need_few_open(self, caller: str) -> None:
        """Everybody may ask; nobody fills the registry by asking."""
        asked = sum(
            each.state == REQUESTED and each.steps[0].actor == caller
            for each in self.state.grants_of(caller)
            if each.steps
        )
        if asked >= _MAX_OPEN and not self.operators(caller):
            raise BusError(
                "GRANT_TERMS_REFUSED", f"{_MAX_OPEN} requests of {caller} wait for an answer: withdraw some first"
            )

    # --- who decides, who holds --------------------------------------------------------------------------------------

    def _decides(self, caller: str, service: str) -> bool:
        return decides(self.state, caller, service) or self.operators(caller)

    def _need_another(self, caller: str, grant: pb.Grant) -> None:
        """A steward does not decide on what it would hold itself; a provider may, for the data are its own."""
        provider = self.need("service", grant.service).record.service.provider
        if caller != provider and is_for(self.state, caller, grant) and not self.operators(caller):
            raise BusError("NOT_OWNER", f"{caller} would hold this grant itself: another has to approve it")

    def _need_other_operator(self, grant: pb.Grant) -> None:
        """Refuse to end the last grant to make grants: nobody could ever grant anything again."""
        if not _makes_operators(grant):
            return
        others = (entry.record.grant for entry in self.state.grants_by_service(_REGISTRY))
        for other in others:
            if other.id != grant.id and _makes_operators(other, ends=True) and holds(other, datetime.now(UTC)):
                system = self.state.get("system", other.consumer)
                if system is not None and not system.record.system.HasField("revoked_at"):
                    return
        raise BusError("GRANT_TERMS_REFUSED", f"{grant.id} is the last operator's: nobody could make grants any more")

    def _decider(self, grant: str, context: Context) -> tuple[str, Entry]:
        caller, entry = self.caller(context), self.need("grant", grant)
        if not self._decides(caller, entry.record.grant.service):
            raise BusError("NOT_OWNER", f"{caller} does not decide on grants of {entry.record.grant.service}")
        return caller, entry

    def _holds(self, caller: str, grant: pb.Grant) -> bool:
        """True when the grant is the caller's own; one for its agency or a group is not its to give back."""
        return bool(grant.consumer) and caller == grant.consumer

    def _need_asker(self, caller: str, grant: pb.Grant) -> None:
        """A system asks for itself or for its agency; for a group an operator asks."""
        own = caller == grant.consumer or (grant.agency and grant.agency == self.state.agency_of(caller))
        if not own and not self.operators(caller):
            raise BusError("NOT_OWNER", f"{caller} asks for itself or its own agency only")

    # --- what a grant says -------------------------------------------------------------------------------------------

    async def _check_grant(self, grant: pb.Grant) -> None:
        check_subject(grant)
        self._need_subject(grant)
        service = self.need_active_service(grant.service)
        check_terms(grant, service, await self._responses(service))

    def _need_subject(self, grant: pb.Grant) -> None:
        if grant.consumer:
            self.need_active_system(grant.consumer)
        elif grant.agency:
            grant.agency = self.need_active_agency(grant.agency).id
        elif grant.group != EVERYONE and self.need("group", grant.group).record.group.HasField("ended_at"):
            raise BusError("NOT_REGISTERED", f"the group {grant.group} has ended")

    async def _responses(self, service: pb.Service) -> Mapping[str, Descriptor]:
        contract = contracts.load_contract(await self.store.get_contract(service.contract_digest))
        return {each.name: contract.pool.FindMessageTypeByName(each.output) for each in contract.methods(service.name)}

    async def _narrowed(self, grant: pb.Grant, terms: pb.Grant) -> tuple[pb.Grant, str]:
        """The grant under narrower terms, and in words which of them changed."""
        service = self.need_active_service(grant.service)
        responses = await self._responses(service)
        made = with_terms(grant, terms)
        check_terms(made, service, responses, grant.masks)
        return made, ", ".join(check_narrower(grant, made, responses))

    async def _same_grant(self, grant: pb.Grant, known: Entry, caller: str, operation_id: str) -> tuple[pb.Grant, int]:
        """What is there already, when this is the same grant asked for again; ALREADY_EXISTS otherwise."""
        kept = known.record.grant
        if not repeated(known, caller, operation_id):
            if not kept.HasField("revoked_at"):
                await self._check_grant(grant)
            if _without_history(kept) != grant:
                raise BusError("ALREADY_EXISTS", f"the grant {grant.id} exists with other content")
        return kept, known.revision


def _without_history(grant: pb.Grant) -> pb.Grant:
    """The terms alone; REQUEST_MALFORMED when a new grant says that it was revoked."""
    made = copied(grant)
    for name in ("state", "steps"):
        made.ClearField(name)
    return made


def _done(entry: Entry, caller: str, operation_id: str, action: str) -> bool:
    """True when this very operation took this step last; the same id on another step is another operation."""
    steps = entry.record.grant.steps
    return repeated(entry, caller, operation_id) and bool(steps) and steps[-1].action == action


def _add_step(
    grant: pb.Grant, state: pb.GrantState.ValueType, actor: str, action: str, reason: str, detail: str = ""
) -> None:
    if state != REVOKED and (grant.HasField("revoked_at") or grant.revoked_reason):
        raise BusError("REQUEST_MALFORMED", "a grant is revoked with RevokeGrant, not created so")
    if len(grant.steps) >= _MAX_STEPS and state != REVOKED:
        raise BusError("GRANT_TERMS_REFUSED", f"the grant has {_MAX_STEPS} steps: ask for a new one")
    grant.state = state
    step = grant.steps.add(actor=actor, action=action, reason=reason[:_MAX_REASON], detail=detail)
    step.time.CopyFrom(now())


def _need_state(grant: pb.Grant, wanted: pb.GrantState.ValueType) -> None:
    if grant.state != wanted:
        raise BusError("GRANT_TERMS_REFUSED", f"the grant is {_WORDS[grant.state]}")


def _reason(text: str) -> str:
    if not text.strip():
        raise BusError("REQUEST_MALFORMED", "say why: the reason is kept with the grant")
    return text


def _ends_between(grant: pb.Grant, first: int, last: int) -> bool:
    ends = grant.not_after.ToNanoseconds() if grant.HasField("not_after") else None
    return grant.state == ACTIVE and ends is not None and first < ends <= last


def _makes_operators(grant: pb.Grant, *, ends: bool = False) -> bool:
    """True for a grant that makes one system an operator; with `ends`, only for one that does so without end."""
    names_it = bool({EVERY_METHOD, _MAKES_OPERATORS} & set(grant.methods))
    return (
        bool(grant.consumer) and grant.service == _REGISTRY and names_it and not (ends and grant.HasField("not_after"))
    )
