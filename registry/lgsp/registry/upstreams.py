"""What may be published as a legacy HTTP/JSON system: its base URL, its contract, its certificates. Pure.

A gateway calls whatever is named here, so a name is a way in: only plain `scheme://host:port/prefix`, and where data are
real only HTTPS, whose certificate must be the host's. Names are resolved by each gateway when it calls: a name is checked
when it is published, an address always.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509
from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor

from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry.contracts import Contract

MAX_URL: Final = 500
MAX_CA: Final = 32 * 1024
MAX_BODY: Final = 32 << 20
DEFAULT_BODY: Final = 4 << 20
_PORTS: Final = {"https": 443, "http": 80}
_SEGMENT: Final = re.compile(r"[A-Za-z0-9._~-]+")
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
CREDENTIAL: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
# Names of this machine or of no machine (RFC 6761, RFC 6762).
_LOCAL: Final = ("localhost", "local", "internal", "invalid", "onion")


@dataclass(frozen=True, slots=True)
class BaseUrl:
    """`prefix` has no slash at its end; `host` is a DNS name or an address without brackets."""

    tls: bool
    host: str
    port: int
    prefix: str

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_ip(self) -> bool:
        return _ip(self.host)


def parse(text: str) -> BaseUrl:
    """The base URL in parts; ENDPOINT_REFUSED says what is wrong with it."""
    if not text or len(text) > MAX_URL or not text.isascii() or re.search(r"[\x00-\x20\x7f\\\"<>^`{|}]", text):
        raise BusError("ENDPOINT_REFUSED", "the base URL is empty, too long, or has characters that a URL cannot have")
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise BusError("ENDPOINT_REFUSED", "the base URL has no valid host and port") from None
    if url.scheme not in _PORTS:
        raise BusError("ENDPOINT_REFUSED", "the base URL begins with https:// (or http:// for development)")
    # urlsplit drops an empty query or fragment; userinfo would be a secret in the registry.
    if {"?", "#", "@"} & set(text):
        raise BusError("ENDPOINT_REFUSED", "the base URL has no user, query or fragment; keep secrets in a credential")
    if port == 0 or url.netloc.endswith(":"):
        raise BusError("ENDPOINT_REFUSED", "the base URL's port is 1 to 65535")
    host = url.hostname or ""
    if not _ip(host) and not _name(host):
        raise BusError("ENDPOINT_REFUSED", f"{host[:64]!r} is neither a DNS name nor an IP address")
    return BaseUrl(url.scheme == "https", host, port or _PORTS[url.scheme], _prefix(url.path))


def _prefix(path: str) -> str:
    bare = path.removesuffix("/")
    segments = bare.split("/")[1:] if bare else []
    if any(not _SEGMENT.fullmatch(each) or set(each) == {"."} for each in segments):
        raise BusError("ENDPOINT_REFUSED", "the base URL's path has plain segments: no `//`, `.`, `..` or escapes")
    return bare


def _ip(host: str) -> bool:
    try:
        return "%" not in host and bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def _name(host: str) -> bool:
    labels = host.split(".")
    # `127.1` and `0x7f000001` are addresses to a resolver.
    return len(host) <= 253 and all(map(_LABEL.fullmatch, labels)) and not re.fullmatch(r"\d+|0x[0-9a-f]*", labels[-1])


def check_upstream(
    rest: pb.RestUpstream,
    contract: Contract,
    service: str,
    *,
    endpoint_policy: Callable[[str], object],
    development: bool,
) -> BaseUrl:
    """ENDPOINT_REFUSED, REQUEST_MALFORMED or CONTRACT_INVALID with what is wrong; `endpoint_policy` judges addresses."""
    url = parse(rest.base_url)
    if not url.tls and not development:
        raise BusError("ENDPOINT_REFUSED", "http:// carries data and credentials in the clear: use https://")
    if url.is_ip:
        check_address(url, url.host, endpoint_policy=endpoint_policy, development=development)
    elif not development and ("." not in url.host or url.host.rpartition(".")[2] in _LOCAL):
        raise BusError("ENDPOINT_REFUSED", f"{url.host[:64]!r} is no public or internal DNS name")
    if rest.credential and not CREDENTIAL.fullmatch(rest.credential):
        raise BusError("REQUEST_MALFORMED", "a credential's name has 1 to 64 of a-z, 0-9 and -, and no - at its start")
    if not 0 <= rest.max_body <= MAX_BODY:
        raise BusError("REQUEST_MALFORMED", f"max_body is at most {MAX_BODY} bytes")
    _check_ca(rest.ca, tls=url.tls)
    for method in _methods(contract, service):
        _check_method(method)
    return url


def check_address(url: BaseUrl, address: str, *, endpoint_policy: Callable[[str], object], development: bool) -> None:
    """ENDPOINT_REFUSED when the gateway must not be led to this address."""
    ip = ipaddress.ip_address(address)
    # ::ffff:127.0.0.1 is 127.0.0.1.
    real = getattr(ip, "ipv4_mapped", None) or ip
    if not development and (real.is_loopback or real.is_link_local or real.is_unspecified or real.is_multicast):
        raise BusError("ENDPOINT_REFUSED", f"{url.host[:64]} is at {real}, which is no address of another system")
    endpoint_policy(f"[{real}]:{url.port}" if real.version == 6 else f"{real}:{url.port}")


def _check_ca(pem: str, *, tls: bool) -> None:
    if not pem:
        return
    if not tls:
        raise BusError("REQUEST_MALFORMED", "certificates are for https:// only")
    if len(pem) > MAX_CA or "PRIVATE KEY" in pem:
        raise BusError("REQUEST_MALFORMED", f"ca are PEM certificates of at most {MAX_CA} bytes, without a key")
    try:
        x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        raise BusError("REQUEST_MALFORMED", "ca does not read as PEM certificates") from None


def _methods(contract: Contract, service: str) -> Iterator[MethodDescriptor]:
    contract.methods(service)
    yield from contract.pool.FindServiceByName(service).methods


def _check_method(method: MethodDescriptor) -> None:
    """What the reverse transcoder can turn into one request and one answer."""
    if method.client_streaming or method.server_streaming:
        raise BusError("CONTRACT_INVALID", f"{method.name} streams, which an HTTP/JSON system cannot")
    if "google.api.HttpBody" in (method.input_type.full_name, method.output_type.full_name):
        raise BusError(
            "CONTRACT_INVALID", f"{method.name}: google.api.HttpBody cannot be carried to an HTTP/JSON system"
        )
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    if rule.WhichOneof("pattern") in (None, "custom"):
        raise BusError("CONTRACT_INVALID", f"{method.name} needs google.api.http with get, put, post, delete or patch")
    if "*" in re.sub(r"\{[^}]*\}", "", getattr(rule, rule.WhichOneof("pattern"))):
        raise BusError("CONTRACT_INVALID", f"{method.name}: a wildcard of the path must be a variable's, `{{name=*}}`")
    if rule.response_body:
        raise BusError("CONTRACT_INVALID", f"{method.name}: response_body is not carried to an HTTP/JSON system")
    if rule.WhichOneof("pattern") in ("get", "delete") and rule.body:
        raise BusError("CONTRACT_INVALID", f"{method.name}: a get or delete has no body")
