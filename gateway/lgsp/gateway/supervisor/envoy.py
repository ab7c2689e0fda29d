"""Envoy as a part of a node: its bootstrap, its readiness, its drain, over the admin socket."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Final

import httpx

from lgsp.gateway.datadir import write_private
from lgsp.gateway.settings import Settings
from lgsp.gateway.xds.bootstrap import arguments, bootstrap

# A unix socket has no TLS, and reading the machine's authorities for it would cost a tenth of a second each time.
_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_ADMIN_S: Final = 2.0
_DRAIN_S: Final = 10.0
_POLL_S: Final = 0.05


def command(settings: Settings) -> list[str]:
    """Write the bootstrap and give the command line."""
    path = settings.layout.envoy / "bootstrap.json"
    sockets = (str(settings.ads_socket), str(settings.admin_socket))
    content = bootstrap(settings.node, *sockets, settings.otlp_endpoint, zone=settings.zone)
    write_private(path, json.dumps(content, indent=1))
    settings.admin_socket.unlink(missing_ok=True)
    return arguments(settings.envoy_binary, str(path))


async def ready(settings: Settings) -> bool:
    """True once the listener is there; an Envoy without resources is not ready."""
    try:
        listeners = await _admin(settings, "GET", "/listeners")
        return str(settings.listen_port) in listeners and "LIVE" in await _admin(settings, "GET", "/ready")
    except (httpx.HTTPError, OSError):
        return False


async def drain(settings: Settings) -> None:
    """Refuse new connections and let running calls end, bounded."""
    try:
        await _admin(settings, "POST", "/drain_listeners?graceful&skip_exit")
        async with asyncio.timeout(_DRAIN_S):
            while await active_requests(settings):
                await asyncio.sleep(_POLL_S)
    except (httpx.HTTPError, OSError, TimeoutError):
        return


async def active_requests(settings: Settings) -> int:
    """Calls that are running just now through the public listener."""
    text = await _admin(settings, "GET", "/stats?filter=^http\\.edge\\.downstream_rq_active$")
    return sum(int(line.rpartition(":")[2]) for line in text.splitlines() if ":" in line)


async def reopen_logs(settings: Settings) -> None:
    """Open the access log anew after it was renamed."""
    try:
        await _admin(settings, "POST", "/reopen_logs")
    except (httpx.HTTPError, OSError):
        return  # an Envoy that is not there opens the new file when it starts


async def _admin(settings: Settings, method: str, path: str) -> str:
    transport = httpx.AsyncHTTPTransport(uds=str(settings.admin_socket), verify=_NO_TLS)
    async with httpx.AsyncClient(transport=transport, timeout=_ADMIN_S) as client:
        answer = await client.request(method, f"http://envoy{path}")
        answer.raise_for_status()
        return answer.text
