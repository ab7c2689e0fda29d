"""The registry's gRPC API. The gateway has already checked the caller's grant on the method; here is what is owned by whom.

Rule 1: the caller is `x-lgsp-client`, which only the gateway can set on this socket; without it nothing is answered.
Rule 2: a system that may create grants is an operator and may act for all; any other acts in its own name alone.
Rule 3: repeating an operation id repeats the answer, for as long as no other write replaced the record (a replaced one
        is remembered for two minutes). Nothing is deleted: an end is a record.
Rule 4: what every node keeps in memory and every Envoy is told has a size and a form that were checked here.
"""

from __future__ import annotations

from lgsp.api.registry.v1 import registry_pb2_grpc
from lgsp.registry.api.agencies import Agencies
from lgsp.registry.api.endpoints import Endpoints
from lgsp.registry.api.grants import Grants
from lgsp.registry.api.groups import Groups
from lgsp.registry.api.rights import Rights
from lgsp.registry.api.services import Services
from lgsp.registry.api.systems import Systems
from lgsp.registry.api.watch import Watching

__all__ = ["RegistryServicer"]


class RegistryServicer(
    Agencies, Systems, Services, Endpoints, Grants, Groups, Watching, Rights, registry_pb2_grpc.RegistryServiceServicer
):
    """The whole API; see `Part` for what it is made of."""
