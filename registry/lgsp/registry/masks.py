"""Field masks: which leaves of a response a grant's paths stand for. Pure.

A leaf is a field below which nothing is told apart: a scalar, a map, a well-known type, an empty message. A mask is kept as
paths and expanded to leaves with the contract in force, so that a field added inside a message that a path names is seen
only if the path names it: see `expand`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from lgsp.api.errors import BusError

MAX_PATHS: Final = 200
MAX_LEAVES: Final = 2000
_MAX_PATH: Final = 500
_MAX_DEPTH: Final = 64


def leaves(message: Descriptor) -> tuple[str, ...]:
    """The leaf paths of a message, in the order of its fields; MASK_INVALID when it contains itself or is too large."""
    found: list[str] = []
    _collect(message, "", (), found)
    return tuple(found)


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


def _collect(message: Descriptor, prefix: str, above: tuple[str, ...], found: list[str]) -> None:
    if message.full_name in above:
        raise BusError("MASK_INVALID", f"{message.full_name} contains itself: its fields cannot be masked")
    if len(above) >= _MAX_DEPTH:
        raise BusError("MASK_INVALID", f"the response is deeper than {_MAX_DEPTH} messages: too deep to mask")
    for field in message.fields:
        path = f"{prefix}{field.name}"
        inner = _inner(field)
        if inner is None:
            found.append(path)
        else:
            _collect(inner, f"{path}.", (*above, message.full_name), found)
        if len(found) > MAX_LEAVES:
            raise BusError("MASK_INVALID", f"the response has more than {MAX_LEAVES} fields: too many to mask")


def _inner(field: FieldDescriptor) -> Descriptor | None:
    """The message to descend into; None for a leaf."""
    inner = field.message_type
    if inner is None or not inner.fields or inner.GetOptions().map_entry:
        return None
    return None if inner.full_name.startswith("google.protobuf.") else inner
