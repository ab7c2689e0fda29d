"""Agencies as files: CSV for spreadsheets and JSON for programs, read strictly, written so that reading gives the same.

CSV columns: id, vi, en, parent, aliases, valid_from, valid_until, successors, act, networks; lists are joined by `;`, times
are ISO 8601; a column that is not there leaves what is known. JSON is a list of Agency messages in protobuf's JSON form.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from lgsp.api.registry.v1.registry_pb2 import Agency

MAX_BYTES: Final = 64 << 20
COLUMNS: Final = ("id", "vi", "en", "parent", "aliases", "valid_from", "valid_until", "successors", "act", "networks")
_NAMES: Final = {"vi": "names.vi", "en": "names.en"}
_LISTS: Final = ("aliases", "successors", "networks")
_TIMES: Final = ("valid_from", "valid_until")


class FileError(Exception):
    """The file cannot be read; the text names file and line."""


@dataclass(frozen=True, slots=True)
class Content:
    """A file's agencies, parents and successors before those that name them, and the fields that it has a column for:
    none is all of them."""

    agencies: list[Agency]
    fields: list[str]


def read(path: Path) -> Content:
    """The agencies of a file."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FileError(f"{path}: larger than {MAX_BYTES >> 20} MiB")
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: cannot be read as UTF-8: {error}") from None
    is_json = path.suffix == ".json"
    fields = [] if is_json else _columns(path, text)
    rows = _from_json(path, text) if is_json else _from_csv(path, text)
    named: dict[str, Agency] = {}
    for where, agency in rows:
        if not agency.id:
            raise FileError(f"{where}: no id")
        if agency.id in named:
            raise FileError(f"{where}: {agency.id} is in the file twice")
        named[agency.id] = agency
    return Content(_in_order(named), fields)


def write_csv(agencies: Iterable[Agency]) -> str:
    """The agencies as CSV with a heading."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for each in agencies:
        row: dict[str, Any] = {
            "id": each.id,
            "vi": each.names.vi,
            "en": each.names.en,
            "parent": each.parent,
            "act": each.act,
        }
        row |= {name: ";".join(getattr(each, name)) for name in _LISTS}
        times = {field.name: value for field, value in each.ListFields() if field.name in _TIMES}
        row |= {name: value.ToJsonString() for name, value in times.items()}
        writer.writerow(row)
    return out.getvalue()


def write_json(agencies: Iterable[Agency]) -> str:
    """The agencies as a JSON list."""
    rows = [json_format.MessageToDict(each, preserving_proto_field_name=True) for each in agencies]
    return json.dumps(rows, ensure_ascii=False, indent=1) + "\n"


def _columns(path: Path, text: str) -> list[str]:
    """The fields that the heading names; none when it names all."""
    found = csv.DictReader(io.StringIO(text), strict=True).fieldnames or ()
    unknown = [each for each in found if each not in COLUMNS]
    if unknown or "id" not in found:
        what = f"unknown column {unknown[0]!r}" if unknown else "no column `id`"
        hint = " Use commas between cells." if ";" in "".join(unknown) else ""
        raise FileError(f"{path}:1: {what}; columns are {', '.join(COLUMNS)}.{hint}")
    named = [_NAMES.get(each, each) for each in COLUMNS if each in found and each != "id"]
    return [] if len(found) == len(COLUMNS) else named or ["id"]


def _from_csv(path: Path, text: str) -> Iterable[tuple[str, Agency]]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if None in row or None in row.values():
                raise FileError(f"{where}: not as many cells as the heading")
            yield where, _agency(where, row)
    except csv.Error as error:
        raise FileError(f"{path}:{reader.line_num}: {error}") from None


def _agency(where: str, row: dict[str, str]) -> Agency:
    made = Agency(id=row["id"].strip(), parent=row.get("parent", "").strip(), act=row.get("act", ""))
    if row.get("vi") or row.get("en"):
        made.names.vi, made.names.en = row.get("vi", ""), row.get("en", "")
    for name in _LISTS:
        getattr(made, name).extend(each.strip() for each in row.get(name, "").split(";") if each.strip())
    for name in _TIMES:
        if text := row.get(name, "").strip():
            getattr(made, name).CopyFrom(_instant(where, text))
    return made


def _instant(where: str, text: str) -> Timestamp:
    found = Timestamp()
    try:
        if text.endswith("Z") and "T" in text:
            found.FromJsonString(text)  # as exports write it, to the nanosecond
        else:
            found.FromDatetime(datetime.fromisoformat(text).astimezone(UTC))
        return found
    except (ValueError, OverflowError):
        raise FileError(f"{where}: {text[:40]!r} is no ISO 8601 time such as 2025-07-01T00:00:00+07:00") from None


def _from_json(path: Path, text: str) -> Iterable[tuple[str, Agency]]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: no JSON: {error}") from None
    if not isinstance(rows, list):
        raise FileError(f"{path}: a list of agencies is expected")
    for number, row in enumerate(rows, start=1):
        try:
            yield f"{path}: agency {number}", json_format.ParseDict(row, Agency())
        except (json_format.ParseError, AttributeError, TypeError) as error:
            raise FileError(f"{path}: agency {number}: {str(error)[:200]}") from None


def _in_order(named: dict[str, Agency]) -> list[Agency]:
    """Parents and successors first; a circle is left as it is, for the registry to name. Without recursion."""
    done: dict[str, Agency] = {}
    for root in named:
        stack, open_ = [root], {root}
        while stack:
            agency = named[stack[-1]]
            needed = next(
                (
                    each
                    for each in (agency.parent, *agency.successors)
                    if each in named and each not in done and each not in open_
                ),
                None,
            )
            if needed is not None:
                stack.append(needed)
                open_.add(needed)
            else:
                done[agency.id] = agency
                stack.pop()
    return list(done.values())
