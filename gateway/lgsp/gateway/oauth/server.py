"""The authorization server: authlib's grants and endpoints over the registry's systems. No I/O of its own.

RFC 6749 §4.4 (client_credentials), RFC 7523 §2.2 (private_key_jwt), RFC 9068 (access tokens), RFC 7009, RFC 7662.
An assertion's `jti` is only noted here; the app claims it on all nodes before anything is answered.
"""

from __future__ import annotations

import json
import secrets as random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from authlib.oauth2.rfc6749 import AuthorizationServer as BaseServer
from authlib.oauth2.rfc6749 import InvalidClientError, InvalidRequestError, OAuth2Request
from authlib.oauth2.rfc6749.grants import ClientCredentialsGrant
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc6749.util import extract_basic_authorization
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from authlib.oauth2.rfc7523.client import ASSERTION_TYPE
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from authlib.oauth2.rfc9068 import JWTBearerTokenGenerator
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet
from joserfc.jws import JWSRegistry

from lgsp.api.registry.v1.registry_pb2 import System
from lgsp.gateway.oauth.keys import ALGORITHM, TOKEN_SECONDS
from lgsp.gateway.oauth.secrets import matches
from lgsp.registry.identifiers import agency_of

ASSERTION_ALGORITHMS: Final = ["ES256", "PS256", "EdDSA", "Ed25519"]
ASSERTION_SECONDS: Final = 300
LEEWAY_S: Final = 10
_MAX_ASSERTION: Final = 8192
_MAX_JTI: Final = 256
PRIVATE_KEY_JWT, CLIENT_SECRET = "private_key_jwt", "client_secret_basic"
# What text that is no JWT makes joserfc raise, besides its own errors; RecursionError from deeply nested JSON.
_UNREADABLE: Final = (JoseError, ValueError, TypeError, KeyError, AttributeError, RecursionError)


class _Algorithms(JWSRegistry):
    def get_alg(self, name: str) -> Any:
        # joserfc warns at every use of the name that RFC 9864 replaces by Ed25519; clients still send it.
        if name == "EdDSA" and self.allowed and name in self.allowed:
            return self.algorithms[name]
        return super().get_alg(name)


_REGISTRY: Final = _Algorithms(algorithms=ASSERTION_ALGORITHMS)


@dataclass(slots=True)
class Request:
    """One request as the app read it: form fields once each, header names in lower case."""

    path: str
    form: dict[str, str]
    headers: dict[str, str]
    # Filled while the client is authenticated: (client, jti, seconds) to claim before answering.
    claim: tuple[str, str, float] | None = None
    # Filled by the revocation endpoint: (jti, exp).
    revoked: tuple[str, int] | None = None


class _Wrapped(OAuth2Request):  # type: ignore[misc]
    def __init__(self, request: Request, issuer: str) -> None:
        super().__init__("POST", issuer + request.path, headers=request.headers)
        self.ours = request
        self.payload = BasicOAuth2Payload(request.form)

    @property
    def args(self) -> dict[str, str]:
        return {}

    @property
    def form(self) -> dict[str, str]:
        return self.ours.form


class Client:
    """A system in authlib's words."""

    def __init__(self, system: System) -> None:
        self.system = system

    def get_client_id(self) -> str:
        return self.system.id

    def get_allowed_scope(self, scope: str | None) -> str:
        return ""

    def check_grant_type(self, grant_type: str) -> bool:
        return bool(grant_type == ClientCredentialsGrant.GRANT_TYPE)

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method in {PRIVATE_KEY_JWT, CLIENT_SECRET}


@dataclass(slots=True)
class Token:
    """An access token of ours whose signature was checked."""

    claims: dict[str, Any]
    revoked: bool
    text: str = field(default="", repr=False)

    def check_client(self, client: Client) -> bool:
        return bool(self.claims["client_id"] == client.get_client_id())

    def is_expired(self) -> bool:
        return bool(self.claims["exp"] <= time.time())

    def is_revoked(self) -> bool:
        return self.revoked


class _Assertion(JWTBearerClientAssertion):  # type: ignore[misc]
    CLIENT_AUTH_METHOD = PRIVATE_KEY_JWT

    def __init__(self, server: AuthorizationServer) -> None:
        super().__init__(leeway=LEEWAY_S)
        self._server = server
        self._claims: dict[str, Any] = {}

    def __call__(self, query_client: Callable[[str], Client | None], request: _Wrapped) -> Client | None:
        if len(request.form.get("client_assertion", "")) > _MAX_ASSERTION:
            raise InvalidClientError(description=f"the assertion is longer than {_MAX_ASSERTION} bytes")
        client: Client | None = super().__call__(query_client, request)
        if client is not None:
            if request.form.get("client_id", client.get_client_id()) != client.get_client_id():
                raise InvalidClientError(
                    description="client_id differs from the assertion's sub (RFC 7521 section 4.2)"
                )
            lifetime = self._claims["exp"] - time.time() + LEEWAY_S
            request.ours.claim = (client.get_client_id(), self._claims["jti"], lifetime)
        return client

    def extract_assertion(self, assertion: str) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            headers, claims = super().extract_assertion(assertion)
        except _UNREADABLE as error:
            raise InvalidClientError(description="the assertion is no signed JWT") from error
        return headers, claims

    def get_audiences(self) -> list[str]:
        issuer = self._server.issuer
        return [issuer, f"{issuer}/oauth2/token"]

    def resolve_client_public_key(self, client: Client) -> KeySet:
        if not client.system.jwks:
            raise InvalidClientError(description="the system has no key: register one with `lgsp system create`")
        return KeySet.import_key_set(json.loads(client.system.jwks))

    def process_assertion_claims(self, assertion: str, resolve_key: Any) -> dict[str, Any]:
        try:
            token = jwt.decode(assertion, resolve_key, algorithms=ASSERTION_ALGORITHMS, registry=_REGISTRY)
        except _UNREADABLE as error:
            raise InvalidClientError(
                description=f"the assertion's signature was not accepted ({type(error).__name__}): sign with a "
                f"registered key, name its kid if there are several, and use one of {', '.join(ASSERTION_ALGORITHMS)}"
            ) from error
        self._claims = token.claims
        self._check_types(token.claims)
        self.verify_claims(token.claims)
        return self._claims

    def _check_types(self, claims: dict[str, Any]) -> None:
        now = time.time()
        expires, jti = claims.get("exp"), claims.get("jti")
        if isinstance(expires, bool) or not isinstance(expires, int | float):
            raise InvalidClientError(description="Missing claim: 'exp'")
        if expires > now + ASSERTION_SECONDS + LEEWAY_S:
            raise InvalidClientError(description=f"the assertion lives longer than {ASSERTION_SECONDS} s")
        if not isinstance(jti, str) or not 0 < len(jti) <= _MAX_JTI or not jti.isprintable():
            raise InvalidClientError(description=f"Missing claim: 'jti' (at most {_MAX_JTI} printable characters)")
        issued = claims.get("iat")
        if isinstance(issued, int | float) and issued > now + LEEWAY_S:
            raise InvalidClientError(description="the assertion is from the future: check the clock")

    def validate_jti(self, claims: dict[str, Any], jti: str) -> bool:
        return True  # claimed on all nodes by the app, because that needs I/O


class _Tokens(JWTBearerTokenGenerator):  # type: ignore[misc]
    def __init__(self, server: AuthorizationServer) -> None:
        super().__init__(
            server.issuer, alg=ALGORITHM, expires_generator=lambda client, grant: server.lifetime(client.system)
        )
        self._server = server

    def access_token_generator(self, client: Client, grant_type: str, user: object, scope: str) -> str:
        now, key = int(time.time()), self._server.signing_key()
        identity = client.get_client_id()
        claims = {
            "iss": self.issuer,
            "aud": self.issuer,
            "sub": identity,
            "client_id": identity,
            "agency": client.system.agency or agency_of(identity),
            "iat": now,
            "exp": now + self._server.lifetime(client.system),
            "jti": random.token_urlsafe(16),
        }
        return jwt.encode({"alg": ALGORITHM, "typ": "at+jwt", "kid": key.kid}, claims, key)


class _Grant(ClientCredentialsGrant):  # type: ignore[misc]
    def create_token_response(self) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
        # authlib's own writes the token into its debug log.
        token = self.generate_token(scope=None, include_refresh_token=False)
        return 200, token, self.TOKEN_RESPONSE_HEADER


class _Introspection(IntrospectionEndpoint):  # type: ignore[misc]
    def query_token(self, token: str, hint: str | None) -> Token | None:
        found: Token | None = self.server.read_token(token)
        return found

    def check_permission(self, token: Token, client: Client, request: Any) -> bool:
        # Any system on the bus may ask about a token that it was shown (RFC 7662 §2).
        return True

    def introspect_token(self, token: Token) -> dict[str, Any]:
        return {"active": True, "token_type": "Bearer", **token.claims}


class _Revocation(RevocationEndpoint):  # type: ignore[misc]
    def query_token(self, token: str, hint: str | None) -> Token | None:
        found: Token | None = self.server.read_token(token)
        return found

    def revoke_token(self, token: Token, request: _Wrapped) -> None:
        if not token.is_expired() and not token.is_revoked():
            request.ours.revoked = (token.claims["jti"], token.claims["exp"])


class AuthorizationServer(BaseServer):  # type: ignore[misc]
    """`systems(id)` finds a system, `public_keys()` are the JWKs of all nodes, `is_revoked(jti)` asks the registry;
    `lifetime(system)` is how many seconds a token of it lives, at most TOKEN_SECONDS; `development` switches client
    secrets on."""

    def __init__(
        self,
        issuer: str,
        *,
        systems: Callable[[str], System | None],
        signing_key: Callable[[], ECKey],
        public_keys: Callable[[], list[dict[str, Any]]],
        is_revoked: Callable[[str], bool],
        development: bool = False,
        lifetime: Callable[[System], int] = lambda system: TOKEN_SECONDS,
    ) -> None:
        super().__init__()
        self.issuer, self.development = issuer, development
        self._systems, self.signing_key, self.public_keys = systems, signing_key, public_keys
        self._is_revoked, self.lifetime = is_revoked, lifetime
        methods = [PRIVATE_KEY_JWT, *([CLIENT_SECRET] if development else [])]
        self.auth_methods = methods
        self.register_client_auth_method(PRIVATE_KEY_JWT, lambda query, request: _Assertion(self)(query, request))
        self.register_client_auth_method(CLIENT_SECRET, self._by_secret)
        self.register_grant(_Grant)
        self.register_token_generator("default", _Tokens(self))
        self.register_endpoint(_Introspection)
        self.register_endpoint(_Revocation)

    def token(self, request: Request) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
        """The token endpoint: status, body, headers."""
        answer: tuple[int, dict[str, Any], list[tuple[str, str]]] = self.create_token_response(request)
        return answer

    def endpoint(self, name: str, request: Request) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
        """`introspection` or `revocation`: status, body, headers."""
        answer: tuple[int, dict[str, Any], list[tuple[str, str]]] = self.create_endpoint_response(name, request)
        return answer

    def read_token(self, text: str) -> Token | None:
        """A token that one of the nodes signed for this issuer; None for anything else."""
        if len(text) > _MAX_ASSERTION:
            return None
        try:
            keys = KeySet.import_key_set({"keys": self.public_keys()})
            token = jwt.decode(text, keys, algorithms=[ALGORITHM])
        except _UNREADABLE:
            return None
        if token.header.get("typ") != "at+jwt" or token.claims.get("iss") != self.issuer:
            return None
        system = self._systems(token.claims["client_id"])
        gone = system is None or system.HasField("revoked_at") or self._is_revoked(token.claims["jti"])
        return Token(token.claims, gone, text)

    def query_client(self, client_id: str) -> Client | None:
        system = self._systems(client_id)
        if system is None or system.HasField("revoked_at"):
            return None
        return Client(system)

    def authenticate_client(self, request: _Wrapped, methods: list[str], endpoint: str = "token") -> Client:
        """Exactly one method of those that this profile knows (RFC 6749 §2.3), at every endpoint the same."""
        asserted, secret = "client_assertion" in request.form, "Authorization" in request.headers
        if asserted and secret:
            raise InvalidRequestError(description="more than one client authentication: send the assertion alone")
        if asserted and request.form.get("client_assertion_type") != ASSERTION_TYPE:
            raise InvalidClientError(description=f"client_assertion_type must be {ASSERTION_TYPE}")
        if not asserted and not (secret and self.development):
            raise InvalidClientError(description="authenticate with a client_assertion (private_key_jwt, RFC 7523)")
        client: Client = super().authenticate_client(request, self.auth_methods, endpoint)
        return client

    def save_token(self, token: dict[str, Any], request: OAuth2Request) -> None:
        """Nothing is kept: a token proves itself."""

    def create_oauth2_request(self, request: Request | _Wrapped) -> _Wrapped:
        return request if isinstance(request, _Wrapped) else _Wrapped(request, self.issuer)

    def handle_response(self, status: int, body: Any, headers: list[tuple[str, str]]) -> Any:
        return status, body, headers

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Nobody listens."""

    def _by_secret(self, query_client: Callable[[str], Client | None], request: _Wrapped) -> Client | None:
        if not self.development:
            return None
        try:
            client_id, secret = extract_basic_authorization(request.headers)
        except ValueError:  # no UTF-8 in it
            return None
        client = query_client(client_id) if client_id else None
        if client is None or not matches(secret or "", client.system.development_secret):
            raise InvalidClientError(description="the client is unknown, or its secret is another")
        return client


__all__ = ["ASSERTION_ALGORITHMS", "AuthorizationServer", "Client", "Request", "Token"]
