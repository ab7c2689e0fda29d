"""What the node shows to legacy systems in its agencies' name: one file a credential, `D/credentials/<name>`, mode 0600.

The value goes from here to this node's Envoy (SDS over the unix socket, and so into `D/envoy/resources.bin`, 0600) and nowhere
else: it is in no registry, log or command line.
Rule: any provider can name any credential, and the address that it is sent to. So each is kept for systems, and for the
services of no other it is not there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from lgsp.api.errors import BusError
from lgsp.gateway.datadir import Layout, private_folder, write_private
from lgsp.gateway.errors import SettingsError
from lgsp.registry.identifiers import check_system
from lgsp.registry.upstreams import CREDENTIAL

MAX_VALUE: Final = 8192
_HEADER: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_VALUE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
# What says how a message is read or who calls is no credential.
_TAKEN: Final = re.compile(
    r"host|connection|te|trailer|upgrade|expect|accept.*|content-.*|transfer-encoding|traceparent|x-request-id|x-lgsp-.*"
)


class Credential(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A header and its value, and the systems for whose services it is; prints itself without the value."""

    header: str
    value: str
    systems: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Credential({self.header!r}, …)"


def checked(name: str, header: str, value: str, systems: Sequence[str] = ()) -> Credential:
    """SettingsError for what cannot be a credential; the message never holds the value."""
    for system in systems:
        try:
            check_system(system)
        except BusError as error:
            raise SettingsError(error.detail, "Name the system that provides the service, e.g. H26.9/land.") from None
    if not CREDENTIAL.fullmatch(name):
        raise SettingsError(f"{name[:64]!r} is no name of a credential", "Use 1 to 64 of a-z, 0-9 and -.")
    if not _HEADER.fullmatch(header) or _TAKEN.fullmatch(header.lower()):
        raise SettingsError(f"{header[:64]!r} cannot carry a credential", "Name a header such as Authorization.")
    if len(value) > MAX_VALUE or not _VALUE.fullmatch(value):
        raise SettingsError(
            "the value cannot be sent as a header",
            f"Give 1 to {MAX_VALUE} printable ASCII characters in one line, for example `Bearer …`.",
        )
    return Credential(header, value, tuple(systems))


def save(layout: Layout, name: str, credential: Credential) -> None:
    """Keep it, in place of what had the name."""
    private_folder(layout.credentials)
    write_private(layout.credentials / name, msgspec.json.encode(credential))


def load(layout: Layout, name: str) -> Credential | None:
    """None when there is none, or none that can be read: then nothing is sent."""
    try:
        found = msgspec.json.decode((layout.credentials / name).read_bytes(), type=Credential)
        return checked(name, found.header, found.value, found.systems)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, SettingsError):
        return None


def load_for(layout: Layout, name: str, system: str) -> Credential | None:
    """The credential, if it is kept for services of this system."""
    found = load(layout, name)
    return found if found is not None and system in found.systems else None


def remove(layout: Layout, name: str) -> bool:
    """True when it was there."""
    try:
        (layout.credentials / name).unlink()
    except FileNotFoundError:
        return False
    return True


def stamps(layout: Layout) -> dict[str, tuple[int, int]]:
    """Name → what changes with its file."""
    found = {}
    for path in _files(layout):
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue
        found[path.name] = (stat.st_ino, stat.st_mtime_ns)
    return found


def _files(layout: Layout) -> list[Path]:
    if not layout.credentials.is_dir():
        return []
    return sorted(each for each in layout.credentials.iterdir() if CREDENTIAL.fullmatch(each.name))
