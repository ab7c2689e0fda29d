"""A service's methods in the catalogue's words: signature, REST, and what a caller may do with each. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from google.protobuf import descriptor_pb2

from lgsp.api.catalogue.v1 import catalogue_pb2 as pb
from lgsp.api.registry.v1.registry_pb2 import Service
from lgsp.registry.catalogue import comments as c
from lgsp.registry.catalogue.comments import comments_of
from lgsp.registry.catalogue.facts import comment_on, declaring_file
from lgsp.registry.catalogue.rights import purpose_required
from lgsp.registry.catalogue.rules import bindings

REPEATABLE: Final = frozenset({descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS, descriptor_pb2.MethodOptions.IDEMPOTENT})


def methods_of(contract: bytes, service: Service, terms: Callable[[str], list[pb.Terms]]) -> list[pb.Method]:
    """Every method of the service; `terms` are what the caller's grants say of one."""
    found = declaring_file(descriptor_pb2.FileDescriptorSet.FromString(contract), service.name)
    if found is None:
        return []
    file, at = found
    said = comments_of(file)
    return [
        _method(
            declared,
            service,
            comment_on(said, c.FILE_SERVICE, at, c.SERVICE_METHOD, number).text,
            terms(declared.name),
        )
        for number, declared in enumerate(file.service[at].method)
    ]


def _method(
    declared: descriptor_pb2.MethodDescriptorProto, service: Service, description: str, terms: list[pb.Terms]
) -> pb.Method:
    return pb.Method(
        name=declared.name,
        description=description,
        request=declared.input_type.lstrip("."),
        response=declared.output_type.lstrip("."),
        client_streaming=declared.client_streaming,
        server_streaming=declared.server_streaming,
        idempotent=declared.options.idempotency_level in REPEATABLE or declared.name in service.idempotent_methods,
        deprecated=declared.options.deprecated,
        http=[
            pb.HttpBinding(verb=each.verb, path=each.path, body=each.body) for each in bindings(declared, service.name)
        ],
        granted=any(not each.exhausted for each in terms),
        purpose_required=purpose_required(terms),
        terms=terms,
    )
