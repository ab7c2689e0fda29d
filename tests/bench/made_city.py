"""A city made from a seed, as registry records: agencies, systems, services with contracts, grants, endpoints.

The same seed and sizes give the same city. Grants are of every sort: most plain, some with purposes, fields, rates, quotas;
some for an agency or a group. One endpoint in ten answers health checks: all of them are one process, which would otherwise
answer a thousand a second.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from google.api import annotations_pb2
from google.protobuf import descriptor_pb2

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry.store import Write
from tests.support.descriptors import descriptor_set

CITY, PROVIDERS, CALLER = "H26", 100, "H26.1/caller"
# Services that are called where their number must be equal.
FEW: Final = 10
METHODS: Final = ("Get", "List", "Put")
FIELDS: Final = tuple(f"field_{number}" for number in range(8))
# Field 2, "field_0": what the made provider answers to everything.
ANSWER: Final = b"\x12\x04Xin."
REQUEST: Final = b"\x08\x03"
_COMMON: Final = descriptor_pb2.FileDescriptorSet.FromString(descriptor_set(annotations_pb2.DESCRIPTOR))
_PER_ENDPOINT: Final = 100
_DATE: Final = 1_767_225_600  # 2026-01-01 UTC


@dataclass(frozen=True, slots=True)
class MadeCity:
    """Sizes and the seed; `address` is where every provider answers, `jwks` the public key of CALLER."""

    services: int
    agencies: int
    grants: int
    address: str
    jwks: str
    seed: int = 2026
    called: int = 200
    _random: random.Random = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_random", random.Random(self.seed))

    def contracts(self) -> Iterator[bytes]:
        """Every service's contract, in their order."""
        for number in range(self.services):
            yield contract(number)

    def records(self) -> Iterator[Write]:
        """Everything, in an order in which each record finds what it names."""
        yield from self._agencies()
        yield from self._systems()
        yield Write("group", "clerks", pb.Group(id="clerks", members=[system(n) for n in range(50)]), 0)
        yield from self._services()
        yield from self._endpoints()
        yield from self._grants()

    def spread(self, count: int) -> list[str]:
        """`count` services that CALLER may call, from all over the city; of every ten, as many with masks as elsewhere."""
        step = max(1, self.services // count)
        return [name(number * step + number % min(step, 10)) for number in range(min(count, self.services))]

    def called_services(self) -> list[str]:
        """All that CALLER may call."""
        return list(dict.fromkeys([*self.spread(FEW), *self.spread(self.called)]))

    def endpoint_ids(self) -> list[str]:
        return [f"made-{start}" for start in range(0, self.services, _PER_ENDPOINT)]

    def _agencies(self) -> Iterator[Write]:
        for number in range(1, self.agencies):
            names = pb.Names(vi=f"Sở thứ {number}", en=f"Department {number}")
            yield Write("agency", f"{CITY}.{number}", pb.Agency(id=f"{CITY}.{number}", parent=CITY, names=names), 0)

    def _systems(self) -> Iterator[Write]:
        yield Write("system", CALLER, pb.System(id=CALLER, jwks=self.jwks), 0)
        for number in range(2 * self.agencies):
            yield Write("system", system(number, self.agencies), pb.System(id=system(number, self.agencies)), 0)

    def _services(self) -> Iterator[Write]:
        for number in range(self.services):
            digest = hashlib.sha256(contract(number)).hexdigest()
            made = pb.Service(
                name=name(number),
                names=pb.Names(vi=f"Dịch vụ số {number}", en=f"Service {number}"),
                provider=system(number % PROVIDERS, self.agencies),
                contract_digest=digest,
                lifecycle=pb.LIFECYCLE_PUBLISHED,
                version=1,
                classification=pb.CLASSIFICATION_INTERNAL,
            )
            version = pb.ServiceVersion(service=made.name, number=1, contract_digest=digest)
            version.published_at.FromSeconds(_DATE)
            yield Write("service_version", f"{made.name}@1", version, 0)
            yield Write("service", made.name, made, 0)

    def _endpoints(self) -> Iterator[Write]:
        for start in range(0, self.services, _PER_ENDPOINT):
            numbers = range(start, min(start + _PER_ENDPOINT, self.services))
            made = pb.Endpoint(
                id=f"made-{start}",
                system=system(0, self.agencies),
                services=map(name, numbers),
                address=self.address,
                health_checked=start // _PER_ENDPOINT % 10 == 0,
            )
            made.registered_at.FromSeconds(_DATE)
            yield Write("endpoint", made.id, made, 0)

    def _grants(self) -> Iterator[Write]:
        called = self.called_services()
        for number, service in enumerate(called):
            yield _grant(f"caller-{number}", pb.Grant(consumer=CALLER, service=service, methods=["Get"]))
        made_here = self.grants - len(called)
        for number in range(made_here):
            place = number * self.services // made_here
            made = pb.Grant(service=name(place))
            made.methods.extend(self._random.sample(METHODS, self._random.randint(1, 3)))
            self._give_subject(made)
            self._give_terms(made, masked=place % 20 == 7)
            yield _grant(f"g-{number}", made)

    def _give_subject(self, grant: pb.Grant) -> None:
        kind = self._random.random()
        if kind < 0.02:
            grant.group = "clerks"
        elif kind < 0.10:
            grant.agency = f"{CITY}.{self._random.randrange(1, self.agencies)}"
        else:
            grant.consumer = system(self._random.randrange(2 * self.agencies), self.agencies)

    def _give_terms(self, grant: pb.Grant, *, masked: bool) -> None:
        """One service in twenty shows some consumers a part only."""
        kind = self._random.random()
        if masked and kind < 0.5:
            for method in grant.methods:
                grant.masks.add(method=method, paths=self._random.sample(FIELDS, 3))
        elif kind < 0.2:
            grant.purposes.add(code=self._random.choice(("tax", "census", "health")), legal_basis="Luật 91/2025/QH15")
        elif kind < 0.25:
            grant.rate = self._random.randint(1, 100)
        elif kind < 0.3:
            grant.daily_quota = self._random.randint(1_000, 100_000)
        if self._random.random() < 0.3:
            grant.not_after.FromSeconds(_DATE + 2 * 31_536_000 + self._random.randrange(31_536_000))


def name(number: int) -> str:
    """A service's name."""
    return f"made.s{number:05}.v1.MadeService"


def system(number: int, agencies: int = 1000) -> str:
    """A system's name."""
    return f"{CITY}.{1 + number % (agencies - 1)}/s{number}"


def contract(number: int) -> bytes:
    """A service's contract: three methods with REST rules, a message of ten fields, what it imports."""
    package = f"made.s{number:05}.v1"
    made = descriptor_pb2.FileDescriptorSet(file=_COMMON.file)
    file = made.file.add(name=f"{package.replace('.', '/')}/made.proto", package=package, syntax="proto3")
    file.dependency.append(annotations_pb2.DESCRIPTOR.name)
    request, response = file.message_type.add(name="Key"), file.message_type.add(name="Thing")
    for message in (request, response):
        message.field.add(name="id", number=1, type=descriptor_pb2.FieldDescriptorProto.TYPE_INT32, label=1)
    for place, each in enumerate(FIELDS, start=2):
        response.field.add(name=each, number=place, type=descriptor_pb2.FieldDescriptorProto.TYPE_STRING, label=1)
    service = file.service.add(name="MadeService")
    for method in METHODS:
        added = service.method.add(name=method, input_type=f".{package}.Key", output_type=f".{package}.Thing")
        added.options.Extensions[annotations_pb2.http].get = f"/v1/{method.lower()}/{{id}}"
    return made.SerializeToString(deterministic=True)


def shared_contract(count: int) -> tuple[bytes, list[str]]:
    """One contract that declares many services, and their names: how a large system publishes."""
    package = "made.shared.v1"
    made = descriptor_pb2.FileDescriptorSet.FromString(contract(0))
    file = made.file[-1]
    file.name, file.package = "made/shared/v1/made.proto", package
    declared = file.service[0]
    for method in declared.method:
        method.input_type, method.output_type = f".{package}.Key", f".{package}.Thing"
    names = [f"Made{number}Service" for number in range(count)]
    for each in names[1:]:
        file.service.add().CopyFrom(declared)
        file.service[-1].name = each
    declared.name = names[0]
    return made.SerializeToString(deterministic=True), [f"{package}.{each}" for each in names]


def _grant(identifier: str, grant: pb.Grant) -> Write:
    grant.id, grant.state = identifier, pb.GRANT_STATE_ACTIVE
    step = grant.steps.add(actor=f"{CITY}/operator", action="created")
    step.time.FromSeconds(_DATE)
    return Write("grant", identifier, grant, 0)
