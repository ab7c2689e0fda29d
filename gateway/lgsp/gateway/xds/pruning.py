"""Contracts as a gateway needs them: without comments, and without the files that only people and compilers need.

A contract that is annotated for REST brings google/api and descriptor.proto along: with 10,000 services that is most of
Envoy's memory. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

_ANY = ".google.protobuf.Any"


def pruned(files: FileDescriptorSet, service: str) -> FileDescriptorSet:
    """The file that declares `service` with those whose types it uses, in their order. A contract with an `Any` stays
    whole: its types are named at run time."""
    declared = {name: file.name for file in files.file for name in _declared(file)}
    by_name = {file.name: file for file in files.file}
    waiting = [file.name for file in files.file if any(f"{file.package}.{s.name}" == service for s in file.service)]
    needed: dict[str, set[str]] = {}
    while waiting:
        name = waiting.pop()
        if name not in needed:
            used = set(_used(by_name[name]))
            if _ANY in used:
                return _plain(files)
            needed[name] = {declared[each] for each in used if each in declared} - {name}
            waiting += needed[name]
    made = FileDescriptorSet()
    for file in files.file:
        if file.name in needed:
            kept = made.file.add()
            kept.CopyFrom(file)
            for field in ("dependency", "public_dependency", "weak_dependency", "source_code_info"):
                kept.ClearField(field)
            kept.dependency.extend(sorted(needed[file.name]))
    return made


def _plain(files: FileDescriptorSet) -> FileDescriptorSet:
    for file in files.file:
        file.ClearField("source_code_info")
    return files


def _declared(file: FileDescriptorProto) -> Iterator[str]:
    package = f".{file.package}" if file.package else ""
    for kind in file.enum_type:
        yield f"{package}.{kind.name}"
    for message in file.message_type:
        yield from _nested(package, message)


def _nested(scope: str, message: DescriptorProto) -> Iterator[str]:
    name = f"{scope}.{message.name}"
    yield name
    for kind in message.enum_type:
        yield f"{name}.{kind.name}"
    for each in message.nested_type:
        yield from _nested(name, each)


def _used(file: FileDescriptorProto) -> Iterator[str]:
    for service in file.service:
        for method in service.method:
            yield method.input_type
            yield method.output_type
    for extension in file.extension:
        yield extension.extendee
        yield extension.type_name
    for message in file.message_type:
        yield from _used_by(message)


def _used_by(message: DescriptorProto) -> Iterator[str]:
    for field in (*message.field, *message.extension):
        yield field.type_name
        yield field.extendee
    for each in message.nested_type:
        yield from _used_by(each)
