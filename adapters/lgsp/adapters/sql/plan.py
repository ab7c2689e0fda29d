"""What a contract asks of the database, method by method: bound fields, filled fields, shape of the answer. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor import FieldDescriptor as F
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from sqlalchemy import BigInteger, TextClause, bindparam, text

from lgsp.adapters.sql.values import UnfitError, fill, kind_of, parameter_type, to_parameter
from lgsp.api.adapter.v1.options_pb2 import SqlMethod
from lgsp.api.adapter.v1.options_pb2 import sql as sql_option
from lgsp.api.errors import BusError

PAGE_AFTER, PAGE_LIMIT = "page_after", "page_limit"
DEFAULT_PAGE, DEFAULT_TIMEOUT_MS = 100, 30_000
_DOTTED: Final = re.compile(r"(?<![:\w\\]):([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)")
_NAMED: Final = re.compile(r"(?<![:\w\\]):([A-Za-z_]\w*)")


class Shape(Enum):
    """What the rows become."""

    ONE = "the first row is the response"
    LIST = "the rows fill the response's one repeated field"
    STREAM = "each row is a message"


@dataclass(frozen=True)
class Plan:
    """One method, ready to be held against a database."""

    service: str
    method: str
    option: SqlMethod
    shape: Shape
    statement: TextClause
    parameters: dict[str, tuple[F, ...]]
    request: type[Message]
    response: type[Message]
    row: Descriptor
    rows_field: str = ""
    key_field: F | None = None

    @property
    def name(self) -> str:
        return f"{self.service}/{self.method}"

    @property
    def timeout_s(self) -> float:
        return (self.option.timeout_ms or DEFAULT_TIMEOUT_MS) / 1000

    @property
    def paged(self) -> bool:
        return bool(self.option.page_key)

    def path(self, column: str) -> tuple[F, ...]:
        """The response field that a column fills; KeyError when there is none."""
        return resolve(self.row, column)

    def bind(self, request: Message) -> dict[str, Any]:
        """Bound values of a request; BusError REQUEST_MALFORMED names the field."""
        try:
            values = {name: _read(request, path) for name, path in self.parameters.items()}
        except UnfitError as error:
            raise BusError("REQUEST_MALFORMED", str(error)) from None
        if self.paged:
            values[PAGE_AFTER] = self._after(request)
            values[PAGE_LIMIT] = self.page_size(request) + 1
        return values

    def page_size(self, request: Any) -> int:
        """AIP-158: unset is the default, more than the largest is the largest, negative is refused."""
        if request.page_size < 0:
            raise BusError("REQUEST_MALFORMED", "page_size is negative")
        largest = self.option.max_page_size or DEFAULT_PAGE
        return min(request.page_size or min(DEFAULT_PAGE, largest), largest)

    def token(self, request: Message, key: Any) -> str:
        """The next page's token: the last key, bound to the request that it continues."""
        return base64.urlsafe_b64encode(self._binding(request) + json.dumps(key, default=str).encode()).decode()

    def _after(self, request: Any) -> Any:
        if not request.page_token:
            return None
        try:
            raw = base64.b64decode(request.page_token, altchars=b"-_", validate=True)
            key = json.loads(raw[8:])
        except (binascii.Error, ValueError):
            raise BusError("PAGE_TOKEN_INVALID") from None
        wanted = str if self.key_field is not None and kind_of(self.key_field) == "string" else int
        if raw[:8] != self._binding(request) or type(key) is not wanted:
            raise BusError("PAGE_TOKEN_INVALID")
        return key

    def _binding(self, request: Any) -> bytes:
        bare = type(request)()
        bare.CopyFrom(request)
        bare.ClearField("page_token")
        bare.ClearField("page_size")
        return hashlib.sha256(self.name.encode() + bare.SerializeToString(deterministic=True)).digest()[:8]

    def message(self, row: Any) -> Message:
        """A row as a message of the response (or of its repeated field)."""
        made = message_factory.GetMessageClass(self.row)()
        for column, value in row.items():
            target: Any = made
            *outer, last = self.path(column)
            for step in outer:
                target = getattr(target, step.name)
            fill(target, last, value)
        return made


def plans(contract: bytes, services: tuple[str, ...]) -> list[Plan]:
    """A plan for every method of the services; BusError CONTRACT_INVALID lists all that cannot be planned."""
    files = descriptor_pb2.FileDescriptorSet.FromString(contract)
    pool = DescriptorPool()
    for file in files.file:
        pool.Add(file)
    made, wrong = [], []
    for file in files.file:
        for declared in file.service:
            name = f"{file.package}.{declared.name}".lstrip(".")
            for method in declared.method if name in services else ():
                try:
                    made.append(_plan(pool, name, method))
                except (UnfitError, KeyError) as error:
                    wrong.append(f"{name}/{method.name}: {error.args[0]}")
    if wrong:
        raise BusError("CONTRACT_INVALID", "; ".join(wrong))
    return made


def resolve(message: Descriptor, path: str) -> tuple[F, ...]:
    """The fields along a dotted path; KeyError says which step is missing."""
    found: list[F] = []
    here: Descriptor | None = message
    for step in path.split("."):
        field = here.fields_by_name.get(step) if here is not None else None
        if field is None:
            raise KeyError(f"{message.full_name} has no field {path!r}")
        found.append(field)
        here = field.message_type if field.type == F.TYPE_MESSAGE else None
    return tuple(found)


def _plan(pool: DescriptorPool, service: str, method: descriptor_pb2.MethodDescriptorProto) -> Plan:
    option = method.options.Extensions[sql_option]
    if not option.query.strip():
        raise UnfitError("has no (lgsp.api.adapter.v1.sql) query")
    if method.client_streaming:
        raise UnfitError("takes a stream, which no query can answer")
    request = pool.FindMessageTypeByName(method.input_type.lstrip("."))
    response = pool.FindMessageTypeByName(method.output_type.lstrip("."))
    shape, rows_field, row = _shape(method, response)
    key = resolve(row, option.page_key)[-1] if option.page_key else None
    if option.page_key:
        _check_paging(request, response, shape, key)
    query = _DOTTED.sub(lambda found: ":" + found[1].replace(".", "__"), option.query)
    parameters = {}
    for name in sorted(set(_NAMED.findall(query))):
        if not (option.page_key and name in {PAGE_AFTER, PAGE_LIMIT}):
            parameters[name] = resolve(request, name.replace("__", "."))
    return Plan(
        service, method.name, option, shape, _statement(query, parameters, key), parameters,
        message_factory.GetMessageClass(request), message_factory.GetMessageClass(response), row, rows_field, key,
    )  # fmt: skip


def _shape(method: descriptor_pb2.MethodDescriptorProto, response: Descriptor) -> tuple[Shape, str, Descriptor]:
    if method.server_streaming:
        return Shape.STREAM, "", response
    repeated = [field for field in response.fields if field.is_repeated and field.type == F.TYPE_MESSAGE]
    if len(repeated) == 1 and repeated[0].message_type is not None:
        return Shape.LIST, repeated[0].name, repeated[0].message_type
    return Shape.ONE, "", response


def _check_paging(request: Descriptor, response: Descriptor, shape: Shape, key: F | None) -> None:
    if shape is not Shape.LIST:
        raise UnfitError("page_key is only for a response with one repeated message field")
    for message, names in ((request, ("page_size", "page_token")), (response, ("next_page_token",))):
        for name in names:
            resolve(message, name)
    if key is None or kind_of(key) not in {"int32", "int64", "string"}:
        raise UnfitError("page_key must be an integer or text column")


def _statement(query: str, parameters: dict[str, tuple[F, ...]], key: F | None) -> TextClause:
    binds = []
    for name, path in parameters.items():
        kind = parameter_type(path[-1])
        if kind is None or any(field.is_repeated for field in path):
            raise UnfitError(f"the request field {name!r} cannot be bound to a query")
        binds.append(bindparam(name, type_=kind))
    if key is not None:
        binds += [bindparam(PAGE_AFTER, type_=parameter_type(key)), bindparam(PAGE_LIMIT, type_=BigInteger())]
    statement = text(query)
    known = statement._bindparams.keys()
    return statement.bindparams(*(bind for bind in binds if bind.key in known))


def _read(message: Message, path: tuple[F, ...]) -> Any:
    here: Any = message
    for field in path[:-1]:
        if not here.HasField(field.name):
            return None
        here = getattr(here, field.name)
    return to_parameter(here, path[-1])
