"""What was used last, up to so many bytes. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class Recent:
    """Keeps contents by name; when they are more than `limit` bytes, those that were not used longest go."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._held: OrderedDict[str, bytes] = OrderedDict()

    def get(self, name: str) -> bytes | None:
        """The content, or None when it is not kept."""
        content = self._held.get(name)
        if content is not None:
            self._held.move_to_end(name)
        return content

    def put(self, name: str, content: bytes) -> None:
        """Keep it as the one used last."""
        self._size += len(content) - len(self._held.pop(name, b""))
        self._held[name] = content
        while self._size > self._limit:
            _, gone = self._held.popitem(last=False)
            self._size -= len(gone)


class Made:
    """What was made of contracts and used last, as long as those have `limit` bytes together."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._kept: OrderedDict[tuple[Any, ...], tuple[int, Any]] = OrderedDict()

    def of(self, key: tuple[Any, ...], size: int, make: Callable[[], T]) -> T:
        """What is kept under the key, or `make` of a contract of `size` bytes."""
        if key not in self._kept:
            self._kept[key] = size, make()
            self._size += size
        self._kept.move_to_end(key)
        found: T = self._kept[key][1]
        while self._size > self._limit:
            _, (gone, _) = self._kept.popitem(last=False)
            self._size -= gone
        return found
