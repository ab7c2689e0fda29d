"""Client secrets of the development profile: kept as `scrypt$<salt>$<hash>`, compared in constant time."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os


def hash_secret(secret: str, salt: bytes | None = None) -> str:
    """What is kept of a secret."""
    salt = salt or os.urandom(16)
    digest = hashlib.scrypt(secret.encode(), salt=salt, n=2**14, r=8, p=1)
    return "$".join(("scrypt", base64.b64encode(salt).decode(), base64.b64encode(digest).decode()))


def matches(secret: str, kept: str) -> bool:
    """True when `kept` was made from `secret`; an empty or foreign `kept` matches nothing."""
    parts = kept.split("$")
    if len(parts) != 3 or parts[0] != "scrypt":
        return False
    try:
        salt = base64.b64decode(parts[1], validate=True)
    except ValueError:  # no base64, or no ASCII
        return False
    return bool(salt) and hmac.compare_digest(hash_secret(secret, salt).encode(), kept.encode())
