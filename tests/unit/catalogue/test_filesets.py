"""What reflection hands out of a contract: all that a service needs, and nothing of its neighbours."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool

from lgsp.adapters.manifest import compile_proto
from lgsp.registry.catalogue.comments import comments_of
from lgsp.registry.catalogue.filesets import declared_services, file_set
from tests.unit.catalogue.compiled import compiled

TWO = """
syntax = "proto3";
package two.v1;
import "shared.proto";
import "secret.proto";
message Ask {}
// First.
service First { rpc Do(Ask) returns (shared.Common); }
// Second.
service Second { rpc Do(Ask) returns (shared.Common); }
// Third.
service Third {
  // Third does.
  rpc Do(Ask) returns (secret.Hidden);
}
"""


@pytest.fixture(scope="module")
def contract(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("two")
    (folder / "shared.proto").write_text('syntax = "proto3"; package shared; message Common { enum E { ZERO = 0; } }')
    (folder / "secret.proto").write_text('syntax = "proto3"; package secret; message Hidden {} service Inner {}')
    (folder / "two.proto").write_text(TWO)
    return compile_proto(folder / "two.proto")


def pool_of(files) -> DescriptorPool:
    pool = DescriptorPool()
    for name in reversed(files.closure("two.proto")):
        pool.AddSerializedFile(files.files[name])
    return pool


def test_other_services_are_not_told(contract):
    assert declared_services(contract) == {"two.v1.First", "two.v1.Second", "two.v1.Third", "secret.Inner"}
    files = file_set(contract, frozenset({"two.v1.First", "two.v1.Third"}))
    file = descriptor_pb2.FileDescriptorProto.FromString(files.files["two.proto"])
    assert [each.name for each in file.service] == ["First", "Third"]
    for name in ("two.v1.Second", "two.v1.Second.Do", "secret.Inner"):
        assert name not in files.symbols
    assert pool_of(files).FindServiceByName("two.v1.Third").methods[0].name == "Do"


def test_comments_move_with_the_services_that_stay(contract):
    files = file_set(contract, frozenset({"two.v1.Third"}))
    file = descriptor_pb2.FileDescriptorProto.FromString(files.files["two.proto"])
    texts = {path: each.text for path, each in comments_of(file).items()}
    assert texts == {(6, 0): "Third.", (6, 0, 2, 0): "Third does."}


def test_every_kind_of_name_leads_to_its_file(contract):
    files = file_set(contract, frozenset({"two.v1.First"}))
    wanted = {"shared.Common": "shared.proto", "shared.Common.E": "shared.proto", "shared.Common.ZERO": "shared.proto"}
    wanted |= {"two.v1.First": "two.proto", "two.v1.First.Do": "two.proto", "two.v1.Ask": "two.proto"}
    assert {name: files.symbols.get(name) for name in wanted} == wanted
    assert files.closure("two.proto")[0] == "two.proto"


def test_extensions_are_found_by_type_and_number():
    files = file_set(compiled("torture.proto"), frozenset({"torture.v1.TortureService"}))
    assert files.extensions["google.protobuf.ServiceOptions"] == {50002: "old.proto"}
    assert files.extensions["torture.old.Old"] == {150: "old.proto", 151: "old.proto", 160: "old.proto"}
    assert files.symbols["torture.old.Old.nested_extension"] == "old.proto"


def test_without_a_wanted_service_there_is_nothing(contract):
    assert file_set(contract, frozenset({"two.v1.Other"})).files == {}
