"""Registry records → neutral policy: what a service's route, cluster and endpoints must be at one instant.

Pure: no await, no clock of its own. The registry's words end here, Envoy's words begin in `xds.resources`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.timestamp_pb2 import Timestamp

from lgsp.api.registry.v1.registry_pb2 import (
    LIFECYCLE_DEPRECATED,
    Endpoint,
    NodeKey,
    RestUpstream,
    Service,
    System,
    TokenRevocation,
)
from lgsp.gateway.xds.policy import Deprecation, Instance, MethodPolicy, RestPolicy, ServicePolicy, TrustPolicy
from lgsp.registry import upstreams
from lgsp.registry.contracts import load_contract
from lgsp.registry.grants import holds
from lgsp.registry.recent import Made
from lgsp.registry.rights import Right, access, limits

UNARY_MS = 30_000
# Before a credential's name: the name of the secret that holds its value.
CREDENTIAL_SECRET = "credential/"  # noqa: S105 # a name, not a secret
# By bytes of their contracts: a pool is some ten times as large.
_pools = Made(16 << 20)
_IDEMPOTENT = (
    descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS,
    descriptor_pb2.MethodOptions.IDEMPOTENT,
)


def service_policy(
    service: Service,
    contract: bytes,
    given: Iterable[Right],
    instances: Iterable[Instance],
    now: datetime,
    rest: RestPolicy | None = None,
) -> ServicePolicy:
    """The service at `now`: each method with what the rights that hold then let whom do."""
    rights = [right for right in given if holds(right.grant, now) and (right.systems or right.everyone)]
    masked = any(right.grant.masks for right in rights)
    declared = _declared(contract, service.name)
    return ServicePolicy(
        name=service.name,
        methods=tuple(_method(method, rights, service, contract if masked else None) for method in declared),
        # An address is one instance, however often it was registered.
        endpoints=tuple({each.address: each for each in sorted(instances)}.values()),
        contract=contract,
        browser_origins=tuple(service.browser_origins),
        limits=limits(rights, (method.name for method in declared)),
        unary_ms=service.deadline.ToMilliseconds() or UNARY_MS,
        deprecation=_deprecation(service),
        rest=rest,
    )


def rest_policy(rest: RestUpstream, header: str | None, ca_file: str | None) -> RestPolicy:
    """A legacy system as this node can call it: `header` is that of the credential and `ca_file` the host's certificates,
    None where the node has none. What it cannot call as it should it does not call."""
    url = upstreams.parse(rest.base_url)
    closed = ""
    if rest.credential and header is None:
        closed = f"this node has no credential {rest.credential} for its provider"
    elif url.tls and not rest.ca and ca_file is None:
        closed = "this machine has no bundle of certificate authorities, and the service names none"
    return RestPolicy(
        host=url.host,
        port=url.port,
        tls=url.tls,
        prefix=url.prefix,
        ca=rest.ca,
        ca_file=ca_file or "",
        header=header or "",
        secret=f"{CREDENTIAL_SECRET}{rest.credential}" if rest.credential and header is not None else "",
        max_body=rest.max_body or upstreams.DEFAULT_BODY,
        closed=closed,
    )


def instance(endpoint: Endpoint) -> Instance:
    """An endpoint's record as the gateway needs it."""
    return Instance(endpoint.address, endpoint.weight or 1, endpoint.zone, endpoint.health_checked)


def published_keys(keys: Iterable[NodeKey], now: datetime) -> list[dict[str, Any]]:
    """The JWKs of all nodes that still count at `now`, in the order of their ids."""
    live = [key for key in keys if not key.HasField("retired_at") or now < time_of(key.retired_at)]
    return [json.loads(key.jwk) for key in sorted(live, key=lambda key: key.kid)]


def trust_policy(
    issuer: str, keys: Iterable[NodeKey], systems: Iterable[System], tokens: Iterable[TokenRevocation], now: datetime
) -> TrustPolicy:
    """Whose tokens are accepted at `now`; JWKs in the order of their ids, so that equal sets are equal text."""
    return TrustPolicy(
        issuer=issuer,
        jwks=json.dumps({"keys": published_keys(keys, now)}, sort_keys=True),
        revoked_systems=frozenset(system.id for system in systems if system.HasField("revoked_at")),
        revoked_tokens=frozenset(each.token_id for each in tokens if now < time_of(each.expires_at)),
    )


def time_of(stamp: Timestamp) -> datetime:
    """An instant in UTC."""
    return stamp.ToDatetime(tzinfo=UTC)


def _declared(contract: bytes, service: str) -> list[descriptor_pb2.MethodDescriptorProto]:
    files = descriptor_pb2.FileDescriptorSet.FromString(contract)
    package, _, short = service.rpartition(".")
    for file in files.file:
        if file.package == package:
            for declared in file.service:
                if declared.name == short:
                    return list(declared.method)
    return []


def _method(
    method: descriptor_pb2.MethodDescriptorProto, rights: list[Right], service: Service, contract: bytes | None
) -> MethodPolicy:
    response = _pool(contract).FindMessageTypeByName(method.output_type.lstrip(".")) if contract else None
    found = access(rights, method.name, response)
    return MethodPolicy(
        name=method.name,
        streaming=method.client_streaming or method.server_streaming,
        client_streaming=method.client_streaming,
        idempotent=method.options.idempotency_level in _IDEMPOTENT or method.name in service.idempotent_methods,
        consumers=found.consumers,
        purposes=found.purposes,
        everyone=found.everyone,
        exhausted=found.exhausted,
        fields=found.fields,
        views=found.views,
    )


def _deprecation(service: Service) -> Deprecation | None:
    if service.lifecycle != LIFECYCLE_DEPRECATED:
        return None
    sunset = service.sunset_at.seconds if service.HasField("sunset_at") else None
    return Deprecation(service.deprecated_at.seconds, sunset, service.replaced_by)


def _pool(contract: bytes) -> DescriptorPool:
    return _pools.of((contract,), len(contract), lambda: load_contract(contract).pool)
