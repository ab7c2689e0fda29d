"""What this node's Envoy says of the places it sends calls to: its admin socket, read and never written."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx

from lgsp.api.node.v1.node_pb2 import ProxyView
from lgsp.api.registry.v1.registry_pb2 import Endpoint
from lgsp.gateway.settings import join_host_port

# Service and address → what Envoy says of it.
Hosts = Mapping[tuple[str, str], ProxyView]
# A unix socket has no TLS, and reading the machine's authorities for it would cost a tenth of a second each time.
_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_ADMIN_S: Final = 2.0
# A first health check takes milliseconds; an instance that cannot answer it must not hold up its own registration.
_TAKEN_S: Final = 2.0
_POLL_S: Final = 0.01
_ILL: Final = (
    "failed_active_health_check",
    "failed_outlier_check",
    "pending_active_hc",
    "pending_dynamic_removal",
    "excluded_via_immediate_hc_fail",
)


class Proxy:
    """`socket` is Envoy's admin interface."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def hosts(self, services: Collection[str] = ()) -> Hosts | None:
        """Every place of these services, or of all; None when Envoy does not answer."""
        pattern = "|".join(re.escape(each) for each in services)
        query = {"format": "json"} | ({"filter": f"^({pattern})$"} if services else {})
        transport = httpx.AsyncHTTPTransport(uds=str(self._socket), verify=_NO_TLS)
        try:
            async with httpx.AsyncClient(transport=transport, timeout=_ADMIN_S) as client:
                answer = await client.get("http://envoy/clusters", params=query)
                answer.raise_for_status()
                return dict(read(answer.json()))
        except (httpx.HTTPError, OSError, ValueError):
            return None

    async def taken(self, endpoint: Endpoint) -> None:
        """Wait, bounded, until Envoy has found a health-checked endpoint healthy: only then does it get calls."""
        if not endpoint.health_checked or endpoint.HasField("ended_at"):
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + _TAKEN_S
        while loop.time() < until:
            hosts = await self.hosts(endpoint.services)
            mine = [view for (_, address), view in (hosts or {}).items() if address == endpoint.address]
            if all(view.healthy for view in mine):
                return
            await asyncio.sleep(_POLL_S)


def read(clusters: Any) -> Iterator[tuple[tuple[str, str], ProxyView]]:
    """The answer to `/clusters?format=json` (envoy.admin.v3.Clusters); unix sockets are the platform's own and left out."""
    for cluster in clusters.get("cluster_statuses", ()):
        for host in cluster.get("host_statuses", ()):
            where = host.get("address", {}).get("socket_address")
            if where:
                yield (cluster["name"], join_host_port(where["address"], int(where["port_value"]))), _view(host)


def _view(host: dict[str, Any]) -> ProxyView:
    health, stats = host.get("health_status", {}), {each["name"]: each.get("value", 0) for each in host["stats"]}
    told = health.get("eds_health_status", "HEALTHY") in ("HEALTHY", "UNKNOWN")
    return ProxyView(
        healthy=told and not any(health.get(each) for each in _ILL),
        failed_health_check=bool(health.get("failed_active_health_check") or health.get("pending_active_hc")),
        ejected=bool(health.get("failed_outlier_check")),
        weight=int(host.get("weight", 1)),
        zone=host.get("locality", {}).get("zone", ""),
        priority=int(host.get("priority", 0)),
        active_requests=int(stats.get("rq_active", 0)),
        requests=int(stats.get("rq_total", 0)),
        failed_requests=int(stats.get("rq_error", 0)),
    )
