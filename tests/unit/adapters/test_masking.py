"""Keeping what is named of a serialized message: held against protobuf's own idea of the same message, and against garbage."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from google.protobuf import message_factory, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from hypothesis import given
from hypothesis import strategies as st

from lgsp.adapters.masking import keep, tree_of
from lgsp.api.errors import BusError
from lgsp.registry.masks import leaf_fields, with_keys

FILE = """
name: "m.proto" package: "m" syntax: "proto3"
message_type { name: "Person"
  field { name: "id" number: 1 type: TYPE_SINT64 label: LABEL_OPTIONAL }
  field { name: "name" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "home" number: 3 type: TYPE_MESSAGE type_name: ".m.Home" label: LABEL_OPTIONAL }
  field { name: "former" number: 4 type: TYPE_MESSAGE type_name: ".m.Home" label: LABEL_REPEATED }
  field { name: "marks" number: 5 type: TYPE_INT32 label: LABEL_REPEATED }
  field { name: "homes" number: 6 type: TYPE_MESSAGE type_name: ".m.Person.HomesEntry" label: LABEL_REPEATED }
  field { name: "weight" number: 7 type: TYPE_DOUBLE label: LABEL_OPTIONAL }
  field { name: "size" number: 8 type: TYPE_FIXED32 label: LABEL_OPTIONAL }
  field { name: "alive" number: 300 type: TYPE_MESSAGE type_name: ".m.Nothing" label: LABEL_OPTIONAL }
  nested_type { name: "HomesEntry" options { map_entry: true }
    field { name: "key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
    field { name: "value" number: 2 type: TYPE_MESSAGE type_name: ".m.Home" label: LABEL_OPTIONAL } } }
message_type { name: "Home"
  field { name: "street" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "ward" number: 2 type: TYPE_INT32 label: LABEL_OPTIONAL } }
message_type { name: "Nothing" }
"""
POOL = DescriptorPool()
POOL.Add(text_format.Parse(FILE, FileDescriptorProto()))
PERSON = POOL.FindMessageTypeByName("m.Person")
Person = message_factory.GetMessageClass(PERSON)
LEAVES = {leaf.path: leaf for leaf in leaf_fields(PERSON)}


@dataclass(frozen=True, slots=True)
class Named:
    numbers: tuple[int, ...]
    hollow: bool = False


def masked(message, *paths: str):
    tree = tree_of(with_keys(LEAVES[path] for path in paths))
    return Person.FromString(keep(message.SerializeToString(), tree))


def full():
    return Person(
        id=-5,
        name="Nguyễn",
        home={"street": "Tràng Tiền", "ward": 4},
        former=[{"street": "cũ"}, {"ward": 2}],
        marks=[1, 200, 3],
        homes={"quê": {"street": "làng", "ward": 9}},
        weight=61.5,
        size=170,
        alive={},
    )


def test_the_leaves_are_these():
    assert list(LEAVES) == [
        *("id", "name", "home.street", "home.ward", "former.street", "former.ward", "marks"),
        *("homes.value.street", "homes.value.ward", "weight", "size", "alive"),
    ]


def test_all_leaves_are_the_whole():
    assert masked(full(), *LEAVES) == full()


def test_nothing_named_is_nothing():
    assert keep(full().SerializeToString(), {}) == b""


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["name"], {"name": "Nguyễn"}),
        (["home.ward"], {"home": {"ward": 4}}),
        (["former.street"], {"former": [{"street": "cũ"}, {}]}),
        (["homes.value.ward"], {"homes": {"quê": {"ward": 9}}}),
        (["marks", "weight"], {"marks": [1, 200, 3], "weight": 61.5}),
        (["alive", "size", "id"], {"alive": {}, "size": 170, "id": -5}),
    ],
)
def test_what_is_named_is_what_stays(paths, expected):
    assert masked(full(), *paths) == Person(**expected)


def test_an_absent_field_stays_absent_and_a_present_empty_one_present():
    assert not masked(Person(name="x"), "home.street").HasField("home")
    assert masked(Person(home={}), "home.street").HasField("home")


def test_what_a_hollow_message_holds_all_the_same_is_removed():
    grown = b"\xe2\x12\x08\x0a\x06SECRET"  # field 300 with a field 1 that the contract does not have
    assert keep(grown, tree_of([LEAVES["alive"]])) == b"\xe2\x12\x00"


def test_unknown_fields_are_removed_in_every_message_that_is_told_apart():
    unknown = b"\xfa\x01\x06SECRET"
    home = b"\x0a\x01s" + unknown
    raw = unknown + b"\x1a" + bytes([len(home)]) + home + unknown
    assert keep(raw, tree_of([LEAVES["home.street"]])) == b"\x1a\x03\x0a\x01s"


def test_a_number_where_the_contract_has_a_message_is_removed():
    assert keep(b"\x18\x2a", tree_of([LEAVES["home.street"]])) == b""


@pytest.mark.parametrize(
    "raw",
    [
        b"\x0a",
        b"\x12\x05ab",
        b"\x09\x01",
        b"\x0d\x01",
        b"\xff" * 11,
        b"\x0b\x0c",
        b"\x0f",
        b"\x02\x01a",
        b"\x1a\x02\x0a\x09",
    ],
    ids=["no length", "cut", "cut fixed64", "cut fixed32", "endless", "group", "no kind", "field zero", "cut inside"],
)
def test_what_is_no_message_is_a_fault(raw):
    with pytest.raises(BusError) as caught:
        keep(b"\x12\x01a" + raw, tree_of([LEAVES["name"], LEAVES["home.street"]]))
    assert caught.value.reason.name == "PROVIDER_FAULT"


@given(st.sets(st.sampled_from(sorted(LEAVES))), st.binary(max_size=60))
def test_garbage_is_refused_or_holds_only_what_is_named(paths, raw):
    tree = tree_of(with_keys(LEAVES[path] for path in paths))
    try:
        kept = keep(raw, tree)
    except BusError:
        return
    assert keep(kept, tree) == kept
    assert len(kept) <= len(raw)


_TEXT = st.text(max_size=20)
_NUMBER = st.integers(-(2**31), 2**31 - 1)
_HOME = st.fixed_dictionaries({}, optional={"street": _TEXT, "ward": _NUMBER})
_PERSON = st.fixed_dictionaries(
    {},
    optional={
        "id": st.integers(-(2**63), 2**63 - 1),
        "name": _TEXT,
        "home": _HOME,
        "former": st.lists(_HOME, max_size=3),
        "marks": st.lists(_NUMBER, max_size=5),
        "homes": st.dictionaries(_TEXT, _HOME, max_size=3),
        "weight": st.floats(allow_nan=False),
        "size": st.integers(0, 2**32 - 1),
        "alive": st.just({}),
    },
)


@given(_PERSON, st.sets(st.sampled_from(sorted(LEAVES))))
def test_it_is_what_clearing_every_other_field_gives(content, paths):
    expected = Person(**content)
    _clear(expected, PERSON, "", frozenset(paths))
    assert masked(Person(**content), *sorted(paths)) == expected


def _clear(message, descriptor, prefix: str, paths: frozenset[str]) -> None:
    """The same by protobuf's own means."""
    for field in descriptor.fields:
        path = f"{prefix}{field.name}"
        if not any(each == path or each.startswith(f"{path}.") for each in paths):
            message.ClearField(field.name)
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            for each in getattr(message, field.name).values():
                _clear(each, field.message_type.fields_by_name["value"].message_type, f"{path}.value.", paths)
        elif field.message_type is not None:
            value = getattr(message, field.name)
            inner = value if field.is_repeated else [value] if message.HasField(field.name) else []
            for each in inner:
                _clear(each, field.message_type, f"{path}.", paths)


def test_a_leaf_never_widens_a_narrower_one():
    narrow = [Named((3,)), Named((3, 1))]
    assert keep(b"\x1a\x05\x0a\x01s\x10\x04", tree_of(narrow)) == b"\x1a\x03\x0a\x01s"
