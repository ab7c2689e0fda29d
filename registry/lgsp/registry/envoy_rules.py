"""What Envoy's own reading of descriptors refuses and Python's does not, checked before a contract is taken. Pure.

Envoy keeps the routes that it has when it refuses new ones: whoever could publish what it refuses would keep every right on
its service from ever being revoked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from lgsp.api.errors import BusError

_F: Final = FieldDescriptorProto
_UNPACKED: Final = frozenset({_F.TYPE_STRING, _F.TYPE_BYTES, _F.TYPE_MESSAGE, _F.TYPE_GROUP})
_LONG: Final = frozenset({_F.TYPE_INT64, _F.TYPE_UINT64, _F.TYPE_SINT64, _F.TYPE_FIXED64, _F.TYPE_SFIXED64})
_HOLDERS: Final = frozenset({_F.TYPE_MESSAGE, _F.TYPE_GROUP})


def check_file(file: FileDescriptorProto) -> None:
    """BusError CONTRACT_INVALID names the file and what is wrong in it."""
    for what, declared in _declared(file):
        if what is _F and (wrong := _wrong(declared)):
            raise BusError("CONTRACT_INVALID", f"{file.name}: the field {declared.name[:64]!r} {wrong}")
        if declared.HasField("options") and declared.options.uninterpreted_option:
            raise BusError("CONTRACT_INVALID", f"{file.name} has options that its compiler did not resolve")


def _wrong(field: FieldDescriptorProto) -> str:
    name: object = field.json_name
    # What is no UTF-8 is bytes.
    if not isinstance(name, str) or "\0" in name or (name.startswith("[") and name.endswith("]")):
        return "has a JSON name that cannot be one"
    if not field.HasField("options"):
        return ""
    options = field.options
    if options.packed and (field.type in _UNPACKED or field.label != _F.LABEL_REPEATED):
        return "cannot be packed"
    if (options.lazy or options.unverified_lazy) and field.type not in _HOLDERS:
        return "cannot be lazy"
    return "has a jstype without being of 64 bits" if options.jstype and field.type not in _LONG else ""


def _declared(file: FileDescriptorProto) -> Iterator[tuple[Any, Any]]:
    """(its class where that matters, declaration) of everything with options."""
    yield None, file
    yield from ((_F, each) for each in file.extension)
    for enum in file.enum_type:
        yield from _of_enum(enum)
    for message in file.message_type:
        yield from _of_message(message)
    for service in file.service:
        yield None, service
        yield from ((None, each) for each in service.method)


def _of_message(message: DescriptorProto) -> Iterator[tuple[Any, Any]]:
    yield None, message
    for parts in (message.field, message.extension):
        yield from ((_F, each) for each in parts)
    yield from ((None, each) for each in message.oneof_decl)
    yield from ((None, each) for each in message.extension_range)
    for enum in message.enum_type:
        yield from _of_enum(enum)
    for inner in message.nested_type:
        yield from _of_message(inner)


def _of_enum(enum: EnumDescriptorProto) -> Iterator[tuple[Any, Any]]:
    yield None, enum
    yield from ((None, each) for each in enum.value)
