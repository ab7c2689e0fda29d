"""What is left of a service whose routes Envoy refuses: its rights as they are now, without what may be at fault. Pure.

Envoy keeps what it had when it refuses something new, and with it rights that were revoked since. What it can refuse of a
service is what its contract makes: so first the service goes on without REST, and its masked methods are closed; if that is
refused too, all of it is. Another contract begins anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lgsp.gateway.xds.policy import ServicePolicy


@dataclass(frozen=True, slots=True)
class Fallen:
    """The contract that was refused, how often in a row, and in which words first."""

    digest: str
    times: int
    why: str


class Fallbacks:
    """Service → how it fell."""

    def __init__(self) -> None:
        self.services: dict[str, Fallen] = {}

    def note(self, service: str, digest: str, why: str) -> None:
        """Envoy refused the routes of the service with this contract."""
        before = self.services.get(service)
        again = before is not None and before.digest == digest
        self.services[service] = replace(before, times=2) if again and before else Fallen(digest, 1, why)

    def left_of(self, policy: ServicePolicy, digest: str) -> ServicePolicy:
        """The policy as it can be published; the whole where nothing was refused of this contract."""
        fallen = self.services.get(policy.name)
        if fallen is None or fallen.digest != digest:
            self.services.pop(policy.name, None)
            return policy
        closed = fallen.times > 1 or policy.rest is not None
        methods = () if closed else tuple(method for method in policy.methods if not method.fields)
        return replace(policy, methods=methods, limits=() if closed else policy.limits, contract=b"", rest=None)
