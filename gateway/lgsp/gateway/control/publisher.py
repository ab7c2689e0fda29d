"""Keeps the desired xDS resources equal to the registry: a change recompiles what it touches, never the world.

Rule 1: nothing is published before the registry was followed to its end once; until then the copy on disk stands.
Rule 2: a service that cannot be compiled is withdrawn from nobody: its last version stays, and the failure is logged.
Rule 3: time is an input: grants that begin or end by themselves, and leases that run out, are changes like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog

from lgsp.api.errors import BusError
from lgsp.api.registry.v1.registry_pb2 import Endpoint, Grant
from lgsp.gateway import compiler
from lgsp.gateway.control import moved
from lgsp.gateway.rights import Right
from lgsp.gateway.xds import clusters, resources
from lgsp.gateway.xds.ads import CLUSTER, ENDPOINTS, ROUTES, SCOPE, AdsServer
from lgsp.gateway.xds.cache import Resource
from lgsp.gateway.xds.policy import EdgePolicy, ServicePolicy
from lgsp.registry.lifecycle import CARRIED, lifecycle_of
from lgsp.registry.state import State

log = structlog.get_logger("lgsp.publisher")
_TRUST_KINDS = frozenset({"system", "node_key", "token_revocation"})


class Contracts(Protocol):
    """Where contracts are fetched by digest."""

    async def get_contract(self, digest: str) -> bytes: ...


class Publisher:
    """From registry changes to acknowledged resources.

    `live` says whether an endpoint's lease runs, `allowed` whether it may answer where it does; `sockets` are the platform's own services and their unix sockets;
    `exhausted` whether a grant's calls of the day are used up; `now` is the clock in UTC.
    """

    def __init__(
        self,
        state: State,
        contracts: Contracts,
        ads: AdsServer,
        edge: EdgePolicy,
        *,
        issuer: str,
        live: Callable[[str], bool],
        sockets: Mapping[str, str],
        allowed: Callable[[Endpoint], bool] = lambda endpoint: True,
        exhausted: Callable[[str], bool] = lambda grant: False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._state, self._contracts, self._ads, self._edge = state, contracts, ads, edge
        self._issuer, self._live, self._sockets, self.now = issuer, live, sockets, now
        self._exhausted, self._allowed = exhausted, allowed
        self._touched: set[str] = set()
        self._trust_touched = True
        self._wake = asyncio.Event()
        self._published = asyncio.Condition()
        self._revision = -1
        self.ready = False
        self._contract_of: dict[str, bytes] = {}

    def note(self, changes: Iterable[Any]) -> None:
        """The registry changed: remember what that touches."""
        for change in changes:
            if change.kind in _TRUST_KINDS:
                self._trust_touched = True
            if change.kind == "system":
                self._touched.update(grant.service for grant in self._state.grants_of(change.key))
            if change.kind == "group":
                self._touched.update(grant.service for grant in self._state.grants_by_group(change.key))
            self._touched.update(moved.services_of(self._state, change))
            for entry in (change.previous, change.entry):
                if entry is not None:
                    self._touched.update(_services(change.kind, entry.record))
        self._wake.set()

    def touch(self, services: Iterable[str]) -> None:
        """These services' endpoints may have changed without a record (leases)."""
        self._touched.update(services)
        self._wake.set()

    async def run(self, synced: asyncio.Event) -> None:
        """Publish for ever, from the first moment the registry is known."""
        await synced.wait()
        while True:
            await self.publish()
            await self._wait()

    async def publish(self) -> None:
        """Publish everything noted so far."""
        self._wake.clear()
        revision, first = self._state.revision, not self.ready
        touched = set(self._all_services()) if first else self._touched
        self._touched = set()
        upserts: list[Resource] = self._trust() if self._trust_touched or first else []
        self._trust_touched = False
        if first:
            upserts += self._edge_resources()
        removals: list[tuple[str, str]] = []
        failed: set[str] = set()
        for name in sorted(touched):
            made, gone = await self._service(name)
            upserts += made
            removals += gone or []
            if gone is None:
                failed.add(name)
        if first:
            self._withdraw_unknown(upserts, removals, failed)
        self._ads.update(upserts, removals)
        self.ready, self._revision = True, revision
        async with self._published:
            self._published.notify_all()

    async def effective(self, revision: int, timeout_s: float) -> bool:
        """True once every Envoy of this node has acknowledged all up to `revision` and refused none of it."""
        try:
            async with asyncio.timeout(timeout_s), self._published:
                await self._published.wait_for(lambda: self._revision >= revision)
        except TimeoutError:
            return False
        return await self._ads.settled(self._ads.generation, timeout_s)

    async def _wait(self) -> None:
        grants = [entry.record.grant for entry in self._state.all("grant").values()]
        keys = (entry.record.node_key for entry in self._state.all("node_key").values())
        boundary = compiler.next_boundary(grants, keys, self.now())
        delay = max(0.0, (boundary - self.now()).total_seconds()) if boundary else None
        try:
            async with asyncio.timeout(delay):
                await self._wake.wait()
        except TimeoutError:
            # A grant begins or ends now, or a key; which is cheap to find out by compiling, and rare to need.
            self._touched.update(grant.service for grant in grants)
            self._trust_touched = True

    # --- compilation -------------------------------------------------------------------------------------------------

    def _all_services(self) -> list[str]:
        return list(self._state.all("service"))

    def _trust(self) -> list[Resource]:
        kinds = {kind: [getattr(e.record, kind) for e in self._state.all(kind).values()] for kind in _TRUST_KINDS}
        trust = compiler.trust_policy(
            self._issuer, kinds["node_key"], kinds["system"], kinds["token_revocation"], self.now()
        )
        return [
            Resource.of(resources.JWT, resources.jwt_filter(trust)),
            Resource.of(resources.REVOKED, resources.revoked_filter(trust)),
        ]

    def _edge_resources(self) -> list[Resource]:
        oauth = clusters.cluster(resources.OAUTH_CLUSTER, unix=self._edge.oauth_socket, http1=True)
        return [
            Resource.of(resources.LISTENER, resources.listener(self._edge)),
            Resource.of(resources.CERTIFICATE, resources.certificate(self._edge)),
            Resource.of(resources.OAUTH_CLUSTER, oauth),
            Resource.of(resources.PLATFORM_ROUTES, resources.platform_routes()),
            *(Resource.of(key, resources.scope(key, resources.PLATFORM_ROUTES)) for key in ("oauth2", ".well-known")),
        ]

    async def _service(self, name: str) -> tuple[list[Resource], list[tuple[str, str]] | None]:
        entry = self._state.get("service", name)
        if entry is None or lifecycle_of(entry.record.service) not in CARRIED:
            return [], [(type_url, name) for type_url in (SCOPE, ROUTES, ENDPOINTS, CLUSTER)]
        try:
            policy = await self._policy(name)
        except BusError as error:
            log.error("service not published", service=name, reason=error.reason.name, detail=error.detail)
            return [], None
        socket = self._sockets.get(name)
        made = [Resource.of(name, clusters.cluster(name, unix=socket))]
        if socket is None:
            made.append(Resource.of(name, clusters.endpoints(policy, self._edge.zone)))
        made.append(Resource.of(name, resources.scope(name, name)))
        made.append(Resource.of(name, resources.service_routes(policy)))
        return made, []

    async def _policy(self, name: str) -> ServicePolicy:
        service = self._state.get("service", name).record.service  # type: ignore[union-attr]
        contract = self._contract_of.get(service.contract_digest)
        if contract is None:
            contract = await self._contracts.get_contract(service.contract_digest)
            self._contract_of[service.contract_digest] = contract
        rights = [self._right(entry.record.grant) for entry in self._state.grants_by_service(name)]
        found = (entry.record.endpoint for entry in self._state.endpoints_by_service(name))
        instances = [compiler.instance(each) for each in found if self._serves(each)]
        return compiler.service_policy(service, contract, rights, instances, self.now())

    def _serves(self, endpoint: Endpoint) -> bool:
        return not endpoint.HasField("ended_at") and self._live(endpoint.id) and self._allowed(endpoint)

    def _right(self, grant: Grant) -> Right:
        systems = frozenset(each for each in self._state.members(grant) if not self._is_revoked(each))
        return Right(grant, systems, self._exhausted(grant.id))

    def _is_revoked(self, system: str) -> bool:
        entry = self._state.get("system", system)
        return entry is None or entry.record.system.HasField("revoked_at")

    def _withdraw_unknown(self, upserts: list[Resource], removals: list[tuple[str, str]], failed: set[str]) -> None:
        """The copy on disk may hold what the registry has dropped meanwhile; what failed keeps its last version."""
        known = {(each.type_url, each.name) for each in upserts} | set(removals)
        held = ((type_url, name) for type_url, named in self._ads.desired.items() for name in named)
        removals += [each for each in held if each not in known and each[1] not in failed]


def _services(kind: str, record: Any) -> Iterable[str]:
    if kind == "service":
        return [record.service.name]
    if kind == "grant":
        return [record.grant.service]
    if kind == "endpoint":
        return list(record.endpoint.services)
    return []
