"""Access tokens: fetched with a client assertion, kept, renewed at two thirds of their life, one request at a time."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import httpx

from lgsp.client.errors import TokenRefusedError
from lgsp.client.identity import Identity

_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_TIMEOUT_S: Final = 10.0
_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Token:
    """`renew_at` and `ends_at` are on the monotonic clock."""

    value: str = field(repr=False)
    renew_at: float
    ends_at: float


class _Source:
    def __init__(self, identity: Identity, token_url: str) -> None:
        self.identity, self.token_url = identity, token_url
        self.token: Token | None = None

    def fresh(self, rejected: str | None) -> str | None:
        """The token in hand, unless it is due for renewal or is the one just rejected."""
        token = self.token
        usable = token is not None and time.monotonic() < token.renew_at and token.value != rejected
        return token.value if token is not None and usable else None

    def usable(self, rejected: str | None) -> str | None:
        """Still valid though due: good enough when the token endpoint is away."""
        token = self.token
        valid = token is not None and time.monotonic() < token.ends_at - 2 and token.value != rejected
        return token.value if token is not None and valid else None

    def form(self) -> dict[str, str]:
        assertion = self.identity.assertion(self.token_url)
        return {"grant_type": "client_credentials", "client_assertion_type": _TYPE, "client_assertion": assertion}

    def take(self, response: httpx.Response, asked_at: float) -> str:
        """Keep a good answer; TokenRefusedError for a bad one."""
        body: Any = _json(response)
        if response.status_code != 200:
            error, text = body.get("error", f"HTTP {response.status_code}"), body.get("error_description", "")
            code = grpc.StatusCode.UNAVAILABLE if response.status_code >= 500 else grpc.StatusCode.UNAUTHENTICATED
            initial = [("x-request-id", response.headers.get("x-request-id", ""))]
            raise TokenRefusedError(
                code, f"no token for {self.identity.system}: {error}: {text}", initial, (), body.get("reason")
            )
        life = float(body["expires_in"])
        self.token = Token(body["access_token"], asked_at + life * 2 / 3, asked_at + life)
        return self.token.value


class AsyncTokens(_Source):
    """For asyncio."""

    def __init__(self, identity: Identity, token_url: str, trust: ssl.SSLContext) -> None:
        super().__init__(identity, token_url)
        self._http = httpx.AsyncClient(verify=trust, timeout=_TIMEOUT_S)
        self._lock = asyncio.Lock()

    async def get(self, rejected: str | None = None) -> str:
        """A token; never `rejected` again."""
        if kept := self.fresh(rejected):
            return kept
        async with self._lock:
            return self.fresh(rejected) or await self._fetch(rejected)

    async def _fetch(self, rejected: str | None) -> str:
        for attempt in range(1, _TRIES + 1):
            asked_at = time.monotonic()
            try:
                return self.take(await self._http.post(self.token_url, data=self.form()), asked_at)
            except (httpx.HTTPError, TokenRefusedError) as error:
                if attempt == _TRIES or not _passing(error):
                    if kept := self.usable(rejected):
                        return kept
                    raise _refusal(self.identity, error) from error
            await asyncio.sleep(0.2 * attempt)
        raise AssertionError("unreachable")

    async def close(self) -> None:
        await self._http.aclose()


class SyncTokens(_Source):
    """For threads."""

    def __init__(self, identity: Identity, token_url: str, trust: ssl.SSLContext) -> None:
        super().__init__(identity, token_url)
        self._http = httpx.Client(verify=trust, timeout=_TIMEOUT_S)
        self._lock = threading.Lock()

    def get(self, rejected: str | None = None) -> str:
        """A token; never `rejected` again."""
        if kept := self.fresh(rejected):
            return kept
        with self._lock:
            return self.fresh(rejected) or self._fetch(rejected)

    def _fetch(self, rejected: str | None) -> str:
        for attempt in range(1, _TRIES + 1):
            asked_at = time.monotonic()
            try:
                return self.take(self._http.post(self.token_url, data=self.form()), asked_at)
            except (httpx.HTTPError, TokenRefusedError) as error:
                if attempt == _TRIES or not _passing(error):
                    if kept := self.usable(rejected):
                        return kept
                    raise _refusal(self.identity, error) from error
            time.sleep(0.2 * attempt)
        raise AssertionError("unreachable")

    def close(self) -> None:
        self._http.close()


def _passing(error: Exception) -> bool:
    """True for what may be over at the next try."""
    return isinstance(error, httpx.HTTPError) or (
        isinstance(error, TokenRefusedError) and error.code() is grpc.StatusCode.UNAVAILABLE
    )


def _refusal(identity: Identity, error: Exception) -> TokenRefusedError:
    if isinstance(error, TokenRefusedError):
        return error
    text = f"no token for {identity.system}: the gateway's token endpoint cannot be reached ({type(error).__name__})"
    return TokenRefusedError(grpc.StatusCode.UNAVAILABLE, text, (), (), None)


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
