"""Where the components that this node runs answer: each says so in `run/`, which nobody but the node's owner can write.

A component on loopback is told apart from anybody else's claim on a port of this machine by that file alone.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from lgsp.gateway.datadir import file_name, write_private
from lgsp.gateway.settings import Settings

# No way leads there from here.
_NOWHERE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A component's system, the `ip:port` at which it answers, and its process."""

    system: str
    address: str
    pid: int


def announce(node: Settings, system: str, address: str) -> None:
    """Say where this process answers as a component of the node; what ended without a word is cleared away."""
    for path, place in _places(node, system):
        if not _runs(place.pid):
            path.unlink(missing_ok=True)
    write_private(_path(node, system, str(os.getpid())), msgspec.json.encode(Place(system, address, os.getpid())))


def withdraw(node: Settings, system: str) -> None:
    """This process answers nowhere any more."""
    _path(node, system, str(os.getpid())).unlink(missing_ok=True)


def runs_here(node: Settings, system: str, address: str) -> bool:
    """True while a component of `system` that this node started answers at `address`."""
    found = (place for _, place in _places(node, system))
    return any((each.system, each.address) == (system, address) and _runs(each.pid) for each in found)


def is_own(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """True for an address of this machine: the way there begins where it ends. When it cannot be told, it is one.

    Nothing is sent. (Whether an address can be bound says less: `ip_nonlocal_bind`, which gateways with a shared address
    set, lets any be.)
    """
    try:
        with socket.socket(socket.AF_INET if ip.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect((str(ip), 9))
            begins = ipaddress.ip_address(probe.getsockname()[0])
            return begins == ip or begins.is_loopback
    except OSError as error:
        return error.errno not in _NOWHERE


def _path(node: Settings, system: str, pid: str) -> Path:
    return node.run / f"component-{file_name(system)}.{pid}.place"


def _places(node: Settings, system: str) -> Iterator[tuple[Path, Place]]:
    """What the components of a system have said; a file that cannot be read says nothing."""
    for path in node.run.glob(_path(node, system, "*").name):
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            yield path, msgspec.json.decode(path.read_bytes(), type=Place)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:  # gone, or another user's: then it is not the one that wrote the file
        return False
    return True
