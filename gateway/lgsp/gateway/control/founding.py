"""What the registry must hold before anybody can call it: the city, its operator, the platform's own services.

Written once, as one atomic change, by whichever node comes first; a newer release refreshes the platform's contracts.
"""

from __future__ import annotations

import hashlib
from typing import Final

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

from lgsp.api.catalogue.v1 import catalogue_pb2
from lgsp.api.node.v1 import node_pb2
from lgsp.api.registry.v1 import registry_pb2
from lgsp.api.registry.v1.registry_pb2 import (
    GRANT_STATE_ACTIVE,
    LIFECYCLE_PUBLISHED,
    Agency,
    Grant,
    Names,
    Service,
    System,
)
from lgsp.gateway.control import standard
from lgsp.registry.grants import EVERYONE
from lgsp.registry.state import State
from lgsp.registry.store import Write

REGISTRY_SERVICE: Final = "lgsp.api.registry.v1.RegistryService"
NODE_SERVICE: Final = "lgsp.api.node.v1.NodeService"
CATALOGUE_SERVICE: Final = "lgsp.api.catalogue.v1.CatalogueService"
PLATFORM: Final[dict[str, FileDescriptor]] = {
    REGISTRY_SERVICE: registry_pb2.DESCRIPTOR,
    NODE_SERVICE: node_pb2.DESCRIPTOR,
    CATALOGUE_SERVICE: catalogue_pb2.DESCRIPTOR,
    **standard.CONTRACTS,
}
# Every system may call these; what each is told is up to them.
OPEN: Final = frozenset({CATALOGUE_SERVICE, *standard.CONTRACTS})
# Nobody needs a grant to ask for one, or to decide on those of a service of one's own; who may is the registry's to say.
GRANTING: Final = (
    "ApproveGrant",
    "GetGrant",
    "ListGrants",
    "NarrowGrant",
    "RefuseGrant",
    "RequestGrant",
    "RevokeGrant",
)
_NAMES: Final = {
    REGISTRY_SERVICE: Names(vi="Sổ đăng ký", en="Registry"),
    NODE_SERVICE: Names(vi="Nút cổng", en="Gateway node"),
    CATALOGUE_SERVICE: Names(vi="Danh mục dịch vụ", en="Catalogue"),
    standard.REFLECTION: Names(vi="Tự mô tả", en="Reflection"),
    standard.REFLECTION_ALPHA: Names(vi="Tự mô tả (v1alpha)", en="Reflection (v1alpha)"),
    standard.HEALTH: Names(vi="Tình trạng dịch vụ", en="Health"),
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
        grant = _grant(name, operator)
        records.append(("service", name, _service(name, platform, contract)))
        records.append(("grant", grant.id, grant))
    asking = Grant(id="everyone-granting", group=EVERYONE, service=REGISTRY_SERVICE, methods=GRANTING)
    asking.state = GRANT_STATE_ACTIVE
    return [*records, ("grant", asking.id, asking)]


def missing(state: State, records: list[tuple[str, str, Message]]) -> list[Write]:
    """What a registry lacks of the records, and platform contracts that a newer release has. A right that was revoked is there."""
    found = ((kind, key, value, state.get(kind, key)) for kind, key, value in records)
    return [
        Write(kind, key, value, entry.revision if entry else 0)
        for kind, key, value, entry in found
        if entry is None or (kind == "service" and entry.record.service != value)
    ]


def _grant(service: str, operator: str) -> Grant:
    if service in OPEN:
        identifier = f"{EVERYONE}-{service.lower().replace('.', '-')}"
        made = Grant(id=identifier, group=EVERYONE)
    else:
        made = Grant(id=f"operator-{service.rsplit('.', 1)[1].lower()}", consumer=operator)
    made.MergeFrom(Grant(service=service, methods=["*"], state=GRANT_STATE_ACTIVE))
    return made


def _service(name: str, provider: str, contract: bytes) -> Service:
    digest = hashlib.sha256(contract).hexdigest()
    return Service(
        name=name,
        names=_NAMES[name],
        provider=provider,
        contract_digest=digest,
        lifecycle=LIFECYCLE_PUBLISHED,
        version=1,
    )
