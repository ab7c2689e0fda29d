"""An authorization server of one node over a real registry, with a client that has keys of every kind."""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from joserfc import jws, jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OKPKey, RSAKey

from lgsp.api.registry.v1.registry_pb2 import Agency, NodeKey, System, TokenRevocation
from lgsp.gateway import compiler
from lgsp.gateway.oauth.app import OAuthApp
from lgsp.gateway.oauth.keys import SigningKeys
from lgsp.gateway.oauth.secrets import hash_secret
from lgsp.gateway.oauth.server import AuthorizationServer
from lgsp.registry.store import Store, Write

ISSUER = "https://gateway.test"
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SECRET = "đông-xuân 36"
KEYS = {
    "ES256": ECKey.generate_key("P-256"),
    "PS256": RSAKey.generate_key(2048),
    "EdDSA": OKPKey.generate_key("Ed25519"),
}


class Stage:
    """`client` is a system of this stage alone; `other` is one more with the same keys."""

    def __init__(self, store: Store, keys: SigningKeys, development: bool) -> None:
        self.store, self.keys, self.development, self.lifetime = store, keys, development, 300
        mark = uuid.uuid4().hex[:12]
        self.client, self.other = f"H26/caller-{mark}", f"H26/other-{mark}"
        self.app = self.application()
        self.http = self.session(self.app)

    def application(self) -> OAuthApp:
        """As the control process wires it."""
        state = self.store.state
        server = AuthorizationServer(
            ISSUER,
            systems=lambda system: entry.record.system if (entry := state.get("system", system)) else None,
            signing_key=lambda: self.keys.current,
            public_keys=lambda: compiler.published_keys(
                (entry.record.node_key for entry in state.all("node_key").values()), datetime.now(UTC)
            ),
            is_revoked=lambda jti: state.get("token_revocation", jti) is not None,
            development=self.development,
            lifetime=lambda system: self.lifetime,
        )
        return OAuthApp(server, self.store, self._revoke)

    def session(self, app: OAuthApp) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url=ISSUER)

    async def _revoke(self, jti: str, expires: int) -> None:
        revocation = TokenRevocation(token_id=jti)
        revocation.expires_at.FromSeconds(expires)
        await self.write(Write("token_revocation", jti, revocation, 0))

    async def write(self, *writes: Write) -> None:
        await self.store.write(writes, operation_id=uuid.uuid4().hex, actor="H26/test")

    async def enrol(self) -> None:
        """The two systems; the first has all keys, each named by its alg, and a secret."""
        public = [key.as_dict(private=False) | {"kid": name} for name, key in KEYS.items()]
        jwks = json.dumps({"keys": public})
        system = System(id=self.client, jwks=jwks, development_secret=hash_secret(SECRET))
        writes = [
            Write("system", self.client, system, 0),
            Write("system", self.other, System(id=self.other, jwks=jwks), 0),
        ]
        if self.store.state.get("agency", "H26") is None:
            writes.append(Write("agency", "H26", Agency(id="H26"), 0))
        await self.write(*writes)

    async def revoke_system(self, identifier: str) -> None:
        entry = self.store.state.get("system", identifier)
        system = System()
        system.CopyFrom(entry.record.system)
        system.revoked_at.GetCurrentTime()
        await self.write(Write("system", identifier, system, entry.revision))

    def claims(self, **changed: object) -> dict[str, object]:
        """Good claims; a claim that is changed to None is left out."""
        now = int(time.time())
        made = {"iss": self.client, "sub": self.client, "aud": ISSUER, "iat": now, "exp": now + 60}
        made |= {"jti": uuid.uuid4().hex} | changed
        return {name: value for name, value in made.items() if value is not None}

    def assertion(self, alg: str = "ES256", key: object = None, header: dict | None = None, **claims: object) -> str:
        headers = {"alg": alg, "kid": alg} | (header or {})
        with warnings.catch_warnings():
            # joserfc warns of the name EdDSA, which RFC 9864 replaces; clients still send it.
            warnings.simplefilter("ignore", SecurityWarning)
            return jwt.encode(headers, self.claims(**claims), key or KEYS[alg], algorithms=[alg])

    def form(self, assertion: str | None = None, **fields: str) -> dict[str, str]:
        proof = {"client_assertion_type": JWT_BEARER, "client_assertion": assertion or self.assertion()}
        return proof | fields

    async def ask(self, assertion: str | None = None, http: httpx.AsyncClient | None = None, **fields: str):
        """The token endpoint's answer."""
        form = {"grant_type": "client_credentials"} | self.form(assertion, **fields)
        return await (http or self.http).post("/oauth2/token", data=form)

    async def token(self, system: str | None = None) -> str:
        name = system or self.client
        answer = await self.ask(self.assertion(iss=name, sub=name))
        assert answer.status_code == 200, answer.text
        return answer.json()["access_token"]

    async def introspect(self, token: str, **fields: str):
        return await self.http.post("/oauth2/introspect", data=self.form(token=token, **fields))

    async def revoke(self, token: str, **fields: str):
        return await self.http.post("/oauth2/revoke", data=self.form(token=token, **fields))


def refused(answer, error: str = "invalid_client", status: int = 401, reason: str = "CLIENT_REFUSED", says: str = ""):
    """The shape of every refusal, and this one's content."""
    body = answer.json()
    assert (answer.status_code, body["error"], body["reason"]) == (status, error, reason), answer.text
    assert set(body) == {"error", "error_description", "reason"}
    assert says in body["error_description"]
    assert body["error_description"]
    # RFC 6749 §5.2
    assert all(" " <= char <= "~" and char not in '"\\' for char in body["error_description"])
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["pragma"] == "no-cache"
    assert answer.headers["content-type"] == "application/json"
    return body


def unsigned(claims: dict[str, object]) -> str:
    """A JWT with alg none."""
    parts = ({"alg": "none", "typ": "JWT"}, claims)
    return ".".join(encoded(json.dumps(part).encode()) for part in parts) + "."


def encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def signed_text(payload: bytes, key: ECKey = KEYS["ES256"]) -> str:
    """Any payload, signed well."""
    return jws.serialize_compact({"alg": "ES256", "kid": "ES256"}, payload, key)


@asynccontextmanager
async def following(server, node: str = "n1", *, synced: bool = True) -> AsyncIterator[Store]:
    store = Store(server.connect, None, node)
    task = asyncio.create_task(store.run())
    try:
        if synced:
            await asyncio.wait_for(store.synced.wait(), 10)
        yield store
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def publisher(store: Store):
    """Writes a NodeKey, as the control process does."""

    async def publish(key: NodeKey) -> None:
        entry = store.state.get("node_key", key.kid)
        write = Write("node_key", key.kid, key, entry.revision if entry else 0)
        await store.write([write], operation_id=uuid.uuid4().hex, actor="H26/lgsp")

    return publish


@asynccontextmanager
async def staged(server, folder: Path, *, development: bool = False) -> AsyncIterator[Stage]:
    async with following(server) as store:
        keys = SigningKeys(folder, "n1", publisher(store))
        await keys.start(lambda kid: store.state.get("node_key", kid) is not None)
        stage = Stage(store, keys, development)
        await stage.enrol()
        async with stage.http:
            yield stage
