"""What callers of a deprecated service are told with every answer: RFC 9745 (Deprecation), RFC 8594 (Sunset), RFC 8288 (Link).

gRPC callers find them in the initial metadata; a refusal without messages has them in its trailers.
"""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

from lgsp.gateway.xds.policy import Deprecation


def headers(deprecation: Deprecation | None) -> list[dict[str, Any]]:
    """Headers for Envoy to add to each response."""
    if deprecation is None:
        return []
    found = {"deprecation": f"@{deprecation.since}"}
    if deprecation.sunset is not None:
        found["sunset"] = formatdate(deprecation.sunset, usegmt=True)
    if deprecation.successor:
        found["link"] = f'</{deprecation.successor}>; rel="successor-version"'
    return [
        {"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        for key, value in found.items()
    ]
