"""The OAuth2 endpoints as an ASGI application, served on a unix socket behind the gateway.

Rule 1: sizes are checked before anything is read or parsed; a form field that comes twice is refused (RFC 6749 §3.2).
Rule 2: an assertion's `jti` is claimed on all nodes before an answer is given; if nobody can tell, nobody gets in (503).
Rule 3: no answer says more about a failure of ours than its reason, and no log line holds what a caller sent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from lgsp.api.errors import BusError
from lgsp.gateway.oauth.form import headers_of, read_form
from lgsp.gateway.oauth.refusals import Answer, RefusedError, answer
from lgsp.gateway.oauth.server import ASSERTION_ALGORITHMS, AuthorizationServer, Request

_log = logging.getLogger("lgsp.oauth")
_JSON: Final = [(b"content-type", b"application/json"), (b"cache-control", b"no-store"), (b"pragma", b"no-cache")]
_OURS: Final = frozenset({"content-type", "cache-control", "pragma", "content-length"})


class Once(Protocol):
    """Who knows the systems, once `synced`, and remembers one-time names for all nodes."""

    synced: asyncio.Event

    async def claim_once(self, name: str, ttl_s: float) -> bool: ...


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
        status, body, headers = await self._safely(scope, receive)
        extra = [(k.lower().encode(), v.encode()) for k, v in headers if k.lower() not in _OURS]
        content = json.dumps(body).encode()
        length = [(b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": _JSON + length + extra})
        await send({"type": "http.response.body", "body": content})

    async def _safely(self, scope: dict[str, Any], receive: Callable[..., Any]) -> Answer:
        try:
            return await self._answer(scope, receive)
        except RefusedError as refused:
            return answer(refused)
        except BusError as error:
            _log.warning("no token service: %s", error.reason.name)
            return answer(
                RefusedError("temporarily_unavailable", error.detail, reason=error.reason.name, retry_after="1")
            )
        except Exception as error:
            # Where, not what: an exception's text can hold what the caller sent.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            _log.error("unexpected %s at %s:%s", type(error).__name__, frame.filename, frame.lineno)
            return answer(RefusedError("server_error", ""))

    async def _answer(self, scope: dict[str, Any], receive: Callable[..., Any]) -> Answer:
        path, method = scope["path"], scope["method"]
        if path in self._gets:
            if method not in ("GET", "HEAD"):
                raise RefusedError("invalid_request", "use GET here", 405, allow="GET, HEAD")
            return 200, self._gets[path](), []
        if path not in self._posts:
            raise RefusedError("invalid_request", "no such endpoint", 404, "METHOD_UNKNOWN")
        if method != "POST":
            raise RefusedError("invalid_request", "use POST here", 405, allow="POST")
        headers = headers_of(scope["headers"])
        request = Request(path, await read_form(headers, receive), _canonical(headers))
        if not self._once.synced.is_set():
            # Whoever is not known yet, or was revoked since the copy on disk, cannot be told apart.
            raise BusError("REGISTRY_UNAVAILABLE", "this node has not read the registry yet")
        status, body, extra = self._posts[path](request)
        if status != 200:
            raise self._refusal(request, body)
        await self._settle(request)
        return status, body, extra

    def _refusal(self, request: Request, body: dict[str, Any]) -> RefusedError:
        error, description = body["error"], body.get("error_description", "")
        if error == "invalid_client" and "Authorization" in request.headers:
            return RefusedError(error, description, www_authenticate=f'Basic realm="{self._server.issuer}"')
        return RefusedError(error, description)

    async def _settle(self, request: Request) -> None:
        """What needs I/O before a good answer may leave."""
        if request.claim is not None:
            client, jti, lifetime = request.claim
            if not await self._once.claim_once(f"{client} {jti}", max(1.0, lifetime)):
                raise RefusedError("invalid_client", "the assertion was used before: make a new one for each request")
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


def _canonical(headers: dict[str, str]) -> dict[str, str]:
    """authlib looks for `Authorization` in this spelling."""
    return {"Authorization": headers["authorization"]} if "authorization" in headers else {}
