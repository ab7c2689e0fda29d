"""Values between protobuf fields and SQL: which types fit each other, and the conversion both ways. Pure.

A NULL leaves a field unset, which needs a field with presence (`optional`, or a message).
"""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor as F
from google.protobuf.message import Message
from sqlalchemy import types as sql

DATE, TIMESTAMP, DECIMAL = "google.type.Date", "google.protobuf.Timestamp", "google.type.Decimal"
_INT32: Final = (F.TYPE_INT32, F.TYPE_SINT32, F.TYPE_SFIXED32)
_INT64: Final = (F.TYPE_INT64, F.TYPE_SINT64, F.TYPE_SFIXED64, F.TYPE_UINT64, F.TYPE_FIXED64)
_UINT32: Final = (F.TYPE_UINT32, F.TYPE_FIXED32)
_KIND: Final[dict[int, str]] = {
    **dict.fromkeys(_INT32, "int32"),
    **dict.fromkeys(_INT64, "int64"),
    **dict.fromkeys(_UINT32, "int64"),
    F.TYPE_BOOL: "bool",
    F.TYPE_FLOAT: "float",
    F.TYPE_DOUBLE: "double",
    F.TYPE_STRING: "string",
    F.TYPE_BYTES: "bytes",
    F.TYPE_ENUM: "enum",
}
_PARAMETER: Final[dict[str, sql.TypeEngine[Any]]] = {
    "int32": sql.Integer(),
    "int64": sql.BigInteger(),
    "bool": sql.Boolean(),
    "float": sql.Double(),
    "double": sql.Double(),
    "string": sql.Text(),
    "bytes": sql.LargeBinary(),
    "enum": sql.Text(),
    DATE: sql.Date(),
    TIMESTAMP: sql.DateTime(timezone=True),
    DECIMAL: sql.Numeric(),
}
# PostgreSQL type → kinds of field that hold every value of it.
COLUMN_FITS: Final[dict[str, frozenset[str]]] = {
    "int2": frozenset({"int32", "int64", "enum"}),
    "int4": frozenset({"int32", "int64", "enum"}),
    "int8": frozenset({"int64"}),
    "bool": frozenset({"bool"}),
    "float4": frozenset({"float", "double"}),
    "float8": frozenset({"double"}),
    "numeric": frozenset({DECIMAL, "string"}),
    "text": frozenset({"string", "enum"}),
    "varchar": frozenset({"string", "enum"}),
    "bpchar": frozenset({"string", "enum"}),
    "name": frozenset({"string"}),
    "uuid": frozenset({"string"}),
    "date": frozenset({DATE, "string"}),
    "timestamptz": frozenset({TIMESTAMP, "string"}),
    "timestamp": frozenset({"string"}),
    "bytea": frozenset({"bytes"}),
    "json": frozenset({"string"}),
    "jsonb": frozenset({"string"}),
}


class UnfitError(Exception):
    """A value does not fit its field; the text names the field and the type, never the value."""


def kind_of(field: F) -> str | None:
    """The kind of a field in the tables above; None for what no column can fill."""
    if field.type == F.TYPE_MESSAGE:
        name = field.message_type.full_name if field.message_type is not None else ""
        return name if name in _PARAMETER else None
    return _KIND.get(field.type)


def parameter_type(field: F) -> sql.TypeEngine[Any] | None:
    """The SQL type of a bound request field; None when it cannot be bound."""
    return _PARAMETER.get(kind_of(field) or "")


def to_parameter(message: Message, field: F) -> Any:
    """A request field as a bound value; an unset field with presence is NULL."""
    if field.has_presence and not message.HasField(field.name):
        return None
    value: Any = getattr(message, field.name)
    kind = kind_of(field)
    try:
        if kind == DATE:
            return dt.date(value.year, value.month, value.day)
        if kind == TIMESTAMP:
            return dt.datetime.fromtimestamp(value.seconds, dt.UTC) + dt.timedelta(microseconds=value.nanos // 1000)
        if kind == DECIMAL:
            return decimal.Decimal(value.value)
    except (ValueError, OverflowError, OSError, decimal.InvalidOperation):
        raise UnfitError(f"{field.name} is no {kind}") from None
    if kind == "enum":
        known: Any = field.enum_type.values_by_number if field.enum_type is not None else {}
        return known[value].name if value in known else value
    if kind == "string" and "\x00" in value:
        raise UnfitError(f"{field.name} holds a NUL character")
    return value


def fill(message: Message, field: F, value: Any) -> None:
    """Put a column's value into a field; UnfitError when it does not fit."""
    if value is None:
        if not field.has_presence:
            raise UnfitError(f"NULL in {field.name}, which has no presence: declare it `optional`")
        return
    convert = _FILL.get(kind_of(field) or "")
    if convert is None:
        raise UnfitError(f"{field.name} cannot be filled from a column")
    try:
        convert(message, field, value)
    except (TypeError, ValueError, KeyError, AttributeError):
        raise UnfitError(f"a {type(value).__name__} does not fit {field.name}") from None


def _number(message: Message, field: F, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    setattr(message, field.name, value)


def _floating(message: Message, field: F, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    setattr(message, field.name, float(value))


def _boolean(message: Message, field: F, value: Any) -> None:
    if value not in (True, False):
        raise TypeError
    setattr(message, field.name, bool(value))


def _text(message: Message, field: F, value: Any) -> None:
    if isinstance(value, bytes | memoryview):
        raise TypeError
    if isinstance(value, dt.datetime | dt.date):
        value = value.isoformat()
    if not isinstance(value, str | int | decimal.Decimal | uuid.UUID):
        raise TypeError
    setattr(message, field.name, format(value, "f") if isinstance(value, decimal.Decimal) else str(value))


def _bytes(message: Message, field: F, value: Any) -> None:
    setattr(message, field.name, bytes(memoryview(value)))


def _enum(message: Message, field: F, value: Any) -> None:
    if isinstance(value, str) and field.enum_type is not None:
        value = field.enum_type.values_by_name[value].number
    _number(message, field, value)


def _date(message: Message, field: F, value: Any) -> None:
    day = dt.date.fromisoformat(value) if isinstance(value, str) else value
    target = getattr(message, field.name)
    target.year, target.month, target.day = day.year, day.month, day.day


def _timestamp(message: Message, field: F, value: Any) -> None:
    moment = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
    if moment.tzinfo is None:
        raise ValueError
    since = moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    target = getattr(message, field.name)
    target.seconds = since.days * 86400 + since.seconds
    target.nanos = since.microseconds * 1000


def _decimal(message: Message, field: F, value: Any) -> None:
    if isinstance(value, float):
        raise TypeError
    getattr(message, field.name).value = format(decimal.Decimal(value), "f")


_FILL: Final = {
    "int32": _number, "int64": _number, "bool": _boolean, "float": _floating, "double": _floating, "string": _text,
    "bytes": _bytes, "enum": _enum, DATE: _date, TIMESTAMP: _timestamp, DECIMAL: _decimal,
}  # fmt: skip
