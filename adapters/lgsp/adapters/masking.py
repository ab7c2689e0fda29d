"""What a consumer may not see leaves a response before it leaves the provider: the first wall. Pure.

It works on the wire format (protobuf.dev/programming-guides/encoding), so that it is the same for every kind of handler,
and so that what is not named goes whatever it is: unknown fields, extensions, fields of a contract not published yet.

Rule 1: only what a tree names is copied; everything else is left out, and with it messages of which nothing may be seen.
Rule 2: bytes that are no message are not passed on (PROVIDER_FAULT); a group (proto2) counts as such.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol, TypeAlias

from lgsp.api.errors import BusError

# Field number → what is seen below it; None is all of it, an empty tree only that it is there.
Tree: TypeAlias = "dict[int, Tree | None]"
_VARINT, _FIXED64, _MESSAGE, _FIXED32 = 0, 1, 2, 5
_FIXED: Final = {_FIXED64: 8, _FIXED32: 4}


class Leaf(Protocol):
    """What a view names: see lgsp.api.registry.v1.Leaf."""

    @property
    def numbers(self) -> Sequence[int]: ...
    @property
    def hollow(self) -> bool: ...


def tree_of(leaves: Iterable[Leaf]) -> Tree:
    """The tree of what a view names."""
    root: Tree = {}
    for leaf in leaves:
        at: Tree = root
        for number in leaf.numbers[:-1]:
            below = at.get(number)
            if below is None:
                below = at[number] = {}
            at = below
        at[leaf.numbers[-1]] = {} if leaf.hollow else None
    return root


def keep(message: bytes, tree: Tree) -> bytes:
    """The serialized message with only what `tree` names."""
    out = bytearray()
    try:
        _keep(memoryview(message), tree, out)
    except (IndexError, ValueError):
        raise BusError("PROVIDER_FAULT", "the response is no message that could be masked") from None
    return bytes(out)


def _keep(view: memoryview, tree: Tree, out: bytearray) -> None:
    at, end = 0, len(view)
    while at < end:
        start = at
        tag, at = _varint(view, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            content, (_, at) = at, _varint(view, at)
        elif kind == _MESSAGE:
            length, content = _varint(view, at)
            at = content + length
        else:
            content, at = at, at + _fixed(kind)
        if number == 0 or at > end:
            raise ValueError("cut, or no field")
        if number not in tree:
            continue
        below = tree[number]
        if below is None:
            out += view[start:at]
        elif kind == _MESSAGE:
            inner = bytearray()
            _keep(view[content:at], below, inner)
            _put_varint(out, tag)
            _put_varint(out, len(inner))
            out += inner


def _fixed(kind: int) -> int:
    if kind not in _FIXED:
        raise ValueError("a group, or no kind of field")
    return _FIXED[kind]


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """Value and the position behind it."""
    value = shift = 0
    while True:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("too long")


def _put_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
