"""The consumer SDK: a gRPC channel to the bus that fetches and renews its tokens, carries the trace and names errors.

async with lgsp.client.connect("gw:8443", system="H26.15/one-stop", key="one-stop.jwk", ca="ca.pem") as channel:
    ward = await AdministrativeUnitServiceStub(channel).GetWard(GetWardRequest(code=4))
"""

from lgsp.client.channel import connect, connect_sync
from lgsp.client.errors import CallError, GrantMissingError, TokenRefusedError, explain
from lgsp.client.identity import Identity

__all__ = ["CallError", "GrantMissingError", "Identity", "TokenRefusedError", "connect", "connect_sync", "explain"]
