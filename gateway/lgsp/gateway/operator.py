"""The operator of a node: the first system of the city, whose key is made at the first start.

The private half stays in `D/operator.jwk` (0600); the control process registers the public half from
`D/operator.pub.jwks`, so that the operator comes through the gateway like any other system.
"""

from __future__ import annotations

import json
from typing import Any, Final

from joserfc.jwk import ECKey

from lgsp.gateway.datadir import write_private
from lgsp.gateway.errors import DataDirError
from lgsp.gateway.settings import Settings

_PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


def ensure_operator(settings: Settings) -> None:
    """Make the operator's key where it is missing, and write its public half beside it."""
    layout = settings.layout
    if not layout.operator_key.exists():
        write_private(layout.operator_key, new_private_jwk())
    try:
        public = public_jwks(layout.operator_key.read_bytes())
    except ValueError:
        raise DataDirError(
            f"{layout.operator_key} holds no key", "Restore it from a backup, or remove it to have a new one made."
        ) from None
    write_private(layout.operator_jwks, public)


def new_private_jwk() -> str:
    """A new P-256 key as a private JWK (RFC 7517) with its RFC 7638 thumbprint as `kid`."""
    key = ECKey.generate_key("P-256", {"alg": "ES256", "use": "sig"})
    jwk = dict(key.as_dict(private=True))
    jwk["kid"] = key.thumbprint()
    return json.dumps(jwk, indent=2)


def public_jwks(private: bytes | str) -> str:
    """The JWK Set of the public half of a private JWK; ValueError when it is none."""
    found: Any = json.loads(private)
    if not isinstance(found, dict) or "kty" not in found:
        raise ValueError("no JWK")
    public = {name: value for name, value in found.items() if name not in _PRIVATE_MEMBERS}
    return json.dumps({"keys": [public]}, indent=2)
