"""The HTTP rules of a contract (google.api.http, AIP-127), checked before a gateway gets them. Pure.

A rule that Envoy's transcoder refuses would cost the whole service its configuration, long after its provider was told
that it was published.
"""

from __future__ import annotations

import re
from typing import Final

from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pool import DescriptorPool

from lgsp.api.errors import BusError

MAX_BINDINGS: Final = 20
_PLAIN: Final = r"(?:\*\*?|[A-Za-z0-9._~-]+)"
_VARIABLE: Final = rf"\{{[a-z_][A-Za-z0-9_.]*(?:={_PLAIN}(?:/{_PLAIN})*)?\}}"
_TEMPLATE: Final = re.compile(rf"(?:/(?:{_PLAIN}|{_VARIABLE}))+(?::[A-Za-z0-9._~-]+)?")
_NAMES: Final = re.compile(r"\{([A-Za-z0-9_.]+)")


def check_rules(files: descriptor_pb2.FileDescriptorSet, pool: DescriptorPool) -> None:
    """BusError CONTRACT_INVALID names the method and what its rule has wrong."""
    for file in files.file:
        for service in file.service:
            for method in service.method:
                if method.options.HasExtension(annotations_pb2.http):
                    rule = method.options.Extensions[annotations_pb2.http]
                    names = method.input_type.lstrip("."), method.output_type.lstrip(".")
                    request, response = map(pool.FindMessageTypeByName, names)
                    _check(f"{service.name}.{method.name}", rule, request, response)


def _check(method: str, rule: http_pb2.HttpRule, request: Descriptor, response: Descriptor) -> None:
    if len(rule.additional_bindings) > MAX_BINDINGS:
        raise BusError("CONTRACT_INVALID", f"{method}: more than {MAX_BINDINGS} additional bindings")
    for each in (rule, *rule.additional_bindings):
        kind = each.WhichOneof("pattern")
        if kind is None:
            raise BusError("CONTRACT_INVALID", f"{method}: an HTTP rule without a path")
        path = each.custom.path if kind == "custom" else getattr(each, kind)
        _check_path(method, path, request)
        if each.body not in ("", "*") and each.body not in request.fields_by_name:
            raise BusError("CONTRACT_INVALID", f"{method}: the request has no field {each.body[:64]!r} for the body")
        if each.response_body and each.response_body not in response.fields_by_name:
            raise BusError(
                "CONTRACT_INVALID", f"{method}: the response has no field {each.response_body[:64]!r} to be all"
            )


def _check_path(method: str, path: str, request: Descriptor) -> None:
    if len(path) > 500 or not _TEMPLATE.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise BusError("CONTRACT_INVALID", f"{method}: {path[:80]!r} is no path template like /v1/wards/{{code}}")
    for name in _NAMES.findall(path):
        if not _is_field(request, name.split(".")):
            raise BusError("CONTRACT_INVALID", f"{method}: the request has no field {name[:64]!r} for its path")


def _is_field(message: Descriptor | None, steps: list[str]) -> bool:
    """True when the steps lead to a single value: what a path can carry."""
    for number, step in enumerate(steps):
        field = message.fields_by_name.get(step) if message is not None else None
        if field is None or field.is_repeated:
            return False
        message = field.message_type
        if number == len(steps) - 1 and message is not None:
            return False
    return True
