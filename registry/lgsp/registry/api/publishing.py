"""Publishing services, one or many: everything is checked first, then written by one atomic change.

Rule 1: one and many go the same way; one is a request with one service.
Rule 2: what costs (inflating a contract, asking buf) is done once for each contract, not for each service.
"""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry import compatibility, contracts, identifiers, upstreams
from lgsp.registry.api.base import EFFECTIVE_S, Context, Part, copied, now, repeated
from lgsp.registry.grants import EVERY_METHOD, EVERYONE, usable_from
from lgsp.registry.lifecycle import DEPRECATED, DRAFT, PUBLISHED, check_attributes, need_step
from lgsp.registry.state import Entry
from lgsp.registry.store import Write

MAX_SERVICES: Final = 200
_RESOLVE_S: Final = 3.0


@dataclass(slots=True)
class _Plan:
    """One service of a request: as it was asked for, as it is, and what the checks found."""

    wanted: pb.ServiceToPublish
    service: pb.Service
    entry: Entry | None
    done: bool
    broken: list[pb.Finding] = field(default_factory=list)
    advice: list[pb.Finding] = field(default_factory=list)

    @property
    def known(self) -> pb.Service | None:
        return self.entry.record.service if self.entry is not None else None


class Publishing(Part):
    """The methods that publish."""

    async def PublishService(self, request: pb.PublishServiceRequest, context: Context) -> pb.PublishServiceResponse:
        wanted = pb.ServiceToPublish(
            service=request.service, override_reason=request.override_reason, draft=request.draft
        )
        caller = self.caller(context)
        made = (await self._publish(caller, [request.contract], [wanted], request.operation_id))[0]
        await self.effective(made.revision, EFFECTIVE_S)
        return made

    async def PublishServices(self, request: pb.PublishServicesRequest, context: Context) -> pb.PublishServicesResponse:
        caller = self.caller(context)
        _check_shape(request)
        made = await self._publish(caller, request.contracts, request.services, request.operation_id)
        revision = max(each.revision for each in made)
        done = await self.effective(revision, EFFECTIVE_S)
        return pb.PublishServicesResponse(services=made, revision=revision, effective=done)

    async def _publish(
        self, caller: str, given: Sequence[bytes], wanted: Sequence[pb.ServiceToPublish], operation_id: str
    ) -> list[pb.PublishServiceResponse]:
        used = sorted({each.contract for each in wanted})
        plans = [self._plan(caller, each, operation_id) for each in wanted]
        loaded = {index: contracts.load_contract(given[index]) for index in used}
        for plan in plans:
            loaded[plan.wanted.contract].methods(plan.service.name)
        await self._advise(plans, given, loaded)
        waiting = [plan for plan in plans if not plan.done]
        for plan in waiting:
            need_step("draft" if plan.wanted.draft else "publish", plan.known)
            check_attributes(plan.service, loaded[plan.wanted.contract])
            await self._need_upstream(plan.service, loaded[plan.wanted.contract])
            self._need_people(plan.service)
        await self._need_compatible(waiting, given)
        digests = {index: await self.store.put_contract(given[index]) for index in used} if waiting else {}
        for plan in waiting:
            plan.service.contract_digest = digests[plan.wanted.contract]
            _keep_declared(plan.service, plan.known)
            _take_up(plan.service, plan.known, draft=plan.wanted.draft)
        revisions = await self._write(waiting, operation_id, caller)
        return [_answer(plan, revisions) for plan in plans]

    # --- checks --------------------------------------------------------------------------------------------------------

    def _plan(self, caller: str, wanted: pb.ServiceToPublish, operation_id: str) -> _Plan:
        service = _wished(wanted.service)
        identifiers.check_service(service.name)
        self.need_not_platform(service.name)
        if identifiers.is_reserved(service.name) and self.state.get("service", service.name) is None:
            raise BusError("IDENTIFIER_INVALID", f"{service.name} is in a package of the platform, gRPC or protobuf")
        entry = self._own_or_new(caller, service)
        return _Plan(wanted, service, entry, entry is not None and repeated(entry, caller, operation_id))

    def _own_or_new(self, caller: str, service: pb.Service) -> Entry | None:
        """The service as it is, when the caller may publish it."""
        if not self.operators(caller) and service.provider != caller:
            raise BusError("NOT_OWNER", f"{caller} cannot publish for {service.provider[:64]}")
        self.need_active_system(service.provider)
        entry = self.state.get("service", service.name)
        if entry is not None and entry.record.service.provider != service.provider:
            raise BusError("SERVICE_OWNED_BY_ANOTHER", f"{service.name} belongs to {entry.record.service.provider}")
        return entry

    def _need_people(self, service: pb.Service) -> None:
        if service.owner:
            service.owner = self.need_active_agency(service.owner).id
        for steward in service.stewards:
            self.need_active_system(steward)

    async def _need_upstream(self, service: pb.Service, contract: contracts.Contract) -> None:
        """A legacy system is one that every gateway may call, as far as this node can tell."""
        if not service.HasField("rest"):
            return
        judge = functools.partial(self.endpoint_policy, service.provider)
        policy: dict[str, Any] = {"endpoint_policy": judge, "development": self.development}
        url = upstreams.check_upstream(service.rest, contract, service.name, **policy)
        for address in [] if url.is_ip else await _resolved(url.host):
            upstreams.check_address(url, address, **policy)

    async def _advise(
        self, plans: Sequence[_Plan], given: Sequence[bytes], loaded: dict[int, contracts.Contract]
    ) -> None:
        """Advice about each contract's own files, each finding with the first service that its file belongs to."""
        wanted: dict[int, dict[str, _Plan]] = {}
        for plan in plans:
            index = plan.wanted.contract
            for file in own_files(loaded[index], plan.service.name):
                wanted.setdefault(index, {}).setdefault(file, plan)
        found = await asyncio.gather(*(compatibility.advice(given[index], files) for index, files in wanted.items()))
        for files, findings in zip(wanted.values(), found, strict=True):
            for each in findings:
                files[each.file].advice.append(each)

    async def _need_compatible(self, plans: Sequence[_Plan], given: Sequence[bytes]) -> None:
        """Find what the contracts break; CONTRACT_INCOMPATIBLE unless an override lets it. One look for each pair."""
        pairs: dict[tuple[str, int], list[_Plan]] = {}
        for plan in plans:
            if plan.known is not None and plan.known.version and not plan.wanted.draft:
                pairs.setdefault((plan.known.contract_digest, plan.wanted.contract), []).append(plan)
        for (digest, index), sharing in pairs.items():
            before = await self.store.get_contract(digest)
            broken = [] if before == given[index] else await compatibility.breaking(given[index], before)
            for plan in sharing if broken else ():
                plan.broken = broken
                if not plan.wanted.override_reason.strip():
                    raise self._incompatible(before, plan.service.name, broken)

    def _incompatible(self, before: bytes, service: str, broken: list[pb.Finding]) -> BusError:
        methods = compatibility.touched_methods(contracts.load_contract(before), service, broken)
        who = compatibility.users_in_words(self.affected(service, methods))
        return BusError("CONTRACT_INCOMPATIBLE", f"{compatibility.in_words(broken).rstrip('.')}. {who}")

    def affected(self, service: str, methods: set[str]) -> list[pb.Use]:
        """Who may use the methods or did: from grants, with the calls on record."""
        found = {(use.consumer, use.method): use for use in self.uses(service) if use.method in methods}
        today = datetime.now(UTC)
        for entry in self.state.grants_by_service(service):
            grant = entry.record.grant
            if usable_from(grant, today):
                holders = {EVERYONE} if grant.group == EVERYONE else self.state.members(grant)
                for method in methods if list(grant.methods) == [EVERY_METHOD] else methods & set(grant.methods):
                    for system in holders:
                        found.setdefault((system, method), pb.Use(consumer=system, method=method))
        return [found[key] for key in sorted(found)][:1000]

    # --- writing -------------------------------------------------------------------------------------------------------

    async def _write(self, plans: Sequence[_Plan], operation_id: str, caller: str) -> dict[str, int]:
        """All services that change, each with the version that it has now: all or nothing. Service → its revision."""
        writes: list[Write] = []
        for plan in plans:
            if plan.service != plan.known:
                writes += self._writes(plan, caller)
        if not writes:
            return {}
        revisions = await self.write_all(writes, operation_id, caller)
        done = zip(writes, revisions, strict=True)
        return {write.key: revision for write, revision in done if write.kind == "service"}

    def _writes(self, plan: _Plan, caller: str) -> list[Write]:
        service, writes = plan.service, []
        key = version_key(service.name, service.version)
        if service.version and self.state.get("service_version", key) is None:
            version = pb.ServiceVersion(
                service=service.name,
                number=service.version,
                contract_digest=service.contract_digest,
                published_by=caller,
                override_reason=plan.wanted.override_reason[:500] if plan.broken else "",
                breaking=plan.broken,
            )
            version.published_at.CopyFrom(now())
            writes.append(Write("service_version", key, version, 0))
        writes.append(Write("service", service.name, service, plan.entry.revision if plan.entry is not None else 0))
        return writes


async def _resolved(host: str) -> list[str]:
    """The addresses of a DNS name; ENDPOINT_REFUSED when it has none here."""
    try:
        async with asyncio.timeout(_RESOLVE_S):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError):
        raise BusError("ENDPOINT_REFUSED", f"{host[:64]} does not resolve on this node") from None
    return sorted({str(each[4][0]) for each in found})


def version_key(service: str, number: int) -> str:
    """The key of a version's record."""
    return f"{service}@{number}"


def own_files(contract: contracts.Contract, service: str) -> list[str]:
    """The files of the service's package."""
    package = service.rpartition(".")[0]
    return [name for name in contract.files if contract.pool.FindFileByName(name).package == package]


def _check_shape(request: pb.PublishServicesRequest) -> None:
    if not 0 < len(request.services) <= MAX_SERVICES:
        raise BusError("REQUEST_TOO_LARGE", f"1 to {MAX_SERVICES} services are published at once")
    names = [each.service.name for each in request.services]
    if len(set(names)) < len(names):
        raise BusError("REQUEST_MALFORMED", "a service is in the request twice")
    for each in request.services:
        if not 0 <= each.contract < len(request.contracts):
            raise BusError("REQUEST_MALFORMED", f"{each.service.name[:64]} names a contract that is not in the request")


def _wished(service: pb.Service) -> pb.Service:
    """What a publisher may say; its place in life is the registry's."""
    made = copied(service)
    for name in ("retired_at", "lifecycle", "version", "deprecated_at", "sunset_at", "replaced_by", "contract_digest"):
        made.ClearField(name)
    return made


def _keep_declared(service: pb.Service, known: pb.Service | None) -> None:
    """What protects data is lowered by saying so, not by leaving it out."""
    if known is not None:
        service.classification = service.classification or known.classification
        service.audit = service.audit or known.audit


def _take_up(service: pb.Service, known: pb.Service | None, *, draft: bool) -> None:
    """The place in life and the version that the service has from now on."""
    if known is not None and known.lifecycle == DEPRECATED:
        service.lifecycle, service.replaced_by = DEPRECATED, known.replaced_by
        for name in ("deprecated_at", "sunset_at"):
            if getattr(known, name).ByteSize():
                getattr(service, name).CopyFrom(getattr(known, name))
    else:
        service.lifecycle = DRAFT if draft else PUBLISHED
    number = known.version if known is not None else 0
    fresh = known is None or not number or service.contract_digest != known.contract_digest
    service.version = number if draft else number + fresh


def _answer(plan: _Plan, revisions: dict[str, int]) -> pb.PublishServiceResponse:
    kept = plan.entry.revision if plan.entry is not None else 0
    service = plan.known if plan.done else plan.service
    revision = revisions.get(plan.service.name, kept)
    return pb.PublishServiceResponse(service=service, revision=revision, advice=plan.advice, breaking=plan.broken)
