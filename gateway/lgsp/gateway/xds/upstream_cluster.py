"""Where a legacy HTTP/JSON system is, and what Envoy shows it: address, TLS, headers by a list, and the credential.

Of a caller's headers the system sees those of FORWARDED: `x-http-method-override` and the like could outwit a grant.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any, Final

from google.protobuf.message import Message

from lgsp.gateway.xds.messages import ADS, build
from lgsp.gateway.xds.policy import RestPolicy
from lgsp.gateway.xds.refusals import UPSTREAM_MARK

_HTTP: Final = "type.googleapis.com/envoy.extensions.filters.http"
FORWARDED: Final = (
    "content-type",
    "content-length",
    "transfer-encoding",
    "user-agent",
    "accept-language",
    "idempotency-key",
    "traceparent",
    "tracestate",
    "x-request-id",
    "x-lgsp-client",
    "x-lgsp-agency",
    "x-lgsp-purpose",
    UPSTREAM_MARK,
)
# Of its headers only these come back: no cookie, no `server`, no header by which a gateway or gRPC would be told things.
_ANSWERED: Final = ("content-type", "content-length", "transfer-encoding")


def http_filters(rest: RestPolicy) -> list[dict[str, Any]]:
    """What the system sees of a call, and its credential, put in last so that no caller's header stands in for it."""
    said = [
        {"append": {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}
        for key, value in (("accept", "application/json"), ("accept-encoding", "identity"))
    ]
    headers = {
        "@type": f"{_HTTP}.header_mutation.v3.HeaderMutation",
        "mutations": {
            "request_mutations": [_only(FORWARDED), *said],
            "response_mutations": [_only(_ANSWERED)],
        },
    }
    credential = [{"name": "credential", "typed_config": _credential(rest)}] if rest.secret else []
    codec = {"@type": f"{_HTTP}.upstream_codec.v3.UpstreamCodec"}
    return [
        {"name": "headers", "typed_config": headers},
        *credential,
        {"name": "codec", "typed_config": codec},
    ]


def _only(names: Iterable[str]) -> dict[str, Any]:
    return {"remove_on_match": {"key_matcher": {"safe_regex": {"regex": other_than(names)}}}}


def _credential(rest: RestPolicy) -> dict[str, Any]:
    generic = {
        "@type": "type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic",
        "credential": {"name": rest.secret, "sds_config": ADS},
        "header": rest.header,
    }
    return {
        "@type": f"{_HTTP}.credential_injector.v3.CredentialInjector",
        "overwrite": True,
        "credential": {"name": "generic", "typed_config": generic},
    }


def other_than(names: Iterable[str]) -> str:
    """A regular expression (RE2 has no look-ahead) for every header name that is none of `names` and no pseudo-header."""
    trie: dict[str, Any] = {}
    for name in names:
        node = trie
        for letter in name:
            node = node.setdefault(letter, {})
        node[""] = {}
    return _otherwise(trie, ":")


def _otherwise(node: dict[str, Any], never: str = "") -> str:
    children = sorted(key for key in node if key)
    taken = "".join(re.escape(letter) for letter in [*children, *never])
    made = [f"[^{taken}].*" if taken else ".+"]
    made += [re.escape(letter) + _otherwise(node[letter]) for letter in children]
    return f"(?:{'|'.join(made)}){'' if '' in node or never else '?'}"


def transport(rest: RestPolicy) -> dict[str, Any]:
    """TLS to the system: its certificate must chain to the CA and name the host."""
    kind = "IP_ADDRESS" if _is_ip(rest.host) else "DNS"
    trusted = {"inline_string": rest.ca} if rest.ca else {"filename": rest.ca_file}
    named = [{"san_type": kind, "matcher": {"exact": rest.host}}]
    content: dict[str, Any] = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "alpn_protocols": ["http/1.1"],
            "validation_context": {"trusted_ca": trusted, "match_typed_subject_alt_names": named},
        },
    }
    if kind == "DNS":
        content["sni"] = rest.host
    return {"name": "tls", "typed_config": content}


def place(name: str, rest: RestPolicy) -> dict[str, Any]:
    """Where the cluster's calls go: nowhere while the upstream is closed."""
    address = {"socket_address": {"address": rest.host, "port_value": rest.port}}
    hosts = [] if rest.closed else [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    content: dict[str, Any] = {"load_assignment": {"cluster_name": name, "endpoints": hosts}}
    if _is_ip(rest.host) or rest.closed:
        return content | {"type": "STATIC"}
    return content | {"type": "STRICT_DNS", "dns_lookup_family": "ALL", "respect_dns_ttl": True}


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def secret(name: str, value: bytes) -> Message:
    """A credential's value for SDS."""
    content = {"name": name, "generic_secret": {"secret": {"inline_bytes": base64.b64encode(value).decode()}}}
    return build("envoy.extensions.transport_sockets.tls.v3.Secret", content)
