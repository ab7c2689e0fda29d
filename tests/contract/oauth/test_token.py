"""The token endpoint: RFC 6749 §4.4 with private_key_jwt (RFC 7523), RFC 9068 tokens, replay, refusals."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

from lgsp.api.errors import TABLE
from lgsp.api.registry.v1.registry_pb2 import System
from lgsp.gateway.oauth.refusals import ROWS
from lgsp.registry.store import Write
from tests.contract.oauth.stage import (
    ISSUER,
    JWT_BEARER,
    KEYS,
    SECRET,
    encoded,
    following,
    refused,
    signed_text,
    unsigned,
)

# --- good ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alg", sorted(KEYS))
async def test_a_client_gets_an_rfc_9068_token(stage, alg):
    before = int(time.time())
    answer = await stage.ask(stage.assertion(alg))
    body = answer.json()
    assert answer.status_code == 200, body
    assert answer.headers["cache-control"] == "no-store"
    assert {key: body[key] for key in body if key != "access_token"} == {"token_type": "Bearer", "expires_in": 300}
    jwks = (await stage.http.get("/.well-known/jwks.json")).json()
    token = jwt.decode(body["access_token"], KeySet.import_key_set(jwks), algorithms=["ES256"])
    assert token.header == {"alg": "ES256", "typ": "at+jwt", "kid": stage.keys.kid}
    claims = token.claims
    assert set(claims) == {"iss", "aud", "sub", "client_id", "agency", "iat", "exp", "jti"}
    assert (claims["iss"], claims["aud"]) == (ISSUER, ISSUER)
    assert (claims["sub"], claims["client_id"], claims["agency"]) == (stage.client, stage.client, "H26")
    assert before <= claims["iat"] <= time.time()
    assert 0 < claims["exp"] - claims["iat"] <= 300


async def test_a_token_says_how_long_it_lives_and_lives_no_longer(stage):
    stage.lifetime = 7
    body = (await stage.ask()).json()
    claims = jwt.decode(body["access_token"], stage.keys.current, algorithms=["ES256"]).claims
    assert (body["expires_in"], claims["exp"] - claims["iat"]) == (7, 7)


async def test_a_system_that_moved_names_its_agency_of_today(stage):
    entry = stage.store.state.get("system", stage.client)
    moved = System()
    moved.CopyFrom(entry.record.system)
    moved.agency = "H26.40"
    await stage.write(Write("system", stage.client, moved, entry.revision))
    claims = jwt.decode(await stage.token(), stage.keys.current, algorithms=["ES256"]).claims
    assert (claims["client_id"], claims["agency"]) == (stage.client, "H26.40")


async def test_every_token_has_an_id_of_its_own(stage):
    ids = {jwt.decode(await stage.token(), stage.keys.current, algorithms=["ES256"]).claims["jti"] for _ in range(5)}
    assert len(ids) == 5


@pytest.mark.parametrize(
    "aud", [ISSUER, f"{ISSUER}/oauth2/token", [ISSUER], ["https://elsewhere.test", f"{ISSUER}/oauth2/token"]]
)
async def test_the_audience_may_be_the_issuer_or_the_token_endpoint(stage, aud):
    assert (await stage.ask(stage.assertion(aud=aud))).status_code == 200


async def test_the_single_key_of_a_system_needs_no_kid(stage):
    name = f"{stage.client}-alone"
    jwks = json.dumps({"keys": [KEYS["ES256"].as_dict(private=False)]})
    await stage.write(Write("system", name, System(id=name, jwks=jwks), 0))
    claims = stage.claims(iss=name, sub=name)
    assert (await stage.ask(jwt.encode({"alg": "ES256"}, claims, KEYS["ES256"]))).status_code == 200


async def test_with_several_keys_an_assertion_without_kid_is_refused(stage):
    assertion = jwt.encode({"alg": "ES256"}, stage.claims(), KEYS["ES256"])
    refused(await stage.ask(assertion), says="kid")


async def test_a_client_id_that_agrees_is_taken_and_an_empty_one_counts_as_left_out(stage):
    assert (await stage.ask(client_id=stage.client)).status_code == 200
    assert (await stage.ask(client_id="")).status_code == 200
    refused(await stage.ask(client_id=stage.other), says="client_id differs")


# --- replay ----------------------------------------------------------------------------------------------------------


async def test_an_assertion_counts_once(stage):
    assertion = stage.assertion()
    assert (await stage.ask(assertion)).status_code == 200
    refused(await stage.ask(assertion), says="used before")


async def test_an_assertion_counts_once_on_all_nodes(stage, server):
    assertion = stage.assertion()
    async with following(server, "n2") as elsewhere:
        mine, stage.store = stage.store, elsewhere
        async with stage.session(stage.application()) as second:
            stage.store = mine
            answers = await asyncio.gather(
                *(stage.ask(assertion, http) for http in (stage.http, second) for _ in range(5))
            )
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 9


async def test_an_assertion_counts_once_over_all_endpoints(stage):
    token, assertion = await stage.token(), stage.assertion()
    answer = await stage.http.post("/oauth2/introspect", data=stage.form(assertion, token=token))
    assert answer.status_code == 200
    refused(await stage.ask(assertion), says="used before")


async def test_two_clients_may_choose_the_same_jti(stage):
    assert (await stage.ask(stage.assertion(jti="1"))).status_code == 200
    assert (await stage.ask(stage.assertion(jti="1", iss=stage.other, sub=stage.other))).status_code == 200


# --- assertions that are refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"aud": "https://elsewhere.test"}, "aud"),
        ({"aud": ["https://elsewhere.test", ISSUER + "/"]}, "aud"),
        ({"aud": []}, "aud"),
        ({"aud": {"iss": ISSUER}}, "aud"),
        ({"aud": None}, "aud"),
        ({"exp": -30}, "expired"),
        ({"exp": 3600}, "longer than 300 s"),
        ({"exp": None}, "exp"),
        ({"exp": "tomorrow"}, "exp"),
        ({"exp": True}, "exp"),
        ({"jti": None}, "jti"),
        ({"jti": ""}, "jti"),
        ({"jti": 7}, "jti"),
        ({"jti": "x" * 257}, "jti"),
        ({"jti": "\ud800"}, "jti"),
        ({"nbf": 60}, "not yet valid"),
        ({"nbf": "later"}, "nbf"),
        ({"iat": 60}, "future"),
        ({"iat": "now"}, "iat"),
        ({"iss": "H26/somebody"}, "Issuer and Subject"),
        ({"iss": None}, "iss"),
        ({"iss": 7}, "iss"),
        ({"sub": None}, "sub"),
        ({"sub": ["H26/caller"]}, "sub"),
        ({"iss": "H26/nobody", "sub": "H26/nobody"}, "does not exist"),
        ({"iss": "\ud800", "sub": "\ud800"}, "does not exist"),
    ],
    ids=str,
)
async def test_an_assertion_with_wrong_claims_is_refused(stage, claims, says):
    moments = {
        name: int(time.time()) + value
        for name, value in claims.items()
        if name in ("exp", "nbf", "iat") and type(value) is int
    }
    payload = json.dumps(stage.claims(**(claims | moments))).encode()
    refused(await stage.ask(signed_text(payload)), says=says)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "9" * 400])
@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
async def test_a_number_that_is_no_date_is_refused(stage, claim, number):
    text = json.dumps(stage.claims(**{claim: "HERE"})).replace('"HERE"', number)
    refused(await stage.ask(signed_text(text.encode())))


async def test_an_unsigned_assertion_is_refused(stage):
    refused(await stage.ask(unsigned(stage.claims())))


async def test_the_public_key_as_an_hmac_secret_is_refused(stage):
    for public in (KEYS["ES256"].as_pem(private=False), json.dumps(KEYS["ES256"].as_dict(private=False)).encode()):
        # By hand: joserfc will not even make such a key.
        parts = ({"alg": "HS256", "kid": "ES256"}, stage.claims())
        text = ".".join(encoded(json.dumps(part).encode()) for part in parts)
        code = encoded(hmac.digest(public, text.encode(), "sha256"))
        refused(await stage.ask(f"{text}.{code}"), says="UnsupportedAlgorithm")


@pytest.mark.parametrize(
    ("alg", "key"),
    [
        ("ES256", ECKey.generate_key("P-256")),
        ("RS256", KEYS["PS256"]),
        ("PS512", KEYS["PS256"]),
        ("ES384", ECKey.generate_key("P-384")),
        ("PS256", RSAKey.generate_key(2048)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_another_key_or_algorithm_is_refused(stage, alg, key):
    kid = {"RS256": "PS256", "PS512": "PS256", "ES384": "ES256"}.get(alg, alg)
    refused(await stage.ask(stage.assertion(alg, key, {"kid": kid})), says="signature was not accepted")


async def test_a_key_of_another_kind_is_refused(stage):
    refused(await stage.ask(stage.assertion(header={"kid": "PS256"})), says="signature was not accepted")
    refused(await stage.ask(stage.assertion(header={"kid": "gone"})), says="signature was not accepted")


async def test_a_key_inside_the_assertion_counts_nothing(stage):
    mine = ECKey.generate_key("P-256")
    header = {"jwk": mine.as_dict(private=False), "kid": "mine"}
    refused(await stage.ask(stage.assertion(key=mine, header=header)))


async def test_an_unknown_critical_header_is_refused(stage):
    head = encoded(json.dumps({"alg": "ES256", "kid": "ES256", "crit": ["exp"], "exp": 1}).encode())
    good = stage.assertion().split(".")
    refused(await stage.ask(".".join((head, *good[1:]))))


async def test_a_changed_claim_breaks_the_signature(stage):
    head, _, signature = stage.assertion().split(".")
    payload = encoded(json.dumps(stage.claims()).encode())
    refused(await stage.ask(f"{head}.{payload}.{signature}"), says="BadSignature")


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "a.b.c",
        "a.b.c.d.e",
        "...",
        "Xin chào",
        "\x00",
        encoded(b"{}") + "." + encoded(b"{}") + ".",
        encoded(b"[]") + "." + encoded(b"{}") + ".x",
        encoded(b'{"alg":7}') + "." + encoded(b'{"sub":"x"}') + ".x",
        encoded(b'{"alg":"ES256"}') + "." + encoded(b"\xff\xfe") + ".x",
        encoded(b'{"alg":"ES256"}') + "." + encoded(b"[" * 5000) + ".x",
        encoded(b"[" * 5000) + "." + encoded(b"{}") + ".x",
        "y" * 8193,
    ],
    ids=lambda text: text[:24].replace("\x00", "NUL"),
)
async def test_what_is_no_jwt_is_refused(stage, text):
    refused(await stage.ask(text))


@pytest.mark.parametrize("payload", [b"7", b"null", b"[]", b'"x"', b"", b"\xff", b"{", b"[" * 5000])
async def test_a_signed_payload_that_holds_no_claims_is_refused(stage, payload):
    refused(await stage.ask(signed_text(payload)))


async def test_an_access_token_is_no_assertion(stage):
    refused(await stage.ask(await stage.token()))


async def test_a_revoked_system_gets_no_token(stage):
    await stage.token()
    await stage.revoke_system(stage.client)
    refused(await stage.ask(), says="does not exist")
    refused(await stage.introspect("x"), says="does not exist")


async def test_a_system_without_keys_is_told_so(stage):
    name = f"{stage.client}-keyless"
    await stage.write(Write("system", name, System(id=name), 0))
    refused(await stage.ask(stage.assertion(iss=name, sub=name)), says="no key")


# --- requests that are refused ---------------------------------------------------------------------------------------


async def test_the_wrong_grant_type_is_refused(stage):
    for grant in ("authorization_code", "password", "urn:ietf:params:oauth:grant-type:jwt-bearer", "cấp"):
        answer = await stage.http.post("/oauth2/token", data=stage.form(grant_type=grant))
        refused(answer, "unsupported_grant_type", 400, "REQUEST_MALFORMED")
    refused(
        await stage.http.post("/oauth2/token", data=stage.form()), "unsupported_grant_type", 400, "REQUEST_MALFORMED"
    )


async def test_a_failed_request_does_not_use_up_its_assertion(stage):
    assertion = stage.assertion()
    await stage.http.post("/oauth2/token", data=stage.form(assertion, grant_type="password"))
    assert (await stage.ask(assertion)).status_code == 200


async def test_the_wrong_assertion_type_is_refused(stage):
    for kind in ("urn:ietf:params:oauth:client-assertion-type:saml2-bearer", "jwt", ""):
        refused(await stage.ask(client_assertion_type=kind), says=JWT_BEARER)


async def test_nobody_is_refused(stage):
    form = {"grant_type": "client_credentials", "client_id": stage.client}
    refused(await stage.http.post("/oauth2/token", data=form), says="client_assertion")


async def test_a_client_secret_is_for_the_development_profile(stage):
    form = {"grant_type": "client_credentials"}
    answer = await stage.http.post("/oauth2/token", data=form, auth=(stage.client, SECRET))
    refused(answer, says="private_key_jwt")
    assert answer.headers["www-authenticate"].startswith("Basic ")
    inside = form | {"client_id": stage.client, "client_secret": SECRET}
    refused(await stage.http.post("/oauth2/token", data=inside), says="private_key_jwt")


async def test_a_client_secret_works_in_the_development_profile(development):
    form = {"grant_type": "client_credentials"}
    good = await development.http.post("/oauth2/token", data=form, auth=(development.client, SECRET))
    assert good.status_code == 200, good.text
    for who, secret in ((development.client, "wrong"), (development.client, ""), ("H26/nobody", SECRET)):
        bad = await development.http.post("/oauth2/token", data=form, auth=(who, secret))
        refused(bad)
        assert bad.headers["www-authenticate"] == f'Basic realm="{ISSUER}"'
    # `other` has no secret: the empty one is not it.
    refused(await development.http.post("/oauth2/token", data=form, auth=(development.other, "")))
    await development.token()


@pytest.mark.parametrize("value", ["Basic", "Basic x", "Basic ////", "Basic gICA", "Bearer x", "Basic \xff", ""])
async def test_a_malformed_authorization_header_is_refused(development, value):
    headers = [(b"authorization", value.encode("latin-1"))]
    form = {"grant_type": "client_credentials"}
    refused(await development.http.post("/oauth2/token", data=form, headers=headers))


async def test_two_ways_to_authenticate_at_once_are_refused(development):
    form = {"grant_type": "client_credentials"} | development.form()
    answer = await development.http.post("/oauth2/token", data=form, auth=(development.client, SECRET))
    refused(answer, "invalid_request", 400, "REQUEST_MALFORMED", "more than one")


# --- around it -------------------------------------------------------------------------------------------------------


async def test_nothing_secret_is_logged(development, caplog):
    caplog.set_level(logging.DEBUG)
    assertion = development.assertion()
    token = (await development.ask(assertion)).json()["access_token"]
    await development.ask(assertion)
    await development.ask(assertion + "x")
    await development.introspect(token)
    await development.revoke(token)
    form = {"grant_type": "client_credentials"}
    await development.http.post("/oauth2/token", data=form, auth=(development.client, SECRET))
    lines = "\n".join([*(record.getMessage() for record in caplog.records), caplog.text])
    for secret in (token, token.split(".")[2], assertion, assertion.split(".")[2], SECRET):
        assert secret not in lines


async def test_a_fault_of_ours_tells_nothing(stage, caplog, monkeypatch):
    def broken(system):
        raise RuntimeError(f"secret detail about {system}")

    monkeypatch.setattr(stage.app._server, "_systems", broken)
    body = refused(await stage.ask(), "server_error", 500, "INTERNAL")
    assert "secret detail" not in json.dumps(body) + caplog.text
    assert "unexpected RuntimeError at" in caplog.text


def test_every_reason_is_stable_and_known():
    assert {reason for _, reason in ROWS.values()} <= set(TABLE)
