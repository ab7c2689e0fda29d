"""Pages of a kind in the order of keys (AIP-158): the token is the last key seen, opaque and bound to the request."""

from __future__ import annotations

import base64
import binascii
import hashlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any, Final

from lgsp.api.errors import BusError
from lgsp.registry.state import Entry, State

DEFAULT_SIZE, MAX_SIZE = 100, 1000
_DIGEST: Final = 8


def page(
    state: State, kind: str, request: Any, wanted: Callable[[Entry], bool] = lambda entry: True
) -> tuple[list[Entry], str]:
    """One page of the entries that are wanted, and the token of the next (empty at the end)."""
    if request.page_size < 0:
        raise BusError("REQUEST_MALFORMED", "page_size is negative")
    size = min(request.page_size or DEFAULT_SIZE, MAX_SIZE)
    after, found = _open(request), list[tuple[str, Entry]]()
    while len(found) <= size:
        chunk = state.page(kind, after, MAX_SIZE)
        found += [each for each in chunk if wanted(each[1])]
        if len(chunk) < MAX_SIZE:
            break
        after = chunk[-1][0]
    token = _seal(request, found[size - 1][0]) if len(found) > size else ""
    return [entry for _, entry in found[:size]], token


def page_of(keys: Sequence[str], request: Any) -> tuple[Sequence[str], str]:
    """One page of sorted keys that no kind of record has, and the token of the next."""
    if request.page_size < 0:
        raise BusError("REQUEST_MALFORMED", "page_size is negative")
    size, after = min(request.page_size or DEFAULT_SIZE, MAX_SIZE), _open(request)
    start = bisect_right(keys, after) if after else 0
    found = keys[start : start + size]
    return found, _seal(request, found[-1]) if len(keys) > start + size else ""


def _binding(request: Any, key: bytes) -> bytes:
    """A digest of what the pages are of, everything in the request but the page itself, and of where this one begins."""
    bare = type(request)()
    bare.CopyFrom(request)
    bare.page_token, bare.page_size = "", 0
    return hashlib.sha256(bare.SerializeToString(deterministic=True) + b"\0" + key).digest()[:_DIGEST]


def _seal(request: Any, key: str) -> str:
    return base64.urlsafe_b64encode(_binding(request, key.encode()) + key.encode()).decode()


def _open(request: Any) -> str:
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
