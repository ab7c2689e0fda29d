"""Path templates of google.api.http as OpenAPI has them: each wildcard is one parameter. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_PART: Final = re.compile(r"\{(?P<field>[A-Za-z0-9_.]+)(?:=(?P<pattern>[^}]*))?\}|(?P<wild>\*\*?)")
_WILD: Final = re.compile(r"\*\*?")
_SLOT: Final = re.compile(r"\{[^}]*\}")


@dataclass(frozen=True, slots=True)
class Slot:
    """A parameter in a path: the request field it fills (empty for a wildcard without a name), and how.

    `whole` when it is the field's whole value; `many` when it may hold `/`; `form` is the value's pattern otherwise.
    """

    name: str
    field: str
    whole: bool = True
    many: bool = False
    form: str = ""


def open_path(template: str) -> tuple[str, list[Slot]]:
    """The template in OpenAPI's form, and its parameters in order."""
    slots: list[Slot] = []

    def place(found: re.Match[str]) -> str:
        if found["wild"]:
            return _add(slots, Slot("segment", "", many=found["wild"] == "**"))
        field, pattern = found["field"], found["pattern"] or "*"
        whole = pattern in ("*", "**")
        return _WILD.sub(
            lambda wild: _add(slots, Slot(field, field, whole, wild[0] == "**", "" if whole else pattern)), pattern
        )

    return _PART.sub(place, template), slots


def shape(path: str) -> str:
    """What two paths have in common that differ in the names of their parameters only: OpenAPI takes them for one."""
    return _SLOT.sub("{}", path)


def renamed(slots: list[Slot], known: str) -> list[Slot]:
    """The slots under the names that a path of the same shape gave them first."""
    names = [name[1:-1] for name in _SLOT.findall(known)]
    return [Slot(name, slot.field, slot.whole, slot.many, slot.form) for name, slot in zip(names, slots, strict=True)]


def fixed_fields(template: str) -> set[str]:
    """The request fields that a template fills, also those that it fills with a constant."""
    return {found["field"] for found in _PART.finditer(template) if found["field"]}


def _add(slots: list[Slot], slot: Slot) -> str:
    taken, name, number = {each.name for each in slots}, slot.name, 1
    while name in taken:
        number += 1
        name = f"{slot.name}_{number}"
    slots.append(Slot(name, slot.field, slot.whole, slot.many, slot.form))
    return f"{{{name}}}"
