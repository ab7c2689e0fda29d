"""What Envoy counts when it could not mask a response, read from its admin socket."""

from __future__ import annotations

from typing import Final

import httpx

from lgsp.api.node.v1.node_pb2 import MaskAlarms

_WITHIN_S: Final = 1.0
_COUNTED: Final = {
    "proto_api_scrubber.response_scrubbing_failed": "unreadable_responses",
    "proto_api_scrubber.response_buffer_conversion_error": "unreadable_responses",
    "http.edge.lua.errors": "guard_errors",
}


async def mask_alarms(admin_socket: str) -> MaskAlarms:
    """The counts since Envoy started; `unknown` when it did not tell."""
    transport = httpx.AsyncHTTPTransport(uds=admin_socket)
    try:
        async with httpx.AsyncClient(transport=transport, timeout=_WITHIN_S) as client:
            answer = await client.get("http://envoy/stats?filter=^(proto_api_scrubber|http\\.edge\\.lua)\\.")
            answer.raise_for_status()
    except (httpx.HTTPError, OSError):
        return MaskAlarms(unknown=True)
    return read(answer.text)


def read(stats: str) -> MaskAlarms:
    """From lines of `name: number`; what is not there was never counted."""
    found = MaskAlarms()
    for line in stats.splitlines():
        name, _, value = line.partition(": ")
        if (field := _COUNTED.get(name)) and value.isdecimal():
            setattr(found, field, getattr(found, field) + int(value))
    return found
