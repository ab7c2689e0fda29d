"""Envoy with no checks: TLS, HTTP/2, one route, the router; the baseline of what any proxy costs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from lgsp.gateway.settings import Settings, free_port
from lgsp.gateway.xds.bootstrap import arguments

_V3 = "type.googleapis.com/envoy.extensions"


@asynccontextmanager
async def bare_envoy(folder: Path, node: Settings, upstream: str) -> AsyncIterator[tuple[str, int]]:
    """(address, pid) of an Envoy that forwards to `upstream` (host:port) with the node's own certificate."""
    folder.mkdir()
    port = free_port("127.0.0.1")
    path = folder / "bare.json"
    path.write_text(json.dumps(_bootstrap(node, port, upstream)), "utf-8")
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*arguments(node.envoy_binary, str(path)), stdout=log, stderr=log)
    try:
        async with asyncio.timeout(20):
            while not await _accepts(port):
                assert process.returncode is None, (folder / "log").read_text()
                await asyncio.sleep(0.05)
        yield f"127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        await process.wait()


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def _bootstrap(node: Settings, port: int, upstream: str) -> dict[str, Any]:
    host, _, upstream_port = upstream.rpartition(":")
    route = {"match": {"prefix": "/"}, "route": {"cluster": "provider", "timeout": "0s"}}
    manager = {
        "@type": f"{_V3}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bare",
        "codec_type": "AUTO",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_V3}.filters.http.router.v3.Router"}}
        ],
    }
    files = {
        "certificate_chain": {"filename": str(node.listener_cert)},
        "private_key": {"filename": str(node.listener_key)},
    }
    tls = {
        "@type": f"{_V3}.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {"tls_certificates": [files], "alpn_protocols": ["h2", "http/1.1"]},
    }
    chain = {
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}],
    }
    http2 = {
        "@type": f"{_V3}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    cluster = {
        "name": "provider",
        "type": "STATIC",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        "load_assignment": {
            "cluster_name": "provider",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(host, int(upstream_port))}}]}],
        },
    }
    listener = {"name": "bare", "address": _socket("127.0.0.1", port), "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _socket(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
