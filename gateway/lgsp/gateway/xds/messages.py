"""Envoy's API messages from our own descriptor set, in a private pool: build any resource from a dict.

The dicts read like Envoy's own documentation. The set is made by scripts/envoy_descriptors.py.
"""

from __future__ import annotations

import zlib
from functools import cache
from importlib import resources
from typing import Any, Final

from google.protobuf import descriptor_pb2, json_format, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

TYPE_PREFIX = "type.googleapis.com/"
# "Over the same stream": where a resource names another one.
ADS: Final = {"ads": {}, "resource_api_version": "V3"}


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
    """A message of type `name` from its JSON form; unknown fields raise `json_format.ParseError`.

    The same content gives the same bytes in every process: a listener that differs only in the order of a map inside an
    `Any` would be drained by Envoy, and its streams cut.
    """
    made = json_format.ParseDict(content, message_class(name)(), descriptor_pool=pool())
    _order_maps(made)
    return made


def _order_maps(message: Message) -> None:
    """Serialize every `Any` in it anew, deterministically, from the inside out."""
    for field, value in message.ListFields():
        kind = field.message_type
        if kind is None:
            continue
        if kind.GetOptions().map_entry:
            inner = value.values() if kind.fields_by_name["value"].message_type else ()
        else:
            inner = value if field.is_repeated else (value,)
        for each in inner:
            _order_maps(each)
    if message.DESCRIPTOR.full_name == "google.protobuf.Any":
        packed: Any = message
        content = message_class(packed.type_url.removeprefix(TYPE_PREFIX)).FromString(packed.value)
        _order_maps(content)
        packed.value = content.SerializeToString(deterministic=True)
