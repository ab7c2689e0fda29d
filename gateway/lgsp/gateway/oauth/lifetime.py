"""How long a token may live: as long as any other, but no longer than the last grant that it could use. Pure.

Envoy has no clock for grants: while no control process runs, a right that ends then ends with the token. A system that
could use no grant gets a short token all the same, so that its calls are refused with their own reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from lgsp.api.registry.v1.registry_pb2 import Grant
from lgsp.gateway import compiler
from lgsp.gateway.oauth.keys import TOKEN_SECONDS
from lgsp.registry.grants import usable_from

WITHOUT_GRANT_SECONDS: Final = 60


def token_seconds(grants: Iterable[Grant], now: datetime) -> int:
    """1 to TOKEN_SECONDS; `grants` are all that the system could use, ended ones included."""
    longest = 0.0
    for grant in grants:
        if not usable_from(grant, now):
            continue
        if not grant.HasField("not_after"):
            return TOKEN_SECONDS
        longest = max(longest, (compiler.time_of(grant.not_after) - now).total_seconds())
        if longest >= TOKEN_SECONDS:
            return TOKEN_SECONDS
    return max(1, int(longest)) if longest else WITHOUT_GRANT_SECONDS
