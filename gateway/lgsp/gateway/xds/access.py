"""Who may call: Envoy's access lists (RBAC matcher trees), one hash look-up for the consumer and one for the purpose.

The name of a verdict is the reason that the refused caller gets.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any, Final

from google.protobuf.message import Message

from lgsp.gateway.xds.messages import build
from lgsp.gateway.xds.policy import MethodPolicy

RBAC: Final = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3"
CLIENT_HEADER, PURPOSE_HEADER = "x-lgsp-client", "x-lgsp-purpose"


def refuse_all(reason: str) -> dict[str, Any]:
    """A route's access list that refuses everybody with `reason`."""
    return {"@type": f"{RBAC}.RBACPerRoute", "rbac": {"rules": deny(reason)}}


def deny(reason: str) -> dict[str, Any]:
    """Rules that refuse everybody."""
    everyone = {"permissions": [{"any": True}], "principals": [{"any": True}]}
    return {"action": "DENY", "policies": {reason: everyone}}


def access_list(method: MethodPolicy) -> dict[str, Any]:
    """A method's route: who calls it as it is, who must name a purpose, whose day is over; all others are refused."""
    per_route = {"@type": f"{RBAC}.RBACPerRoute"}
    verdicts = _verdicts(method)
    if not verdicts:
        return per_route | {"rbac": {} if method.everyone else {"rules": {"action": "ALLOW"}}}
    rest = verdict("everyone", "ALLOW") if method.everyone else verdict("GRANT_MISSING", "DENY")
    return per_route | {"rbac": {"matcher": look_up(CLIENT_HEADER, verdicts, rest)}}


def _verdicts(method: MethodPolicy) -> dict[str, Any]:
    """Consumer → what is decided for it; the more generous of two decisions stands last."""
    granted = verdict("granted", "ALLOW")
    found: dict[str, Any] = {}
    if not method.everyone:
        found |= dict.fromkeys(sorted(method.exhausted), verdict("QUOTA_EXCEEDED", "DENY"))
        found |= {consumer: _for_purposes(purposes) for consumer, purposes in method.purposes}
    return found | ({} if method.everyone else dict.fromkeys(sorted(method.consumers), granted))


@lru_cache(maxsize=1000)
def _for_purposes(purposes: frozenset[str]) -> Message:
    named = dict.fromkeys(sorted(purposes), verdict("granted", "ALLOW"))
    content = {"matcher": look_up(PURPOSE_HEADER, named, verdict("PURPOSE_NOT_GRANTED", "DENY"))}
    return build("xds.type.matcher.v3.Matcher.OnMatch", content)


def look_up(header: str, verdicts: Mapping[str, Any], otherwise: Any) -> dict[str, Any]:
    """One hash look-up of a header: value → verdict."""
    tree = {"input": _value_of(header), "exact_match_map": {"map": verdicts}}
    return {"matcher_tree": tree, "on_no_match": otherwise}


@cache
def _value_of(header: str) -> Message:
    typed = {"@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput", "header_name": header}
    return build("xds.core.v3.TypedExtensionConfig", {"name": header, "typed_config": typed})


@cache
def verdict(name: str, action: str) -> Message:
    """The end of a look-up, built once: a city's access lists hold hundreds of thousands."""
    typed = {"@type": "type.googleapis.com/envoy.config.rbac.v3.Action", "name": name, "action": action}
    return build("xds.type.matcher.v3.Matcher.OnMatch", {"action": {"name": name, "typed_config": typed}})
