"""Where a provider may answer. Pure: what it must know of the machine is handed in.

An endpoint is an order to the gateway to open connections, so whoever registers one could make it reach what only it can
reach. Rule 1: nothing is allowed that is not in the networks of the provider's agency. Rule 2: the gateway's own machine is
in nobody's network; there, a component answers only where this node itself has started it. Rule 3: an address is read once,
into one spelling, and that spelling is what is checked, kept and dialled. The development profile leaves out rule 1 and the
second half of rule 2.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from lgsp.api.errors import BusError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# What no profile allows, and what it is.
_NEVER: Final = (
    ("0.0.0.0/8", "no address of a host"),
    ("169.254.0.0/16", "a link-local address"),
    ("224.0.0.0/4", "a multicast address"),
    ("240.0.0.0/4", "a reserved address"),
    ("::/128", "no address of a host"),
    ("fe80::/10", "a link-local address"),
    ("ff00::/8", "a multicast address"),
    # Addresses that carry another inside, which a translator or a tunnel may take out again.
    ("64:ff9b::/96", "a translated address"),
    ("64:ff9b:1::/48", "a translated address"),
    ("2001::/32", "a tunnel's address"),
    ("2002::/16", "a tunnel's address"),
)
_NEVER_NETWORKS: Final = tuple((ipaddress.ip_network(each), what) for each, what in _NEVER)
_COMPATIBLE: Final = ipaddress.ip_network("::/96")


@dataclass(frozen=True, slots=True)
class EndpointPolicy:
    """`networks` are the CIDRs of a system's agency; `is_own` knows this machine's addresses, loopback aside; `own_ports`
    are those of the platform's parts; `runs_here` whether this node started a component of a system at an address."""

    development: bool
    networks: Callable[[str], Sequence[str]]
    is_own: Callable[[Address], bool]
    own_ports: Callable[[], Collection[int]]
    runs_here: Callable[[str, str], bool]

    def check(self, system: str, address: str) -> str:
        """The address in its one spelling; BusError ENDPOINT_REFUSED says which rule it breaks and what to do."""
        ip, port = parse(address)
        where = written(ip, port)
        if refusal := self._refusal(system, ip, port, where):
            raise BusError("ENDPOINT_REFUSED", refusal)
        return where

    def refusal(self, system: str, address: str) -> str:
        """Why an address that was registered is not served any more; empty when it is."""
        try:
            self.check(system, address)
        except BusError as error:
            return error.detail
        return ""

    def _refusal(self, system: str, ip: Address, port: int, where: str) -> str:
        if what := _what_never(ip):
            return f"{ip} is {what}: register an address at which the provider itself listens"
        here = ip.is_loopback or self.is_own(ip)
        if here and port in self.own_ports():
            return f"{where} belongs to the platform: let the provider listen on another port"
        if self.development or (here and self.runs_here(system, where)):
            return ""
        if here:
            return (
                f"{where} is on the gateway's own machine: only components that this node runs answer there "
                "(`lgsp plug`), or anybody's in the development profile"
            )
        return self._outside(system, ip)

    def _outside(self, system: str, ip: Address) -> str:
        networks = self.networks(system)
        if not networks:
            return f"the agency of {system} has no networks: an operator sets them with `lgsp agency networks`"
        if not any(ip.version == each.version and ip in each for each in parsed(tuple(networks))):
            return (
                f"{ip} is outside the networks of the agency of {system}: register an address inside, or let an operator "
                "widen them with `lgsp agency networks`"
            )
        return ""


def parse(address: str) -> tuple[Address, int]:
    """`10.0.0.1:7000` or `[fd00::1]:7000`; an IPv4 address written as IPv6 is read as what it is."""
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        ip = ipaddress.ip_address(bare)
    except ValueError:
        raise BusError("ENDPOINT_REFUSED", f"{address[:64]!r} is no `ip:port`: give an address, not a name") from None
    if (ip.version == 6) != (bare != host) or "%" in bare:
        raise BusError("ENDPOINT_REFUSED", f"{address[:64]!r} is no `ip:port`: IPv6 is written [fd00::1]:7000")
    if not colon or not (port.isascii() and port.isdecimal()) or len(port) > 5 or not 0 < int(port) < 65536:
        raise BusError("ENDPOINT_REFUSED", f"{address[:64]!r} has no port from 1 to 65535")
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return mapped or ip, int(port)


def written(ip: Address, port: int) -> str:
    """The one spelling of a place."""
    return f"[{ip.compressed}]:{port}" if ip.version == 6 else f"{ip}:{port}"


def _what_never(ip: Address) -> str:
    for network, what in _NEVER_NETWORKS:
        if ip.version == network.version and ip in network:
            return what
    if ip.version == 6 and ip in _COMPATIBLE and not ip.is_loopback:
        return "a translated address"
    return ""


@lru_cache(maxsize=1024)
def parsed(networks: Iterable[str]) -> tuple[Network, ...]:
    """CIDRs that were checked when they were stored."""
    return tuple(ipaddress.ip_network(each) for each in networks)
