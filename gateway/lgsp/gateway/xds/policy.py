"""What the gateway must enforce, free of Envoy's words and of the registry's records: frozen, comparable, hashable."""

from __future__ import annotations

from dataclasses import dataclass, field

from lgsp.registry.rights import FieldRule as FieldRule
from lgsp.registry.rights import Limit as Limit
from lgsp.registry.rights import View as View


@dataclass(frozen=True, slots=True)
class MethodPolicy:
    """One method and who may call it. Nobody is the default.

    `consumers` call it as they are; those in `purposes` only for one of the purposes beside their name; `everyone` who has
    a token. `exhausted` have used up their day. `fields` are the leaves of its response when somebody sees only some, and
    `views` the same by who sees what.
    """

    name: str
    streaming: bool = False
    client_streaming: bool = False
    idempotent: bool = False
    consumers: frozenset[str] = frozenset()
    purposes: tuple[tuple[str, frozenset[str]], ...] = ()
    everyone: bool = False
    exhausted: frozenset[str] = frozenset()
    fields: tuple[FieldRule, ...] = ()
    views: tuple[View, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Instance:
    """One place where a service answers: `ip:port`, its share of the calls, where it runs, whether it tells its health."""

    address: str
    weight: int = 1
    zone: str = ""
    health_checked: bool = False


@dataclass(frozen=True, slots=True)
class Deprecation:
    """What callers of a deprecated service are told: since when, until when (Unix seconds), and what takes its place."""

    since: int
    sunset: int | None = None
    successor: str = ""


@dataclass(frozen=True, slots=True)
class RestPolicy:
    """An HTTP/JSON system that the gateway calls itself.

    `prefix` is the path of its base URL without the last slash; `ca` are PEM certificates, `ca_file` a bundle of the host.
    `header` and `secret` name the credential's header and the resource that holds its value. `closed` says why nothing
    may be sent to it: then nothing is.
    """

    host: str
    port: int
    tls: bool = True
    prefix: str = ""
    ca: str = ""
    ca_file: str = ""
    header: str = ""
    secret: str = ""
    max_body: int = 4 << 20
    closed: str = ""


@dataclass(frozen=True, slots=True)
class ServicePolicy:
    """One service: its methods, where it answers and its contract as a serialized FileDescriptorSet."""

    name: str
    methods: tuple[MethodPolicy, ...]
    endpoints: tuple[Instance, ...] = ()
    contract: bytes = field(default=b"", repr=False)
    browser_origins: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    unary_ms: int = 30_000
    deprecation: Deprecation | None = None
    rest: RestPolicy | None = None
    # Larger requests are refused before they reach it; 0 leaves that to the provider. Client streams have no whole to measure.
    max_request_bytes: int = 0


@dataclass(frozen=True, slots=True)
class TrustPolicy:
    """Whose tokens are accepted: issuer (also the audience), public keys (a JWK Set) and what was taken back."""

    issuer: str
    jwks: str
    revoked_systems: frozenset[str] = frozenset()
    revoked_tokens: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class EdgePolicy:
    """The node's own edge: listener, certificate, log and trace sink, and the zone that it stands in."""

    address: str
    port: int
    certificate: bytes
    private_key: bytes = field(repr=False)
    access_log: str
    oauth_socket: str
    otlp: bool = False
    trace_percent: float = 1.0
    zone: str = ""
