"""Pages of a kind in the order of keys (AIP-158): the token is the last key seen, opaque and bound to the request."""

from __future__ import annotations

import base64
import binascii
import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from lgsp.api.errors import BusError
from lgsp.registry.state import Entry, State

DEFAULT_SIZE, MAX_SIZE = 100, 1000
_DIGEST: Final = 8
# Of MAX_SIZE entries each, looked at for one page.
_CHUNKS: Final = 10


def page(
    state: State,
    kind: str,
    request: Any,
    wanted: Callable[[Entry], bool] = lambda entry: True,
    among: Iterable[str] | None = None,
) -> tuple[list[Entry], str]:
    """One page of the entries that are wanted, and the token of the next (empty at the end).

    `among` are the keys where an index tells; without it a page may be short, or empty, though more follow: nobody's request
    looks through a whole city at once (AIP-158 allows it).
    """
    if request.page_size < 0:
        raise BusError("REQUEST_MALFORMED", "page_size is negative")
    size = min(request.page_size or DEFAULT_SIZE, MAX_SIZE)
    after, found = opened(request), list[tuple[str, Entry]]()
    if among is not None:
        keys = sorted(each for each in among if each > after)
        found = [(key, entry) for key in keys if (entry := state.get(kind, key)) is not None and wanted(entry)]
        return [entry for _, entry in found[:size]], seal(request, found[size - 1][0]) if len(found) > size else ""
    for _ in range(_CHUNKS):
        chunk = state.page(kind, after, MAX_SIZE)
        found += [each for each in chunk if wanted(each[1])]
        if len(found) > size:
            return [entry for _, entry in found[:size]], seal(request, found[size - 1][0])
        if len(chunk) < MAX_SIZE:
            return [entry for _, entry in found], ""
        after = chunk[-1][0]
    return [entry for _, entry in found], seal(request, after)


def page_of(keys: Sequence[str], request: Any) -> tuple[Sequence[str], str]:
    """One page of sorted keys that no kind of record has, and the token of the next."""
    if request.page_size < 0:
        raise BusError("REQUEST_MALFORMED", "page_size is negative")
    size, after = min(request.page_size or DEFAULT_SIZE, MAX_SIZE), opened(request)
    start = bisect_right(keys, after) if after else 0
    found = keys[start : start + size]
    return found, seal(request, found[-1]) if len(keys) > start + size else ""


def _binding(request: Any, key: bytes) -> bytes:
    """A digest of what the pages are of, the kind of request and all in it but the page itself, and of where this one begins."""
    bare = type(request)()
    bare.CopyFrom(request)
    bare.page_token, bare.page_size = "", 0
    what = type(request).DESCRIPTOR.full_name.encode() + b"\0" + bare.SerializeToString(deterministic=True)
    return hashlib.sha256(what + b"\0" + key).digest()[:_DIGEST]


def seal(request: Any, key: str) -> str:
    """The token of the page that follows `key`."""
    return base64.urlsafe_b64encode(_binding(request, key.encode()) + key.encode()).decode()


def opened(request: Any) -> str:
    """The key that the request's token names; empty for the first page, PAGE_TOKEN_INVALID for a token of another request."""
    if not request.page_token:
        return ""
    try:
        raw = base64.b64decode(request.page_token, altchars=b"-_", validate=True)
        digest, key = raw[:_DIGEST], raw[_DIGEST:].decode()
    except (binascii.Error, ValueError):
        raise BusError("PAGE_TOKEN_INVALID") from None
    if digest != _binding(request, key.encode()) or not key:
        raise BusError("PAGE_TOKEN_INVALID")
    return key
