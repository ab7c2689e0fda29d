"""Options of a contract as `.proto` text, custom ones included: read with the contract's own pool, which knows its extensions. Pure."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import message_factory, text_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

# An option that is longer takes a line for each field.
_LINE: Final = 60
_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


class Options:
    """Reads the options that files of `pool` have."""

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool

    def told(self, options: Message) -> list[tuple[str, str]]:
        """(name, value) of each option that is set, as both stand in a `.proto`."""
        return [
            (_name(field), text) for field, value in self._known(options).ListFields() for text in _texts(field, value)
        ]

    def _known(self, options: Message) -> Message:
        try:
            declared = self._pool.FindMessageTypeByName(options.DESCRIPTOR.full_name)
        except KeyError:
            # A contract that does not bring descriptor.proto has no options of its own.
            return options
        made: Message = message_factory.GetMessageClass(declared)()
        made.ParseFromString(options.SerializeToString())
        return made


def _name(field: FieldDescriptor) -> str:
    return f"({field.full_name})" if field.is_extension else field.name


def _texts(field: FieldDescriptor, value: Any) -> list[str]:
    # A repeated option is set once for each value.
    return [_text(field, each) for each in value] if field.is_repeated else [_text(field, value)]


def _text(field: FieldDescriptor, value: Any) -> str:
    if field.message_type is not None:
        inside = text_format.MessageToString(value, as_utf8=True, as_one_line=True)
        if len(inside) <= _LINE:
            return f"{{ {inside} }}" if inside else "{}"
        return "{\n" + text_format.MessageToString(value, as_utf8=True, indent=2) + "}"
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else str(value)
    return scalar(value)


def scalar(value: Any) -> str:
    """A constant of the language."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes):
        return (
            '"'
            + "".join(f"\\{byte:03o}" if not 32 <= byte < 127 or byte in b'"\\' else chr(byte) for byte in value)
            + '"'
        )
    return quoted(value) if isinstance(value, str) else _number(value)


def quoted(text: str) -> str:
    """A string constant; letters outside ASCII stay letters."""
    return (
        '"'
        + "".join(_ESCAPES.get(letter, letter if letter >= " " else f"\\{ord(letter):03o}") for letter in text)
        + '"'
    )


def _number(value: float) -> str:
    return {"inf": "inf", "-inf": "-inf", "nan": "nan"}.get(str(value), repr(value))
