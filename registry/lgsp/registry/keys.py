"""Public keys of systems: a JWK Set (RFC 7517) is checked before it is kept. Pure."""

from __future__ import annotations

import json
from typing import Any, Final

from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from lgsp.api.errors import BusError

MAX_BYTES: Final = 16_384
MAX_KEYS: Final = 10
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_CURVES: Final = {"EC": frozenset({"P-256"}), "OKP": frozenset({"Ed25519"})}
_MIN_RSA_BITS: Final = 2048


def check_jwks(text: str) -> str:
    """The set in its shortest form, each key with its RFC 7638 thumbprint as `kid`; BusError KEY_INVALID otherwise."""
    if not text:
        return ""
    if len(text) > MAX_BYTES:
        raise BusError("KEY_INVALID", f"the key set is longer than {MAX_BYTES} bytes")
    try:
        keys = json.loads(text)["keys"]
    except (ValueError, KeyError, TypeError):
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
    return json.dumps({"keys": public}, sort_keys=True, separators=(",", ":"))


def _check(key: dict[str, Any]) -> None:
    if _PRIVATE & key.keys():
        raise BusError("KEY_INVALID", "the key set holds a private key: send the public half only, and make a new key")
    kind = key.get("kty")
    if kind == "RSA":
        if len(str(key.get("n", ""))) * 6 < _MIN_RSA_BITS - 8:
            raise BusError("KEY_INVALID", f"an RSA key needs {_MIN_RSA_BITS} bits or more")
    elif kind not in _CURVES or key.get("crv") not in _CURVES[kind]:
        raise BusError("KEY_INVALID", "a key is no EC P-256, RSA or Ed25519 key")
