"""Bad input to the registry's API, as a table: each row has its reason and its code, and nothing is written."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2

from lgsp.api.errors import TABLE, BusError
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry import identifiers
from lgsp.registry.contracts import MAX_METHODS, load_contract
from lgsp.registry.masks import leaves
from tests.contract.registry.stage import ADDRESS, CONSUMER, CONTRACT, PROVIDER, SERVICE, reason_of_error, refused

FAR = 253_402_300_800
RETIRED, DRAFT = "hanoi.old.v1.OldService", "hanoi.next.v1.NextService"


def file(name: str = "a.proto", package: str = "p.v1", imports: tuple[str, ...] = (), **fields: Any):
    return descriptor_pb2.FileDescriptorProto(name=name, package=package, dependency=imports, syntax="proto3", **fields)


def contract(*files: descriptor_pb2.FileDescriptorProto) -> bytes:
    return descriptor_pb2.FileDescriptorSet(file=files).SerializeToString()


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field on the wire."""
    length, size = len(content), bytearray()
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2]) + bytes(size) + bytes([length]) + content


def nested(depth: int) -> bytes:
    inner = field(1, b"M")
    for _ in range(depth):
        inner = field(1, b"M") + field(3, inner)
    return field(1, field(1, b"deep.proto") + field(4, inner))


def service_of(methods: int) -> descriptor_pb2.FileDescriptorProto:
    made = file(message_type=[descriptor_pb2.DescriptorProto(name="K")])
    declared = made.service.add(name="S")
    for number in range(methods):
        declared.method.add(name=f"M{number}", input_type=".p.v1.K", output_type=".p.v1.K")
    return made


# --- contracts ---------------------------------------------------------------------------------------------------------


def shadowing(name: str, package: str, message: str) -> bytes:
    """A contract that brings something else under a name of what gateways add to it."""
    return contract(file(name, package, message_type=[descriptor_pb2.DescriptorProto(name=message)]))


CONTRACTS: dict[str, bytes] = {
    "truncated": CONTRACT[: len(CONTRACT) // 2],
    "cyclic": contract(file("a.proto", imports=("b.proto",)), file("b.proto", imports=("a.proto",))),
    "a cycle of 900": contract(*(file(f"{n}.proto", imports=(f"{(n + 1) % 900}.proto",)) for n in range(900))),
    "a file twice": contract(file(), file()),
    "a missing import": contract(file(imports=("gone.proto",))),
    "1,001 files": contract(*(file(f"{n}.proto") for n in range(1001))),
    "a message twice": contract(file(message_type=[descriptor_pb2.DescriptorProto(name="K")] * 2)),
    "nested 10,000 deep": nested(10_000),
    "a name that is no UTF-8": field(1, field(1, b"\xff\xfe.proto")),
    "an import that is no UTF-8": field(1, field(1, b"a.proto") + field(3, b"\xff\xfe")),
    "a file without a name": contract(file("")),
    "a name of 10 kB": contract(file("x" * 10_000)),
    "a name with a line break": contract(file("a\n.proto")),
    "1,001 methods": contract(service_of(MAX_METHODS + 1)),
    "random bytes": bytes(range(256)) * 100,
}


@pytest.mark.parametrize("what", CONTRACTS)
@pytest.mark.parametrize("rpc", ["PublishService", "CheckContract"])
async def test_a_contract_that_cannot_be_used(api, what, rpc):
    await api.publish()
    before, began = api.revision, time.monotonic()
    if rpc == "PublishService":
        service = pb.Service(name="p.v1.S", provider=PROVIDER)
        reason, detail = await refused(api.provider.PublishService(service=service, contract=CONTRACTS[what]))
    else:
        reason, detail = await refused(api.provider.CheckContract(service=SERVICE, contract=CONTRACTS[what]))
    assert reason == "CONTRACT_INVALID", detail
    assert 20 < len(detail) < 500
    assert (api.revision, time.monotonic() - began < 20) == (before, True)


# --- identifiers -------------------------------------------------------------------------------------------------------

IDENTIFIERS = {
    "a slash": "H26/15",
    "a dot at the end": "H26.",
    "a dot before": ".H26",
    "two dots": "H26..15",
    "a Cyrillic letter": "\u041d26",
    "a full-width letter": "\uff2826",
    "a Vietnamese letter": "HÀ26",
    "an invisible letter": "H26\u200b",
    "a NUL": "H26\0",
    "a line break": "H26\n",
    "a wildcard": "H26.*",
    "the rest of a subject": "H26.>",
    "steps upwards": "../H26",
    "10 kB": "H" * 10_000,
    "empty": "",
}


@pytest.mark.parametrize("what", IDENTIFIERS)
async def test_an_identifier_that_is_none(api, what):
    bad, before = IDENTIFIERS[what], api.revision
    calls = {
        "agency": lambda: api.operator.CreateAgency(agency=pb.Agency(id=bad)),
        "alias": lambda: api.operator.CreateAgency(agency=pb.Agency(id="H27", aliases=[bad])),
        "import": lambda: api.operator.ImportAgencies(agencies=[pb.Agency(id=bad)]),
        "reform": lambda: api.operator.ReorganizeAgencies(
            changes=[
                pb.Reorganization(merge=pb.Reorganization.Merge(**{"from": ["H26.1"], "into": pb.Agency(id=bad)}))
            ],
            act="x",
        ),
        "system": lambda: api.operator.CreateSystem(system=pb.System(id=f"H26/{bad}")),
        "service": lambda: api.provider.PublishService(
            service=pb.Service(name=f"hanoi.{bad}", provider=PROVIDER), contract=CONTRACT
        ),
        "member": lambda: api.operator.PutGroup(group=pb.Group(id="g", members=[f"H26/{bad}"])),
    }
    if bad:
        calls["grant"] = lambda: api.operator.CreateGrant(
            grant=pb.Grant(id=bad.lower(), consumer=CONSUMER, service=SERVICE)
        )
        calls["group"] = lambda: api.operator.PutGroup(group=pb.Group(id=bad.lower()))
    for name, call in calls.items():
        reason, detail = await refused(call())
        assert reason == "IDENTIFIER_INVALID", (name, detail)
        assert len(detail) < 500, name
    assert api.revision == before


SHADOWING: dict[str, bytes] = {
    "a status of its own": shadowing("google/rpc/status.proto", "google.rpc", "Other"),
    "a status without fields": shadowing("google/rpc/status.proto", "google.rpc", "Status"),
    "no Any in its place": shadowing("google/protobuf/any.proto", "google.protobuf", "Other"),
    "no Duration in its place": shadowing("google/protobuf/duration.proto", "google.protobuf", "Other"),
    "an ErrorInfo elsewhere": shadowing("own.proto", "google.rpc", "ErrorInfo"),
    "a message in the place of a package": shadowing("own.proto", "google", "rpc"),
    "a package in the place of a message": shadowing("own.proto", "google.rpc.Status", "M"),
}


@pytest.mark.parametrize("what", SHADOWING)
def test_what_gateways_add_to_a_contract_is_shadowed_by_nothing_in_it(what):
    """Envoy refused such routes, kept those that it had, and with them what was revoked since."""
    with pytest.raises(BusError) as caught:
        load_contract(SHADOWING[what])
    assert caught.value.reason.name == "CONTRACT_INVALID"
    load_contract(shadowing("own.proto", "own.v1", "Status"))


FIELDS: dict[str, dict[str, Any]] = {
    "a packed text": {"type": 9, "label": 3, "options": {"packed": True}},
    "one packed number": {"type": 5, "label": 1, "options": {"packed": True}},
    "a lazy text": {"type": 9, "label": 1, "options": {"lazy": True}},
    "a JavaScript type of a text": {"type": 9, "label": 1, "options": {"jstype": 1}},
    "a JSON name with a null": {"type": 9, "label": 1, "json_name": "a\0b"},
    "a JSON name in brackets": {"type": 9, "label": 1, "json_name": "[a]"},
    "an option that nobody resolved": {
        "type": 9,
        "label": 1,
        "options": {"uninterpreted_option": [{"identifier_value": "x"}]},
    },
}


@pytest.mark.parametrize("what", FIELDS)
def test_what_envoy_would_refuse_is_refused(what):
    """Envoy refused such routes, kept those that it had, and with them what was revoked since."""
    for deep in (False, True):
        message = descriptor_pb2.DescriptorProto(name="M", field=[{"name": "f", "number": 1} | FIELDS[what]])
        outer = descriptor_pb2.DescriptorProto(name="O", nested_type=[message]) if deep else message
        with pytest.raises(BusError) as caught:
            load_contract(contract(file(message_type=[outer])))
        assert caught.value.reason.name == "CONTRACT_INVALID"
    fine = {"type": 5, "label": 3, "options": {"packed": True}, "json_name": "a[b]c"}
    message = descriptor_pb2.DescriptorProto(name="M", field=[{"name": "f", "number": 1} | fine])
    load_contract(contract(file(message_type=[message])))


# --- reforms, grants, purposes, fields -----------------------------------------------------------------------------------

Call = Callable[[Any], Any]


def merge(*sources: str, into: str) -> Call:
    step = pb.Reorganization(merge=pb.Reorganization.Merge(**{"from": sources, "into": pb.Agency(id=into)}))
    return lambda api: api.operator.ReorganizeAgencies(changes=[step], act="Nghị quyết", grants=pb.GRANT_RULE_MOVE)


def asks(**fields: Any) -> Call:
    grant = {"id": "new", "consumer": CONSUMER, "service": SERVICE, "methods": ["GetWard"]} | fields
    return lambda api: api.consumer.RequestGrant(grant=pb.Grant(**grant))


def approves(**terms: Any) -> Call:
    return lambda api: api.provider.ApproveGrant(id="asked", terms=pb.Grant(**terms))


def masks(method: str, *paths: str) -> Call:
    return asks(masks=[{"method": method, "paths": paths}])


PURPOSE = {"code": "cu-tru", "legal_basis": "Luật 68/2020/QH14"}
ROWS: dict[str, tuple[Call, str]] = {
    "a merge into itself": (merge("H26.1", into="H26.1"), "REORGANIZATION_INVALID"),
    "a merge into itself by its older name": (merge("H26.1", into="000.00.01.H26"), "REORGANIZATION_INVALID"),
    "a merge of itself among others": (merge("H26.1", "H26.2", into="H26.2"), "REORGANIZATION_INVALID"),
    "a merge of nobody": (merge("H26.404", into="H26.3"), "REORGANIZATION_INVALID"),
    "an agency with a step of its own above it": (
        lambda api: api.operator.CreateAgency(agency=pb.Agency(id="X", parent="X")),
        "IDENTIFIER_INVALID",
    ),
    "a grant on a retired service": (asks(service=RETIRED), "NOT_REGISTERED"),
    "a grant on a draft": (asks(service=DRAFT), "NOT_REGISTERED"),
    "a grant on no service": (asks(service="hanoi.no.v1.NoService"), "NOT_REGISTERED"),
    "a grant for two": (asks(agency="H26.2"), "REQUEST_MALFORMED"),
    "a grant for nobody": (asks(consumer=""), "REQUEST_MALFORMED"),
    "a grant on a method that is not there": (asks(methods=["Drop"]), "METHOD_UNKNOWN"),
    "a grant on `*` and a method": (asks(methods=["*", "GetWard"]), "METHOD_UNKNOWN"),
    "a grant on no method": (asks(methods=[]), "REQUEST_MALFORMED"),
    "a grant that ends before it begins": (
        asks(not_before={"seconds": 9}, not_after={"seconds": 8}),
        "REQUEST_MALFORMED",
    ),
    "a time beyond all years": (asks(not_after={"seconds": 10**15}), "REQUEST_MALFORMED"),
    "a rate below nothing": (asks(rate=-1), "REQUEST_MALFORMED"),
    "a quota beyond all bounds": (asks(daily_quota=10**15), "REQUEST_MALFORMED"),
    "a purpose with a space": (asks(purposes=[PURPOSE | {"code": "cu tru"}]), "PURPOSE_INVALID"),
    "a purpose twice": (asks(purposes=[PURPOSE, PURPOSE]), "PURPOSE_INVALID"),
    "a purpose of 10 kB": (asks(purposes=[PURPOSE | {"code": "x" * 10_000}]), "PURPOSE_INVALID"),
    "a law of 10 kB": (asks(purposes=[PURPOSE | {"legal_basis": "x" * 10_000}]), "PURPOSE_INVALID"),
    "approving a purpose that nobody named": (
        approves(purposes=[{"code": "tiep-thi", "legal_basis": "?"}]),
        "GRANT_TERMS_REFUSED",
    ),
    "a field that the message does not have": (masks("GetWard", "nickname"), "MASK_INVALID"),
    "a field below a scalar": (masks("GetWard", "name.first"), "MASK_INVALID"),
    "half a field": (masks("GetWard", "nam"), "MASK_INVALID"),
    "a field with a dot at the end": (masks("GetWard", "name."), "MASK_INVALID"),
    "no field": (masks("GetWard"), "MASK_INVALID"),
    "an empty field": (masks("GetWard", ""), "MASK_INVALID"),
    "a field in another alphabet": (masks("GetWard", "n\u0430me"), "MASK_INVALID"),
    "a field of 10 kB": (masks("GetWard", "x" * 10_000), "MASK_INVALID"),
    "a mask of a method that is not granted": (masks("GetProvince", "name"), "MASK_INVALID"),
    "a reason that is none": (lambda api: api.provider.RefuseGrant(id="asked", reason=" \n"), "REQUEST_MALFORMED"),
    "an operation id of 10 kB": (
        lambda api: api.provider.ApproveGrant(id="asked", operation_id="x" * 10_000),
        "IDENTIFIER_INVALID",
    ),
    "an operation id with a line break": (
        lambda api: api.provider.ApproveGrant(id="asked", operation_id="a\r\nNats-Rollup: all"),
        "IDENTIFIER_INVALID",
    ),
    "an agency as of the year 10000": (
        lambda api: api.consumer.GetAgency(id="H26.1", as_of={"seconds": FAR}),
        "REQUEST_MALFORMED",
    ),
    "agencies before the year 1": (
        lambda api: api.consumer.ListAgencies(as_of={"seconds": -FAR}),
        "REQUEST_MALFORMED",
    ),
    "a reform in the year 10000": (
        lambda api: api.operator.ReorganizeAgencies(act="x", date={"seconds": FAR}),
        "REQUEST_MALFORMED",
    ),
    "an agency that ends in the year 10000": (
        lambda api: api.operator.CreateAgency(agency=pb.Agency(id="H26.6", valid_until={"seconds": FAR})),
        "REQUEST_MALFORMED",
    ),
    "an agency whose time has less than no nanoseconds": (
        lambda api: api.operator.ImportAgencies(agencies=[pb.Agency(id="H26.6", valid_from={"nanos": -1})]),
        "REQUEST_MALFORMED",
    ),
    "a sunset in the year 10000": (
        lambda api: api.provider.DeprecateService(name=SERVICE, sunset_at={"seconds": FAR}),
        "REQUEST_MALFORMED",
    ),
    "an endpoint for a service that is not there": (
        lambda api: api.provider.RegisterEndpoint(services=["a.b.C"], address=ADDRESS),
        "NOT_REGISTERED",
    ),
}


@pytest.fixture
async def stocked(api):
    """A service, a retired one, a draft of somebody else's, and a grant that was asked for."""
    await api.publish()
    for name in (RETIRED, DRAFT):
        package, _, short = name.rpartition(".")
        content = contract(file(f"{package}.proto", package, service=[{"name": short}]))
        service = pb.Service(name=name, provider=PROVIDER)
        await api.provider.PublishService(service=service, contract=content, draft=name == DRAFT)
    await api.provider.RetireService(name=RETIRED)
    await asks(id="asked", purposes=[PURPOSE])(api)
    return api


@pytest.mark.parametrize("what", ROWS)
async def test_what_does_not_hold_together(stocked, what):
    call, reason = ROWS[what]
    before = stocked.revision
    found, detail = await refused(call(stocked))
    assert (found, stocked.revision) == (reason, before), detail
    assert reason in TABLE
    assert 10 < len(detail) < 600


async def test_bytes_that_are_no_message(api):
    before = api.revision
    method = api.channel.unary_unary("/lgsp.api.registry.v1.RegistryService/CreateAgency")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(b"\xff\xff\xff", metadata=[("x-lgsp-client", "H26/operator")], timeout=10)
    assert reason_of_error(caught.value) == "REQUEST_MALFORMED"
    assert api.revision == before


# --- what never ends ---------------------------------------------------------------------------------------------------


def test_messages_that_hold_each_other_are_bounded():
    """Half a thousand messages, each with two of the next: more paths than atoms, refused at once."""
    made, text = file(), descriptor_pb2.FieldDescriptorProto
    for number in range(500):
        message = made.message_type.add(name=f"M{number}")
        for at in (1, 2):
            kind = {"type": text.TYPE_MESSAGE, "type_name": f".p.v1.M{number + 1}"} if number < 499 else {"type": 9}
            message.field.add(name=f"f{at}", number=at, label=text.LABEL_OPTIONAL, **kind)
    pool, began = load_contract(contract(made)).pool, time.monotonic()
    with pytest.raises(BusError) as caught:
        leaves(pool.FindMessageTypeByName("p.v1.M0"))
    assert caught.value.reason.name == "MASK_INVALID"
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("000.00.00.H26", ["H26"]),
        ("000.00.15.H26", ["H26.15"]),
        ("000.03.15.H26", ["H26.15.03", "H26.15.3"]),
        ("001.03.15.H26", ["H26.15.03.001", "H26.15.3.1"]),
        ("H26.15", []),
        ("001.00.15.H26", []),  # nothing is below nothing
        ("000.00.15.H26.", []),
        ("000.00.١٥.H26", []),  # Arabic digits
    ],
)
def test_the_older_form_of_an_identifier(older, newer):
    assert identifiers.from_older_form(older) == newer
    for each in newer:
        assert identifiers.older_form(each) == older


@pytest.mark.parametrize("identifier", ["H26.15.3.1.2", "H26.A", "Hanoi.15", "H26.100", ""])
def test_an_identifier_without_an_older_form(identifier):
    assert identifiers.older_form(identifier) == ""
