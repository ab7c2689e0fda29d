"""Keeps the desired xDS resources equal to the registry: a change recompiles what it touches, never the world.

Rule 1: nothing is published before the registry was followed to its end once; until then the copy on disk stands.
Rule 2: a service that cannot be compiled is withdrawn from nobody: its last version stays, and the failure is logged.
        One whose routes Envoy refuses falls back to what Envoy takes, so that no right lives on by it (fallback.py).
Rule 3: time is an input: grants that begin or end by themselves, and leases that run out, are changes like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import structlog

from lgsp.api.errors import BusError
from lgsp.api.registry.v1.registry_pb2 import Endpoint, Record, Service
from lgsp.gateway import compiler
from lgsp.gateway.control import moved
from lgsp.gateway.control.boundaries import Boundaries
from lgsp.gateway.control.fallback import Fallbacks
from lgsp.gateway.credentials import Credential
from lgsp.gateway.xds import clusters, resources, upstream_cluster
from lgsp.gateway.xds.ads import AdsServer
from lgsp.gateway.xds.cache import Resource
from lgsp.gateway.xds.connection import CLUSTER, ENDPOINTS, ROUTES, SCOPE, SECRET, Rejection
from lgsp.gateway.xds.instances import check_seconds
from lgsp.gateway.xds.policy import EdgePolicy, RestPolicy, ServicePolicy
from lgsp.registry.grants import boundaries
from lgsp.registry.lifecycle import CARRIED
from lgsp.registry.rights import right_of
from lgsp.registry.state import State, grants_touched

log = structlog.get_logger("lgsp.publisher")
# Services compiled, and contracts fetched, before others have their turn.
_AT_A_TIME: Final = 100
_TRUST_KINDS = frozenset({"system", "node_key", "token_revocation"})
# What is looked at again when a key's time is over; no service has this name.
_TRUST = ""
# What the platform's own APIs take at once.
MAX_PLATFORM_REQUEST: Final = 8 << 20
# A clock that is set, or a machine that slept, is noticed within this time.
_LOOK_AGAIN_S = 5.0


class Contracts(Protocol):
    """Where contracts are fetched by digest."""

    async def get_contract(self, digest: str) -> bytes: ...


class Publisher:
    """From registry changes to acknowledged resources.

    `live` says whether an endpoint's lease runs, `allowed` whether it may answer where it does; `sockets` are the
    platform's own services and their unix sockets; `exhausted` whether a grant's calls of the day are used up;
    `credential` finds what this node shows to a legacy system of a provider, `ca_file` are the certificates this machine trusts; `now`
    is the clock in UTC.
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
        credential: Callable[[str, str], Credential | None] = lambda name, system: None,
        ca_file: str | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._state, self._contracts, self._ads, self._edge = state, contracts, ads, edge
        self._issuer, self._live, self._sockets, self.now = issuer, live, sockets, now
        self._exhausted, self._allowed = exhausted, allowed
        self._credential, self._ca_file = credential, ca_file
        self._secret_of: dict[str, str] = {}
        self._touched: set[str] = set()
        self._trust_touched = True
        self._wake = asyncio.Event()
        self._published = asyncio.Condition()
        self._revision, self._registry = -1, 0
        self._boundaries = Boundaries()
        self._check_every_s = 1
        self.fallbacks = Fallbacks()
        ads.refused = self._note_refused
        self.ready = False

    def note(self, changes: Iterable[Any]) -> None:
        """The registry changed: remember what that touches."""
        for change in changes:
            if change.kind in _TRUST_KINDS:
                self._trust_touched = True
            self._touched.update(grant.service for grant in grants_touched(self._state, change))
            self._touched.update(moved.services_of(self._state, change))
            for entry in (change.previous, change.entry):
                if entry is not None:
                    self._touched.update(_services(change.kind, entry.record))
            if change.entry is not None:
                self._appoint(change.kind, change.entry.record)
        self._wake.set()

    def forget_revision(self) -> None:
        """Another registry counts its revisions anew."""
        self._revision, self._registry = -1, self._registry + 1
        self._wake.set()

    def _note_refused(self, refused: Rejection) -> None:
        """What Envoy refuses of a service must not keep rights alive: publish what it takes."""
        for name in refused.names if refused.type_url == ROUTES else ():
            entry = self._state.get("service", name)
            if entry is not None:
                self.fallbacks.note(name, entry.record.service.contract_digest, refused.message)
                log.error("service falls back", service=name, why=refused.message)
                self.touch([name])

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
        revision, registry, first = self._state.revision, self._registry, not self.ready
        if first:
            # Once: another number would change every cluster.
            self._check_every_s = check_seconds(len(self._state.all("service")))
            for kind in ("grant", "node_key"):
                for entry in self._state.all(kind).values():
                    self._appoint(kind, entry.record)
        touched = set(self._all_services()) if first else self._touched
        self._touched = set()
        upserts: list[Resource] = self._trust() if self._trust_touched or first else []
        self._trust_touched = False
        if first:
            upserts += self._edge_resources()
        removals: list[tuple[str, str]] = []
        failed: set[str] = set()
        names = sorted(touched)
        for start in range(0, len(names), _AT_A_TIME):
            some = names[start : start + _AT_A_TIME]
            contracts = await self._fetch(some)
            for name in some:
                made, gone = self._service(name, contracts)
                upserts += made
                removals += gone or []
                if gone is None:
                    failed.add(name)
            await asyncio.sleep(0)  # others use the loop as well
        removals += self._unused_secrets()
        if first:
            self._withdraw_unknown(upserts, removals, failed)
        self._ads.update(upserts, removals)
        self.ready = True
        if registry == self._registry:
            self._revision = revision
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
        """Until something changed, or a grant or a key begins or ends by itself."""
        boundary = self._boundaries.next()
        delay = max(0.0, (boundary - self.now()).total_seconds()) if boundary else _LOOK_AGAIN_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(delay, _LOOK_AGAIN_S)):
                await self._wake.wait()
        due = self._boundaries.due(self.now())
        self._trust_touched |= _TRUST in due
        self._touched |= due - {_TRUST}

    def _appoint(self, kind: str, record: Record) -> None:
        """Remember when the record begins or ends by itself."""
        if kind == "grant":
            self._boundaries.add(boundaries(record.grant), record.grant.service, self.now())
        elif kind == "node_key" and record.node_key.HasField("retired_at"):
            self._boundaries.add([compiler.time_of(record.node_key.retired_at)], _TRUST, self.now())

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

    async def _fetch(self, services: Iterable[str]) -> dict[str, bytes | BusError]:
        """The contracts of services by digest, or why one is not to be had."""
        found = (entry.record.service for name in services if (entry := self._state.get("service", name)))
        digests = list({each.contract_digest for each in found if each.lifecycle in CARRIED})
        fetched: dict[str, bytes | BusError] = {}

        async def fetch(digest: str) -> None:
            try:
                fetched[digest] = await self._contracts.get_contract(digest)
            except BusError as error:
                fetched[digest] = error

        await asyncio.gather(*map(fetch, digests))
        return fetched

    def _service(
        self, name: str, contracts: Mapping[str, bytes | BusError]
    ) -> tuple[list[Resource], list[tuple[str, str]] | None]:
        entry = self._state.get("service", name)
        self._secret_of.pop(name, None)
        if entry is None or entry.record.service.lifecycle not in CARRIED:
            return [], [(type_url, name) for type_url in (SCOPE, ROUTES, ENDPOINTS, CLUSTER)]
        service = entry.record.service
        contract = contracts.get(service.contract_digest)
        if contract is None:  # it changed while contracts were fetched: the change wakes us again
            self._touched.add(name)
            return [], None
        try:
            if isinstance(contract, BusError):
                raise contract
            policy = self._policy(service, contract)
            if policy.rest is not None:
                return self._legacy(service, policy, policy.rest), [(ENDPOINTS, name)]
            return self._resources(name, policy), []
        except Exception as error:  # whatever is wrong with one service must not reach the others
            why = {"reason": error.reason.name, "detail": error.detail} if isinstance(error, BusError) else {}
            log.error("service not published", service=name, error=repr(error)[:300], **why)
            return [], None

    def _resources(self, name: str, policy: ServicePolicy) -> list[Resource]:
        socket = self._sockets.get(name)
        made = [Resource.of(name, clusters.cluster(name, unix=socket, check_every_s=self._check_every_s))]
        if socket is None:
            made.append(Resource.of(name, clusters.endpoints(policy, self._edge.zone)))
        made.append(Resource.of(name, resources.scope(name, name)))
        made.append(Resource.of(name, resources.service_routes(policy)))
        return made

    def _legacy(self, service: Service, policy: ServicePolicy, rest: RestPolicy) -> list[Resource]:
        """A system that Envoy calls itself, with its credential."""
        name = policy.name
        made = [Resource.of(name, clusters.rest_cluster(name, rest))]
        found = self._kept(service) if rest.secret else None
        if found is not None:
            self._secret_of[name] = rest.secret
            made.append(Resource.of(rest.secret, upstream_cluster.secret(rest.secret, found.value.encode())))
        if rest.closed:
            log.error("legacy system not called", service=name, why=rest.closed)
        return [
            *made,
            Resource.of(name, resources.scope(name, name)),
            Resource.of(name, resources.service_routes(policy)),
        ]

    def _unused_secrets(self) -> list[tuple[str, str]]:
        """Envoy asks for the secrets that clusters name, and no others are kept for it."""
        used = set(self._secret_of.values())
        held = [name for name in self._ads.desired[SECRET] if name.startswith(compiler.CREDENTIAL_SECRET)]
        return [(SECRET, name) for name in held if name not in used]

    def _policy(self, service: Service, contract: bytes) -> ServicePolicy:
        grants = (entry.record.grant for entry in self._state.grants_by_service(service.name))
        rights = [right_of(self._state, grant, exhausted=self._exhausted(grant.id)) for grant in grants]
        found = (entry.record.endpoint for entry in self._state.endpoints_by_service(service.name))
        instances = [compiler.instance(each) for each in found if self._serves(each)]
        rest = self._rest(service)
        policy = compiler.service_policy(service, contract, rights, instances, self.now(), rest)
        policy = self.fallbacks.left_of(policy, service.contract_digest)
        own = service.name in self._sockets
        return replace(policy, max_request_bytes=MAX_PLATFORM_REQUEST) if own else policy

    def _serves(self, endpoint: Endpoint) -> bool:
        return not endpoint.HasField("ended_at") and self._live(endpoint.id) and self._allowed(endpoint)

    def _kept(self, service: Service) -> Credential | None:
        """The service's credential, if this node has it for the service's provider."""
        name = service.rest.credential
        return self._credential(name, service.provider) if name else None

    def _rest(self, service: Service) -> RestPolicy | None:
        if not service.HasField("rest"):
            return None
        found = self._kept(service)
        return compiler.rest_policy(service.rest, found.header if found else None, self._ca_file)

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
