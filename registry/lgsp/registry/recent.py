"""What was used last, up to so many bytes. Pure."""

from __future__ import annotations

from collections import OrderedDict


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
