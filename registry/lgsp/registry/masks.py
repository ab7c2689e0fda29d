"""Field masks: which leaves of a response a grant's paths stand for. Pure.

A leaf is a field below which nothing is told apart: a scalar, a map of scalars, a well-known type, a message without fields.
A map of messages is descended as Envoy does it: `homes.value.street`. A mask is kept as paths and expanded to leaves with the
contract in force, so that a field added inside a message that a path names is seen only if the path names it: see `expand`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from lgsp.api.errors import BusError

MAX_PATHS: Final = 200
MAX_LEAVES: Final = 2000
_MAX_PATH: Final = 500
_MAX_DEPTH: Final = 64
_KEY, _VALUE = 1, 2


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf's path, and the same as field numbers; `keys` lead to the keys of the maps above it.

    `hollow` is a message that has no fields: what it holds all the same is not shown.
    """

    path: str
    numbers: tuple[int, ...]
    keys: tuple[tuple[int, ...], ...] = ()
    hollow: bool = False


def leaf_fields(message: Descriptor) -> tuple[Leaf, ...]:
    """The leaves of a message, in the order of its fields; MASK_INVALID when they cannot be told apart."""
    found: list[Leaf] = []
    _collect(message, Leaf("", ()), (), found)
    return tuple(found)


def with_keys(named: Iterable[Leaf]) -> list[Leaf]:
    """The leaves, and as leaves the keys of the maps above them."""
    given = list(named)
    above = {
        numbers: Leaf(f"{'.'.join(leaf.path.split('.')[: len(numbers) - 1])}.key", numbers)
        for leaf in given
        for numbers in leaf.keys
    }
    return [*given, *above.values()]


def leaves(message: Descriptor) -> tuple[str, ...]:
    """The paths of `leaf_fields`."""
    return tuple(leaf.path for leaf in leaf_fields(message))


def expand(message: Descriptor, paths: Iterable[str]) -> frozenset[str]:
    """The leaves that `paths` name: a path to a message stands for all its leaves. MASK_INVALID names what is wrong."""
    known, wanted = leaves(message), list(paths)
    if not 0 < len(wanted) <= MAX_PATHS:
        raise BusError("MASK_INVALID", f"a mask names 1 to {MAX_PATHS} fields")
    kept: set[str] = set()
    for path in wanted:
        below = [leaf for leaf in known if leaf == path or leaf.startswith(f"{path}.")]
        if not below or len(path) > _MAX_PATH:
            raise BusError("MASK_INVALID", f"{message.full_name} has no field {path[:64]!r} that a mask could name")
        kept.update(below)
    return frozenset(kept)


def _collect(message: Descriptor, above: Leaf, types: tuple[str, ...], found: list[Leaf]) -> None:
    if message.full_name in types:
        raise BusError("MASK_INVALID", f"{message.full_name} contains itself: its fields cannot be masked")
    if len(types) >= _MAX_DEPTH:
        raise BusError("MASK_INVALID", f"the response is deeper than {_MAX_DEPTH} messages: too deep to mask")
    for field in message.fields:
        if field.type == FieldDescriptor.TYPE_GROUP:
            raise BusError("MASK_INVALID", f"{field.full_name} is a group: a response with groups cannot be masked")
        _collect_field(field, above, (*types, message.full_name), found)
        if len(found) > MAX_LEAVES:
            raise BusError("MASK_INVALID", f"the response has more than {MAX_LEAVES} fields: too many to mask")


def _collect_field(field: FieldDescriptor, above: Leaf, types: tuple[str, ...], found: list[Leaf]) -> None:
    path, numbers, keys, inner = (
        f"{above.path}{field.name}",
        (*above.numbers, field.number),
        above.keys,
        field.message_type,
    )
    if inner is not None and inner.GetOptions().map_entry:
        inner = inner.fields_by_name["value"].message_type
        if inner is not None and not _is_well_known(inner):
            path, keys, numbers = f"{path}.value", (*keys, (*numbers, _KEY)), (*numbers, _VALUE)
    if inner is None or _is_well_known(inner) or not inner.fields:
        found.append(Leaf(path, numbers, keys, hollow=inner is not None and not _is_well_known(inner)))
    else:
        _collect(inner, Leaf(f"{path}.", numbers, keys), types, found)


def _is_well_known(message: Descriptor) -> bool:
    return message.file.package == "google.protobuf"
