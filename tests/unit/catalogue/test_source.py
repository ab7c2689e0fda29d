"""A contract printed as text compiles to the same descriptors, comments included."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

import lgsp.api
from lgsp.adapters.manifest import compile_proto
from lgsp.registry.catalogue.comments import comments_of
from lgsp.registry.catalogue.source import json_name, source_of
from lgsp.registry.catalogue.symbols import Symbols
from lgsp.registry.contracts import load_contract
from tests.unit.catalogue.compiled import NAMES, compiled, files

OURS = sorted(Path(next(iter(lgsp.api.__path__))).rglob("*.proto"))


def printed(contract: bytes) -> dict[str, str]:
    found, pool = files(contract), load_contract(contract).pool
    return {file.name: source_of(file, pool, Symbols(found.file)) for file in found.file}


def compiled_again(texts: dict[str, str], folder: Path, name: str) -> bytes:
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, "utf-8")
    return compile_proto(folder / name)


def bare(file: descriptor_pb2.FileDescriptorProto) -> descriptor_pb2.FileDescriptorProto:
    """Without positions, nested messages in one order: those that the compiler makes for maps have no place in a text."""
    made = descriptor_pb2.FileDescriptorProto()
    made.CopyFrom(file)
    made.ClearField("source_code_info")
    for message in made.message_type:
        _order(message)
    return made


def _order(message: descriptor_pb2.DescriptorProto) -> None:
    message.nested_type.sort(key=lambda each: each.name)
    for nested in message.nested_type:
        _order(nested)


@pytest.mark.parametrize("name", NAMES)
def test_it_compiles_to_the_same_descriptors(name, tmp_path):
    before = files(compiled(name))
    after = files(compiled_again(printed(compiled(name)), tmp_path, name))
    assert [file.name for file in after.file] == [file.name for file in before.file]
    for old, new in zip(before.file, after.file, strict=True):
        assert bare(new) == bare(old), old.name


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_our_own_contracts_are_printed_whole(path, tmp_path):
    contract = compile_proto(path)
    before = files(contract).file[-1]
    (tmp_path / path.name).write_text(printed(contract)[path.name], "utf-8")
    after = files(compile_proto(tmp_path / path.name)).file[-1]
    assert bare(after) == bare(before)
    assert sorted(each.text for each in comments_of(after).values()) == sorted(
        each.text for each in comments_of(before).values()
    )


def test_names_are_short_where_that_is_clear_and_whole_where_not(tmp_path):
    text = printed(compiled("torture.proto"))["torture.proto"]
    assert "rpc Get(Query) returns (Everything) {" in text
    assert "returns (stream Everything.Node) {}" in text
    assert "map<string, Node> nodes = 18;" in text
    assert 'option (google.api.http) = { get: "/v1/watch" };' in text


def test_a_name_is_written_in_full_where_a_nearer_one_would_be_taken_for_it():
    outer = descriptor_pb2.FileDescriptorProto(package="a.b")
    inner = outer.message_type.add(name="Holder")
    inner.nested_type.add(name="a")
    other = descriptor_pb2.FileDescriptorProto(package="a.c")
    other.message_type.add(name="Thing")
    symbols = Symbols([outer, other])
    assert symbols.shortest("a.c.Thing", "a.b.Holder") == "c.Thing"
    assert symbols.shortest("a.b.Holder", "a.c") == "b.Holder"
    clash = descriptor_pb2.FileDescriptorProto(package="a.b.c")
    assert Symbols([outer, other, clash]).shortest("a.c.Thing", "a.b.Holder") == ".a.c.Thing"


def test_json_names():
    assert [json_name(name) for name in ("a_b", "ward_code_2", "x", "_lead")] == ["aB", "wardCode2", "x", "Lead"]
