"""The catalogue's gRPC API: open to every system, each seeing what it may.

Rule 1: drafts and retired services exist for those who own, decide on or operate them; for others they are NOT_REGISTERED.
Rule 2: who uses a service is told to its provider, its stewards and operators only; so are its adapter's options.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from google.api import httpbody_pb2

from lgsp.api.catalogue.v1 import catalogue_pb2 as pb
from lgsp.api.catalogue.v1 import catalogue_pb2_grpc
from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2
from lgsp.api.registry.v1.registry_pb2 import Grant, Names, Service
from lgsp.registry import paging
from lgsp.registry.api.base import Context, copied
from lgsp.registry.api.publishing import version_key
from lgsp.registry.api.services import Services
from lgsp.registry.catalogue import describing, documents, rights
from lgsp.registry.catalogue.comments import first_sentence
from lgsp.registry.catalogue.directory import Directory
from lgsp.registry.catalogue.openapi import Purposes
from lgsp.registry.catalogue.public import public_contract
from lgsp.registry.grants import EVERYONE, covers, holds

MAX_QUERY: Final = 200
MAX_VERSIONS: Final = 100
_MAX_USERS: Final = 1000
_SCORE: Final = 10**9


class CatalogueServicer(catalogue_pb2_grpc.CatalogueServiceServicer):
    """`registry` is the part that knows services, and who uses them; `base_url` the gateway's own, for documents;
    `exhausted` whether a grant's day is used up; `now` the clock in UTC."""

    def __init__(
        self,
        registry: Services,
        directory: Directory,
        *,
        base_url: str,
        exhausted: Callable[[str], bool] = lambda grant: False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._registry, self._directory, self._state = registry, directory, registry.state
        self._base_url, self._exhausted, self._now = base_url, exhausted, now

    # --- finding -----------------------------------------------------------------------------------------------------

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        caller = self._registry.caller(context)
        if len(request.query) > MAX_QUERY:
            raise BusError("REQUEST_TOO_LARGE", f"a query has at most {MAX_QUERY} characters")
        await self._directory.settle()
        usable = rights.usable_services(self._state, caller, self._now())
        wanted = self._filter(request, caller, usable)
        found = [(score, name) for score, name in self._directory.index.search(request.query) if wanted(name)]
        rows, token = _page(request, [(f"{_SCORE - score:010d} {name}", name) for score, name in found])
        services = [self._summary(name, usable) for name in rows]
        return pb.SearchResponse(services=services, next_page_token=token, total=len(found))

    def _filter(self, request: pb.SearchRequest, caller: str, usable: set[str]) -> Callable[[str], bool]:
        operator = self._registry.operators(caller)
        entry = self._state.resolve_agency(request.agency) if request.agency else None
        if request.agency and entry is None:
            raise BusError("NOT_REGISTERED", f"no agency {request.agency[:64]!r}")
        agency = entry.record.agency.id if entry else ""

        def wanted(name: str) -> bool:
            service = self._service_or_none(name)
            return (
                service is not None
                and rights.visible(service, caller, operator=operator)
                and (not request.lifecycle or service.lifecycle == request.lifecycle)
                and (not request.classification or service.classification == request.classification)
                and (not agency or agency in (self._state.agency_of(service.provider), service.owner))
                and (not request.usable or name in usable)
            )

        return wanted

    def _summary(self, name: str, usable: set[str]) -> pb.Summary:
        service = self._state.all("service")[name].record.service
        agency, names = self._directory.agency(service)
        return pb.Summary(
            name=name,
            names=service.names,
            provider=service.provider,
            agency=agency,
            agency_names=names,
            lifecycle=service.lifecycle,
            classification=service.classification,
            version=service.version,
            description=first_sentence(self._directory.description(name)),
            usable=name in usable,
        )

    # --- one service -------------------------------------------------------------------------------------------------

    async def Describe(self, request: pb.DescribeRequest, context: Context) -> pb.DescribeResponse:
        caller, service = self._seen(request.service, context)
        contract = await self._registry.store.get_contract(service.contract_digest)
        facts = await self._directory.facts(service.name)
        agency, names = self._directory.agency(service)
        told = copied(service)
        # How the gateway reaches a provider is between the two.
        told.ClearField("rest")
        told.lifecycle, told.version = service.lifecycle, service.version
        return pb.DescribeResponse(
            service=told,
            agency=agency,
            agency_names=names,
            description=facts.description,
            methods=describing.methods_of(contract, service, self._terms(caller, service.name)),
            versions=self._versions(service),
            files=documents.file_names(contract, service.name),
        )

    async def GetDocument(self, request: pb.GetDocumentRequest, context: Context) -> httpbody_pb2.HttpBody:
        caller, service = self._seen(request.service, context)
        digest = service.contract_digest
        if request.version:
            key = version_key(service.name, request.version)
            version = self._registry.need("service_version", key).record.service_version
            service, digest = copied(service), version.contract_digest
            service.version = version.number
        contract = await self._registry.store.get_contract(digest)
        if not self._owns(caller, service):
            contract = public_contract(contract)
        methods = (await self._directory.facts(service.name)).methods
        terms = self._terms(caller, service.name)
        purposes = {method: _purposes(terms(method)) for method in methods}
        wanted = documents.Wanted(contract, service, self._base_url, request.file, purposes)
        content_type, data = await asyncio.to_thread(documents.written, request.format, wanted)
        return httpbody_pb2.HttpBody(content_type=content_type, data=data)

    def _versions(self, service: Service) -> list[registry_pb2.ServiceVersion]:
        numbers = range(service.version, max(0, service.version - MAX_VERSIONS), -1)
        found = (self._state.get("service_version", version_key(service.name, number)) for number in numbers)
        return [entry.record.service_version for entry in found if entry is not None]

    # --- who uses it -------------------------------------------------------------------------------------------------

    async def ListUsers(self, request: pb.ListUsersRequest, context: Context) -> pb.ListUsersResponse:
        service = self._entrusted(request.service, context)
        facts = await self._directory.facts(service.name)
        methods = set(facts.methods) & {request.method} if request.method else set(facts.methods)
        if request.method and not methods:
            raise BusError("METHOD_UNKNOWN", f"{service.name} has no method {request.method[:64]!r}")
        grants = self._grants_on(service.name)
        uses = self._uses(service.name, methods, grants)
        rows, token = _page(request, [(f"{use.consumer} {use.method}", use) for use in uses])
        return pb.ListUsersResponse(users=[self._user(use, grants) for use in rows], next_page_token=token)

    def _user(self, use: registry_pb2.Use, grants: list[Grant]) -> pb.User:
        own = self._of(use.consumer, grants)
        entry = self._state.get("system", use.consumer)
        agency = self._state.agency_of(use.consumer) if entry else ""
        above = self._state.resolve_agency(agency)
        return pb.User(
            use=use,
            names=entry.record.system.names if entry else Names(),
            agency=agency,
            agency_names=above.record.agency.names if above else Names(),
            terms=rights.terms_of(own, use.method, self._now(), self._exhausted),
        )

    def _uses(self, service: str, methods: set[str], grants: list[Grant]) -> list[registry_pb2.Use]:
        """Who called one of the methods in 30 days, or may by one of the grants; those that may all as `everyone`."""
        return [
            use
            for use in self._registry.affected(service, methods)
            if use.calls_30_days or any(covers(one, use.method) for one in self._of(use.consumer, grants))
        ]

    def _of(self, consumer: str, grants: list[Grant]) -> list[Grant]:
        return [each for each in grants if consumer in self._subjects(each)]

    def _subjects(self, grant: Grant) -> frozenset[str]:
        return frozenset({EVERYONE}) if grant.group == EVERYONE else self._state.members(grant)

    def _grants_on(self, service: str) -> list[Grant]:
        now = self._now()
        grants = (entry.record.grant for entry in self._state.grants_by_service(service))
        return [grant for grant in grants if holds(grant, now)]

    # --- what may I use ----------------------------------------------------------------------------------------------

    async def ListUsable(self, request: pb.ListUsableRequest, context: Context) -> pb.ListUsableResponse:
        caller, now = self._registry.caller(context), self._now()
        grants = rights.grants_in_force(self._state, caller, now)
        names = sorted({each.service for each in grants if request.service in ("", each.service)})
        rows: list[tuple[str, pb.Usable]] = []
        for name in names:
            facts = await self._directory.facts(name)
            own = [each for each in grants if each.service == name]
            rows += [(f"{name}/{method}", self._usable(name, method, own)) for method in sorted(facts.methods)]
        within = request.expiring_within if request.HasField("expiring_within") else None
        until = now.timestamp() + within.seconds if within is not None else None
        kept = [
            (key, row)
            for key, row in rows
            if row.terms and (until is None or (row.HasField("until") and row.until.seconds <= until))
        ]
        page, token = _page(request, kept)
        return pb.ListUsableResponse(methods=page, next_page_token=token)

    def _usable(self, name: str, method: str, grants: list[Grant]) -> pb.Usable:
        service = self._state.all("service")[name].record.service
        terms = rights.terms_of(grants, method, self._now(), self._exhausted)
        made = pb.Usable(
            service=name,
            names=service.names,
            method=method,
            lifecycle=service.lifecycle,
            purpose_required=rights.purpose_required(terms),
            terms=terms,
        )
        if terms and all(each.HasField("until") for each in terms):
            made.until.CopyFrom(max((each.until for each in terms), key=lambda each: each.ToNanoseconds()))
            made.expiring = all(each.expiring for each in terms)
        return made

    # --- what breaks if ----------------------------------------------------------------------------------------------

    async def Impact(self, request: pb.ImpactRequest, context: Context) -> pb.ImpactResponse:
        service = self._entrusted(request.service, context)
        breaking, methods = await self._lost(service.name, request)
        grants = [each for each in self._grants_on(service.name) if any(covers(each, one) for one in methods)]
        uses = self._uses(service.name, methods, grants)
        return pb.ImpactResponse(
            harmless=not breaking and not uses and not grants,
            methods=sorted(methods),
            breaking=breaking,
            affected=uses[:_MAX_USERS],
            consumers=sorted({use.consumer for use in uses}),
            grants=[each.id for each in grants],
            replaces=self._replaced_by(service.name) if request.WhichOneof("change") == "retire" else [],
        )

    async def _lost(self, service: str, request: pb.ImpactRequest) -> tuple[list[registry_pb2.Finding], set[str]]:
        """What a change breaks in the contract, and the methods that it takes away or touches."""
        every, change = set((await self._directory.facts(service)).methods), request.WhichOneof("change")
        if change == "contract":
            return await self._registry.broken_by(service, request.contract)
        if change == "method":
            if request.method not in every:
                raise BusError("METHOD_UNKNOWN", f"{service} has no method {request.method[:64]!r}")
            return [], {request.method}
        if change == "retire" and request.retire:
            return [], every
        raise BusError("REQUEST_MALFORMED", "say what changes: retire, method or contract")

    def _replaced_by(self, name: str) -> list[str]:
        services = (entry.record.service for entry in self._state.all("service").values())
        return sorted(each.name for each in services if each.replaced_by == name)

    # --- who is asking -----------------------------------------------------------------------------------------------

    def _service_or_none(self, name: str) -> Service | None:
        entry = self._state.get("service", name)
        return entry.record.service if entry else None

    def _seen(self, name: str, context: Context) -> tuple[str, Service]:
        """Caller and service; NOT_REGISTERED also for a service that the caller may not see."""
        caller = self._registry.caller(context)
        service = self._service_or_none(name)
        if service is None or not rights.visible(service, caller, operator=self._registry.operators(caller)):
            raise BusError("NOT_REGISTERED", f"no service {name[:64]!r}")
        return caller, service

    def _entrusted(self, name: str, context: Context) -> Service:
        caller, service = self._seen(name, context)
        if not self._owns(caller, service):
            raise BusError("NOT_OWNER", f"who uses {name} is told to its provider, its stewards and operators")
        return service

    def _owns(self, caller: str, service: Service) -> bool:
        return rights.decides(service, caller) or self._registry.operators(caller)

    def _terms(self, caller: str, service: str) -> Callable[[str], list[pb.Terms]]:
        now = self._now()
        grants = [each for each in rights.grants_in_force(self._state, caller, now) if each.service == service]
        return lambda method: rights.terms_of(grants, method, now, self._exhausted)


def _purposes(terms: list[pb.Terms]) -> Purposes:
    codes = sorted({purpose.code for each in terms for purpose in each.purposes})
    return Purposes(tuple(codes), rights.purpose_required(terms))


def _page(request: Any, rows: list[tuple[str, Any]]) -> tuple[list[Any], str]:
    """One page of (key, row) by key, and the token of the next: what changes meanwhile moves no page."""
    if request.page_size < 0:
        raise BusError("REQUEST_MALFORMED", "page_size is negative")
    size, after = min(request.page_size or paging.DEFAULT_SIZE, paging.MAX_SIZE), paging.opened(request)
    left = sorted((each for each in rows if each[0] > after), key=lambda each: each[0])
    token = paging.seal(request, left[size - 1][0]) if len(left) > size else ""
    return [row for _, row in left[:size]], token
