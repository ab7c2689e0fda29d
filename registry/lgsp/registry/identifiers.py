"""Identifiers of the registry: their forms, and how they become subjects of the stream.

Agency identifiers follow Decision 20/2020/QĐ-TTg (`H26.15.3`) or the older 13 characters (`000.00.15.H26`). Everything is
ASCII, so that no letter can pass for another, and at most 200 bytes, because a longer subject closes a NATS connection.
"""

from __future__ import annotations

import re
from typing import Final

from lgsp.api.errors import BusError

MAX_BYTES: Final = 200
# Packages of the platform, of gRPC and of protobuf; whoever had such a name would stand where people trust the platform.
RESERVED: Final = ("lgsp.", "grpc.", "google.", "envoy.")
DEMO: Final = "lgsp.api.demo."
_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?"
_AGENCY: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_SYSTEM: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*/{_LABEL}(?:\.{_LABEL})*")
_SERVICE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)+")
_GRANT: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
_ZONE: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]")
# Three, two and two digits from the lowest level up, then the code of the ministry or province.
_OLDER: Final = re.compile(r"([0-9]{3})\.([0-9]{2})\.([0-9]{2})\.([A-Z][0-9]{2})")


def check_agency(identifier: str) -> str:
    """The identifier, or BusError IDENTIFIER_INVALID."""
    return _check("agency", identifier, _AGENCY, "H26.15.3")


def check_system(identifier: str) -> str:
    """`<agency>/<name>`, or BusError IDENTIFIER_INVALID."""
    return _check("system", identifier, _SYSTEM, "H26.15/one-stop")


def check_service(name: str) -> str:
    """A full protobuf service name, or BusError IDENTIFIER_INVALID."""
    return _check("service", name, _SERVICE, "hanoi.population.v1.PopulationService")


def is_reserved(name: str) -> bool:
    """True for services that only the platform may offer, now or in a later release."""
    return name.startswith(RESERVED) and not name.startswith(DEMO)


def check_grant(identifier: str) -> str:
    """The identifier, or BusError IDENTIFIER_INVALID."""
    return _check("grant", identifier, _GRANT, "one-stop-population")


def check_zone(name: str) -> str:
    """A zone's name, or BusError IDENTIFIER_INVALID."""
    return _check("zone", name, _ZONE, "ha-dong-1")


def from_older_form(identifier: str) -> list[str]:
    """What an older identifier of 13 characters can mean: `001.03.15.H26` → `H26.15.03.001`, `H26.15.3.1`.

    Levels that are all zeros are not there, and nothing is below them. Newer identifiers are written with and without
    leading zeros.
    """
    found = _OLDER.fullmatch(identifier)
    if found is None:
        return []
    every = found.groups()[2::-1]
    levels = [part for part in every if int(part)]
    if levels != list(every[: len(levels)]):
        return []
    bare = ".".join([found[4], *(str(int(part)) for part in levels)])
    return list(dict.fromkeys([".".join([found[4], *levels]), bare]))


def older_form(identifier: str) -> str:
    """The older 13 characters of an identifier; empty when it has none: more than four levels, or no numbers."""
    root, *levels = identifier.split(".")
    widths = (2, 2, 3)
    fits = all(part.isdecimal() and len(part) <= width for part, width in zip(levels, widths, strict=False))
    if len(levels) > len(widths) or not fits or not re.fullmatch("[A-Z][0-9]{2}", root):
        return ""
    padded = [part.zfill(width) for part, width in zip(levels + ["0"] * (3 - len(levels)), widths, strict=True)]
    return ".".join([*reversed(padded), root])


def agency_of(system: str) -> str:
    """The agency part of a system's identifier."""
    return system.partition("/")[0]


def _check(kind: str, identifier: str, form: re.Pattern[str], example: str) -> str:
    if len(identifier) > MAX_BYTES:
        raise BusError("IDENTIFIER_INVALID", f"the {kind} identifier is longer than {MAX_BYTES} bytes")
    if not identifier.isascii():
        raise BusError("IDENTIFIER_INVALID", f"the {kind} identifier has letters outside ASCII")
    if not form.fullmatch(identifier):
        raise BusError("IDENTIFIER_INVALID", f"{identifier!r} is no {kind} identifier, which looks like {example}")
    return identifier


def encode(key: str) -> str:
    """A key as one token of a NATS subject: what is not a letter, digit, `_` or `-` becomes `=XX`."""
    if not 0 < len(key.encode()) <= MAX_BYTES:
        raise BusError("IDENTIFIER_INVALID", f"the key is empty or longer than {MAX_BYTES} bytes")
    return "".join(char if _PLAIN.fullmatch(char) else "".join(f"={b:02X}" for b in char.encode()) for char in key)


def decode(token: str) -> str:
    """The key of a token made by `encode`."""
    return re.sub(r"(?:=[0-9A-F]{2})+", lambda found: bytes.fromhex(found[0].replace("=", "")).decode(), token)


def subject(kind: str, key: str) -> str:
    """Where a record lives: `registry.<kind>.<encoded key>`."""
    return f"registry.{kind}.{encode(key)}"


def parse_subject(text: str) -> tuple[str, str]:
    """Kind and key of a subject made by `subject`."""
    _, kind, token = text.split(".")
    return kind, decode(token)
