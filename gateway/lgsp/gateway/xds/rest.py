"""REST from the contract: the descriptor set as Envoy's transcoder wants it.

Every HTTP rule gets the full service name as its first path segment, and a method without a rule becomes
`POST /<service>/<Method>` with the whole message as its JSON body (google.api.http, AIP-127).
"""

from __future__ import annotations

from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2
from google.rpc import error_details_pb2, status_pb2

_RULE = annotations_pb2.http
_PATTERNS = ("get", "put", "post", "delete", "patch")


def rest_descriptor(contract: bytes, service: str) -> bytes:
    """The contract with `service`'s HTTP rules below `/<service>`, error details included."""
    files = descriptor_pb2.FileDescriptorSet.FromString(contract)
    for file in files.file:
        file.ClearField("source_code_info")  # for people; a gateway would only keep it in memory
        for declared in file.service:
            if f"{file.package}.{declared.name}".lstrip(".") == service:
                for method in declared.method:
                    _place(method, service)
    _include(files, error_details_pb2.DESCRIPTOR)
    _include(files, status_pb2.DESCRIPTOR)
    return files.SerializeToString(deterministic=True)


def _place(method: descriptor_pb2.MethodDescriptorProto, service: str) -> None:
    rule = method.options.Extensions[_RULE]
    if rule.WhichOneof("pattern") is None:
        rule.CopyFrom(http_pb2.HttpRule(post=f"/{service}/{method.name}", body="*"))
        return
    for each in (rule, *rule.additional_bindings):
        kind = each.WhichOneof("pattern")
        if kind in _PATTERNS:
            setattr(each, kind, f"/{service}{getattr(each, kind)}")
        elif kind == "custom":
            each.custom.path = f"/{service}{each.custom.path}"


def _include(files: descriptor_pb2.FileDescriptorSet, descriptor: object) -> None:
    """Add a well-known file and its imports, dependencies first, unless the contract has them."""
    if descriptor.name in {file.name for file in files.file}:  # type: ignore[attr-defined]
        return
    for dependency in descriptor.dependencies:  # type: ignore[attr-defined]
        _include(files, dependency)
    descriptor.CopyToProto(files.file.add())  # type: ignore[attr-defined]
