"""What the registry must hold before anybody can call it: the city, its operator, the platform's own services.

Written once, as one atomic change, by whichever node comes first; a newer release refreshes the platform's contracts.
"""

from __future__ import annotations

import hashlib
from typing import Final

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

from lgsp.api.node.v1 import node_pb2
from lgsp.api.registry.v1 import registry_pb2
from lgsp.api.registry.v1.registry_pb2 import Agency, Grant, Names, Service, System
from lgsp.registry.grants import EVERYONE

REGISTRY_SERVICE: Final = "lgsp.api.registry.v1.RegistryService"
NODE_SERVICE: Final = "lgsp.api.node.v1.NodeService"
PLATFORM: Final[dict[str, FileDescriptor]] = {
    REGISTRY_SERVICE: registry_pb2.DESCRIPTOR,
    NODE_SERVICE: node_pb2.DESCRIPTOR,
}
_NAMES: Final = {
    REGISTRY_SERVICE: Names(vi="Sổ đăng ký", en="Registry"),
    NODE_SERVICE: Names(vi="Nút cổng", en="Gateway node"),
}


def contract_of(root: FileDescriptor) -> bytes:
    """A generated module's serialized FileDescriptorSet, imports first."""
    files = descriptor_pb2.FileDescriptorSet()

    def add(file: FileDescriptor) -> None:
        if file.name in {known.name for known in files.file}:
            return
        for dependency in file.dependencies:
            add(dependency)
        file.CopyToProto(files.file.add())

    add(root)
    return files.SerializeToString(deterministic=True)


def platform_contracts() -> dict[str, bytes]:
    """Service name → contract of the platform's own services."""
    return {name: contract_of(root) for name, root in PLATFORM.items()}


def founding_records(city: str, names: Names, operator: str, operator_jwks: str) -> list[tuple[str, str, Message]]:
    """(kind, key, value) of everything a new registry starts with."""
    platform = f"{city}/lgsp"
    records: list[tuple[str, str, Message]] = [
        ("agency", city, Agency(id=city, names=names)),
        ("system", operator, System(id=operator, names=Names(vi="Vận hành", en="Operator"), jwks=operator_jwks)),
        ("system", platform, System(id=platform, names=Names(vi="Nền tảng LGSP", en="LGSP platform"))),
    ]
    for name, contract in platform_contracts().items():
        grant = f"operator-{name.rsplit('.', 1)[1].lower()}"
        records.append(("service", name, _service(name, platform, contract)))
        records.append(("grant", grant, Grant(id=grant, consumer=operator, service=name, methods=["*"])))
    # Open to all, because it answers to none but a service's own provider, which must be able to mask.
    rights = Grant(id="providers-rights", group=EVERYONE, service=REGISTRY_SERVICE, methods=["WatchRights"])
    return [*records, ("grant", rights.id, rights)]


def _service(name: str, provider: str, contract: bytes) -> Service:
    digest = hashlib.sha256(contract).hexdigest()
    return Service(name=name, names=_NAMES[name], provider=provider, contract_digest=digest)
