"""Whatever comes in as a contract or an identifier: it is taken or refused with a reason, in bounded time, and nothing else."""

from __future__ import annotations

import contextlib
import re
import time

import pytest
from google.protobuf import descriptor_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lgsp.adapters.manifest import compile_proto
from lgsp.api.demo.admunits.v1 import admunits_pb2
from lgsp.api.errors import BusError
from lgsp.registry import identifiers
from lgsp.registry.contracts import MAX_BYTES, load_contract
from lgsp.registry.masks import leaves
from tests.support.descriptors import descriptor_set

CONTRACT = descriptor_set(admunits_pb2.DESCRIPTOR)
_bounded = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def takes_or_refuses(content: bytes) -> None:
    """Load it, and look at every response as a mask would."""
    with contextlib.suppress(BusError):
        contract = load_contract(content)
        for methods in contract.services.values():
            for method in methods:
                with contextlib.suppress(BusError):
                    leaves(contract.pool.FindMessageTypeByName(method.output))


@_bounded
@given(st.binary(max_size=2000))
def test_any_bytes(content):
    takes_or_refuses(content)


@_bounded
@given(st.data())
def test_a_real_contract_that_was_damaged(data):
    content = bytearray(CONTRACT)
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "repeat"]))
        if kind == "flip":
            content[at] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del content[at : at + data.draw(st.integers(1, 40))]
            content = content or bytearray(b"\0")
        elif kind == "insert":
            content[at:at] = data.draw(st.binary(max_size=20))
        else:
            content[at:at] = content[at : at + data.draw(st.integers(1, 200))]
    takes_or_refuses(bytes(content))


_names = st.sampled_from(["", "A", "B", "a.b", "a", ".A", "Ạ", "x" * 600, "map", "1", "A.", "google.protobuf.Any"])
_fields = st.builds(
    descriptor_pb2.FieldDescriptorProto,
    name=_names,
    number=st.sampled_from([0, 1, 2, 19_000, 536_870_911, -1, 2**31 - 1]),
    type=st.integers(1, 18),
    label=st.integers(1, 3),
    type_name=_names,
    oneof_index=st.sampled_from([0, 5, -1]),
)
_messages = st.builds(
    descriptor_pb2.DescriptorProto,
    name=_names,
    field=st.lists(_fields, max_size=4),
    nested_type=st.lists(
        st.builds(descriptor_pb2.DescriptorProto, name=_names, field=st.lists(_fields, max_size=2)), max_size=2
    ),
)
_methods = st.builds(descriptor_pb2.MethodDescriptorProto, name=_names, input_type=_names, output_type=_names)
_files = st.builds(
    descriptor_pb2.FileDescriptorProto,
    name=_names,
    package=_names,
    syntax=st.sampled_from(["proto2", "proto3", "editions", ""]),
    dependency=st.lists(_names, max_size=3),
    message_type=st.lists(_messages, max_size=3),
    service=st.lists(
        st.builds(descriptor_pb2.ServiceDescriptorProto, name=_names, method=st.lists(_methods, max_size=2)), max_size=2
    ),
)


@_bounded
@given(st.lists(_files, max_size=4))
def test_descriptors_of_any_shape(files):
    takes_or_refuses(descriptor_pb2.FileDescriptorSet(file=files).SerializeToString())


def large(**counts: int) -> bytes:
    made = descriptor_pb2.FileDescriptorProto(name="large.proto", package="p", syntax="proto3")
    for number in range(counts.get("messages", 0)):
        made.message_type.add(name=f"Message{number}WithALongerName")
    if counts.get("values"):
        values = made.enum_type.add(name="E").value
        for number in range(counts["values"]):
            values.add(name=f"VALUE_{number}", number=number)
    return descriptor_pb2.FileDescriptorSet(file=[made]).SerializeToString()


@pytest.mark.parametrize(
    "content",
    [
        large(messages=100_000),
        large(values=150_000),
        descriptor_pb2.FileDescriptorSet(
            file=[
                descriptor_pb2.FileDescriptorProto(name=f"{n}.proto", dependency=[f"{n + 1}.proto"] if n < 999 else [])
                for n in range(1000)
            ]
        ).SerializeToString(),
        b"\x0a\x80\x80\x80\x02" + bytes(MAX_BYTES - 5),
        bytes(50 << 20),
    ],
    ids=["100,000 messages", "150,000 values", "a chain of 1,000 imports", "4 MiB of one file", "50 MiB"],
)
def test_what_is_large_takes_bounded_time(content):
    began = time.monotonic()
    takes_or_refuses(content)
    assert time.monotonic() - began < 20


def test_a_contract_as_written_is_taken(tmp_path):
    """The other side of all this: what is well comes through."""
    (tmp_path / "a.proto").write_text(
        'syntax = "proto3"; package a.v1; service S { rpc M(K) returns (K); } message K {}'
    )
    assert list(load_contract(compile_proto(tmp_path / "a.proto")).services) == ["a.v1.S"]


_CHECKS = (
    identifiers.check_agency,
    identifiers.check_system,
    identifiers.check_service,
    identifiers.check_grant,
)


@given(st.sampled_from(_CHECKS), st.text(max_size=300) | st.from_regex(r"[A-Za-z0-9._/-]{1,220}", fullmatch=True))
def test_an_identifier_is_taken_whole_or_refused(check, text):
    try:
        taken = check(text)
    except BusError as error:
        taken = error.reason.name
    if taken == "IDENTIFIER_INVALID":
        return
    assert taken == text
    assert re.fullmatch(r"[A-Za-z0-9._/-]{1,200}", text)
    subject = identifiers.subject("agency", text)
    assert identifiers.parse_subject(subject) == ("agency", text)
    assert not set(subject) & set("*> \r\n\t")


@given(st.text(min_size=1, max_size=60))
def test_a_key_of_any_letters_comes_back_from_its_subject(key):
    with contextlib.suppress(BusError):
        assert identifiers.decode(identifiers.encode(key)) == key


@given(st.text(max_size=20) | st.from_regex(r"[0-9]{3}\.[0-9]{2}\.[0-9]{2}\.[A-Z][0-9]{2}", fullmatch=True))
def test_an_older_identifier_leads_back_to_itself(text):
    for newer in identifiers.from_older_form(text):
        identifiers.check_agency(newer)
        assert identifiers.older_form(newer) == text
