"""The registry's API: services with their contracts, endpoints with their leases."""

from __future__ import annotations

import hashlib

import pytest
from google.protobuf import descriptor_pb2

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry.catalogue.public import public_contract
from lgsp.registry.contracts import MAX_BYTES
from tests.contract.registry.stage import (
    ADDRESS,
    CONSUMER,
    CONTRACT,
    OPERATOR,
    PROVIDER,
    SERVICE,
    operation,
    refused,
)

NAMES = pb.Names(vi="Dịch vụ đơn vị hành chính", en="Administrative units")
OTHER = "hanoi.other.v1.OtherService"


def contract_of(*services: str, package: str = "hanoi.other.v1") -> bytes:
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for service in services:
        file.service.add(name=service)
    return descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString()


# --- services --------------------------------------------------------------------------------------------------------


async def test_a_provider_publishes_and_everybody_can_read(api):
    made = await api.publish(names=NAMES, browser_origins=["https://www.hanoi.gov.vn", "http://localhost:8080"])
    digest = hashlib.sha256(CONTRACT).hexdigest()
    assert (made.service.provider, made.service.contract_digest) == (PROVIDER, digest)
    assert api.effects == [made.revision]
    found = await api.consumer.GetService(name=SERVICE)
    assert (found.service, found.revision) == (made.service, made.revision)
    assert found.service.names == NAMES
    assert list((await api.consumer.ListServices()).services) == [made.service]
    contract = await api.provider.GetContract(service=SERVICE)
    assert (contract.contract, contract.digest) == (CONTRACT, digest)
    public = await api.consumer.GetContract(service=SERVICE)
    assert (public.contract, public.digest) == (public_contract(CONTRACT), digest)


async def test_a_provider_publishes_in_its_own_name_and_an_operator_in_any(api):
    service = pb.Service(name=SERVICE, provider=PROVIDER)
    assert (await refused(api.consumer.PublishService(service=service, contract=CONTRACT)))[0] == "NOT_OWNER"
    made = await api.operator.PublishService(service=service, contract=CONTRACT)
    assert made.service.provider == PROVIDER
    assert api.store.state.get("service", SERVICE).record.actor == OPERATOR


async def test_the_first_to_publish_owns_the_name(api):
    first = await api.publish()
    claim = pb.Service(name=SERVICE, provider=CONSUMER)
    for caller in (api.consumer, api.operator):
        reason, detail = await refused(caller.PublishService(service=claim, contract=CONTRACT))
        assert reason == "SERVICE_OWNED_BY_ANOTHER"
        assert PROVIDER in detail
    await api.provider.RetireService(name=SERVICE)
    assert (await refused(api.consumer.PublishService(service=claim, contract=CONTRACT)))[
        0
    ] == "SERVICE_OWNED_BY_ANOTHER"
    assert (await api.publish()).service == first.service


async def test_an_unknown_or_revoked_provider_publishes_nothing(api):
    unknown = pb.Service(name=SERVICE, provider="H26/nobody")
    assert (await refused(api.operator.PublishService(service=unknown, contract=CONTRACT)))[0] == "NOT_REGISTERED"
    await api.operator.RevokeSystem(id=PROVIDER)
    assert (await refused(api.publish()))[0] == "NOT_REGISTERED"


@pytest.mark.parametrize(
    "name", ["", "Service", "a..B", ".a.B", "a.B.", "a/B", "a.b-c", "hànội.v1.X", "a." + "b" * 200, "1.B"]
)
async def test_a_malformed_service_name_is_refused(api, name):
    assert (await refused(api.publish(name)))[0] == "IDENTIFIER_INVALID"


def damaged() -> dict[str, bytes]:
    file = descriptor_pb2.FileDescriptorProto(name="a.proto", package="hanoi.other.v1", syntax="proto3")
    file.service.add(name="OtherService")
    lone, loop, twice, wrong = (descriptor_pb2.FileDescriptorSet(file=[file]) for _ in range(4))
    lone.file[0].dependency.append("gone.proto")
    loop.file[0].dependency.append("a.proto")
    twice.file.add().CopyFrom(file)
    wrong.file[0].service[0].method.add(name="Ask", input_type=".gone.Request", output_type=".gone.Answer")
    return {
        "no descriptor set": b"\xff\xff",
        "text": "Xin chào".encode(),
        "truncated": CONTRACT[:-3],
        "empty": b"",
        "missing import": lone.SerializeToString(),
        "import of itself": loop.SerializeToString(),
        "a file twice": twice.SerializeToString(),
        "unknown type": wrong.SerializeToString(),
        "no service": contract_of(),
        "another service": contract_of("Different"),
        "another package": contract_of("OtherService", package="hanoi.elsewhere.v1"),
        "too large": CONTRACT + b"\0" * (MAX_BYTES + 1 - len(CONTRACT)),
    }


DAMAGED = damaged()


@pytest.mark.parametrize("what", DAMAGED)
async def test_a_contract_that_cannot_be_used_is_refused(api, what):
    service, before = pb.Service(name=OTHER, provider=PROVIDER), api.revision
    reason, detail = await refused(api.provider.PublishService(service=service, contract=DAMAGED[what]))
    assert reason == "CONTRACT_INVALID"
    assert len(detail) < 500
    assert api.revision == before


async def test_a_contract_at_the_limit_is_taken_and_given_back(api):
    file = descriptor_pb2.FileDescriptorSet.FromString(contract_of("OtherService"))
    comment = file.file[0].source_code_info.location.add(path=[6, 0], span=[0, 0, 1])
    comment.leading_comments = "x" * (MAX_BYTES - 200)
    content = file.SerializeToString()
    assert MAX_BYTES - 200 < len(content) <= MAX_BYTES
    await api.provider.PublishService(service=pb.Service(name=OTHER, provider=PROVIDER), contract=content)
    assert (await api.consumer.GetContract(service=OTHER)).contract == content


@pytest.mark.parametrize(
    "origin",
    ["*", "", "https://a/", "https://a.vn/path", "HTTPS://A.VN", "ftp://a.vn", "a.vn", "https://a.vn\r\nx: y", "null"],
)
async def test_what_is_no_origin_is_refused(api, origin):
    assert (await refused(api.publish(browser_origins=["https://a.vn", origin])))[0] == "REQUEST_MALFORMED"


async def test_too_many_origins_are_refused(api):
    origins = [f"https://a{number}.vn" for number in range(51)]
    assert (await refused(api.publish(browser_origins=origins)))[0] == "REQUEST_MALFORMED"


async def test_a_publication_repeated_is_written_once(api):
    op, service = operation(), pb.Service(name=SERVICE, provider=PROVIDER, names=NAMES)
    publish = api.provider.PublishService
    first = await publish(service=service, contract=CONTRACT, operation_id=op)
    for again in (op, operation(), ""):
        assert await publish(service=service, contract=CONTRACT, operation_id=again) == first
    # The answer of the operation, not an echo of another request under its id.
    changed = pb.Service(name=SERVICE, provider=PROVIDER)
    assert await publish(service=changed, contract=CONTRACT, operation_id=op) == first
    assert api.revision == first.revision
    second = await publish(service=changed, contract=CONTRACT, operation_id=operation())
    assert second.revision > first.revision
    assert not second.service.HasField("names")


async def test_a_service_is_retired_once_by_its_owner(api):
    await api.publish()
    assert (await refused(api.consumer.RetireService(name=SERVICE)))[0] == "NOT_OWNER"
    assert (await refused(api.provider.RetireService(name=OTHER)))[0] == "NOT_REGISTERED"
    op = operation()
    first = await api.provider.RetireService(name=SERVICE, operation_id=op)
    assert first.service.HasField("retired_at")
    assert api.effects[-1] == first.revision
    for caller, again in ((api.provider, op), (api.provider, operation()), (api.operator, "")):
        assert await caller.RetireService(name=SERVICE, operation_id=again) == first
    assert api.revision == first.revision
    assert (await refused(api.provider.RegisterEndpoint(services=[SERVICE], address=ADDRESS)))[0] == "NOT_REGISTERED"
    back = await api.publish(retired_at={"seconds": 1})
    assert not back.service.HasField("retired_at")


@pytest.mark.parametrize("rpc", ["GetService", "GetContract", "RetireService"])
@pytest.mark.parametrize("name", ["", OTHER, "x" * 9999])
async def test_a_service_that_is_not_there_is_not_registered(api, rpc, name):
    field = "service" if rpc == "GetContract" else "name"
    assert (await refused(getattr(api.provider, rpc)(**{field: name})))[0] == "NOT_REGISTERED"


# --- endpoints -------------------------------------------------------------------------------------------------------


async def test_an_endpoint_is_registered_and_lives_by_its_heartbeats(api):
    await api.publish()
    made = await api.provider.RegisterEndpoint(services=[SERVICE, SERVICE], address=ADDRESS, operation_id=operation())
    endpoint = made.endpoint
    assert (endpoint.system, list(endpoint.services), endpoint.address) == (PROVIDER, [SERVICE], ADDRESS)
    assert (made.lease_seconds, endpoint.HasField("registered_at")) == (15, True)
    assert made.revision in api.effects
    api.now += 30  # the time in which nothing expires after a start
    assert not api.leases.live(endpoint.id)
    beat = await api.provider.Heartbeat(endpoint_id=endpoint.id)
    assert beat.lease_seconds == 15
    (state,) = (await api.operator.ListEndpoints(service=SERVICE)).endpoints
    assert (state.endpoint, state.live, state.HasField("lease_until")) == (endpoint, True, True)
    api.now += 15
    (state,) = (await api.operator.ListEndpoints()).endpoints
    assert not state.live
    assert not (await api.operator.ListEndpoints(service=OTHER)).endpoints


async def test_an_address_that_the_policy_refuses_is_refused(api):
    await api.publish()
    before = api.revision
    for address in ("10.0.0.1:7000", "", "127.0.0.1", "x" * 9999):
        assert (await refused(api.provider.RegisterEndpoint(services=[SERVICE], address=address)))[
            0
        ] == "ENDPOINT_REFUSED"
    assert api.revision == before
    assert not (await api.operator.ListEndpoints()).endpoints


async def test_only_the_owner_serves_a_service(api):
    await api.publish()
    register = {"services": [SERVICE], "address": ADDRESS}
    for caller in (api.consumer, api.operator):
        assert (await refused(caller.RegisterEndpoint(**register)))[0] == "SERVICE_OWNED_BY_ANOTHER"
    assert (await refused(api.provider.RegisterEndpoint(services=[OTHER], address=ADDRESS)))[0] == "NOT_REGISTERED"
    for services in ([], [SERVICE] * 101):
        call = api.provider.RegisterEndpoint(services=services, address=ADDRESS)
        assert (await refused(call))[0] == "REQUEST_MALFORMED"


async def test_a_provider_that_starts_again_at_its_address_is_the_same_endpoint(api):
    await api.publish()
    register = {"services": [SERVICE], "address": ADDRESS}
    first = await api.provider.RegisterEndpoint(**register, operation_id=operation())
    again = await api.provider.RegisterEndpoint(**register, operation_id=operation())
    assert again == first
    elsewhere = await api.provider.RegisterEndpoint(services=[SERVICE], address="127.0.0.1:7002")
    assert elsewhere.endpoint.id != first.endpoint.id
    await api.provider.DeregisterEndpoint(endpoint_id=first.endpoint.id)
    fresh = await api.provider.RegisterEndpoint(**register, operation_id=operation())
    assert fresh.endpoint.id != first.endpoint.id


async def test_a_registration_repeated_is_the_same_endpoint(api):
    await api.publish()
    register = {"services": [SERVICE], "address": ADDRESS, "operation_id": operation()}
    first = await api.provider.RegisterEndpoint(**register)
    assert await api.provider.RegisterEndpoint(**register) == first
    await api.provider.DeregisterEndpoint(endpoint_id=first.endpoint.id)
    before = api.revision
    late = await api.provider.RegisterEndpoint(**register)
    assert (late.endpoint.id, late.endpoint.HasField("ended_at")) == (first.endpoint.id, True)
    assert api.revision == before
    assert not (await api.operator.ListEndpoints()).endpoints


async def test_an_endpoint_says_goodbye_once(api):
    await api.publish()
    endpoint = (await api.provider.RegisterEndpoint(services=[SERVICE], address=ADDRESS)).endpoint.id
    assert (await refused(api.consumer.DeregisterEndpoint(endpoint_id=endpoint)))[0] == "NOT_OWNER"
    assert (await refused(api.consumer.Heartbeat(endpoint_id=endpoint)))[0] == "NOT_OWNER"
    first = await api.provider.DeregisterEndpoint(endpoint_id=endpoint, operation_id=f"leave {endpoint}")
    assert first.effective
    again = await api.provider.DeregisterEndpoint(endpoint_id=endpoint, operation_id=f"leave {endpoint}")
    assert again == first
    assert (await refused(api.provider.Heartbeat(endpoint_id=endpoint)))[0] == "LEASE_UNKNOWN"
    assert endpoint not in api.leases.ages()
    assert not (await api.operator.ListEndpoints(service=SERVICE)).endpoints


async def test_an_operator_may_end_any_endpoint(api):
    await api.publish()
    endpoint = (await api.provider.RegisterEndpoint(services=[SERVICE], address=ADDRESS)).endpoint.id
    assert (await api.operator.DeregisterEndpoint(endpoint_id=endpoint)).effective


@pytest.mark.parametrize("rpc", ["Heartbeat", "DeregisterEndpoint"])
@pytest.mark.parametrize("endpoint", ["", "0" * 32, "x" * 9999, "ộ"])
async def test_an_endpoint_that_is_not_there_has_no_lease(api, rpc, endpoint):
    assert (await refused(getattr(api.provider, rpc)(endpoint_id=endpoint)))[0] == "LEASE_UNKNOWN"


async def test_endpoints_come_in_pages_without_those_that_ended(api):
    await api.publish()
    made = [
        (await api.provider.RegisterEndpoint(services=[SERVICE], address=f"127.0.0.1:{7000 + number}")).endpoint.id
        for number in range(6)
    ]
    await api.provider.DeregisterEndpoint(endpoint_id=made.pop())
    seen, token = [], ""
    while True:
        answer = await api.operator.ListEndpoints(service=SERVICE, page_size=2, page_token=token)
        seen += [state.endpoint.id for state in answer.endpoints]
        token = answer.next_page_token
        if not token:
            break
    assert seen == sorted(made)


async def test_an_instance_has_weight_zone_and_health(api):
    await api.publish()
    register = {"services": [SERVICE], "address": ADDRESS}
    first = (await api.provider.RegisterEndpoint(**register)).endpoint
    assert (first.weight, first.zone, first.health_checked) == (1, "", False)
    changed = await api.provider.RegisterEndpoint(**register, weight=128, zone="ha-dong-1", health_checked=True)
    assert changed.endpoint.id == first.id
    assert changed.endpoint.registered_at == first.registered_at
    (state,) = (await api.operator.ListEndpoints(service=SERVICE)).endpoints
    assert (state.endpoint.weight, state.endpoint.zone, state.endpoint.health_checked) == (128, "ha-dong-1", True)
    assert changed.revision in api.effects
    again = await api.provider.RegisterEndpoint(**register, weight=128, zone="ha-dong-1", health_checked=True)
    assert again.revision == changed.revision == api.revision


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"weight": 129}, "REQUEST_MALFORMED"),
        ({"weight": 2**32 - 1}, "REQUEST_MALFORMED"),
        ({"zone": "Hà Đông"}, "IDENTIFIER_INVALID"),
        ({"zone": "x" * 65}, "IDENTIFIER_INVALID"),
        ({"zone": "-a"}, "IDENTIFIER_INVALID"),
    ],
    ids=str,
)
async def test_weight_and_zone_have_a_form(api, fields, reason):
    await api.publish()
    before = api.revision
    call = api.provider.RegisterEndpoint(services=[SERVICE], address=ADDRESS, **fields)
    assert (await refused(call))[0] == reason
    assert api.revision == before


@pytest.mark.parametrize(
    "package", ["lgsp.api.registry.v2", "grpc.reflection.v2", "google.rpc", "envoy.service.auth.v3"]
)
async def test_names_of_the_platform_are_nobodys(api, package):
    file = descriptor_pb2.FileDescriptorProto(name="x.proto", package=package, syntax="proto3")
    file.service.add(name="RegistryService")
    contract = descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString()
    service = pb.Service(name=f"{package}.RegistryService", provider=PROVIDER)
    for caller in (api.provider, api.operator):
        assert (await refused(caller.PublishService(service=service, contract=contract)))[0] == "IDENTIFIER_INVALID"
