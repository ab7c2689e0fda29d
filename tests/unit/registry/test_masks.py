"""Paths and leaves of masks: what can be told apart, what cannot, and what a path stands for."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool

from lgsp.adapters.manifest import compile_proto
from lgsp.api.errors import BusError
from lgsp.registry.masks import MAX_LEAVES, expand, leaf_fields, leaves, with_keys

PROTO = """
syntax = "proto3";
package p;
import "google/protobuf/any.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/empty.proto";
message All {
  string name = 1;
  Inner inner = 2;
  map<string, int32> numbers = 3;
  map<string, Inner> inners = 4;
  map<string, Hollow> hollows = 5;
  Hollow hollow = 6;
  google.protobuf.Any any = 7;
  google.protobuf.Struct struct = 8;
  map<string, google.protobuf.Any> anys = 9;
  oneof one { Inner a = 10; string b = 11; }
  Kind kind = 12;
  google.protobuf.Empty empty = 13;
}
message Inner { string x = 1; Deep deep = 2; }
message Deep { bytes y = 1; map<int32, Hollow> z = 2; }
message Hollow {}
enum Kind { KIND_UNSPECIFIED = 0; }
message Loop { Loop next = 1; }
message LoopByMap { map<string, LoopByMap> next = 1; }
message Huge { Wide a = 1; Wide b = 2; Wide c = 3; }
message Wide { @FIELDS@ }
""".replace("@FIELDS@", " ".join(f"string f{number} = {number};" for number in range(1, 801)))
PROTO2 = 'syntax = "proto2"; package q; message Grouped { optional group Part = 1 { optional string x = 1; } }'


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("p"), DescriptorPool()
    for name, content in (("a.proto", PROTO), ("b.proto", PROTO2)):
        (folder / name).write_text(content, "utf-8")
        for file in descriptor_pb2.FileDescriptorSet.FromString(compile_proto(folder / name)).file:
            made.Add(file)
    return made


def test_leaves_are_fields_below_which_nothing_is_told_apart(pool):
    found = {leaf.path: (leaf.numbers, leaf.hollow) for leaf in leaf_fields(pool.FindMessageTypeByName("p.All"))}
    assert found == {
        "name": ((1,), False),
        "inner.x": ((2, 1), False),
        "inner.deep.y": ((2, 2, 1), False),
        "inner.deep.z.value": ((2, 2, 2, 2), True),
        "numbers": ((3,), False),
        "inners.value.x": ((4, 2, 1), False),
        "inners.value.deep.y": ((4, 2, 2, 1), False),
        "inners.value.deep.z.value": ((4, 2, 2, 2, 2), True),
        "hollows.value": ((5, 2), True),
        "hollow": ((6,), True),
        "any": ((7,), False),
        "struct": ((8,), False),
        "anys": ((9,), False),
        "a.x": ((10, 1), False),
        "a.deep.y": ((10, 2, 1), False),
        "a.deep.z.value": ((10, 2, 2, 2), True),
        "b": ((11,), False),
        "kind": ((12,), False),
        "empty": ((13,), False),
    }


def test_the_keys_of_maps_come_with_what_is_seen_of_their_values(pool):
    (deep,) = [
        leaf for leaf in leaf_fields(pool.FindMessageTypeByName("p.All")) if leaf.path == "inners.value.deep.z.value"
    ]
    assert [(each.path, each.numbers) for each in with_keys([deep])] == [
        ("inners.value.deep.z.value", (4, 2, 2, 2, 2)),
        ("inners.key", (4, 1)),
        ("inners.value.deep.z.key", (4, 2, 2, 2, 1)),
    ]


@pytest.mark.parametrize(
    ("path", "count"), [("name", 1), ("inner", 3), ("inners", 3), ("inners.value.deep", 2), ("hollows", 1), ("a", 3)]
)
def test_a_path_to_a_message_stands_for_its_leaves(pool, path, count):
    kept = expand(pool.FindMessageTypeByName("p.All"), [path])
    assert len(kept) == count
    assert all(each == path or each.startswith(f"{path}.") for each in kept)


@pytest.mark.parametrize(
    "path",
    ["nothing", "inner.nothing", "name.x", "inn", "", ".", "inner.", "*", "inners.key", "inners.x", "any.code", "Name"],
)
def test_a_path_to_no_field_is_refused(pool, path):
    with pytest.raises(BusError) as caught:
        expand(pool.FindMessageTypeByName("p.All"), [path])
    assert caught.value.reason.name == "MASK_INVALID"


@pytest.mark.parametrize("name", ["p.Loop", "p.LoopByMap", "p.Huge", "q.Grouped"])
def test_what_cannot_be_told_apart_is_refused(pool, name):
    assert MAX_LEAVES < 3 * 800
    with pytest.raises(BusError) as caught:
        leaves(pool.FindMessageTypeByName(name))
    assert caught.value.reason.name == "MASK_INVALID"
