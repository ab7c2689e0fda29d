"""Full name → comment of every declaration of a contract. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from google.protobuf import descriptor_pb2

from lgsp.registry.catalogue import comments as c
from lgsp.registry.catalogue.comments import Path, comments_of


def described(files: Iterable[descriptor_pb2.FileDescriptorProto]) -> dict[str, str]:
    """What is said of messages, fields, enums, values, services and methods; nothing for those without a comment."""
    found: dict[str, str] = {}
    for file in files:
        said = comments_of(file)
        for path, name in _declared(file):
            if comment := said.get(path):
                found[name] = comment.text
    return found


def _declared(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[Path, str]]:
    prefix = f"{file.package}." if file.package else ""
    for at, message in enumerate(file.message_type):
        yield from _message(message, (c.FILE_MESSAGE, at), prefix)
    for at, enum in enumerate(file.enum_type):
        yield from _enum(enum, (c.FILE_ENUM, at), prefix)
    for at, service in enumerate(file.service):
        yield (c.FILE_SERVICE, at), prefix + service.name
        for number, method in enumerate(service.method):
            yield (c.FILE_SERVICE, at, c.SERVICE_METHOD, number), f"{prefix}{service.name}.{method.name}"


def _message(message: descriptor_pb2.DescriptorProto, path: Path, prefix: str) -> Iterator[tuple[Path, str]]:
    name = prefix + message.name
    yield path, name
    for at, field in enumerate(message.field):
        yield (*path, c.MESSAGE_FIELD, at), f"{name}.{field.name}"
    for at, nested in enumerate(message.nested_type):
        yield from _message(nested, (*path, c.MESSAGE_NESTED, at), f"{name}.")
    for at, enum in enumerate(message.enum_type):
        yield from _enum(enum, (*path, c.MESSAGE_ENUM, at), f"{name}.")


def _enum(enum: descriptor_pb2.EnumDescriptorProto, path: Path, prefix: str) -> Iterator[tuple[Path, str]]:
    yield path, prefix + enum.name
    for at, value in enumerate(enum.value):
        # To protobuf a value's name is beside its enum's; below it none can clash.
        yield (*path, c.ENUM_VALUE, at), f"{prefix}{enum.name}.{value.name}"
