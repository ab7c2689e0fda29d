"""Says in the log, once for each service and channel, that a service which is called will end (RFC 9745, RFC 8594)."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

log = logging.getLogger("lgsp.client")


class Notices:
    """Looks at the metadata of answers; unary calls only, because a stream's are its caller's to wait for."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def look(self, method: str | bytes, metadata: Iterable[Any] | None) -> None:
        """Warn when the answer to `method` says that its service is deprecated."""
        found = {key: value for key, value in metadata or () if key in ("deprecation", "sunset", "link")}
        if "deprecation" not in found:
            return
        name = method.decode() if isinstance(method, bytes) else method
        service = name.strip("/").partition("/")[0]
        if service not in self._told:
            self._told.add(service)
            end = f"; it ends at {found['sunset']}" if "sunset" in found else ""
            after = f"; in its place: {found['link']}" if "link" in found else ""
            log.warning("%s is deprecated%s%s", service, end, after)
