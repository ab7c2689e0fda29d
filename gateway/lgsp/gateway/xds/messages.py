"""Envoy's API messages from our own descriptor set, in a private pool: build any resource from a dict.

The dicts read like Envoy's own documentation (protobuf's JSON form); a part that is built already may stand in them as a
message, and bytes as bytes. The set is made by scripts/envoy_descriptors.py.
protobuf's own json_format.ParseDict says the same, ten times as slowly: a city of 10,000 services would wait for it.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable
from functools import cache, lru_cache
from importlib import resources
from typing import Any, Final

from google.protobuf import descriptor_pb2, json_format, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

TYPE_PREFIX = "type.googleapis.com/"
# "Over the same stream": where a resource names another one.
ADS: Final = {"ads": {}, "resource_api_version": "V3"}
_WRAPPERS: Final = frozenset(
    f"google.protobuf.{kind}Value" for kind in ("Bool", "Int32", "Int64", "UInt32", "UInt64", "Float", "Double", "String")
)  # fmt: skip
# What has a JSON form of its own and is too rare to be worth ours.
_FOREIGN: Final = frozenset(
    f"google.protobuf.{kind}" for kind in ("Struct", "Value", "ListValue", "Timestamp", "FieldMask", "BytesValue")
)  # fmt: skip
Fill = Callable[[Any, Any], None]


@cache
def pool() -> DescriptorPool:
    """The private pool (≈ 70 ms the first time)."""
    packed = resources.files(__package__).joinpath("envoy.binpb.z").read_bytes()
    files = descriptor_pb2.FileDescriptorSet.FromString(zlib.decompress(packed))
    made = DescriptorPool()
    for file in files.file:
        made.Add(file)
    return made


@cache
def message_class(name: str) -> type[Message]:
    """The class of a full protobuf name such as `envoy.config.cluster.v3.Cluster`."""
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(name))


def build(name: str, content: dict[str, Any]) -> Message:
    """A message of type `name` from its JSON form; what does not fit it raises `json_format.ParseError`.

    The same content gives the same bytes in every process: a listener that differs only in the order of a map inside an
    `Any` would be drained by Envoy, and its streams cut.
    """
    made = message_class(name)()
    _fill(made, content)
    return made


def any_of(content: dict[str, Any]) -> Message:
    """A `google.protobuf.Any` of the type that `@type` names."""
    url = content["@type"]
    inner = build(url.removeprefix(TYPE_PREFIX), {key: each for key, each in content.items() if key != "@type"})
    made: Any = message_class("google.protobuf.Any")()
    made.type_url, made.value = url, inner.SerializeToString(deterministic=True)
    return made  # type: ignore[no-any-return]


# --- filling ---------------------------------------------------------------------------------------------------------


def _fill(message: Any, content: dict[str, Any]) -> None:
    plan = _plan(message.DESCRIPTOR)
    for key, value in content.items():
        try:
            plan[key](message, value)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, json_format.ParseError):
                raise
            what = "no such field" if key not in plan else f"{error} ({str(value)[:80]})"
            raise json_format.ParseError(f"{message.DESCRIPTOR.full_name}.{key}: {what}") from None


@cache
def _plan(descriptor: Descriptor) -> dict[str, Fill]:
    return {field.name: _filler(field) for field in descriptor.fields}


def _filler(field: FieldDescriptor) -> Fill:
    name, kind = field.name, field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return _map_filler(name, kind)
    if field.is_repeated:
        return _list_filler(name, kind)
    if kind is not None:
        into = _message_filler(kind)
        return lambda message, value: into(getattr(message, name), value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda message, value: setattr(message, name, _bytes(value))
    return lambda message, value: setattr(message, name, value)


def _map_filler(name: str, entry: Descriptor) -> Fill:
    kind = entry.fields_by_name["value"].message_type
    if kind is None:
        return lambda message, value: getattr(message, name).update(value)
    into = _message_filler(kind)

    def fill(message: Any, value: Any) -> None:
        slots = getattr(message, name)
        for key, each in value.items():
            into(slots[key], each)

    return fill


def _list_filler(name: str, kind: Descriptor | None) -> Fill:
    if kind is None:
        return lambda message, value: getattr(message, name).extend(value)
    into = _message_filler(kind)

    def fill(message: Any, value: Any) -> None:
        slots = getattr(message, name)
        for each in value:
            into(slots.add(), each)

    return fill


def _message_filler(kind: Descriptor) -> Fill:
    """Puts a value into a message of this kind that stands in another one."""
    if kind.full_name == "google.protobuf.Any":
        special: Fill | None = _fill_any
    elif kind.full_name == "google.protobuf.Duration":
        special = _fill_duration
    elif kind.full_name in _WRAPPERS:
        special = _fill_wrapper
    else:
        special = _fill_foreign if kind.full_name in _FOREIGN else None

    def fill(message: Any, value: Any) -> None:
        if isinstance(value, Message):
            message.CopyFrom(value)
        elif special is not None:
            special(message, value)
        else:
            message.SetInParent()
            _fill(message, value)

    return fill


def _fill_any(message: Any, value: dict[str, Any]) -> None:
    message.CopyFrom(any_of(value))


def _fill_duration(message: Any, value: str) -> None:
    message.CopyFrom(_duration(value))
    message.SetInParent()


@lru_cache(maxsize=1000)
def _duration(text: str) -> Message:
    made: Any = message_class("google.protobuf.Duration")()
    made.FromJsonString(text)
    return made  # type: ignore[no-any-return]


def _fill_wrapper(message: Any, value: Any) -> None:
    message.value = value
    message.SetInParent()


def _fill_foreign(message: Any, value: Any) -> None:
    json_format.ParseDict(value, message, descriptor_pool=pool())
    message.SetInParent()


def _bytes(value: bytes | str) -> bytes:
    return value if isinstance(value, bytes) else base64.b64decode(value, validate=True)
