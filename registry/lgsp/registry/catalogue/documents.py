"""A contract as a document: text, descriptor set or OpenAPI, each with its content type and a name for the file. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from google.protobuf import descriptor_pb2

from lgsp.api.errors import BusError
from lgsp.api.registry.v1.registry_pb2 import Service
from lgsp.registry.catalogue.facts import declaring_file
from lgsp.registry.catalogue.openapi import Purposes, document
from lgsp.registry.catalogue.source import source_of
from lgsp.registry.catalogue.symbols import Symbols
from lgsp.registry.contracts import load_contract


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose contract, for whom: `file` chooses one file of a text, `purposes` are those of the reader."""

    contract: bytes
    service: Service
    base_url: str
    file: str = ""
    purposes: Mapping[str, Purposes] = field(default_factory=dict)


def proto(wanted: Wanted) -> bytes:
    """One file as `.proto` text."""
    files = descriptor_pb2.FileDescriptorSet.FromString(wanted.contract)
    name = wanted.file or file_names(wanted.contract, wanted.service.name)[0]
    for file in files.file:
        if file.name == name:
            return source_of(file, load_contract(wanted.contract).pool, Symbols(files.file)).encode()
    raise BusError("NOT_REGISTERED", f"the contract has no file {name[:100]!r}")


def descriptor_set(wanted: Wanted) -> bytes:
    """The contract as it was published."""
    return wanted.contract


def openapi(wanted: Wanted) -> bytes:
    """OpenAPI 3.1 in JSON."""
    made = document(wanted.contract, wanted.service, wanted.base_url, wanted.purposes)
    return json.dumps(made, ensure_ascii=False, indent=2).encode()


# Format → how it is written, and its content type.
FORMATS: Final[Mapping[str, tuple[Callable[[Wanted], bytes], str]]] = {
    "proto": (proto, "text/plain; charset=utf-8"),
    "descriptor_set": (descriptor_set, "application/vnd.google.protobuf; proto=google.protobuf.FileDescriptorSet"),
    "openapi": (openapi, "application/vnd.oai.openapi+json;version=3.1"),
}


def written(form: str, wanted: Wanted) -> tuple[str, bytes]:
    """Content type and content; REQUEST_MALFORMED for a form that is not in FORMATS."""
    if form not in FORMATS:
        raise BusError("REQUEST_MALFORMED", f"no format {form[:32]!r}: there are {', '.join(FORMATS)}")
    write, content_type = FORMATS[form]
    return content_type, write(wanted)


def file_names(contract: bytes, service: str) -> list[str]:
    """The files of a contract, the one that declares the service first."""
    files = descriptor_pb2.FileDescriptorSet.FromString(contract)
    found = declaring_file(files, service)
    first = [found[0].name] if found else []
    return first + [file.name for file in files.file if file.name not in first]
