"""The OAuth2 endpoints as an ASGI application, served on a unix socket behind the gateway.

Rule 1: sizes are checked before anything is read or parsed; a form field that comes twice is refused (RFC 6749 §3.2).
Rule 2: an assertion's `jti` is claimed on all nodes before an answer is given; if nobody can tell, nobody gets in (503).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl

from lgsp.api.errors import BusError
from lgsp.gateway.oauth.server import ASSERTION_ALGORITHMS, AuthorizationServer, Request

MAX_BODY: Final = 64 * 1024
MAX_FIELDS: Final = 20
_FORM: Final = "application/x-www-form-urlencoded"
_JSON: Final = [(b"content-type", b"application/json"), (b"cache-control", b"no-store"), (b"pragma", b"no-cache")]
Answer = tuple[int, dict[str, Any], list[tuple[str, str]]]


class Once(Protocol):
    """Who remembers one-time names for all nodes."""

    async def claim_once(self, name: str, ttl_s: float) -> bool: ...


class _RefusedError(Exception):
    def __init__(self, status: int, error: str, description: str) -> None:
        self.answer: Answer = (status, {"error": error, "error_description": description}, [])


class OAuthApp:
    """`revoke(jti, exp)` writes a revocation and returns once it holds at this node's gateway."""

    def __init__(self, server: AuthorizationServer, once: Once, revoke: Callable[[str, int], Awaitable[None]]) -> None:
        self._server, self._once, self._revoke = server, once, revoke
        self._posts: dict[str, Callable[[Request], Answer]] = {
            "/oauth2/token": server.token,
            "/oauth2/introspect": lambda request: server.endpoint("introspection", request),
            "/oauth2/revoke": lambda request: server.endpoint("revocation", request),
        }
        self._gets: dict[str, Callable[[], dict[str, Any]]] = {
            "/.well-known/oauth-authorization-server": self._metadata,
            "/.well-known/jwks.json": lambda: {"keys": server.public_keys()},
        }

    async def __call__(self, scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] != "http":
            return
        try:
            status, body, headers = await self._answer(scope, receive)
        except _RefusedError as refused:
            status, body, headers = refused.answer
        except BusError as error:
            status, headers = 503, [("retry-after", "1")]
            body = {"error": "temporarily_unavailable", "error_description": error.detail, "reason": error.reason.name}
        extra = [(k.lower().encode(), v.encode()) for k, v in headers if k.lower() not in _OURS]
        content = json.dumps(body).encode()
        length = [(b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": _JSON + length + extra})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, scope: dict[str, Any], receive: Callable[..., Any]) -> Answer:
        path, method = scope["path"], scope["method"]
        if path in self._gets:
            if method not in ("GET", "HEAD"):
                raise _RefusedError(405, "invalid_request", "use GET here")
            return 200, self._gets[path](), []
        if path not in self._posts:
            raise _RefusedError(404, "invalid_request", "no such endpoint")
        if method != "POST":
            raise _RefusedError(405, "invalid_request", "use POST here")
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        request = Request(path, await _form(headers, receive), _canonical(headers))
        answer = self._posts[path](request)
        if answer[0] == 200:
            await self._settle(request)
        return answer

    async def _settle(self, request: Request) -> None:
        """What needs I/O before a good answer may leave."""
        if request.claim is not None:
            client, jti, lifetime = request.claim
            if not await self._once.claim_once(f"{client} {jti}", max(1.0, lifetime)):
                raise _RefusedError(
                    401, "invalid_client", "the assertion was used before: make a new one for each request"
                )
        if request.revoked is not None:
            await self._revoke(*request.revoked)

    def _metadata(self) -> dict[str, Any]:
        """RFC 8414."""
        issuer, methods = self._server.issuer, self._server.auth_methods
        return {
            "issuer": issuer,
            "token_endpoint": f"{issuer}/oauth2/token",
            "introspection_endpoint": f"{issuer}/oauth2/introspect",
            "revocation_endpoint": f"{issuer}/oauth2/revoke",
            "jwks_uri": f"{issuer}/.well-known/jwks.json",
            "grant_types_supported": ["client_credentials"],
            "response_types_supported": [],
            **{
                f"{endpoint}_endpoint_auth_{what}": value
                for endpoint in ("token", "introspection", "revocation")
                for what, value in (
                    ("methods_supported", methods),
                    ("signing_alg_values_supported", ASSERTION_ALGORITHMS),
                )
            },
        }


_OURS: Final = frozenset({"content-type", "cache-control", "pragma", "content-length"})


def _canonical(headers: dict[str, str]) -> dict[str, str]:
    """authlib looks for `Authorization` in this spelling."""
    return {"Authorization": headers["authorization"]} if "authorization" in headers else {}


async def _form(headers: dict[str, str], receive: Callable[..., Any]) -> dict[str, str]:
    if headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise _RefusedError(400, "invalid_request", f"the body must be {_FORM}")
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _RefusedError(400, "invalid_request", "the body ended early")
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise _RefusedError(413, "invalid_request", f"the body is larger than {MAX_BODY} bytes")
        if not message.get("more_body"):
            break
    try:
        pairs = parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except (UnicodeDecodeError, ValueError):
        raise _RefusedError(
            400, "invalid_request", f"the form cannot be read, or has more than {MAX_FIELDS} fields"
        ) from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise _RefusedError(400, "invalid_request", "a parameter comes twice (RFC 6749 §3.2)")
    return form
