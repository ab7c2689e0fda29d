"""Introspection (RFC 7662), revocation (RFC 7009), metadata (RFC 8414), keys, and registries that are away."""

from __future__ import annotations

import asyncio
import time

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from lgsp.gateway.oauth.keys import SigningKeys
from lgsp.gateway.oauth.server import ASSERTION_ALGORITHMS
from tests.contract.oauth.stage import ISSUER, SECRET, Stage, following, publisher, refused, staged
from tests.support.nats_server import running_nats, until

INACTIVE = {"active": False}


# --- introspection ---------------------------------------------------------------------------------------------------


async def test_a_token_is_active_with_its_claims(stage):
    token = await stage.token()
    answer = await stage.introspect(token, token_type_hint="access_token")
    claims = jwt.decode(token, stage.keys.current, algorithms=["ES256"]).claims
    assert answer.status_code == 200
    assert answer.json() == {"active": True, "token_type": "Bearer"} | claims
    assert answer.headers["cache-control"] == "no-store"


async def test_any_system_may_ask_about_a_token_it_was_shown(stage):
    token = await stage.token(stage.other)
    assert (await stage.introspect(token)).json()["client_id"] == stage.other


async def test_introspection_needs_a_client(stage):
    token = await stage.token()
    refused(await stage.http.post("/oauth2/introspect", data={"token": token}), says="client_assertion")
    secret = await stage.http.post("/oauth2/introspect", data={"token": token}, auth=(stage.client, SECRET))
    refused(secret, says="private_key_jwt")


async def test_introspection_takes_a_secret_in_development(development):
    token = await development.token()
    auth = (development.client, SECRET)
    answer = await development.http.post("/oauth2/introspect", data={"token": token}, auth=auth)
    assert answer.json()["active"] is True


def forged(stage: Stage, key: ECKey | None = None, header: dict | None = None, **claims: object) -> str:
    now = int(time.time())
    content = {"iss": ISSUER, "aud": ISSUER, "sub": stage.client, "client_id": stage.client, "jti": "j"}
    content |= {"iat": now, "exp": now + 60} | claims
    headers = {"alg": "ES256", "typ": "at+jwt", "kid": stage.keys.kid} | (header or {})
    return jwt.encode(headers, content, key or stage.keys.current)


async def test_what_is_no_token_of_ours_is_inactive(stage):
    assert (await stage.introspect(forged(stage))).json()["active"] is True
    foreign = (
        forged(stage, ECKey.generate_key("P-256")),
        forged(stage, header={"kid": "gone"}),
        forged(stage, header={"typ": "JWT"}),
        forged(stage, iss="https://elsewhere.test"),
        forged(stage, exp=int(time.time()) - 1),
        forged(stage, client_id="H26/nobody"),
        stage.assertion(),
        "x",
        "a.b.c",
        "y" * 9000,
        "Xin chào",
    )
    for text in foreign:
        answer = await stage.introspect(text)
        assert (answer.status_code, answer.json()) == (200, INACTIVE), text[:40]


async def test_the_token_of_a_revoked_system_is_inactive(stage):
    token = await stage.token(stage.other)
    await stage.revoke_system(stage.other)
    assert (await stage.introspect(token)).json() == INACTIVE


@pytest.mark.parametrize("path", ["/oauth2/introspect", "/oauth2/revoke"])
async def test_the_token_parameter_is_required(stage, path):
    refused(await stage.http.post(path, data=stage.form()), "invalid_request", 400, "REQUEST_MALFORMED")
    refused(await stage.http.post(path, data=stage.form(token="")), "invalid_request", 400, "REQUEST_MALFORMED")
    hinted = await stage.http.post(path, data=stage.form(token="x", token_type_hint="saml"))
    refused(hinted, "unsupported_token_type", 400, "REQUEST_MALFORMED")


# --- revocation ------------------------------------------------------------------------------------------------------


async def test_a_revoked_token_is_inactive(stage):
    token, kept = await stage.token(), await stage.token()
    answer = await stage.revoke(token)
    assert (answer.status_code, answer.json()) == (200, {})
    assert answer.headers["cache-control"] == "no-store"
    assert (await stage.introspect(token)).json() == INACTIVE
    assert (await stage.introspect(kept)).json()["active"] is True
    revision = stage.store.state.revision
    assert (await stage.revoke(token)).status_code == 200
    assert stage.store.state.revision == revision


async def test_revocation_of_what_is_no_token_succeeds_and_writes_nothing(stage):
    ended = forged(stage, exp=int(time.time()) - 1, jti="ended")
    revision = stage.store.state.revision
    for text in ("x", "a.b.c", forged(stage, ECKey.generate_key("P-256")), ended):
        answer = await stage.revoke(text)
        assert (answer.status_code, answer.json()) == (200, {}), text[:40]
    assert stage.store.state.revision == revision


async def test_only_the_systems_own_tokens_can_be_revoked(stage):
    token = await stage.token(stage.other)
    refused(await stage.revoke(token), "invalid_grant", 400, "NOT_OWNER")
    assert (await stage.introspect(token)).json()["active"] is True


async def test_revocation_needs_a_client(stage):
    token = await stage.token()
    refused(await stage.http.post("/oauth2/revoke", data={"token": token}), says="client_assertion")
    assert (await stage.introspect(token)).json()["active"] is True


# --- documents -------------------------------------------------------------------------------------------------------


def metadata(methods: list[str]) -> dict[str, object]:
    made: dict[str, object] = {
        "issuer": ISSUER,
        "token_endpoint": f"{ISSUER}/oauth2/token",
        "introspection_endpoint": f"{ISSUER}/oauth2/introspect",
        "revocation_endpoint": f"{ISSUER}/oauth2/revoke",
        "jwks_uri": f"{ISSUER}/.well-known/jwks.json",
        "grant_types_supported": ["client_credentials"],
        "response_types_supported": [],
    }
    for endpoint in ("token", "introspection", "revocation"):
        made[f"{endpoint}_endpoint_auth_methods_supported"] = methods
        made[f"{endpoint}_endpoint_auth_signing_alg_values_supported"] = ASSERTION_ALGORITHMS
    return made


async def test_the_metadata_says_what_the_server_does(stage):
    answer = await stage.http.get("/.well-known/oauth-authorization-server")
    assert answer.status_code == 200
    assert answer.json() == metadata(["private_key_jwt"])
    assert {"none", "HS256", "RS256"}.isdisjoint(ASSERTION_ALGORITHMS)


async def test_the_metadata_names_secrets_in_development_only(development):
    answer = await development.http.get("/.well-known/oauth-authorization-server")
    assert answer.json() == metadata(["private_key_jwt", "client_secret_basic"])


async def test_the_key_set_holds_public_halves_only(stage):
    answer = await stage.http.get("/.well-known/jwks.json")
    keys = {key["kid"]: key for key in answer.json()["keys"]}
    mine = keys[stage.keys.kid]
    assert set(mine) == {"kty", "crv", "x", "y", "kid", "alg", "use"}
    assert (mine["alg"], mine["use"], mine["crv"]) == ("ES256", "sig", "P-256")
    assert stage.keys.kid == ECKey.import_key(mine).thumbprint()
    assert not any("d" in key for key in keys.values())


# --- parts that are away ---------------------------------------------------------------------------------------------


async def test_without_nats_nobody_gets_in(tmp_path):
    with running_nats(tmp_path) as server:
        async with staged(server, tmp_path) as stage:
            token = await stage.token()
            await asyncio.to_thread(server.kill)
            await until(lambda: not stage.store.connected)
            for answer in (await stage.ask(), await stage.introspect(token), await stage.revoke(token)):
                refused(answer, "temporarily_unavailable", 503, "REGISTRY_UNAVAILABLE")
                assert answer.headers["retry-after"] == "1"
            assert (await stage.http.get("/.well-known/jwks.json")).status_code == 200
            await asyncio.to_thread(server.start)
            await until(lambda: stage.store.connected)
            assert (await stage.ask()).status_code == 200


async def test_a_killed_nats_is_noticed_within_the_request(tmp_path):
    """No wait for the client to notice: the claim itself must fail."""
    with running_nats(tmp_path) as server:
        async with staged(server, tmp_path) as stage:
            server.kill()
            answer = await asyncio.wait_for(stage.ask(), 10)
            refused(answer, "temporarily_unavailable", 503, "REGISTRY_UNAVAILABLE")


async def test_a_claim_outlives_a_restart_of_nats(tmp_path):
    with running_nats(tmp_path) as server:
        async with staged(server, tmp_path) as stage:
            assertion = stage.assertion()
            assert (await stage.ask(assertion)).status_code == 200
            await asyncio.to_thread(server.kill)
            await until(lambda: not stage.store.connected)
            await asyncio.to_thread(server.start)
            await until(lambda: stage.store.connected)
            refused(await stage.ask(assertion), says="used before")


async def test_before_the_registry_was_read_nobody_is_called_unknown(stage, tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    with running_nats(folder) as other:
        other.kill()
        async with following(other, synced=False) as unread:
            stage.store = unread
            async with stage.session(stage.application()) as http:
                answer = await stage.ask(http=http)
    refused(answer, "temporarily_unavailable", 503, "REGISTRY_UNAVAILABLE", "not read the registry")


async def test_after_a_restart_tokens_of_before_are_known(server, tmp_path):
    async with staged(server, tmp_path) as stage:
        token, kid = await stage.token(), stage.keys.kid
    async with staged(server, tmp_path) as again:
        assert again.keys.kid == kid
        assert (await again.introspect(token)).json()["active"] is True


async def test_after_a_rotation_tokens_of_before_are_known(stage):
    before = await stage.token()
    old = stage.keys.kid
    assert await stage.keys.rotate() == (stage.keys.kid, old)
    after = await stage.token()
    for token in (before, after):
        assert (await stage.introspect(token)).json()["active"] is True
    kids = {key["kid"] for key in (await stage.http.get("/.well-known/jwks.json")).json()["keys"]}
    assert {old, stage.keys.kid} <= kids


async def test_a_token_of_another_node_is_known(stage, server, tmp_path):
    (tmp_path / "second").mkdir()
    async with following(server, "n2") as store:
        keys = SigningKeys(tmp_path / "second", "n2", publisher(store))
        await keys.start(lambda kid: False)
        await until(lambda: stage.store.state.get("node_key", keys.kid) is not None)
        token = forged(stage, keys.current, {"kid": keys.kid})
        assert (await stage.introspect(token)).json()["active"] is True
