"""How each method is called by REST: its HTTP rules below `/<service>`, or `POST /<service>/<Method>` without one. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2

_VERBS = ("get", "put", "post", "delete", "patch")


@dataclass(frozen=True, slots=True)
class Binding:
    """A verb in capitals and a path template with the service as its first segment; `body` as in google.api.HttpRule."""

    verb: str
    path: str
    body: str = ""
    response_body: str = ""


def bindings(method: descriptor_pb2.MethodDescriptorProto, service: str) -> list[Binding]:
    """The method's rule and its additional bindings, in order."""
    rule = method.options.Extensions[annotations_pb2.http]
    if rule.WhichOneof("pattern") is None:
        return [Binding("POST", f"/{service}/{method.name}", "*")]
    return [_binding(each, service) for each in (rule, *rule.additional_bindings)]


def _binding(rule: http_pb2.HttpRule, service: str) -> Binding:
    kind = rule.WhichOneof("pattern")
    verb, path = (kind.upper(), getattr(rule, kind)) if kind in _VERBS else (rule.custom.kind, rule.custom.path)
    return Binding(verb, f"/{service}{path}", rule.body, rule.response_body)
