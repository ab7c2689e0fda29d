"""Both views of every instance, side by side: the registry's record and lease, and what this node's Envoy does with it."""

from __future__ import annotations

from collections.abc import Iterator

from lgsp.api.errors import BusError
from lgsp.api.node.v1.node_pb2 import Instance, ListInstancesRequest, ListInstancesResponse, RegistryView
from lgsp.api.registry.v1.registry_pb2 import Endpoint
from lgsp.gateway.control.endpoint_policy import EndpointPolicy
from lgsp.gateway.control.proxy import Hosts, Proxy
from lgsp.registry import paging
from lgsp.registry.leases import Leases
from lgsp.registry.state import State


class Instances:
    """`list` answers ListInstances."""

    def __init__(self, state: State, leases: Leases, policy: EndpointPolicy, proxy: Proxy) -> None:
        self._state, self._leases, self._policy, self._proxy = state, leases, policy, proxy

    async def list(self, request: ListInstancesRequest) -> ListInstancesResponse:
        if request.service and self._state.get("service", request.service) is None:
            raise BusError("NOT_REGISTERED", f"no service {request.service[:64]!r}")
        hosts = await self._proxy.hosts([request.service] if request.service else [])
        rows = self._rows(request.service, hosts or {})
        keys, token = paging.page_of(sorted(rows), request)
        return ListInstancesResponse(
            instances=[self._instance(*rows[key], hosts or {}) for key in keys],
            next_page_token=token,
            proxy_reached=hosts is not None,
        )

    def _rows(self, service: str, hosts: Hosts) -> dict[str, tuple[str, str, Endpoint | None]]:
        """Key in the order of pages → service, address, and the record if there is one."""
        found = {f"{name} {each.address} {each.id}": (name, each.address, each) for name, each in self._known(service)}
        known = {(name, address) for name, address, _ in found.values()}
        services = self._state.all("service")
        strays = (each for each in hosts if each not in known and each[0] in services)
        return found | {f"{name} {address} -": (name, address, None) for name, address in strays}

    def _known(self, service: str) -> Iterator[tuple[str, Endpoint]]:
        entries = self._state.endpoints_by_service(service) if service else self._state.all("endpoint").values()
        for endpoint in (entry.record.endpoint for entry in entries):
            if not endpoint.HasField("ended_at"):
                yield from ((name, endpoint) for name in endpoint.services if service in ("", name))

    def _instance(self, service: str, address: str, endpoint: Endpoint | None, hosts: Hosts) -> Instance:
        made = Instance(service=service, address=address)
        if endpoint is not None:
            made.registry.CopyFrom(self._registry_view(endpoint))
        if (service, address) in hosts:
            made.proxy.CopyFrom(hosts[service, address])
        # A legacy system that the gateway calls itself has no lease.
        known = self._state.get("service", service)
        called = known is not None and known.record.service.HasField("rest")
        made.serving = made.proxy.healthy and (called or (made.registry.live and not made.registry.refused))
        return made

    def _registry_view(self, endpoint: Endpoint) -> RegistryView:
        view = RegistryView(
            endpoint_id=endpoint.id,
            system=endpoint.system,
            weight=endpoint.weight or 1,
            zone=endpoint.zone,
            health_checked=endpoint.health_checked,
            registered_at=endpoint.registered_at,
            live=self._leases.live(endpoint.id),
            refused=self._policy.refusal(endpoint.system, endpoint.address),
        )
        view.lease_until.GetCurrentTime()
        view.lease_until.FromNanoseconds(
            view.lease_until.ToNanoseconds() + int(self._leases.remaining(endpoint.id) * 1e9)
        )
        return view
