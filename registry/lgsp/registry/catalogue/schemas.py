"""JSON Schema (draft 2020-12, as OpenAPI 3.1 has it) of messages, by protobuf's JSON mapping with the contract's own field names.

What a gateway answers leaves out fields at their default, so nothing is required there but what proto2 requires.
Laws: a message is written once and named by `$ref`, so one that contains itself ends; names are full names, so none clash.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, OneofDescriptor

from lgsp.api.errors import BusError

Schema = dict[str, Any]
# A few messages that hold each other many times over are small in a contract and beyond all bounds in a document.
MAX_FIELDS: Final = 100_000
_F: Final = FieldDescriptor
_INT: Final = {"type": "integer", "format": "int32"}
_UINT: Final = {"type": "integer", "format": "uint32", "minimum": 0}
# 64 bits do not fit a JavaScript number: JSON has them as text.
_LONG: Final = {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"}
_ULONG: Final = {"type": "string", "format": "uint64", "pattern": "^[0-9]+$"}
_NOT_NUMBERS: Final = {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]}
SCALARS: Final[dict[int, Schema]] = {
    _F.TYPE_DOUBLE: {"anyOf": [{"type": "number", "format": "double"}, _NOT_NUMBERS]},
    _F.TYPE_FLOAT: {"anyOf": [{"type": "number", "format": "float"}, _NOT_NUMBERS]},
    **dict.fromkeys((_F.TYPE_INT32, _F.TYPE_SINT32, _F.TYPE_SFIXED32), _INT),
    **dict.fromkeys((_F.TYPE_UINT32, _F.TYPE_FIXED32), _UINT),
    **dict.fromkeys((_F.TYPE_INT64, _F.TYPE_SINT64, _F.TYPE_SFIXED64), _LONG),
    **dict.fromkeys((_F.TYPE_UINT64, _F.TYPE_FIXED64), _ULONG),
    _F.TYPE_BOOL: {"type": "boolean"},
    _F.TYPE_STRING: {"type": "string"},
    _F.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
}
_DURATION: Final = r"^-?[0-9]+(\.[0-9]{1,9})?s$"
# google.protobuf.* messages with a JSON form of their own.
WELL_KNOWN: Final[dict[str, Schema]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": _DURATION, "examples": ["1.5s"]},
    "google.protobuf.FieldMask": {"type": "string", "examples": ["user.displayName,photo"]},
    "google.protobuf.Struct": {"type": "object", "additionalProperties": True},
    "google.protobuf.Value": {"description": "Any JSON value."},
    "google.protobuf.ListValue": {"type": "array", "items": {}},
    "google.protobuf.Empty": {"type": "object"},
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string", "description": "Type URL; the message's fields stand beside it."}},
        "required": ["@type"],
        "additionalProperties": True,
    },
    "google.protobuf.BoolValue": SCALARS[_F.TYPE_BOOL],
    "google.protobuf.StringValue": SCALARS[_F.TYPE_STRING],
    "google.protobuf.BytesValue": SCALARS[_F.TYPE_BYTES],
    "google.protobuf.Int32Value": _INT,
    "google.protobuf.UInt32Value": _UINT,
    "google.protobuf.Int64Value": _LONG,
    "google.protobuf.UInt64Value": _ULONG,
    "google.protobuf.FloatValue": SCALARS[_F.TYPE_FLOAT],
    "google.protobuf.DoubleValue": SCALARS[_F.TYPE_DOUBLE],
}
# Forms that a single text in a path or a query can have.
TEXTUAL: Final = frozenset(WELL_KNOWN) - {
    f"google.protobuf.{name}" for name in ("Struct", "Value", "ListValue", "Empty", "Any")
}
_SIGNED, _UNSIGNED = {"pattern": "^-?[0-9]+$"}, {"pattern": "^[0-9]+$"}
_KEYS: Final[dict[int, Schema]] = {
    _F.TYPE_BOOL: {"enum": ["true", "false"]},
    _F.TYPE_INT32: _SIGNED,
    _F.TYPE_SINT32: _SIGNED,
    _F.TYPE_SFIXED32: _SIGNED,
    _F.TYPE_INT64: _SIGNED,
    _F.TYPE_SINT64: _SIGNED,
    _F.TYPE_SFIXED64: _SIGNED,
    _F.TYPE_UINT32: _UNSIGNED,
    _F.TYPE_FIXED32: _UNSIGNED,
    _F.TYPE_UINT64: _UNSIGNED,
    _F.TYPE_FIXED64: _UNSIGNED,
}
Describe = Callable[[str], str]


class Schemas:
    """Collects `components.schemas`; `describe(full name)` gives a declaration's comment."""

    def __init__(self, describe: Describe) -> None:
        self._describe = describe
        self._room = MAX_FIELDS
        self.named: dict[str, Schema] = {}

    def message(self, message: Descriptor) -> Schema:
        """A message where it is used."""
        if message.full_name in WELL_KNOWN:
            return dict(WELL_KNOWN[message.full_name])
        if message.full_name not in self.named:
            self.named[message.full_name] = {}  # it may contain itself
            self.named[message.full_name] = self.inline(message)
        return {"$ref": f"#/components/schemas/{message.full_name}"}

    def inline(self, message: Descriptor, without: frozenset[str] = frozenset()) -> Schema:
        """A message's own schema, perhaps without fields that come another way."""
        fields = [field for field in message.fields if field.name not in without]
        made: Schema = {"type": "object", "properties": {field.name: self.field(field) for field in fields}}
        if required := [field.name for field in fields if field.is_required]:
            made["required"] = required
        if rules := [_at_most_one(each) for each in message.oneofs if _is_real(each)]:
            made["allOf"] = rules
        return made | self._told(message.full_name, message.GetOptions().deprecated)

    def look(self, field: FieldDescriptor) -> FieldDescriptor:
        """The field; REQUEST_TOO_LARGE when the document looks at more of them than it may."""
        self._room -= 1
        if self._room < 0:
            raise BusError("REQUEST_TOO_LARGE", f"a document has at most {MAX_FIELDS} fields: take the descriptor set")
        return field

    def field(self, field: FieldDescriptor) -> Schema:
        """A field with its comment."""
        self.look(field)
        told = self._told(field.full_name, field.GetOptions().deprecated)
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            key, value = entry.fields_by_name["key"], entry.fields_by_name["value"]
            names = {"propertyNames": _KEYS[key.type]} if key.type in _KEYS else {}
            return {"type": "object", "additionalProperties": self.value(value), **names, **told}
        if field.is_repeated:
            return {"type": "array", "items": self.value(field), **told}
        return self.value(field) | told

    def value(self, field: FieldDescriptor) -> Schema:
        """One value of a field."""
        if field.message_type is not None:
            return self.message(field.message_type)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        return dict(SCALARS[field.type])

    def _enum(self, enum: EnumDescriptor) -> Schema:
        if enum.full_name == "google.protobuf.NullValue":
            return {"type": "null"}
        if enum.full_name not in self.named:
            values = {each.name: self._describe(f"{enum.full_name}.{each.name}") for each in enum.values}
            told = [f"`{name}`: {said}" for name, said in values.items() if said]
            described = "\n".join(filter(None, [self._describe(enum.full_name), *told]))
            self.named[enum.full_name] = {"type": "string", "enum": [each.name for each in enum.values]}
            self.named[enum.full_name] |= {"description": described} if described else {}
        return {"$ref": f"#/components/schemas/{enum.full_name}"}

    def _told(self, full_name: str, deprecated: bool) -> Schema:
        described = self._describe(full_name)
        return ({"description": described} if described else {}) | ({"deprecated": True} if deprecated else {})


def is_textual(field: FieldDescriptor) -> bool:
    """True for what one text can carry: scalars, enums, and messages whose JSON form is a scalar."""
    return field.message_type is None or field.message_type.full_name in TEXTUAL


def _is_real(oneof: OneofDescriptor) -> bool:
    """False for what the compiler makes of `optional`: a oneof of one, named after its field."""
    return not (len(oneof.fields) == 1 and oneof.name == f"_{oneof.fields[0].name}")


def _at_most_one(oneof: OneofDescriptor) -> Schema:
    given = [{"required": [field.name]} for field in oneof.fields]
    return {"oneOf": [*given, {"not": {"anyOf": given}}]}
