"""A form as a request's body, read within limits. Sizes are checked before anything is read or parsed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final
from urllib.parse import parse_qsl

from lgsp.gateway.oauth.refusals import RefusedError

MAX_BODY: Final = 64 * 1024
MAX_FIELDS: Final = 20
_FORM: Final = "application/x-www-form-urlencoded"
# A header that must not come twice: which of the two counts would be anybody's guess.
_ONCE: Final = frozenset({"authorization", "content-type", "content-length"})
Receive = Callable[[], Awaitable[dict[str, Any]]]


def headers_of(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Header names in lower case."""
    headers: dict[str, str] = {}
    for key, value in raw:
        name = key.decode("latin-1").lower()
        if name in _ONCE and name in headers:
            raise RefusedError("invalid_request", f"the header {name} comes twice")
        headers[name] = value.decode("latin-1")
    return headers


async def read_form(headers: dict[str, str], receive: Receive) -> dict[str, str]:
    """The fields that have a value, each once (RFC 6749 §3.2)."""
    if headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise RefusedError("invalid_request", f"the body must be {_FORM}")
    announced = headers.get("content-length", "0")
    if len(announced) > 9 or (announced.isdecimal() and int(announced) > MAX_BODY):
        raise _too_large()
    try:
        text = (await _body(receive)).decode("utf-8")
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except ValueError:  # UnicodeDecodeError is one
        raise RefusedError(
            "invalid_request", f"the form cannot be read, or has more than {MAX_FIELDS} fields"
        ) from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise RefusedError("invalid_request", "a parameter comes twice (RFC 6749 section 3.2)")
    return {name: value for name, value in form.items() if value}


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedError("invalid_request", "the body ended early")
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise _too_large()
        if not message.get("more_body"):
            return bytes(body)


def _too_large() -> RefusedError:
    return RefusedError("invalid_request", f"the body is larger than {MAX_BODY} bytes", 413, "REQUEST_TOO_LARGE")
