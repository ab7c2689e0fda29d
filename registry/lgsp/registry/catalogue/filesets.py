"""A contract as reflection serves it: files, where each name and extension is, and nothing of services that are not asked for. Pure.

What stays is the import closure of the files that declare a wanted service, without the declarations of other services
in them and without adapter options. Messages in those files stay, whichever service uses them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2

from lgsp.registry.catalogue.comments import FILE_SERVICE
from lgsp.registry.catalogue.public import public_contract


@dataclass(frozen=True, slots=True)
class FileSet:
    """Name → serialized file and its imports; full name → file; extended message → extension number → file."""

    files: Mapping[str, bytes]
    imports: Mapping[str, tuple[str, ...]]
    symbols: Mapping[str, str]
    extensions: Mapping[str, Mapping[int, str]]

    def closure(self, name: str) -> list[str]:
        """A file and all that it needs, each before what it imports. Without recursion: depth is the provider's."""
        order: dict[str, None] = {}
        path = [(name, iter(self.imports[name]))]
        while path:
            at, imports = path[-1]
            needed = next((each for each in imports if each in self.files and each not in order), None)
            if needed is None:
                path.pop()
                order[at] = None
            else:
                path.append((needed, iter(self.imports[needed])))
        return list(reversed(order))


def file_set(contract: bytes, services: frozenset[str]) -> FileSet:
    """The part of a contract that serves `services`."""
    public = descriptor_pb2.FileDescriptorSet.FromString(public_contract(contract))
    named = {file.name: file for file in public.file}
    kept = {name: _pruned(named[name], services) for name in _needed(named, services)}
    extensions: dict[str, dict[int, str]] = {}
    for name, file in kept.items():
        for extendee, number in _extensions(file):
            extensions.setdefault(extendee, {})[number] = name
    return FileSet(
        {name: file.SerializeToString() for name, file in kept.items()},
        {name: tuple(file.dependency) for name, file in kept.items()},
        {symbol: name for name, file in kept.items() for symbol in _symbols(file)},
        extensions,
    )


def declared_services(contract: bytes) -> frozenset[str]:
    """Every service that a contract declares."""
    files = descriptor_pb2.FileDescriptorSet.FromString(contract).file
    return frozenset(name for file in files for name in _declared(file))


def _needed(named: Mapping[str, descriptor_pb2.FileDescriptorProto], services: frozenset[str]) -> list[str]:
    waiting = [name for name, file in named.items() if services & set(_declared(file))]
    found: dict[str, None] = {}
    while waiting:
        name = waiting.pop()
        if name in named and name not in found:
            found[name] = None
            waiting += named[name].dependency
    return list(found)


def _declared(file: descriptor_pb2.FileDescriptorProto) -> list[str]:
    return [f"{file.package}.{each.name}".lstrip(".") for each in file.service]


def _pruned(file: descriptor_pb2.FileDescriptorProto, services: frozenset[str]) -> descriptor_pb2.FileDescriptorProto:
    """The file without other services; comments on the ones that stay move with them."""
    stay = [at for at, name in enumerate(_declared(file)) if name in services]
    if len(stay) == len(file.service):
        return file
    made = descriptor_pb2.FileDescriptorProto()
    made.CopyFrom(file)
    del made.service[:]
    made.service.extend(file.service[at] for at in stay)
    places = list(made.source_code_info.location)
    del made.source_code_info.location[:]
    for place in places:
        of_service = len(place.path) > 1 and place.path[0] == FILE_SERVICE
        if not of_service or place.path[1] in stay:
            if of_service:
                place.path[1] = stay.index(place.path[1])
            made.source_code_info.location.append(place)
    return made


def _symbols(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    prefix = f"{file.package}." if file.package else ""
    for message in file.message_type:
        yield from _names(message, prefix)
    yield from _enums(file.enum_type, prefix)
    yield from (prefix + each.name for each in file.extension)
    for service in file.service:
        yield prefix + service.name
        yield from (f"{prefix}{service.name}.{method.name}" for method in service.method)


def _names(message: descriptor_pb2.DescriptorProto, prefix: str) -> Iterator[str]:
    full = prefix + message.name
    yield full
    for parts in (message.field, message.oneof_decl, message.extension):
        yield from (f"{full}.{each.name}" for each in parts)
    yield from _enums(message.enum_type, f"{full}.")
    for nested in message.nested_type:
        yield from _names(nested, f"{full}.")


def _enums(enums: Iterable[descriptor_pb2.EnumDescriptorProto], prefix: str) -> Iterator[str]:
    for enum in enums:
        yield prefix + enum.name
        yield from (prefix + value.name for value in enum.value)


def _extensions(holder: Any) -> Iterator[tuple[str, int]]:
    for each in holder.extension:
        yield each.extendee.lstrip("."), each.number
    nested = holder.message_type if isinstance(holder, descriptor_pb2.FileDescriptorProto) else holder.nested_type
    for message in nested:
        yield from _extensions(message)
