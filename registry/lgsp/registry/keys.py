"""Public keys of systems: a JWK Set (RFC 7517) is checked before it is kept. Pure."""

from __future__ import annotations

import base64
import json
from typing import Any, Final

from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from lgsp.api.errors import BusError

MAX_BYTES: Final = 16_384
MAX_KEYS: Final = 10
_MAX_KID: Final = 200
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_CURVES: Final = {"EC": frozenset({"P-256"}), "OKP": frozenset({"Ed25519"})}
# Below, RSA is weak; above, verifying takes long enough to be used against us.
_RSA_BITS: Final = range(2048, 8193)


def check_jwks(text: str) -> str:
    """The set in its shortest form, a key without `kid` with its RFC 7638 thumbprint; BusError KEY_INVALID otherwise."""
    if not text:
        return ""
    if len(text.encode()) > MAX_BYTES:
        raise BusError("KEY_INVALID", f"the key set is longer than {MAX_BYTES} bytes")
    try:
        keys = json.loads(text)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BusError("KEY_INVALID", 'the key set is no JSON of the form {"keys": […]}') from None
    if not isinstance(keys, list) or not 0 < len(keys) <= MAX_KEYS or not all(isinstance(k, dict) for k in keys):
        raise BusError("KEY_INVALID", f"the key set must hold 1 to {MAX_KEYS} keys")
    for key in keys:
        _check(key)
    try:
        parsed = KeySet.import_key_set({"keys": keys})
        public = [key.as_dict(private=False) | {"kid": key.kid or key.thumbprint()} for key in parsed.keys]
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise BusError("KEY_INVALID", f"a key cannot be read: {type(error).__name__}") from None
    if len({key["kid"] for key in public}) < len(public):
        raise BusError("KEY_INVALID", "two keys have the same kid: nobody could tell which one signed")
    return json.dumps({"keys": public}, sort_keys=True, separators=(",", ":"))


def _check(key: dict[str, Any]) -> None:
    if _PRIVATE & key.keys():
        raise BusError("KEY_INVALID", "the key set holds a private key: send the public half only, and make a new key")
    if key.get("use", "sig") != "sig":
        raise BusError("KEY_INVALID", "a key is not for signatures")
    if "kid" in key and not (isinstance(key["kid"], str) and 0 < len(key["kid"]) <= _MAX_KID):
        raise BusError("KEY_INVALID", f"a kid is a text of 1 to {_MAX_KID} characters")
    kind, curve = key.get("kty"), key.get("crv")
    if kind == "RSA":
        if _bits(key.get("n")) not in _RSA_BITS:
            raise BusError("KEY_INVALID", f"an RSA key needs {_RSA_BITS[0]} to {_RSA_BITS[-1]} bits")
    elif not isinstance(kind, str) or not isinstance(curve, str) or curve not in _CURVES.get(kind, ()):
        raise BusError("KEY_INVALID", "a key is no EC P-256, RSA or Ed25519 key")


def _bits(modulus: object) -> int:
    """The real size: leading zeros make a number no larger."""
    try:
        return int.from_bytes(base64.urlsafe_b64decode(f"{modulus}==".encode("ascii"))).bit_length()
    except ValueError:
        return 0
