"""Services over their life: draft, published in numbered versions, deprecated, retired; contracts are immutable."""

from __future__ import annotations

from collections.abc import Callable

from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry import compatibility, contracts, identifiers, paging
from lgsp.registry.api.base import EFFECTIVE_S, Context, Part, copied, now, repeated
from lgsp.registry.grants import EVERY_METHOD, EVERYONE, state_of
from lgsp.registry.lifecycle import (
    DEPRECATED,
    DRAFT,
    PUBLISHED,
    RETIRED,
    check_attributes,
    lifecycle_of,
    need_step,
    version_of,
)
from lgsp.registry.state import Entry
from lgsp.registry.store import Write
from lgsp.registry.visibility import decides

Uses = Callable[[str], list[pb.Use]]


class Services(Part):
    """The methods about services."""

    async def PublishService(self, request: pb.PublishServiceRequest, context: Context) -> pb.PublishServiceResponse:
        caller, service = self.caller(context), _wished(request.service)
        identifiers.check_service(service.name)
        self.need_not_platform(service.name)
        entry = self._own_or_new(caller, service)
        contract = contracts.load_contract(request.contract, service.name)
        advice = await compatibility.advice(request.contract, _own_files(contract, service.name))
        if entry is not None and repeated(entry, caller, request.operation_id):
            return pb.PublishServiceResponse(service=entry.record.service, revision=entry.revision, advice=advice)
        known = entry.record.service if entry is not None else None
        need_step("draft" if request.draft else "publish", known)
        check_attributes(service, contract)
        self._need_people(service)
        broken = [] if request.draft else await self._need_compatible(known, request)
        service.contract_digest = await self.store.put_contract(request.contract)
        _keep_declared(service, known)
        self._take_up(service, known, draft=request.draft)
        revision = entry.revision if entry is not None else 0
        if service != known:
            revision = await self._write_version(service, entry, request, caller, broken)
        await self.effective(revision, EFFECTIVE_S)
        return pb.PublishServiceResponse(service=service, revision=revision, advice=advice, breaking=broken)

    async def DeprecateService(
        self, request: pb.DeprecateServiceRequest, context: Context
    ) -> pb.DeprecateServiceResponse:
        caller, entry = self._owned(request.name, context)
        service, revision = copied(entry.record.service), entry.revision
        if not repeated(entry, caller, request.operation_id):
            need_step("deprecate", service)
            if request.HasField("sunset_at") and request.sunset_at.ToNanoseconds() <= now().ToNanoseconds():
                raise BusError("LIFECYCLE_REFUSED", "the sunset lies in the past: retire the service instead")
            if request.replaced_by:
                self.need_active_service(request.replaced_by)
            service.lifecycle, service.replaced_by = DEPRECATED, request.replaced_by
            service.version = version_of(service)
            if not service.HasField("deprecated_at"):
                service.deprecated_at.CopyFrom(now())
            service.ClearField("sunset_at")
            if request.HasField("sunset_at"):
                service.sunset_at.CopyFrom(request.sunset_at)
            revision = await self.replace("service", service.name, service, entry, request.operation_id, caller)
        done = await self.effective(revision, EFFECTIVE_S)
        return pb.DeprecateServiceResponse(service=service, revision=revision, effective=done)

    async def RetireService(self, request: pb.RetireServiceRequest, context: Context) -> pb.RetireServiceResponse:
        caller, entry = self._owned(request.name, context)
        service, revision = entry.record.service, entry.revision
        if not service.HasField("retired_at"):
            service = copied(service)
            service.version = version_of(service)
            service.lifecycle = RETIRED
            service.retired_at.CopyFrom(now())
            revision = await self.replace("service", request.name, service, entry, request.operation_id, caller)
        await self.effective(revision, EFFECTIVE_S)
        return pb.RetireServiceResponse(service=service, revision=revision)

    async def GetService(self, request: pb.GetServiceRequest, context: Context) -> pb.GetServiceResponse:
        entry = self.need_visible("service", request.name, self.caller(context))
        return pb.GetServiceResponse(service=entry.record.service, revision=entry.revision)

    async def ListServices(self, request: pb.ListServicesRequest, context: Context) -> pb.ListServicesResponse:
        caller = self.caller(context)
        found, token = paging.page(
            self.state, "service", request, lambda each: self.visible(caller, "service", each.record)
        )
        return pb.ListServicesResponse(services=[each.record.service for each in found], next_page_token=token)

    async def ListServiceVersions(
        self, request: pb.ListServiceVersionsRequest, context: Context
    ) -> pb.ListServiceVersionsResponse:
        self.need_visible("service", request.service, self.caller(context))
        found, token = paging.page(
            self.state, "service_version", request, lambda each: each.record.service_version.service == request.service
        )
        versions = [each.record.service_version for each in found]
        return pb.ListServiceVersionsResponse(versions=versions, next_page_token=token)

    async def CheckContract(self, request: pb.CheckContractRequest, context: Context) -> pb.CheckContractResponse:
        caller = self.caller(context)
        known = self.need_visible("service", request.service, caller).record.service
        contract = contracts.load_contract(request.contract, request.service)
        before = await self.store.get_contract(known.contract_digest)
        broken = await compatibility.breaking(request.contract, before)
        methods = compatibility.touched_methods(contracts.load_contract(before), request.service, broken)
        advice = await compatibility.advice(request.contract, _own_files(contract, request.service))
        affected = self._affected(request.service, methods)
        if not decides(self.state, caller, request.service) and not self.operators(caller):
            affected = [use for use in affected if use.consumer == caller]  # who else uses it is not its to know
        return pb.CheckContractResponse(breaking=broken, advice=advice, affected=affected)

    async def GetContract(self, request: pb.GetContractRequest, context: Context) -> pb.GetContractResponse:
        entry = self.need_visible("service", request.service, self.caller(context))
        digest = entry.record.service.contract_digest
        if request.version:
            found = self.need("service_version", version_key(request.service, request.version))
            digest = found.record.service_version.contract_digest
        return pb.GetContractResponse(contract=await self.store.get_contract(digest), digest=digest)

    # --- publishing --------------------------------------------------------------------------------------------------

    def _own_or_new(self, caller: str, service: pb.Service) -> Entry | None:
        """The service as it is, when the caller may publish it."""
        if not self.operators(caller) and service.provider != caller:
            raise BusError("NOT_OWNER", f"{caller} cannot publish for {service.provider[:64]}")
        self.need_active_system(service.provider)
        entry = self.state.get("service", service.name)
        if entry is not None and entry.record.service.provider != service.provider:
            raise BusError("SERVICE_OWNED_BY_ANOTHER", f"{service.name} belongs to {entry.record.service.provider}")
        return entry

    def _owned(self, name: str, context: Context) -> tuple[str, Entry]:
        caller = self.caller(context)
        entry = self.need_visible("service", name, caller)
        self.need_owner(caller, entry.record.service.provider)
        self.need_not_platform(name)
        return caller, entry

    def _need_people(self, service: pb.Service) -> None:
        if service.owner:
            service.owner = self.need_active_agency(service.owner).id
        for steward in service.stewards:
            self.need_active_system(steward)

    async def _need_compatible(self, known: pb.Service | None, request: pb.PublishServiceRequest) -> list[pb.Finding]:
        """What the contract breaks, when an override lets it; CONTRACT_INCOMPATIBLE otherwise."""
        if known is None or not version_of(known):
            return []
        before = await self.store.get_contract(known.contract_digest)
        broken = [] if before == request.contract else await compatibility.breaking(request.contract, before)
        if broken and not request.override_reason.strip():
            methods = compatibility.touched_methods(contracts.load_contract(before), known.name, broken)
            who = compatibility.users_in_words(self._affected(known.name, methods))
            raise BusError("CONTRACT_INCOMPATIBLE", f"{compatibility.in_words(broken).rstrip('.')}. {who}")
        return broken

    def _take_up(self, service: pb.Service, known: pb.Service | None, *, draft: bool) -> None:
        """The place in life and the version that the service has from now on."""
        if known is not None and lifecycle_of(known) == DEPRECATED:
            service.lifecycle, service.replaced_by = DEPRECATED, known.replaced_by
            for name in ("deprecated_at", "sunset_at"):
                if getattr(known, name).ByteSize():
                    getattr(service, name).CopyFrom(getattr(known, name))
        else:
            service.lifecycle = DRAFT if draft else PUBLISHED
        number = version_of(known) if known is not None else 0
        fresh = known is None or not number or service.contract_digest != known.contract_digest
        service.version = number if draft else number + fresh

    async def _write_version(
        self,
        service: pb.Service,
        entry: Entry | None,
        request: pb.PublishServiceRequest,
        caller: str,
        broken: list[pb.Finding],
    ) -> int:
        """The service, and with it the version that it has now: both or neither."""
        writes = []
        key = version_key(service.name, service.version)
        if service.version and self.state.get("service_version", key) is None:
            version = pb.ServiceVersion(
                service=service.name,
                number=service.version,
                contract_digest=service.contract_digest,
                published_by=caller,
                override_reason=request.override_reason[:500] if broken else "",
                breaking=broken,
            )
            version.published_at.CopyFrom(now())
            writes.append(Write("service_version", key, version, 0))
        writes.append(Write("service", service.name, service, entry.revision if entry is not None else 0))
        return max(await self.write_all(writes, request.operation_id, caller))

    def _affected(self, service: str, methods: set[str]) -> list[pb.Use]:
        """Who may use the methods or did: from grants, with the calls on record."""
        found = {(use.consumer, use.method): use for use in self.uses(service) if use.method in methods}
        today = now().ToNanoseconds()
        for entry in self.state.grants_by_service(service):
            grant = entry.record.grant
            over = grant.HasField("not_after") and grant.not_after.ToNanoseconds() <= today
            if state_of(grant) == pb.GRANT_STATE_ACTIVE and not over:
                holders = {EVERYONE} if grant.group == EVERYONE else self.state.members(grant)
                for method in methods if list(grant.methods) == [EVERY_METHOD] else methods & set(grant.methods):
                    for system in holders:
                        found.setdefault((system, method), pb.Use(consumer=system, method=method))
        return [found[key] for key in sorted(found)][:1000]


def version_key(service: str, number: int) -> str:
    """The key of a version's record."""
    return f"{service}@{number}"


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


def _own_files(contract: contracts.Contract, service: str) -> list[str]:
    """The files of the service's package."""
    package = service.rpartition(".")[0]
    return [name for name in contract.files if contract.pool.FindFileByName(name).package == package]
