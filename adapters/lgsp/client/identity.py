"""Who a system is towards the bus: its identifier and its private key."""

from __future__ import annotations

import json
import os
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from joserfc import jwt
from joserfc.jwk import ECKey, JWKRegistry, Key

_ALGORITHM: Final = {"EC": "ES256", "RSA": "PS256", "OKP": "EdDSA"}
_ASSERTION_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Identity:
    """A system and its key; the key never shows itself."""

    system: str
    key: Key = field(repr=False)

    @classmethod
    def generate(cls, system: str) -> Identity:
        """A new EC P-256 key."""
        key = ECKey.generate_key("P-256")
        return cls(system, ECKey.import_key(key.as_dict(private=True) | {"kid": key.thumbprint()}))

    @classmethod
    def load(cls, system: str, path: str | Path) -> Identity:
        """From a file with one private JWK (RFC 7517); ValueError when it holds none."""
        content = json.loads(Path(path).read_text("utf-8"))
        if not isinstance(content, dict) or "d" not in content:
            raise ValueError(f"{path} holds no private JWK")
        key = JWKRegistry.import_key(content)
        if "kid" not in content:
            key = JWKRegistry.import_key(content | {"kid": key.thumbprint()})
        return cls(system, key)

    def save(self, path: str | Path) -> None:
        """Write the private JWK, mode 0600; FileExistsError rather than replacing a key."""
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(self.key.as_dict(private=True), file, indent=2)

    def jwks(self) -> str:
        """The public half as a JWK Set: what the registry wants."""
        return json.dumps({"keys": [self.key.as_dict(private=False)]})

    def assertion(self, audience: str) -> str:
        """A one-time client assertion (RFC 7523 §2.2)."""
        now, algorithm = int(time.time()), _ALGORITHM[self.key.key_type]
        claims = {"iss": self.system, "sub": self.system, "aud": audience, "jti": uuid.uuid4().hex}
        claims |= {"iat": now, "exp": now + _ASSERTION_SECONDS}  # type: ignore[dict-item]
        return jwt.encode({"alg": algorithm, "kid": self.key.kid}, claims, self.key, algorithms=[algorithm])
