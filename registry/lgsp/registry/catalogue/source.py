"""A contract's files as `.proto` text that compiles to the same descriptors: printed, not kept, so that it is always at hand.

What a descriptor does not keep is not there: how the text was laid out, and comments where the contract came without them.
Laws: declarations come in the order of their descriptors (entries of maps have no place of their own); a name is written as short as it still means the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any, Final

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

from lgsp.registry.catalogue import comments as c
from lgsp.registry.catalogue.comments import Comment, Path, comments_of
from lgsp.registry.catalogue.options import Options, quoted
from lgsp.registry.catalogue.symbols import Symbols

_F: Final = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final = {
    value: name[5:].lower() for name, value in _F.Type.items() if name[5:] not in ("GROUP", "MESSAGE", "ENUM")
}
_LABELS: Final = {_F.LABEL_REPEATED: "repeated ", _F.LABEL_REQUIRED: "required ", _F.LABEL_OPTIONAL: "optional "}
_MAX_TAG, _MAX_ENUM = 536870911, 2147483647
_VISIBILITY: Final = {0: "", 1: "local ", 2: "export "}
_TAB: Final = "  "
Lines = Iterator[str]


def source_of(file: descriptor_pb2.FileDescriptorProto, pool: DescriptorPool, symbols: Symbols) -> str:
    """One file's text; `pool` and `symbols` are of the whole contract."""
    return "\n".join(_Printer(file, Options(pool), symbols).file()).rstrip() + "\n"


class _Printer:
    """Writes one file. Every method yields lines; `path` is where a declaration stands in SourceCodeInfo."""

    def __init__(self, file: descriptor_pb2.FileDescriptorProto, options: Options, symbols: Symbols) -> None:
        self._file, self._options, self._symbols = file, options, symbols
        self._said: Mapping[Path, Comment] = comments_of(file)
        self._proto3 = file.syntax == "proto3"

    def file(self) -> Lines:
        file = self._file
        word, value = ("edition", self._edition()) if file.syntax == "editions" else ("syntax", file.syntax or "proto2")
        yield from self._commented((c.FILE_SYNTAX,), iter((f"{word} = {quoted(value)};",)), "")
        if file.package:
            yield ""
            yield from self._commented((c.FILE_PACKAGE,), iter((f"package {file.package};",)), "")
        yield from self._imports()
        yield from self._block_options(file.options, "", before="")
        yield from self._extensions(file.extension, (c.FILE_EXTENSION,), file.package, "", before="")
        kinds: tuple[tuple[Any, int, Any], ...] = (
            (file.service, c.FILE_SERVICE, self._service),
            (file.message_type, c.FILE_MESSAGE, self._message),
            (file.enum_type, c.FILE_ENUM, self._enum),
        )
        for declared, number, write in kinds:
            for at, each in enumerate(declared):
                if number != c.FILE_MESSAGE or not self._is_group(each.name, file.package, file.extension):
                    yield ""
                    yield from write(each, (number, at), file.package, "")

    def _edition(self) -> str:
        return descriptor_pb2.Edition.Name(self._file.edition).removeprefix("EDITION_")

    def _imports(self) -> Lines:
        file = self._file
        if file.dependency:
            yield ""
        for at, name in enumerate(file.dependency):
            kind = "public " if at in file.public_dependency else "weak " if at in file.weak_dependency else ""
            yield f"import {kind}{quoted(name)};"
        for name in getattr(file, "option_dependency", ()):
            yield f"import option {quoted(name)};"

    # --- comments and options ----------------------------------------------------------------------------------------

    def _commented(self, path: Path, lines: Lines, indent: str) -> Lines:
        said = self._said.get(path, c.NONE)
        for each in said.detached:
            yield from _comment(each, indent)
            yield ""
        yield from _comment(said.leading, indent)
        first = next(lines)
        yield first
        if said.trailing:
            yield from _comment(said.trailing, indent + (_TAB if first.endswith("{") else ""))
            if not first.endswith("{"):
                yield ""  # or it would be taken for a word on what follows
        yield from lines

    def _block_options(self, options: Message, indent: str, before: str | None = None) -> Lines:
        told = self._options.told(options)
        if told and before is not None:
            yield before
        for name, value in told:
            yield from f"{indent}option {name} = {value};".replace("\n", f"\n{indent}").split("\n")

    def _inline(self, options: Message, extra: Iterable[tuple[str, str]] = ()) -> str:
        told = [*extra, *self._options.told(options)]
        return f" [{', '.join(f'{name} = {value}' for name, value in told)}]" if told else ""

    # --- messages ----------------------------------------------------------------------------------------------------

    def _message(self, message: Any, path: Path, scope: str, indent: str) -> Lines:
        head = f"{indent}{_visibility(message)}message {message.name} {{"
        yield from self._commented(
            path, self._closed(head, self._body(message, path, scope, indent + _TAB), indent), indent
        )

    @staticmethod
    def _closed(head: str, body: Lines, indent: str) -> Lines:
        yield head
        yield from body
        yield f"{indent}}}"

    def _body(self, message: Any, path: Path, scope: str, indent: str) -> Lines:
        full = f"{scope}.{message.name}".lstrip(".")
        yield from self._block_options(message.options, indent)
        yield from self._reserved(message, indent, _MAX_TAG)
        yield from self._ranges(message, indent)
        for at, nested in enumerate(message.nested_type):
            grouped = self._is_group(nested.name, full, (*message.field, *message.extension))
            if not nested.options.map_entry and not grouped:
                yield from self._message(nested, (*path, c.MESSAGE_NESTED, at), full, indent)
        for at, enum in enumerate(message.enum_type):
            yield from self._enum(enum, (*path, c.MESSAGE_ENUM, at), full, indent)
        yield from self._extensions(message.extension, (*path, c.MESSAGE_EXTENSION), full, indent)
        yield from self._fields(message, path, full, indent)

    def _fields(self, message: Any, path: Path, full: str, indent: str) -> Lines:
        begun: set[int] = set()
        for at, field in enumerate(message.field):
            place = (*path, c.MESSAGE_FIELD, at)
            if not field.HasField("oneof_index") or field.proto3_optional:
                yield from self._field(field, place, full, indent, message)
            elif field.oneof_index not in begun:
                begun.add(field.oneof_index)
                yield from self._oneof(message, field.oneof_index, path, full, indent)

    def _oneof(self, message: Any, index: int, path: Path, full: str, indent: str) -> Lines:
        oneof = message.oneof_decl[index]

        def body() -> Lines:
            yield from self._block_options(oneof.options, indent + _TAB)
            for at, field in enumerate(message.field):
                if field.HasField("oneof_index") and field.oneof_index == index:
                    yield from self._field(
                        field, (*path, c.MESSAGE_FIELD, at), full, indent + _TAB, message, labelled=False
                    )

        lines = self._closed(f"{indent}oneof {oneof.name} {{", body(), indent)
        yield from self._commented((*path, c.MESSAGE_ONEOF, index), lines, indent)

    def _field(
        self, field: Any, path: Path, scope: str, indent: str, holder: Any = None, *, labelled: bool = True
    ) -> Lines:
        label = self._label(field) if labelled else ""
        extra = []
        if field.HasField("default_value"):
            extra.append(("default", _default(field)))
        if field.json_name and field.json_name != json_name(field.name) and not field.extendee:
            extra.append(("json_name", quoted(field.json_name)))
        options = self._inline(field.options, extra)
        if field.type == _F.TYPE_GROUP:
            yield from self._group(field, path, scope, f"{indent}{label}", holder, options)
            return
        entry = self._entry(field, holder)
        if entry is not None:
            key, value = entry.field
            label, kind = "", f"map<{self._type(key, scope)}, {self._type(value, scope)}>"
        else:
            kind = self._type(field, scope)
        yield from self._commented(
            path, iter((f"{indent}{label}{kind} {field.name} = {field.number}{options};",)), indent
        )

    def _group(self, field: Any, path: Path, scope: str, head: str, holder: Any, options: str) -> Lines:
        name = field.type_name.rpartition(".")[2]
        nested = (
            next(each for each in holder if each.name == name)
            if isinstance(holder, list)
            else next(each for each in holder.nested_type if each.name == name)
        )
        indent = head[: len(head) - len(head.lstrip())]
        lines = self._closed(
            f"{head}group {name} = {field.number}{options} {{", self._body(nested, (-1,), scope, indent + _TAB), indent
        )
        yield from self._commented(path, lines, indent)

    def _is_group(self, name: str, scope: str, fields: Iterable[Any]) -> bool:
        full = f".{scope}.{name}" if scope else f".{name}"
        return any(field.type == _F.TYPE_GROUP and field.type_name == full for field in fields)

    def _label(self, field: Any) -> str:
        if field.label == _F.LABEL_REPEATED:
            return "repeated "
        if self._file.syntax == "editions" or (self._proto3 and not field.proto3_optional):
            return ""
        return _LABELS[field.label]

    @staticmethod
    def _entry(field: Any, holder: Any) -> Any:
        """The map entry behind a repeated message field; None for any other field."""
        if field.type != _F.TYPE_MESSAGE or holder is None or isinstance(holder, list):
            return None
        name = field.type_name.rpartition(".")[2]
        return next((each for each in holder.nested_type if each.name == name and each.options.map_entry), None)

    def _type(self, field: Any, scope: str) -> str:
        return _SCALARS.get(field.type) or self._symbols.shortest(field.type_name.lstrip("."), scope)

    def _extensions(self, fields: Any, path: Path, scope: str, indent: str, before: str | None = None) -> Lines:
        beside = list(self._file.message_type)
        for extendee, group in groupby(enumerate(fields), key=lambda each: each[1].extendee):
            if before is not None:
                yield before
            yield f"{indent}extend {self._symbols.shortest(extendee.lstrip('.'), scope)} {{"
            for at, field in group:
                yield from self._field(field, (*path, at), scope, indent + _TAB, beside)
            yield f"{indent}}}"

    def _reserved(self, declared: Any, indent: str, most: int) -> Lines:
        # The end is outside for messages, inside for enums.
        outside = most == _MAX_TAG
        ranges = [_range(each.start, each.end - outside, most) for each in declared.reserved_range]
        if ranges:
            yield f"{indent}reserved {', '.join(ranges)};"
        if declared.reserved_name:
            bare = self._file.syntax == "editions"
            names = [name if bare else quoted(name) for name in declared.reserved_name]
            yield f"{indent}reserved {', '.join(names)};"

    def _ranges(self, message: Any, indent: str) -> Lines:
        for each in message.extension_range:
            yield f"{indent}extensions {_range(each.start, each.end - 1, _MAX_TAG)}{self._inline(each.options)};"

    # --- enums and services ------------------------------------------------------------------------------------------

    def _enum(self, enum: Any, path: Path, scope: str, indent: str) -> Lines:
        inner = indent + _TAB

        def body() -> Lines:
            yield from self._block_options(enum.options, inner)
            yield from self._reserved(enum, inner, _MAX_ENUM)
            for at, value in enumerate(enum.value):
                line = f"{inner}{value.name} = {value.number}{self._inline(value.options)};"
                yield from self._commented((*path, c.ENUM_VALUE, at), iter((line,)), inner)

        lines = self._closed(f"{indent}{_visibility(enum)}enum {enum.name} {{", body(), indent)
        yield from self._commented(path, lines, indent)

    def _service(self, service: Any, path: Path, scope: str, indent: str) -> Lines:
        inner, full = indent + _TAB, f"{scope}.{service.name}".lstrip(".")

        def body() -> Lines:
            yield from self._block_options(service.options, inner)
            for at, method in enumerate(service.method):
                lines = self._method(method, full, inner)
                yield from self._commented((*path, c.SERVICE_METHOD, at), lines, inner)

        yield from self._commented(path, self._closed(f"{indent}service {service.name} {{", body(), indent), indent)

    def _method(self, method: Any, scope: str, indent: str) -> Lines:
        takes, gives = (
            f"{'stream ' * streaming}{self._symbols.shortest(name.lstrip('.'), f'{scope}.{method.name}')}"
            for name, streaming in (
                (method.input_type, method.client_streaming),
                (method.output_type, method.server_streaming),
            )
        )
        head = f"{indent}rpc {method.name}({takes}) returns ({gives})"
        options = list(self._block_options(method.options, indent + _TAB))
        if options:
            yield from self._closed(f"{head} {{", iter(options), indent)
        else:
            yield f"{head} {{}}" if method.HasField("options") else f"{head};"


def _comment(text: str, indent: str) -> Lines:
    for line in text.removesuffix("\n").split("\n") if text else ():
        yield f"{indent}//{line}".rstrip()


def _range(start: int, end: int, most: int) -> str:
    if end == start:
        return str(start)
    return f"{start} to {'max' if end >= most else end}"


def _default(field: Any) -> str:
    if field.type == _F.TYPE_STRING:
        return quoted(field.default_value)
    return f'"{field.default_value}"' if field.type == _F.TYPE_BYTES else str(field.default_value)


def _visibility(declared: Any) -> str:
    return _VISIBILITY.get(getattr(declared, "visibility", 0), "")


def json_name(name: str) -> str:
    """What a field is called in JSON unless its contract says otherwise."""
    head, *rest = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest)
