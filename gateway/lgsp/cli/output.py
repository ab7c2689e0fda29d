"""What the command prints: tables for people, JSON for programs, errors that say what to do."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any, NoReturn

import click
from google.protobuf import json_format
from google.protobuf.message import Message


class ExitCode(IntEnum):
    """How a command ends."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3
    INTERRUPTED = 130


def as_dict(message: Message) -> dict[str, Any]:
    """A message as JSON-ready data with the contract's own field names."""
    found: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return found


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_table(columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]], none: str) -> None:
    """`columns` maps a dotted path in a row to its heading; `none` is said when there is no row."""
    if not rows:
        click.echo(none)
        return
    cells = [[_cell(_at(row, path)) for path in columns] for row in rows]
    widths = [max(_width(text) for text in column) for column in zip(columns.values(), *cells, strict=True)]
    for line in ([*columns.values()], *cells):
        click.echo(
            "  ".join(text + " " * (width - _width(text)) for text, width in zip(line, widths, strict=True)).rstrip()
        )


def print_record(record: Mapping[str, Any]) -> None:
    """One record, a line a field."""
    flat = dict(_flat("", record))
    width = max((len(key) for key in flat), default=0)
    for key, value in flat.items():
        click.echo(f"{key.ljust(width)}  {_cell(value)}")


def fail(what: str, remedy: str = "", code: ExitCode = ExitCode.REFUSED) -> NoReturn:
    """Say what went wrong and what to do on standard error, and end."""
    click.echo(f"error: {what}", err=True)
    if remedy:
        click.echo(f"  → {remedy}", err=True)
    sys.exit(code)


def _at(row: Mapping[str, Any], path: str) -> Any:
    found: Any = row
    for step in path.split("."):
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(
            " ".join(map(_cell, each.values())) if isinstance(each, Mapping) else str(each) for each in value
        )
    return unicodedata.normalize("NFC", str(value)).replace("\n", " ")


def _width(text: str) -> int:
    return sum(
        2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text if not unicodedata.combining(letter)
    )


def _flat(prefix: str, value: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, each in value.items():
        name = f"{prefix}{key}"
        found += _flat(f"{name}.", each) if isinstance(each, Mapping) else [(name, each)]
    return found
