"""OAuth2 error codes → HTTP status → our stable reason: one row each; every refusal leaves through `answer`.

The reasons are rows of `lgsp.api.errors.TABLE`.
"""

from __future__ import annotations

import re
from typing import Any, Final

from lgsp.api.errors import TABLE

Answer = tuple[int, dict[str, Any], list[tuple[str, str]]]

ROWS: Final[dict[str, tuple[int, str]]] = {
    "invalid_client": (401, "CLIENT_REFUSED"),
    "unauthorized_client": (400, "CLIENT_REFUSED"),
    "invalid_request": (400, "REQUEST_MALFORMED"),
    "invalid_scope": (400, "REQUEST_MALFORMED"),
    "unsupported_grant_type": (400, "REQUEST_MALFORMED"),
    "unsupported_token_type": (400, "REQUEST_MALFORMED"),
    "invalid_grant": (400, "NOT_OWNER"),
    "temporarily_unavailable": (503, "REGISTRY_UNAVAILABLE"),
    "server_error": (500, "INTERNAL"),
}
# RFC 6749 §5.2: error_description is %x20-21 / %x23-5B / %x5D-7E.
_OUTSIDE: Final = re.compile(r"[^\x20-\x21\x23-\x5b\x5d-\x7e]")


class RefusedError(Exception):
    """A refusal; `status` and `reason` default to those of the error's row."""

    def __init__(self, error: str, description: str, status: int = 0, reason: str = "", **headers: str) -> None:
        super().__init__(error)
        self.error, self.description, self.status, self.reason = error, description, status, reason
        self.headers = [(name.replace("_", "-"), value) for name, value in headers.items()]


def answer(refused: RefusedError) -> Answer:
    """Status, JSON body and headers."""
    status, reason = ROWS[refused.error]
    reason = refused.reason or reason
    description = refused.description or (TABLE[reason].message if reason in TABLE else refused.error)
    body = {
        "error": refused.error,
        "error_description": _OUTSIDE.sub("?", description)[:500],
        "reason": reason,
    }
    return refused.status or status, body, refused.headers
