"""Services over their life: read, checked, deprecated, retired. Publishing is in publishing.py."""

from __future__ import annotations

from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry import compatibility, contracts, paging
from lgsp.registry.api.base import EFFECTIVE_S, Context, checked_time, copied, now, repeated
from lgsp.registry.api.publishing import Publishing, own_files, version_key
from lgsp.registry.catalogue.public import public_contract
from lgsp.registry.lifecycle import DEPRECATED, RETIRED, need_step
from lgsp.registry.state import Entry
from lgsp.registry.visibility import decides


class Services(Publishing):
    """The methods about services, besides publishing."""

    async def DeprecateService(
        self, request: pb.DeprecateServiceRequest, context: Context
    ) -> pb.DeprecateServiceResponse:
        caller, entry = self._owned(request.name, context)
        service, revision = copied(entry.record.service), entry.revision
        if service.lifecycle != DEPRECATED or not repeated(entry, caller, request.operation_id):
            need_step("deprecate", service)
            if (
                request.HasField("sunset_at")
                and checked_time(request.sunset_at).ToNanoseconds() <= now().ToNanoseconds()
            ):
                raise BusError("LIFECYCLE_REFUSED", "the sunset lies in the past: retire the service instead")
            if request.replaced_by:
                self.need_visible("service", request.replaced_by, caller)
                self.need_active_service(request.replaced_by)
            service.lifecycle, service.replaced_by = DEPRECATED, request.replaced_by
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
            service.version = service.version
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
        self.need_visible("service", request.service, caller)
        broken, methods = await self.broken_by(request.service, request.contract)
        contract = contracts.load_contract(request.contract, request.service)
        advice = await compatibility.advice(request.contract, own_files(contract, request.service))
        affected = self.affected(request.service, methods)
        if not decides(self.state, caller, request.service) and not self.operators(caller):
            affected = [use for use in affected if use.consumer == caller]  # who else uses it is not its to know
        return pb.CheckContractResponse(breaking=broken, advice=advice, affected=affected)

    async def broken_by(self, service: str, contract: bytes) -> tuple[list[pb.Finding], set[str]]:
        """What `contract` breaks in the place of the service's own, and the methods that this may concern."""
        known = self.need("service", service).record.service
        contracts.load_contract(contract, service)
        before = await self.store.get_contract(known.contract_digest)
        broken = await compatibility.breaking(contract, before)
        return broken, compatibility.touched_methods(contracts.load_contract(before), service, broken)

    async def GetContract(self, request: pb.GetContractRequest, context: Context) -> pb.GetContractResponse:
        caller = self.caller(context)
        entry = self.need_visible("service", request.service, caller)
        digest = entry.record.service.contract_digest
        if request.version:
            found = self.need("service_version", version_key(request.service, request.version))
            digest = found.record.service_version.contract_digest
        contract = await self.store.get_contract(digest)
        if not decides(self.state, caller, request.service) and not self.operators(caller):
            contract = public_contract(contract)  # a query is between a provider and its own database
        return pb.GetContractResponse(contract=contract, digest=digest)

    def _owned(self, name: str, context: Context) -> tuple[str, Entry]:
        caller = self.caller(context)
        entry = self.need_visible("service", name, caller)
        self.need_owner(caller, entry.record.service.provider)
        self.need_not_platform(name)
        return caller, entry
