"""One control process, wired: store, leases, publisher, ADS, registry API, node API, OAuth2.

It is ready in this order: ADS answers at once (from the copy on disk if there is one), the APIs as soon as their sockets
are bound, and what needs the registry as soon as NATS is there. NATS may be away at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import itertools
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import grpc
import structlog
import uvicorn
from nats.aio.client import Client

from lgsp.adapters.tracing import TraceInterceptor
from lgsp.api.catalogue.v1 import catalogue_pb2_grpc
from lgsp.api.errors import BusError
from lgsp.api.errors.serving import ErrorInterceptor
from lgsp.api.node.v1 import node_pb2, node_pb2_grpc
from lgsp.api.registry.v1 import registry_pb2_grpc
from lgsp.api.registry.v1.registry_pb2 import Names, NodeKey, System, TokenRevocation
from lgsp.gateway import compiler, credentials, nats, places, tls
from lgsp.gateway.control import founding
from lgsp.gateway.control.endpoint_policy import EndpointPolicy
from lgsp.gateway.control.health import Health, Serving
from lgsp.gateway.control.instances import Instances
from lgsp.gateway.control.mask_alarms import mask_alarms
from lgsp.gateway.control.node_api import NodeServicer
from lgsp.gateway.control.proxy import Proxy
from lgsp.gateway.control.publisher import Publisher
from lgsp.gateway.control.reflection import Reflection
from lgsp.gateway.oauth.app import OAuthApp
from lgsp.gateway.oauth.keys import SigningKeys
from lgsp.gateway.oauth.lifetime import token_seconds
from lgsp.gateway.oauth.server import AuthorizationServer
from lgsp.gateway.settings import Settings
from lgsp.gateway.usage.ledger import Ledger
from lgsp.gateway.xds import cache
from lgsp.gateway.xds.ads import AdsServer
from lgsp.gateway.xds.cache import Resource
from lgsp.gateway.xds.connection import ROUTES
from lgsp.gateway.xds.policy import EdgePolicy
from lgsp.registry.api import RegistryServicer
from lgsp.registry.api.base import caller_of
from lgsp.registry.api.catalogue import CatalogueServicer
from lgsp.registry.catalogue.directory import Directory
from lgsp.registry.grants import EVERYONE, holds
from lgsp.registry.leases import Leases
from lgsp.registry.lifecycle import CARRIED
from lgsp.registry.networks import networks_of
from lgsp.registry.state import Change, grants_touched
from lgsp.registry.store import Store, Write

log = structlog.get_logger("lgsp.control")
LEASE_SECONDS: Final = 15.0
GRACE_SECONDS: Final = 30.0
# How old the copy on disk may be: beyond this, rights could have ended long ago.
MAX_COPY_AGE_S: Final = 24 * 3600.0
_YOUNG_S: Final = 60.0
_ROTATE_EVERY_S: Final = 24 * 3600.0
_EFFECTIVE_S: Final = 5.0
_SERVER: Final = (
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    # Envoy asks every 5 s whether we are there; gRPC would call that abuse and end the stream of resources.
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
)


class Control:
    """Everything of one control process; `run` serves until cancelled."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        folder = settings.layout.envoy
        self._copy, self._accepted_more = cache.Copy(folder / "resources.db"), asyncio.Event()
        self.ads = AdsServer(now=time.time, accepted=self._keep_copy)
        self.store = Store(self._connect, settings.layout.root / "registry.snapshot", settings.node)
        self.leases = Leases(LEASE_SECONDS, GRACE_SECONDS, time.monotonic)
        self.proxy = Proxy(settings.admin_socket)
        self.endpoint_policy = EndpointPolicy(
            development=settings.profile == "development",
            networks=functools.partial(networks_of, self.store.state),
            is_own=places.is_own,
            own_ports=self._own_ports,
            runs_here=functools.partial(places.runs_here, settings),
        )
        self.publisher = Publisher(
            self.store.state,
            self.store,
            self.ads,
            self._edge(),
            issuer=settings.issuer,
            live=self.leases.live,
            allowed=lambda endpoint: not self.endpoint_policy.refusal(endpoint.system, endpoint.address),
            sockets=dict.fromkeys(founding.PLATFORM, str(settings.api_socket)),
            exhausted=lambda grant: self.usage.exhausted(grant),
            credential=functools.partial(credentials.load_for, settings.layout),
            ca_file=tls.system_bundle(),
        )
        self.usage = Ledger(
            settings.node,
            settings.access_log,
            settings.layout.root / "usage.bin",
            self._connect,
            changed=self.publisher.touch,
        )
        self.keys = SigningKeys(settings.layout.keys, settings.node, self._publish_key)
        self.oauth = OAuthApp(self._authorization_server(), self.store, self._revoke_token)
        self.directory = Directory(self.store)
        self.registry = RegistryServicer(
            self.store,
            self.leases,
            effective=self.publisher.effective,
            operators=self._is_operator,
            endpoint_policy=self.endpoint_policy.check,
            taken=self.proxy.taken,
            uses=self.usage.uses,
            development=settings.profile == "development",
            platform=founding.PLATFORM,
        )
        self.health = self._health()
        self._from_disk = False
        self._rotating = asyncio.Lock()
        self._replaced = asyncio.Event()

    async def run(self) -> None:
        """Serve until cancelled; everything is closed behind it."""
        self._restore_copy()
        self.keys.load()
        self.store.listen(self.publisher.note)
        self.store.listen(self._follow_endpoints)
        self.store.listen(self._follow_quotas)
        self.store.listen(self.health.note)
        self._follow_quotas(Change("grant", key, each, None) for key, each in self.store.state.all("grant").items())
        self.store.on_leases(self._take_leases)
        self.store.on_outage_over(self.leases.forgive)
        self.store.on_replaced(self._note_replaced)
        self.store.held.report = lambda detail: log.error("registry record held", detail=detail)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(_served(str(self.settings.ads_socket), [self.ads.handler()]))
            await stack.enter_async_context(_served(str(self.settings.api_socket), [], self._add_apis))
            async with asyncio.TaskGroup() as group:
                for each in (self._serve_oauth(), self.store.run(), self._publish(), self._watch_leases()):
                    group.create_task(each)
                group.create_task(self._rotate_daily())
                group.create_task(self._join_replaced())
                group.create_task(self._write_copy())
                group.create_task(self._watch_credentials())
                group.create_task(self.usage.run())
                group.create_task(self.directory.run())
                log.info("control process serves", node=self.settings.node)

    # --- parts -------------------------------------------------------------------------------------------------------

    async def _connect(self, **callbacks: Any) -> Client:
        return await nats.connect_core(self.settings, **callbacks)

    def _edge(self) -> EdgePolicy:
        settings = self.settings
        return EdgePolicy(
            address=settings.listen_host,
            port=settings.listen_port,
            certificate=settings.listener_cert.read_bytes(),
            private_key=settings.listener_key.read_bytes(),
            access_log=str(settings.access_log),
            oauth_socket=str(settings.oauth_socket),
            otlp=settings.otlp_endpoint is not None,
            zone=settings.zone,
        )

    def _add_apis(self, server: grpc.aio.Server) -> None:
        registry_pb2_grpc.add_RegistryServiceServicer_to_server(self.registry, server)
        catalogue = CatalogueServicer(
            self.registry,
            self.directory,
            base_url=self.settings.issuer,
            exhausted=self.usage.exhausted,
            now=self.publisher.now,
        )
        catalogue_pb2_grpc.add_CatalogueServiceServicer_to_server(catalogue, server)
        reflection = Reflection(self.store, self.registry.caller, self.publisher.now)
        server.add_generic_rpc_handlers((self.health.handler(), *reflection.handlers()))
        alarms = functools.partial(mask_alarms, str(self.settings.admin_socket))
        instances = Instances(self.store.state, self.leases, self.endpoint_policy, self.proxy)
        node = NodeServicer(self.ads, self._facts, self._rotate, alarms, instances)
        node_pb2_grpc.add_NodeServiceServicer_to_server(node, server)

    def _health(self) -> Health:
        return Health(
            self.store.state,
            Serving(self.store.state, self.leases.live, frozenset(founding.PLATFORM)),
            caller=caller_of,
            operators=self._is_operator,
            ready=lambda: self.publisher.ready,
        )

    def _is_operator(self, system: str) -> bool:
        """Operators are the systems with a grant in force to create grants."""
        now = self.publisher.now()
        return any(
            (grant.consumer, grant.service) == (system, founding.REGISTRY_SERVICE)
            and holds(grant, now)
            and {"*", "CreateGrant"} & set(grant.methods)
            for grant in self.store.state.grants_of(system)
        )

    def _own_ports(self) -> set[int]:
        ports = {self.settings.listen_port}
        with contextlib.suppress(Exception):
            ports.add(int(nats.url(self.settings).rpartition(":")[2]))
        return ports

    # --- following the registry --------------------------------------------------------------------------------------

    async def _publish(self) -> None:
        await self.store.synced.wait()
        await self._join()
        await self.publisher.publish()
        self.health.note()
        # A city is millions of objects that stay: looking through them for garbage would halt every call of the APIs.
        gc.freeze()
        await self.publisher.run(self.store.synced)

    async def _join(self) -> None:
        """Make sure that the registry has what every node needs there, and this node's token key."""
        await self._found()
        async with self._rotating:
            await self.keys.start(lambda kid: self.store.state.get("node_key", kid) is not None)

    def _note_replaced(self) -> None:
        self.publisher.forget_revision()
        self._replaced.set()

    async def _join_replaced(self) -> None:
        """A restored or replaced registry may know neither; what fails is tried again, for as long as it takes."""
        while True:
            await self._replaced.wait()
            self._replaced.clear()
            await self.store.synced.wait()
            try:
                await self._join()
                log.info("joined another registry", incarnation=self.store.incarnation)
            except BusError as error:
                log.error("another registry not joined", reason=error.reason.name, detail=error.detail)
                self._replaced.set()
                await asyncio.sleep(1.0)

    async def _found(self) -> None:
        """Write what every registry starts with, and refresh the platform's contracts after an upgrade."""
        settings, state = self.settings, self.store.state
        for contract in founding.platform_contracts().values():
            await self.store.put_contract(contract)
        names = Names(vi=settings.city_names.vi, en=settings.city_names.en)
        jwks = settings.layout.operator_jwks.read_text("utf-8")
        records = founding.founding_records(settings.city, names, settings.operator, jwks)
        fresh = state.get("agency", settings.city) is None
        writes = founding.missing(state, records)
        if not writes:
            return
        try:
            await self.store.write(writes, operation_id=f"founding {settings.node}", actor=f"{settings.city}/lgsp")
        except BusError as error:
            if error.reason.name != "REVISION_CONFLICT":
                raise
            return  # another node was first
        log.info("registry founded" if fresh else "platform contracts refreshed", records=len(writes))

    def _follow_endpoints(self, changes: list[Change]) -> None:
        for change in changes:
            if change.kind == "endpoint" and change.entry and change.entry.record.endpoint.HasField("ended_at"):
                self.leases.drop(change.key)
            elif change.kind == "endpoint" and change.entry and self.store.synced.is_set():
                self.leases.beat(change.key)

    def _follow_quotas(self, changes: Iterable[Change]) -> None:
        state = self.store.state
        for change in changes:
            if change.kind in ("group", "system"):
                self.usage.note_members(grant.service for grant in grants_touched(state, change))
            elif change.kind == "grant" and change.entry is None:
                self.usage.forget(change.key)
            elif change.kind == "grant" and change.entry is not None:
                grant = change.entry.record.grant
                self.usage.watch(grant, functools.partial(state.members, grant))

    def _take_leases(self, node: str, ages: dict[str, float]) -> None:
        for endpoint, age in ages.items():
            self.leases.beat(endpoint, age)

    async def _watch_leases(self) -> None:
        """Once a second: tell the other nodes, and let run out what has."""
        while True:
            await asyncio.sleep(1.0)
            await self.store.publish_leases(dict(self.leases.ages()))
            known = {key: e.record.endpoint for key, e in self.store.state.all("endpoint").items()}
            in_being = (key for key, each in known.items() if not each.HasField("ended_at"))
            turned = self.leases.look(in_being, self.store.connected)
            if turned:
                self.health.note()
                self.publisher.touch({name for key in turned if key in known for name in known[key].services})

    async def _watch_credentials(self) -> None:
        """A credential that was set, replaced or removed takes effect within a second."""
        known = credentials.stamps(self.settings.layout)
        while True:
            await asyncio.sleep(1.0)
            found = credentials.stamps(self.settings.layout)
            changed = {name for name in known.keys() | found.keys() if known.get(name) != found.get(name)}
            known = found
            if changed:
                services = self.store.state.all("service").items()
                self.publisher.touch(key for key, each in services if each.record.service.rest.credential in changed)

    # --- tokens ------------------------------------------------------------------------------------------------------

    def _authorization_server(self) -> AuthorizationServer:
        state = self.store.state

        def system(identifier: str) -> System | None:
            entry = state.get("system", identifier)
            return entry.record.system if entry else None

        def public_keys() -> list[dict[str, Any]]:
            keys = (entry.record.node_key for entry in state.all("node_key").values())
            return compiler.published_keys(keys, self.publisher.now())

        return AuthorizationServer(
            self.settings.issuer,
            systems=system,
            signing_key=lambda: self.keys.current,
            public_keys=public_keys,
            is_revoked=lambda jti: state.get("token_revocation", jti) is not None,
            development=self.settings.profile == "development",
            lifetime=self._token_seconds,
        )

    def _token_seconds(self, system: System) -> int:
        """By the grants that the system could use; what the platform offers to everyone keeps no other right alive."""
        state = self.store.state
        shared = (each for each in state.grants_by_group(EVERYONE) if each.service not in founding.PLATFORM)
        grants = itertools.chain(state.grants_of(system.id), shared)
        carried = (each for each in grants if self._is_carried(each.service))
        return token_seconds(carried, self.publisher.now())

    def _is_carried(self, service: str) -> bool:
        entry = self.store.state.get("service", service)
        return entry is not None and entry.record.service.lifecycle in CARRIED

    async def _serve_oauth(self) -> None:
        path = self.settings.oauth_socket
        path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX)  # uvicorn would open its own to everybody
        listening.bind(str(path))
        config = uvicorn.Config(
            self.oauth,
            log_config=None,
            access_log=False,
            lifespan="off",
            http="httptools",
            ws="none",
            loop="asyncio",
            timeout_keep_alive=60,
        )
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment] # ours are in __main__
        try:
            await server.serve(sockets=[listening])
        finally:
            server.should_exit = True

    async def _publish_key(self, key: NodeKey) -> None:
        entry = self.store.state.get("node_key", key.kid)
        write = Write("node_key", key.kid, key, entry.revision if entry else 0)
        (revision,) = await self.store.write(
            [write], operation_id=f"{key.kid} {key.retired_at.seconds}", actor=f"{self.settings.city}/lgsp"
        )
        # The very first key is published with everything else; there is nobody yet who could use it.
        known = not self.publisher.ready or await self.publisher.effective(revision, _EFFECTIVE_S)
        if not known and not key.HasField("retired_at"):
            # A key that the gateway does not know yet must not sign: its tokens would be refused.
            raise BusError("REGISTRY_UNAVAILABLE", "this node's gateway has not taken the new key; the old one goes on")

    async def _rotate(self) -> tuple[str, str]:
        async with self._rotating:
            return await self.keys.rotate()

    async def _rotate_daily(self) -> None:
        while True:
            await asyncio.sleep(_ROTATE_EVERY_S)
            try:
                await self._rotate()
            except BusError as error:
                log.error("token key not rotated", reason=error.reason.name, detail=error.detail)

    async def _revoke_token(self, token_id: str, expires: int) -> None:
        if self.store.state.get("token_revocation", token_id) is not None:
            return
        revocation = TokenRevocation(token_id=token_id)
        revocation.expires_at.FromSeconds(expires)
        (revision,) = await self.store.write(
            [Write("token_revocation", token_id, revocation, 0)],
            operation_id=f"revoke {token_id}",
            actor=f"{self.settings.city}/lgsp",
        )
        await self.publisher.effective(revision, _EFFECTIVE_S)

    # --- the copy on disk --------------------------------------------------------------------------------------------

    def _restore_copy(self) -> None:
        kept = self._copy.load(time.time(), MAX_COPY_AGE_S)
        if kept:
            self.ads.replace(kept)
            self._from_disk = True
            log.info("resources restored from disk", resources=len(kept))

    def _keep_copy(self, accepted: Mapping[cache.Name, Resource | None], whole: bool) -> None:
        if whole:
            self._copy.take_all(each for each in accepted.values() if each is not None)
        else:
            self._copy.take(accepted)
        self._accepted_more.set()

    async def _write_copy(self) -> None:
        """Write what Envoy accepted, once it is quiet: a burst of changes is one write. A copy that is still true stays young."""
        while True:
            try:
                await asyncio.wait_for(self._accepted_more.wait(), _YOUNG_S)
            except TimeoutError:
                if not self.store.connected or not self.publisher.ready:
                    continue
            self._accepted_more.clear()
            try:
                await asyncio.to_thread(self._copy.write, time.time())
            except OSError as error:
                log.error("the copy of the resources is not written", why=str(error))
            await asyncio.sleep(0.5)

    # --- facts -------------------------------------------------------------------------------------------------------

    def _facts(self, status: node_pb2.GetStatusResponse) -> None:
        status.node, status.token_kid = self.settings.node, self.keys.kid
        status.registry_connected = self.store.connected
        status.registry_revision = self.store.state.revision
        held = self.store.held
        status.registry_unreadable, status.registry_unreadable_last = held.count, held.last[:500]
        status.registry_held_keys, status.registry_frozen = held.keys, self.store.frozen
        status.serving_from_disk = self._from_disk and not self.publisher.ready
        for name, fallen in self.publisher.fallbacks.services.items():
            status.nacks.add(type_url=ROUTES, resources=[name], message=fallen.why)
        for key, entry in self.store.state.all("endpoint").items():
            if not entry.record.endpoint.HasField("ended_at"):
                live = self.leases.live(key)
                status.live_endpoints += live
                status.expired_endpoints += not live


@contextlib.asynccontextmanager
async def _served(path: str, handlers: list[Any], add: Callable[[grpc.aio.Server], None] = lambda server: None) -> Any:
    """A gRPC server on a unix socket."""
    server = grpc.aio.server(interceptors=[TraceInterceptor(), ErrorInterceptor()], options=_SERVER)
    server.add_generic_rpc_handlers(tuple(handlers))
    add(server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        yield server
    finally:
        await server.stop(1.0)
