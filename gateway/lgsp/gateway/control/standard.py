"""The standard services that generic clients look for, as contracts: reflection (v1 and v1alpha) and health."""

from __future__ import annotations

from typing import Final

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

REFLECTION: Final = "grpc.reflection.v1.ServerReflection"
REFLECTION_ALPHA: Final = "grpc.reflection.v1alpha.ServerReflection"
HEALTH: Final = "grpc.health.v1.Health"


def _stable() -> FileDescriptor:
    """grpc.reflection.v1: v1alpha under another package, message for message (grpc/proposal A15)."""
    made = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(made)
    made.name, made.package = "grpc/reflection/v1/reflection.proto", "grpc.reflection.v1"
    made.ClearField("options")
    for message in made.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = _renamed(field.type_name)
    for method in made.service[0].method:
        method.input_type, method.output_type = _renamed(method.input_type), _renamed(method.output_type)
    pool = DescriptorPool()
    pool.Add(made)
    return pool.FindFileByName(made.name)


def _renamed(name: str) -> str:
    return name.replace(".grpc.reflection.v1alpha.", ".grpc.reflection.v1.")


CONTRACTS: Final[dict[str, FileDescriptor]] = {
    REFLECTION: _stable(),
    REFLECTION_ALPHA: reflection_pb2.DESCRIPTOR,
    HEALTH: health_pb2.DESCRIPTOR,
}
