"""Registry records → neutral policy: what a service's route, cluster and endpoints must be at one instant.

Pure: no await, no clock of its own. The registry's words end here, Envoy's words begin in `xds.resources`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.timestamp_pb2 import Timestamp

from lgsp.api.registry.v1.registry_pb2 import (
    GRANT_STATE_ACTIVE,
    GRANT_STATE_UNSPECIFIED,
    LIFECYCLE_DEPRECATED,
    Endpoint,
    Grant,
    NodeKey,
    Service,
    System,
    TokenRevocation,
)
from lgsp.gateway.rights import Right, access, limits
from lgsp.gateway.xds.policy import Deprecation, Instance, MethodPolicy, ServicePolicy, TrustPolicy
from lgsp.registry.contracts import load_contract

# Grants that were made before they had states have none.
_IN_FORCE = (GRANT_STATE_UNSPECIFIED, GRANT_STATE_ACTIVE)
UNARY_MS = 30_000
_IDEMPOTENT = (
    descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS,
    descriptor_pb2.MethodOptions.IDEMPOTENT,
)


def service_policy(
    service: Service, contract: bytes, given: Iterable[Right], instances: Iterable[Instance], now: datetime
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
    )


def instance(endpoint: Endpoint) -> Instance:
    """An endpoint's record as the gateway needs it."""
    return Instance(endpoint.address, endpoint.weight or 1, endpoint.zone, endpoint.health_checked)


def holds(grant: Grant, now: datetime) -> bool:
    """True while a grant is in force: approved, begun, not ended, not revoked. The end itself is outside."""
    return (
        grant.state in _IN_FORCE
        and not grant.HasField("revoked_at")
        and (not grant.HasField("not_before") or _time(grant.not_before) <= now)
        and (not grant.HasField("not_after") or now < _time(grant.not_after))
    )


def next_boundary(grants: Iterable[Grant], keys: Iterable[NodeKey], now: datetime) -> datetime | None:
    """When a grant next begins or ends by itself, or a key's time is over; None when nothing will."""
    times = [
        _time(getattr(grant, name))
        for grant in grants
        for name in ("not_before", "not_after")
        if grant.HasField(name) and not grant.HasField("revoked_at")
    ]
    times += [_time(key.retired_at) for key in keys if key.HasField("retired_at")]
    return min((time for time in times if time > now), default=None)


def published_keys(keys: Iterable[NodeKey], now: datetime) -> list[dict[str, Any]]:
    """The JWKs of all nodes that still count at `now`, in the order of their ids."""
    live = [key for key in keys if not key.HasField("retired_at") or now < _time(key.retired_at)]
    return [json.loads(key.jwk) for key in sorted(live, key=lambda key: key.kid)]


def trust_policy(
    issuer: str, keys: Iterable[NodeKey], systems: Iterable[System], tokens: Iterable[TokenRevocation], now: datetime
) -> TrustPolicy:
    """Whose tokens are accepted at `now`; JWKs in the order of their ids, so that equal sets are equal text."""
    return TrustPolicy(
        issuer=issuer,
        jwks=json.dumps({"keys": published_keys(keys, now)}, sort_keys=True),
        revoked_systems=frozenset(system.id for system in systems if system.HasField("revoked_at")),
        revoked_tokens=frozenset(each.token_id for each in tokens if now < _time(each.expires_at)),
    )


def _time(stamp: Timestamp) -> datetime:
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
        idempotent=method.options.idempotency_level in _IDEMPOTENT or method.name in service.idempotent_methods,
        consumers=found.consumers,
        purposes=found.purposes,
        everyone=found.everyone,
        exhausted=found.exhausted,
        fields=found.fields,
    )


def _deprecation(service: Service) -> Deprecation | None:
    if service.lifecycle != LIFECYCLE_DEPRECATED:
        return None
    sunset = service.sunset_at.seconds if service.HasField("sunset_at") else None
    return Deprecation(service.deprecated_at.seconds, sunset, service.replaced_by)


@lru_cache(maxsize=64)
def _pool(contract: bytes) -> DescriptorPool:
    return load_contract(contract).pool
