"""Contracts as a gateway needs them: smaller, and saying the same."""

from __future__ import annotations

from google.api import annotations_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool

from lgsp.api.demo.admunits.v1 import admunits_pb2
from lgsp.api.registry.v1 import registry_pb2
from lgsp.gateway.xds.pruning import pruned
from tests.support.descriptors import descriptor_set

UNITS = "lgsp.api.demo.admunits.v1.AdministrativeUnitService"
FIELD = descriptor_pb2.FieldDescriptorProto


def parsed(content: bytes) -> descriptor_pb2.FileDescriptorSet:
    return descriptor_pb2.FileDescriptorSet.FromString(content)


def names(files: descriptor_pb2.FileDescriptorSet) -> list[str]:
    return [file.name for file in files.file]


def pool_of(files: descriptor_pb2.FileDescriptorSet) -> DescriptorPool:
    pool = DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool


def test_what_only_annotations_need_goes_and_the_annotations_stay():
    whole = parsed(descriptor_set(admunits_pb2.DESCRIPTOR))
    assert "google/protobuf/descriptor.proto" in names(whole)
    made = pruned(whole, UNITS)
    assert names(made) == ["lgsp/api/demo/admunits/v1/admunits.proto"]
    (method,) = [each for each in made.file[0].service[0].method if each.name == "GetWard"]
    assert method.options.Extensions[annotations_pb2.http].get
    assert pool_of(made).FindServiceByName(UNITS).methods_by_name["GetWard"].output_type.name == "GetWardResponse"


def test_types_that_are_used_stay():
    made = pruned(parsed(descriptor_set(registry_pb2.DESCRIPTOR)), f"{registry_pb2.DESCRIPTOR.package}.RegistryService")
    assert names(made)[-1] == "lgsp/api/registry/v1/registry.proto"
    assert {"google/protobuf/timestamp.proto", "google/protobuf/duration.proto"} == set(names(made)[:-1])
    pool_of(made)


def test_a_nested_type_of_another_file_is_found_also_through_a_public_import():
    inner = descriptor_pb2.FileDescriptorProto(name="inner.proto", package="p", syntax="proto3")
    outer = inner.message_type.add(name="Outer")
    outer.enum_type.add(name="Kind").value.add(name="K", number=0)
    public = descriptor_pb2.FileDescriptorProto(name="public.proto", dependency=["inner.proto"], public_dependency=[0])
    main = descriptor_pb2.FileDescriptorProto(
        name="main.proto", package="p", syntax="proto3", dependency=["public.proto"]
    )
    message = main.message_type.add(name="M")
    message.field.add(
        name="kind", number=1, type=FIELD.TYPE_ENUM, type_name=".p.Outer.Kind", label=FIELD.LABEL_OPTIONAL
    )
    main.service.add(name="S").method.add(name="Get", input_type=".p.M", output_type=".p.M")
    made = pruned(descriptor_pb2.FileDescriptorSet(file=[inner, public, main]), "p.S")
    assert names(made) == ["inner.proto", "main.proto"]
    assert pool_of(made).FindMessageTypeByName("p.M").fields_by_name["kind"].enum_type.full_name == "p.Outer.Kind"


def test_a_contract_with_an_any_stays_whole():
    files = parsed(descriptor_set(admunits_pb2.DESCRIPTOR))
    before = names(files)
    response = files.file[-1].message_type[0]
    response.field.add(
        name="extra", number=99, type=FIELD.TYPE_MESSAGE, type_name=".google.protobuf.Any", label=FIELD.LABEL_OPTIONAL
    )
    assert names(pruned(files, UNITS)) == before
