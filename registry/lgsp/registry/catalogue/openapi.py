"""OpenAPI 3.1 from a contract: a service as the gateway's REST side takes and answers it, no word more. Pure.

Field names are the contract's own, as the gateway prints them. A stream of answers is a JSON array; a refusal is
google.rpc.Status in JSON, with the reasons of the platform's table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from lgsp.api.errors import TABLE
from lgsp.api.registry.v1.registry_pb2 import Classification, Service
from lgsp.registry.catalogue.described import described
from lgsp.registry.catalogue.describing import REPEATABLE
from lgsp.registry.catalogue.facts import declaring_file
from lgsp.registry.catalogue.paths import Slot, fixed_fields, open_path, renamed, shape
from lgsp.registry.catalogue.rules import Binding, bindings
from lgsp.registry.catalogue.schemas import Schema, Schemas, is_textual
from lgsp.registry.contracts import load_contract
from lgsp.registry.grants import GUARDED
from lgsp.registry.lifecycle import DEPRECATED

VERSION: Final = "3.1.0"
VERBS: Final = frozenset({"GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"})
_HTTP_BODY: Final = "google.api.HttpBody"
_MAX_DEPTH: Final = 5
_STATUS: Final = "google.rpc.Status"


@dataclass(frozen=True, slots=True)
class Purposes:
    """The purposes of a caller for one method; `required` when no call passes without one."""

    codes: tuple[str, ...] = ()
    required: bool = False


@dataclass(slots=True)
class _Written:
    """The document on its way."""

    service: Service
    schemas: Schemas
    describe: Mapping[str, str]
    purposes: Mapping[str, Purposes]
    paths: dict[str, dict[str, Any]] = field(default_factory=dict)
    shapes: dict[str, str] = field(default_factory=dict)


def document(contract: bytes, service: Service, base_url: str, purposes: Mapping[str, Purposes]) -> dict[str, Any]:
    """The service of a checked contract, at the gateway `base_url`; `purposes` are those of whom it is written for."""
    files = descriptor_pb2.FileDescriptorSet.FromString(contract)
    told = described(files.file)
    written = _Written(service, Schemas(lambda name: told.get(name, "")), told, purposes)
    declared = load_contract(contract).pool.FindServiceByName(service.name)
    found = declaring_file(files, service.name)
    protos = {each.name: each for each in found[0].service[found[1]].method} if found else {}
    for method in declared.methods:
        for number, binding in enumerate(bindings(protos[method.name], service.name), start=1):
            _place(written, method, binding, number)
    return {
        "openapi": VERSION,
        "info": _info(service, told.get(service.name, "")),
        "servers": [{"url": base_url}],
        "security": [{"oauth2": []}, {"bearer": []}],
        "tags": [{"name": service.name}],
        "paths": written.paths,
        "components": _components(written.schemas, base_url),
    }


def _info(service: Service, description: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "title": service.names.en or service.names.vi or service.name,
        "version": str(service.version),
        "x-lgsp-names": {"vi": service.names.vi, "en": service.names.en},
        "x-lgsp-service": service.name,
        "x-lgsp-provider": service.provider,
    }
    if service.classification:
        made["x-lgsp-classification"] = Classification.Name(service.classification)[15:].lower()
    parts = [service.names.vi, description, f"Use `{service.replaced_by}` instead." if service.replaced_by else ""]
    if text := "\n\n".join(filter(None, parts)):
        made["description"] = text
    return made | ({"contact": {"name": service.contact}} if service.contact else {})


# --- operations ------------------------------------------------------------------------------------------------------


def _place(written: _Written, method: MethodDescriptor, binding: Binding, number: int) -> None:
    if binding.verb not in VERBS:
        return  # a verb of one's own has no place in OpenAPI
    path, slots = open_path(binding.path)
    known = written.shapes.setdefault(shape(path), path)
    operations = written.paths.setdefault(known, {})
    if binding.verb.lower() not in operations:
        operation = _operation(written, method, binding, renamed(slots, known))
        operations[binding.verb.lower()] = {
            "operationId": method.name + (f"_{number}" if number > 1 else "")
        } | operation


def _operation(written: _Written, method: MethodDescriptor, binding: Binding, slots: list[Slot]) -> dict[str, Any]:
    service, said = written.service, written.describe.get(method.full_name, "")
    made: dict[str, Any] = {"tags": [service.name]}
    if said:
        made |= {"summary": said.splitlines()[0], "description": said}
    made["parameters"] = [
        *(_in_path(written.schemas, method.input_type, slot) for slot in slots),
        *_in_query(written.schemas, method.input_type, binding),
        *_in_headers(written, method.name),
    ]
    if body := _body(written.schemas, method, binding):
        made["requestBody"] = body
    made["responses"] = {"200": _answer(written.schemas, method, binding)} | {
        status: {"$ref": f"#/components/responses/{name}"} for status, name in _REFUSALS.items()
    }
    if method.GetOptions().deprecated or service.lifecycle == DEPRECATED:
        made["deprecated"] = True
    repeatable = method.GetOptions().idempotency_level in REPEATABLE or method.name in service.idempotent_methods
    return made | {"x-lgsp-method": method.full_name, "x-lgsp-idempotent": repeatable}


def _in_path(schemas: Schemas, request: Descriptor, slot: Slot) -> dict[str, Any]:
    found = _field_at(request, slot.field) if slot.field else None
    schema: Schema = schemas.value(found) if found is not None and slot.whole else {"type": "string"}
    notes = [schemas.field(found).get("description", "")] if found is not None else []
    notes += [f"Part of `{slot.field}`, which is `{slot.form}`."] if slot.form else []
    notes += ["May hold `/`."] if slot.many else []
    made = {"name": slot.name, "in": "path", "required": True, "schema": schema}
    return made | ({"description": text} if (text := " ".join(filter(None, notes))) else {})


def _field_at(message: Descriptor, path: str) -> FieldDescriptor | None:
    found: FieldDescriptor | None = None
    inside: Descriptor | None = message
    for step in path.split("."):
        found = inside.fields_by_name.get(step) if inside is not None else None
        inside = found.message_type if found is not None else None
    return found


def _in_query(schemas: Schemas, request: Descriptor, binding: Binding) -> Iterator[dict[str, Any]]:
    """What neither the path nor the body holds, down to what one text can say."""
    if binding.body == "*" or request.full_name == _HTTP_BODY:
        return
    elsewhere = fixed_fields(binding.path) | ({binding.body} if binding.body else set())
    for name, found in _leaves(schemas, request, "", (request.full_name,)):
        if not any(name == each or name.startswith(f"{each}.") for each in elsewhere):
            yield {"name": name, "in": "query", **_query_value(schemas, found)}


def _query_value(schemas: Schemas, found: FieldDescriptor) -> dict[str, Any]:
    schema = schemas.field(found)
    told = {key: schema.pop(key) for key in ("description", "deprecated") if key in schema}
    more = {"style": "form", "explode": True} if found.is_repeated else {}
    return {**told, "required": found.is_required, "schema": schema, **more}


def _leaves(
    schemas: Schemas, message: Descriptor, prefix: str, above: tuple[str, ...]
) -> Iterator[tuple[str, FieldDescriptor]]:
    for found in map(schemas.look, message.fields):
        inner = found.message_type
        if inner is None or is_textual(found):
            yield prefix + found.name, found
        elif not found.is_repeated and _may_open(inner, above):
            yield from _leaves(schemas, inner, f"{prefix}{found.name}.", (*above, inner.full_name))


def _may_open(message: Descriptor, above: tuple[str, ...]) -> bool:
    """False for what has no fields of its own in a query, contains itself, or lies too deep."""
    named = message.full_name
    return len(above) < _MAX_DEPTH and named not in above and not named.startswith("google.protobuf.")


def _in_headers(written: _Written, method: str) -> Iterator[dict[str, Any]]:
    purposes = written.purposes.get(method, Purposes())
    guarded = written.service.classification in GUARDED
    if not guarded and not purposes.codes:
        return
    schema: Schema = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"}
    yield {
        "name": "x-lgsp-purpose",
        "in": "header",
        "required": guarded or purposes.required,
        "description": "What the data are used for: a purpose of the caller's grant.",
        "schema": schema | ({"examples": list(purposes.codes)} if purposes.codes else {}),
    }


def _body(schemas: Schemas, method: MethodDescriptor, binding: Binding) -> dict[str, Any] | None:
    if not binding.body:
        return None
    request = method.input_type
    if request.full_name == _HTTP_BODY:
        return {"required": True, "content": {"*/*": {}}}
    if binding.body == "*":
        # Only whole fields of the request itself are left out: the rest of a message still comes in the body.
        fixed = frozenset(fixed_fields(binding.path))
        schema = schemas.inline(request, fixed) if fixed else schemas.message(request)
    else:
        found = request.fields_by_name[binding.body]
        if _message_of(found) == _HTTP_BODY:
            return {"required": True, "content": {"*/*": {}}}
        schema = schemas.field(found)
    if method.client_streaming:
        schema = {"type": "array", "items": schema}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _answer(schemas: Schemas, method: MethodDescriptor, binding: Binding) -> dict[str, Any]:
    response = method.output_type
    # Envoy heeds `response_body` for documents only; any other answer is the whole message.
    part = _field_at(response, binding.response_body)
    if _HTTP_BODY in (response.full_name, _message_of(part)):
        return {"description": "The document itself, with its own content type.", "content": {"*/*": {}}}
    schema = schemas.message(response)
    if method.server_streaming:
        schema = {"type": "array", "items": schema}
    text = "The answers, one after another." if method.server_streaming else "The answer."
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _message_of(found: FieldDescriptor | None) -> str:
    return found.message_type.full_name if found is not None and found.message_type is not None else ""


# --- what all operations share ---------------------------------------------------------------------------------------


def _by_status() -> dict[int, list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    for row in TABLE.values():
        found[row.http].append(f"- `{row.name}` ({row.fault}): {row.message}. {row.remedy}")
    return dict(sorted(found.items()))


_REFUSALS: Final = {str(status): f"Refused{status}" for status in _by_status()} | {"default": "Refused"}


def _components(schemas: Schemas, base_url: str) -> dict[str, Any]:
    flow = {"tokenUrl": f"{base_url}/oauth2/token", "scopes": {}}
    return {
        "schemas": dict(sorted((schemas.named | {_STATUS: _status_schema()}).items())),
        "responses": _refusals(),
        "headers": {
            "Reason": {"description": "The reason's name.", "schema": {"type": "string"}},
            "RequestId": {"description": "Finds the call in every log and trace.", "schema": {"type": "string"}},
        },
        "securitySchemes": {
            "oauth2": {
                "type": "oauth2",
                "description": "Client credentials with private_key_jwt (RFC 7523).",
                "flows": {"clientCredentials": flow},
            },
            "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
        },
    }


def _refusals() -> dict[str, Any]:
    headers = {
        "x-lgsp-reason": {"$ref": "#/components/headers/Reason"},
        "x-request-id": {"$ref": "#/components/headers/RequestId"},
    }
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{_STATUS}"}}}
    texts = {f"Refused{status}": "\n".join(lines) for status, lines in _by_status().items()}
    texts["Refused"] = "What the provider itself refuses: its gRPC code as an HTTP status (google.rpc.Code)."
    return {name: {"description": text, "headers": headers, "content": content} for name, text in texts.items()}


def _status_schema() -> Schema:
    """google.rpc.Status as JSON; the details hold google.rpc.ErrorInfo with domain `lgsp` and the reason."""
    info = {
        "type": "object",
        "properties": {
            "@type": {"type": "string"},
            "reason": {"type": "string"},
            "domain": {"type": "string"},
            "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
        },
        "required": ["@type"],
        "additionalProperties": True,
    }
    return {
        "type": "object",
        "properties": {
            "code": {"type": "integer", "format": "int32", "description": "A value of google.rpc.Code."},
            "message": {"type": "string"},
            "details": {"type": "array", "items": info},
        },
    }
