"""One control process, wired: store, leases, publisher, ADS, registry API, node API, OAuth2.

It is ready in this order: ADS answers at once (from the copy on disk if there is one), the APIs as soon as their sockets
are bound, and what needs the registry as soon as NATS is there. NATS may be away at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import grpc
import structlog
import uvicorn
from nats.aio.client import Client

from lgsp.adapters.tracing import TraceInterceptor
from lgsp.api.errors import BusError
from lgsp.api.errors.serving import ErrorInterceptor
from lgsp.api.node.v1 import node_pb2, node_pb2_grpc
from lgsp.api.registry.v1 import registry_pb2_grpc
from lgsp.api.registry.v1.registry_pb2 import Names, NodeKey, System, TokenRevocation
from lgsp.gateway import compiler, nats, places
from lgsp.gateway.control import founding
from lgsp.gateway.control.endpoint_policy import EndpointPolicy
from lgsp.gateway.control.instances import Instances
from lgsp.gateway.control.node_api import NodeServicer
from lgsp.gateway.control.proxy import Proxy
from lgsp.gateway.control.publisher import Publisher
from lgsp.gateway.oauth.app import OAuthApp
from lgsp.gateway.oauth.keys import SigningKeys
from lgsp.gateway.oauth.server import AuthorizationServer
from lgsp.gateway.settings import Settings
from lgsp.gateway.usage.ledger import Ledger
from lgsp.gateway.xds import cache
from lgsp.gateway.xds.ads import AdsServer
from lgsp.gateway.xds.cache import Resource
from lgsp.gateway.xds.policy import EdgePolicy
from lgsp.registry.api import RegistryServicer
from lgsp.registry.leases import Leases
from lgsp.registry.networks import networks_of
from lgsp.registry.state import Change
from lgsp.registry.store import Store, Write

log = structlog.get_logger("lgsp.control")
LEASE_SECONDS: Final = 15.0
GRACE_SECONDS: Final = 30.0
# How old the copy on disk may be: beyond this, rights could have ended long ago.
MAX_COPY_AGE_S: Final = 24 * 3600.0
_ROTATE_EVERY_S: Final = 24 * 3600.0
_EFFECTIVE_S: Final = 5.0
_MAX_MESSAGE: Final = 8 << 20


class Control:
    """Everything of one control process; `run` serves until cancelled."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        folder = settings.layout.envoy
        self._copy, self._copy_state = folder / "resources.bin", _CopyState()
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
        self._from_disk = False
        self._rotating = asyncio.Lock()

    async def run(self) -> None:
        """Serve until cancelled; everything is closed behind it."""
        self._restore_copy()
        self.keys.load()
        self.store.listen(self.publisher.note)
        self.store.listen(self._follow_endpoints)
        self.store.listen(self._follow_quotas)
        self._follow_quotas(Change("grant", key, each, None) for key, each in self.store.state.all("grant").items())
        self.store.on_leases(self._take_leases)
        self.store.on_outage_over(self.leases.forgive)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(_served(str(self.settings.ads_socket), [self.ads.handler()]))
            await stack.enter_async_context(_served(str(self.settings.api_socket), [], self._add_apis))
            async with asyncio.TaskGroup() as group:
                for each in (self._serve_oauth(), self.store.run(), self._publish(), self._watch_leases()):
                    group.create_task(each)
                group.create_task(self._rotate_daily())
                group.create_task(self._write_copy())
                group.create_task(self.usage.run())
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
        registry = RegistryServicer(
            self.store,
            self.leases,
            effective=self.publisher.effective,
            operators=self._is_operator,
            endpoint_policy=self.endpoint_policy.check,
            taken=self.proxy.taken,
            uses=self.usage.uses,
        )
        registry_pb2_grpc.add_RegistryServiceServicer_to_server(registry, server)
        instances = Instances(self.store.state, self.leases, self.endpoint_policy, self.proxy)
        node = NodeServicer(self.ads, self._facts, self._rotate, instances)
        node_pb2_grpc.add_NodeServiceServicer_to_server(node, server)

    def _is_operator(self, system: str) -> bool:
        """Operators are the systems with a grant in force to create grants."""
        now = self.publisher.now()
        grants = (entry.record.grant for entry in self.store.state.grants_by_service(founding.REGISTRY_SERVICE))
        return any(
            grant.consumer == system and compiler.holds(grant, now) and {"*", "CreateGrant"} & set(grant.methods)
            for grant in grants
        )

    def _own_ports(self) -> set[int]:
        ports = {self.settings.listen_port}
        with contextlib.suppress(Exception):
            ports.add(int(nats.url(self.settings).rpartition(":")[2]))
        return ports

    # --- following the registry --------------------------------------------------------------------------------------

    async def _publish(self) -> None:
        await self.store.synced.wait()
        await self._found()
        async with self._rotating:
            await self.keys.start(lambda kid: self.store.state.get("node_key", kid) is not None)
        await self.publisher.run(self.store.synced)

    async def _found(self) -> None:
        """Write what every registry starts with, and refresh the platform's contracts after an upgrade."""
        settings, state = self.settings, self.store.state
        for contract in founding.platform_contracts().values():
            await self.store.put_contract(contract)
        names = Names(vi=settings.city_names.vi, en=settings.city_names.en)
        jwks = settings.layout.operator_jwks.read_text("utf-8")
        records = founding.founding_records(settings.city, names, settings.operator, jwks)
        fresh = state.get("agency", settings.city) is None
        writes = []
        for kind, key, value in records:
            entry = state.get(kind, key)
            if entry is None or (kind == "service" and getattr(entry.record, kind) != value):
                writes.append(Write(kind, key, value, entry.revision if entry else 0))
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
        for change in changes:
            if change.kind == "grant" and change.entry:
                grant = change.entry.record.grant
                self.usage.watch(grant, functools.partial(self.store.state.members, grant))

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
                self.publisher.touch({name for key in turned if key in known for name in known[key].services})

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
        )

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
        kept = cache.load(self._copy, time.time(), MAX_COPY_AGE_S)
        if kept:
            self.ads.replace(kept)
            self._from_disk = True
            log.info("resources restored from disk", resources=len(kept))

    def _keep_copy(self, accepted: list[Resource]) -> None:
        self._copy_state.offer(accepted)

    async def _write_copy(self) -> None:
        """Write what Envoy accepted, once it is quiet: a burst of changes is one write."""
        while True:
            accepted = await self._copy_state.next()
            await asyncio.to_thread(cache.save, self._copy, accepted, time.time())
            await asyncio.sleep(0.5)

    # --- facts -------------------------------------------------------------------------------------------------------

    def _facts(self, status: node_pb2.GetStatusResponse) -> None:
        status.node, status.token_kid = self.settings.node, self.keys.kid
        status.registry_connected = self.store.connected
        status.registry_revision = self.store.state.revision
        status.serving_from_disk = self._from_disk and not self.publisher.ready
        for key, entry in self.store.state.all("endpoint").items():
            if not entry.record.endpoint.HasField("ended_at"):
                live = self.leases.live(key)
                status.live_endpoints += live
                status.expired_endpoints += not live


class _CopyState:
    """The latest accepted resources, for one writer."""

    def __init__(self) -> None:
        self._latest: list[Resource] | None = None
        self._there = asyncio.Event()

    def offer(self, accepted: list[Resource]) -> None:
        self._latest = accepted
        self._there.set()

    async def next(self) -> list[Resource]:
        await self._there.wait()
        self._there.clear()
        return self._latest or []


@contextlib.asynccontextmanager
async def _served(path: str, handlers: list[Any], add: Callable[[grpc.aio.Server], None] = lambda server: None) -> Any:
    """A gRPC server on a unix socket."""
    limits = [("grpc.max_receive_message_length", _MAX_MESSAGE), ("grpc.max_send_message_length", 64 << 20)]
    server = grpc.aio.server(interceptors=[TraceInterceptor(), ErrorInterceptor()], options=limits)
    server.add_generic_rpc_handlers(tuple(handlers))
    add(server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        yield server
    finally:
        await server.stop(1.0)
