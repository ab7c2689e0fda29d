"""Named, versioned resources and their last accepted copy on disk.

The file is what an Envoy gets that restarts while the registry is away: 0600, a checksum, an age limit. A damaged,
foreign or overaged file is as good as none.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf.message import Message

from lgsp.gateway.xds.messages import TYPE_PREFIX, message_class

_MAGIC = b"LGSPXDS1"
_HEAD = struct.Struct(">8sd32s")


@dataclass(frozen=True, slots=True)
class Resource:
    """One xDS resource as it travels: `version` is a digest of its bytes, so equal content is never sent twice."""

    type_url: str
    name: str
    value: bytes = field(repr=False)
    version: str

    @classmethod
    def of(cls, name: str, message: Message) -> Resource:
        value = message.SerializeToString(deterministic=True)
        return cls(TYPE_PREFIX + message.DESCRIPTOR.full_name, name, value, hashlib.sha256(value).hexdigest()[:16])


def save(path: Path, resources: Iterable[Resource], now: float) -> None:
    """Replace the file by `resources`, atomically; `now` is Unix seconds."""
    response = message_class("envoy.service.discovery.v3.DeltaDiscoveryResponse")()
    for each in resources:
        entry = response.resources.add(name=each.name, version=each.version)  # type: ignore[attr-defined]
        entry.resource.type_url, entry.resource.value = each.type_url, each.value
    body = response.SerializeToString()
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_HEAD.pack(_MAGIC, now, hashlib.sha256(body).digest()) + body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(path: Path, now: float, max_age_s: float) -> list[Resource]:
    """The resources on disk; none when the file is missing, damaged, or older than `max_age_s`."""
    try:
        content = path.read_bytes()
    except OSError:
        return []
    if len(content) < _HEAD.size:
        return []
    magic, written, digest = _HEAD.unpack_from(content)
    body = content[_HEAD.size :]
    if magic != _MAGIC or hashlib.sha256(body).digest() != digest or not 0 <= now - written + 60 <= max_age_s + 60:
        return []
    response = message_class("envoy.service.discovery.v3.DeltaDiscoveryResponse").FromString(body)
    return [
        Resource(entry.resource.type_url, entry.name, entry.resource.value, entry.version)
        for entry in response.resources  # type: ignore[attr-defined]
    ]
