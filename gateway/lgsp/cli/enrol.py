"""Brings records about: an agency, a system with its key, a grant, a service. What is there already is left as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lgsp.cli.output import fail
from lgsp.cli.records import new_operation
from lgsp.client import Identity, explain
from lgsp.gateway.datadir import Layout, file_name

REGISTRY: Final = "lgsp.api.registry.v1.RegistryService"
# What every provider needs of the registry; it acts on its own name only, whatever the grant says.
PROVIDER_METHODS: Final = ("PublishService", "RegisterEndpoint", "Heartbeat", "DeregisterEndpoint")


class Enroller:
    """Acts as the operator over `channel`; keys of systems are kept in the node's data directory."""

    def __init__(self, channel: grpc.Channel, layout: Layout) -> None:
        self._registry, self._layout = RegistryServiceStub(channel), layout

    def agency(self, identifier: str, names: pb.Names | None) -> bool:
        """True when it was created; without names an unknown agency is refused."""
        if self._known(self._registry.GetAgency, pb.GetAgencyRequest(id=identifier)) is not None:
            return False
        if names is None:
            fail(
                f"the agency {identifier} is not registered",
                f'Give its names in [component.agency], or run `lgsp agency create {identifier} --vi "…" --en "…"`.',
            )
        made = pb.Agency(id=identifier, names=names, parent=identifier.rpartition(".")[0])
        self._registry.CreateAgency(pb.CreateAgencyRequest(agency=made, operation_id=new_operation()))
        return True

    def key_of(self, system: str) -> Path:
        """Where the node keeps a system's private key."""
        return self._layout.system_keys / f"{file_name(system)}.jwk"

    def system(self, identifier: str, names: pb.Names) -> bool:
        """True when it was created, with a new key if the node has none for it."""
        path = self.key_of(identifier)
        known = self._known(self._registry.GetSystem, pb.GetSystemRequest(id=identifier))
        if known is not None:
            if not path.exists():
                fail(
                    f"the system {identifier} is registered, but this node does not hold its key",
                    f"Put its private JWK at {path}, or run the component where its key is (--gateway, --as, --key).",
                )
            return False
        if not path.exists():
            Identity.generate(identifier).save(path)
        made = pb.System(id=identifier, names=names, jwks=Identity.load(identifier, path).jwks())
        self._registry.CreateSystem(pb.CreateSystemRequest(system=made, operation_id=new_operation()))
        return True

    def provider_grant(self, system: str) -> str:
        """The right to keep its own endpoints in the registry."""
        return self.grant(system, REGISTRY, PROVIDER_METHODS)

    def grant(self, consumer: str, service: str, methods: Sequence[str]) -> str:
        """`created`, `present`, or `revoked`: a right that was taken back is never given again by itself."""
        identifier = grant_id(consumer, service, methods)
        known: Any = self._known(self._registry.GetGrant, pb.GetGrantRequest(id=identifier))
        if known is not None:
            return "revoked" if known.grant.HasField("revoked_at") else "present"
        made = pb.Grant(id=identifier, consumer=consumer, service=service, methods=methods)
        self._registry.CreateGrant(pb.CreateGrantRequest(grant=made, operation_id=new_operation()))
        return "created"

    def live(self, services: Sequence[str], system: str) -> bool:
        """True once this system serves each of the services."""
        return all(any(e.live and e.endpoint.system == system for e in self._endpoints(name)) for name in services)

    def _endpoints(self, service: str) -> Any:
        return self._registry.ListEndpoints(pb.ListEndpointsRequest(service=service, page_size=1000)).endpoints

    @staticmethod
    def _known(method: Any, request: Any) -> Any:
        with _absent_is_none() as found:
            found.append(method(request))
        return found[0] if found else None


@contextmanager
def _absent_is_none() -> Iterator[list[Any]]:
    found: list[Any] = []
    try:
        yield found
    except grpc.RpcError as error:
        if explain(error).reason != "NOT_REGISTERED":
            raise


def publish(
    channel: grpc.Channel,
    name: str,
    names: pb.Names,
    provider: str,
    contract: bytes,
    rest: pb.RestUpstream | None = None,
) -> None:
    """Publish a service or its new contract; SERVICE_OWNED_BY_ANOTHER when another system offers it.

    What is declared of it already (class, owner, stewards …) stays, as far as the caller may read it.
    """
    made = pb.Service(name=name, provider=provider)
    try:
        known = RegistryServiceStub(channel).GetService(pb.GetServiceRequest(name=name)).service
    except grpc.RpcError as error:
        if explain(error).reason not in ("NOT_REGISTERED", "GRANT_MISSING"):
            raise
    else:
        made.CopyFrom(known)
        made.provider = provider
    made.names.CopyFrom(names)
    made.ClearField("rest")
    if rest is not None:
        made.rest.CopyFrom(rest)
    request = pb.PublishServiceRequest(service=made, contract=contract, operation_id=new_operation())
    RegistryServiceStub(channel).PublishService(request)


def grant_id(consumer: str, service: str, methods: Sequence[str]) -> str:
    """The same for the same right, so that plugging twice grants once."""
    text = "\n".join([consumer, service, *sorted(methods)])
    return f"plug-{hashlib.sha256(text.encode()).hexdigest()[:24]}"
