"""Many services by one request: all of them or none, the costly checks once for each contract."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry import compatibility
from tests.contract.registry.stage import PROVIDER, operation, refused


def contract(package: str, services: int, field: str = "TYPE_STRING") -> bytes:
    """One file with so many services, each with a method Get."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name in ("Key", "Thing"):
        message = file.message_type.add(name=name)
        kind = descriptor_pb2.FieldDescriptorProto.Type.Value(field)
        message.field.add(name="id", number=1, type=kind, label=1)
    for number in range(services):
        service = file.service.add(name=f"S{number}")
        service.method.add(name="Get", input_type=f".{package}.Key", output_type=f".{package}.Thing")
    return descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString()


def wanted(package: str, numbers, index: int = 0, **more) -> list[pb.ServiceToPublish]:
    return [
        pb.ServiceToPublish(service=pb.Service(name=f"{package}.S{n}", provider=PROVIDER), contract=index, **more)
        for n in numbers
    ]


@pytest.fixture
def asked(monkeypatch):
    """What buf was started for."""
    compatibility._known.clear()
    starts: list[str] = []
    original = compatibility._buf

    async def counted(folder, verb, *more):
        starts.append(verb)
        return await original(folder, verb, *more)

    monkeypatch.setattr(compatibility, "_buf", counted)
    return starts


async def test_many_services_are_one_change(api, asked):
    told: list = []
    api.store.listen(told.append)
    made = await api.provider.PublishServices(
        contracts=[contract("a.v1", 100), contract("b.v1", 50)],
        services=wanted("a.v1", range(100)) + wanted("b.v1", range(50), 1),
    )
    assert [each.service.name for each in made.services] == [f"a.v1.S{n}" for n in range(100)] + [
        f"b.v1.S{n}" for n in range(50)
    ]
    assert {(each.service.version, each.service.lifecycle) for each in made.services} == {(1, pb.LIFECYCLE_PUBLISHED)}
    assert len({each.revision for each in made.services}) == 150
    assert made.revision == max(each.revision for each in made.services) == api.revision
    assert made.effective
    assert [len(changes) for changes in told] == [300]
    # New services break nothing; advice is asked for once a contract and told once.
    assert asked == ["lint", "lint"]
    assert [bool(each.advice) for each in made.services] == [True] + [False] * 99 + [True] + [False] * 49


async def test_one_that_is_refused_refuses_all(api):
    before = api.revision
    await api.provider.PublishService(
        service=pb.Service(name="a.v1.S3", provider=PROVIDER), contract=contract("a.v1", 5, "TYPE_INT32")
    )
    after = api.revision
    assert after > before
    reason, detail = await refused(
        api.provider.PublishServices(contracts=[contract("a.v1", 5)], services=wanted("a.v1", range(5)))
    )
    assert reason == "CONTRACT_INCOMPATIBLE"
    assert "id" in detail
    for bad, expected in (
        (pb.Service(name="a.v1.S9", provider=PROVIDER), "CONTRACT_INVALID"),
        (pb.Service(name="a.v1.S4", provider="H26.2/consumer"), "NOT_OWNER"),
        (pb.Service(name="a.v1.S4", provider=PROVIDER, browser_origins=["*"]), "REQUEST_MALFORMED"),
        (pb.Service(name="a.v1.S0", provider=PROVIDER), "REQUEST_MALFORMED"),
    ):
        services = [*wanted("a.v1", range(3)), pb.ServiceToPublish(service=bad)]
        reason, _ = await refused(api.provider.PublishServices(contracts=[contract("a.v1", 5)], services=services))
        assert reason == expected
    assert api.revision == after
    assert api.store.state.get("service", "a.v1.S0") is None


async def test_a_contract_of_many_services_goes_up_by_one_look(api, asked):
    first = {"contracts": [contract("c.v1", 20)], "services": wanted("c.v1", range(20))}
    await api.provider.PublishServices(**first)
    asked.clear()
    broken = {"contracts": [contract("c.v1", 20, "TYPE_INT64")]}
    made = await api.provider.PublishServices(
        **broken, services=wanted("c.v1", range(20), override_reason="đã báo trước")
    )
    assert sorted(asked) == ["breaking", "lint"]
    assert {each.service.version for each in made.services} == {2}
    assert all(each.breaking for each in made.services)


async def test_a_repeated_request_writes_once(api, asked):
    request = {
        "contracts": [contract("d.v1", 10)],
        "services": wanted("d.v1", range(10)),
        "operation_id": operation(),
    }
    made = await api.provider.PublishServices(**request)
    asked.clear()
    assert await api.provider.PublishServices(**request) == made
    # Nor does another operation with nothing new.
    again = await api.provider.PublishServices(**request | {"operation_id": operation()})
    assert again.revision == made.revision == api.revision
    assert asked == []


@pytest.mark.parametrize(
    ("services", "reason"),
    [
        ([], "REQUEST_TOO_LARGE"),
        (wanted("e.v1", range(201)), "REQUEST_TOO_LARGE"),
        (wanted("e.v1", [0, 1, 0]), "REQUEST_MALFORMED"),
        (wanted("e.v1", [0], index=1), "REQUEST_MALFORMED"),
        (wanted("e.v1", [0], index=-1), "REQUEST_MALFORMED"),
    ],
)
async def test_a_request_out_of_bounds_is_refused(api, services, reason):
    assert (await refused(api.provider.PublishServices(contracts=[contract("e.v1", 300)], services=services)))[
        0
    ] == reason
