"""Names as short as they still mean the same: protobuf looks from the innermost scope outwards for the first part. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf import descriptor_pb2


class Symbols:
    """Every name of a contract that can hold others or be a type."""

    def __init__(self, files: Iterable[descriptor_pb2.FileDescriptorProto]) -> None:
        self._known: set[str] = set()
        for file in files:
            self._known.update(_packages(file.package))
            for message in file.message_type:
                self._known.update(_types(message, file.package))
            self._known.update(_joined(file.package, each.name) for each in file.enum_type)
            self._known.update(_joined(file.package, each.name) for each in file.service)

    def shortest(self, full: str, scope: str) -> str:
        """`full` as written inside `scope`."""
        for outer in _outwards(scope):
            inside = full[len(outer) + 1 :] if outer else full
            if (not outer or full.startswith(f"{outer}.")) and self._means(inside, scope) == full:
                return inside
        return f".{full}"

    def _means(self, name: str, scope: str) -> str | None:
        first = name.partition(".")[0]
        for outer in _outwards(scope):
            if _joined(outer, first) in self._known:
                found = _joined(outer, name)
                return found if found in self._known else None
        return None


def _outwards(scope: str) -> Iterator[str]:
    while scope:
        yield scope
        scope = scope.rpartition(".")[0]
    yield ""


def _packages(package: str) -> Iterator[str]:
    return (each for each in _outwards(package) if each)


def _types(message: Any, scope: str) -> Iterator[str]:
    full = _joined(scope, message.name)
    yield full
    yield from (_joined(full, each.name) for each in message.enum_type)
    for nested in message.nested_type:
        yield from _types(nested, full)


def _joined(scope: str, name: str) -> str:
    return f"{scope}.{name}" if scope else name
