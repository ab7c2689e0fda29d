"""Keys that systems are registered with: RFC 7517 sets, checked before they are kept."""

from __future__ import annotations

import base64
import json

import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from lgsp.api.registry.v1 import registry_pb2 as pb
from tests.contract.registry.stage import jwks, refused


def weak_rsa(n: bytes) -> dict:
    return {"kty": "RSA", "e": "AQAB", "n": base64.urlsafe_b64encode(n).rstrip(b"=").decode()}


P256 = ECKey.generate_key("P-256").as_dict(private=False)


BAD = {
    "rsa of 1024 bits": [weak_rsa(b"\xc1" * 128)],
    "rsa of 1024 bits behind zeros": [weak_rsa(b"\0" * 128 + b"\xc1" * 128)],
    "rsa of 16000 bits": [weak_rsa(b"\xc1" * 2000)],
    "rsa without modulus": [weak_rsa(b"")],
    "rsa of no base64": [{"kty": "RSA", "e": "AQAB", "n": "ộ" * 400}],
    "rsa of a number": [{"kty": "RSA", "e": "AQAB", "n": 7}],
    "rsa without exponent": [{"kty": "RSA", "n": weak_rsa(b"\xc1" * 256)["n"]}],
    "rsa with exponent 1": [{"kty": "RSA", "e": "AQ", "n": weak_rsa(b"\xc1" * 256)["n"]}],
    "P-384": [ECKey.generate_key("P-384").as_dict(private=False)],
    "secp256k1": [ECKey.generate_key("secp256k1").as_dict(private=False)],
    "X25519": [OKPKey.generate_key("X25519").as_dict(private=False)],
    "Ed448": [OKPKey.generate_key("Ed448").as_dict(private=False)],
    "no point of the curve": [P256 | {"x": P256["y"]}],
    "a short coordinate": [P256 | {"x": "AA"}],
    "for encryption": [P256 | {"use": "enc"}],
    "a kid that is a number": [P256 | {"kid": 7}],
    "an empty kid": [P256 | {"kid": ""}],
    "one kid twice": [P256 | {"kid": "a"}, ECKey.generate_key("P-256").as_dict(private=False) | {"kid": "a"}],
    "one key twice": [P256, P256],
    "a short Ed25519 key": [{"kty": "OKP", "crv": "Ed25519", "x": "AA"}],
    "a list of curves": [{"kty": "EC", "crv": ["P-256"]}],
    "a list of kinds": [{"kty": ["EC"], "crv": "P-256"}],
    "an unknown kind": [{"kty": "AKP", "pub": "AA"}],
    "an empty key": [{}],
    "a text for a key": ["x"],
    "no keys": [],
    "eleven keys": [ECKey.generate_key("P-256").as_dict(private=False) for _ in range(11)],
}


@pytest.mark.parametrize("name", BAD)
async def test_a_key_set_that_nobody_should_trust_is_refused(api, name):
    system = pb.System(id="H26/x", jwks=json.dumps({"keys": BAD[name]}))
    assert (await refused(api.operator.CreateSystem(system=system)))[0] == "KEY_INVALID"


@pytest.mark.parametrize("text", ["x", "[]", "7", "null", '{"keys": 7}', '{"key": []}', "[" * 9000, " " * 17_000, "ộ"])
async def test_what_is_no_key_set_is_refused(api, text):
    assert (await refused(api.operator.CreateSystem(system=pb.System(id="H26/x", jwks=text))))[0] == "KEY_INVALID"


@pytest.mark.parametrize(
    "key",
    [ECKey.generate_key("P-256"), RSAKey.generate_key(2048), OKPKey.generate_key("Ed25519"), OctKey.generate_key(256)],
    ids=lambda key: key.key_type,
)
async def test_a_private_key_is_refused_and_not_repeated(api, key):
    private = key.as_dict(private=True)
    reason, detail = await refused(api.operator.CreateSystem(system=pb.System(id="H26/x", jwks=jwks(private))))
    assert reason == "KEY_INVALID"
    assert "make a new key" in detail
    assert all(private[part] not in detail for part in ("d", "k") if part in private)


async def test_every_kind_of_good_key_is_taken(api):
    keys = [key.generate_key(size).as_dict(private=False) for key, size in ((RSAKey, 2048), (OKPKey, "Ed25519"))]
    made = await api.operator.CreateSystem(system=pb.System(id="H26/x", jwks=jwks(P256 | {"kid": "mine"}, *keys)))
    kids = [key["kid"] for key in json.loads(made.system.jwks)["keys"]]
    assert kids[0] == "mine"
    assert len(set(kids)) == 3
