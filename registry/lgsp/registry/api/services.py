"""Services: what systems offer, each by its contract."""

from __future__ import annotations

import re
from typing import Final

from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry import contracts, identifiers, paging
from lgsp.registry.api.base import EFFECTIVE_S, Context, Part, copied, now, repeated

_MAX_ORIGINS: Final = 50
_ORIGIN: Final = re.compile(r"https?://[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?(:[0-9]{1,5})?")


class Services(Part):
    """The methods about services."""

    async def PublishService(self, request: pb.PublishServiceRequest, context: Context) -> pb.PublishServiceResponse:
        caller, service = self.caller(context), copied(request.service)
        identifiers.check_service(service.name)
        if not self.operators(caller) and service.provider != caller:
            raise BusError("NOT_OWNER", f"{caller} cannot publish for {service.provider[:64]}")
        self.need_active_system(service.provider)
        entry = self.state.get("service", service.name)
        if entry is not None and entry.record.service.provider != service.provider:
            raise BusError("SERVICE_OWNED_BY_ANOTHER", f"{service.name} belongs to {entry.record.service.provider}")
        if entry is not None and repeated(entry, caller, request.operation_id):
            return pb.PublishServiceResponse(service=entry.record.service, revision=entry.revision)
        _check_origins(service)
        contracts.load_contract(request.contract, service.name)
        service.ClearField("retired_at")
        service.contract_digest = await self.store.put_contract(request.contract)
        if entry is not None and entry.record.service == service:
            return pb.PublishServiceResponse(service=service, revision=entry.revision)
        revision = await self.replace("service", service.name, service, entry, request.operation_id, caller)
        await self.effective(revision, EFFECTIVE_S)
        return pb.PublishServiceResponse(service=service, revision=revision)

    async def GetService(self, request: pb.GetServiceRequest, context: Context) -> pb.GetServiceResponse:
        self.caller(context)
        entry = self.need("service", request.name)
        return pb.GetServiceResponse(service=entry.record.service, revision=entry.revision)

    async def ListServices(self, request: pb.ListServicesRequest, context: Context) -> pb.ListServicesResponse:
        self.caller(context)
        found, token = paging.page(self.state, "service", request)
        return pb.ListServicesResponse(services=[each.record.service for each in found], next_page_token=token)

    async def RetireService(self, request: pb.RetireServiceRequest, context: Context) -> pb.RetireServiceResponse:
        caller, entry = self.caller(context), self.need("service", request.name)
        self.need_owner(caller, entry.record.service.provider)
        service, revision = entry.record.service, entry.revision
        if not service.HasField("retired_at"):
            service = copied(service)
            service.retired_at.CopyFrom(now())
            revision = await self.replace("service", request.name, service, entry, request.operation_id, caller)
        await self.effective(revision, EFFECTIVE_S)
        return pb.RetireServiceResponse(service=service, revision=revision)

    async def GetContract(self, request: pb.GetContractRequest, context: Context) -> pb.GetContractResponse:
        self.caller(context)
        digest = self.need("service", request.service).record.service.contract_digest
        return pb.GetContractResponse(contract=await self.store.get_contract(digest), digest=digest)


def _check_origins(service: pb.Service) -> None:
    """RFC 6454: scheme, host, port; nothing behind it. Envoy compares them as text."""
    if len(service.browser_origins) > _MAX_ORIGINS:
        raise BusError("REQUEST_MALFORMED", f"a service has at most {_MAX_ORIGINS} browser origins")
    for origin in service.browser_origins:
        if not _ORIGIN.fullmatch(origin):
            raise BusError(
                "REQUEST_MALFORMED", f"{origin[:64]!r} is no origin, which looks like https://www.hanoi.gov.vn"
            )
