"""Contracts as providers hand them over: a serialized FileDescriptorSet, checked before anything uses it. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf import any_pb2, descriptor_pb2, duration_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from lgsp.api.errors import BusError
from lgsp.registry.envoy_rules import check_file
from lgsp.registry.rest_rules import check_rules

MAX_BYTES: Final = 4 << 20
MAX_FILES: Final = 1000
# Each method is a route of every gateway.
MAX_METHODS: Final = 1000
_MAX_NAME: Final = 500
_STATUS: Final = status_pb2.Status.DESCRIPTOR
# Imports first.
_DETAILS: Final = (any_pb2.DESCRIPTOR, duration_pb2.DESCRIPTOR, status_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR)


@dataclass(frozen=True, slots=True)
class Method:
    """A method: full names of its messages, and which side streams."""

    name: str
    input: str
    output: str
    client_streaming: bool
    server_streaming: bool


@dataclass(frozen=True, slots=True)
class Contract:
    """A contract that holds together."""

    pool: DescriptorPool
    services: Mapping[str, tuple[Method, ...]]
    files: tuple[str, ...]

    def methods(self, service: str) -> tuple[Method, ...]:
        """The methods of a service; CONTRACT_INVALID when the contract does not declare it."""
        if service not in self.services:
            raise BusError("CONTRACT_INVALID", f"the contract does not declare the service {service}")
        return self.services[service]


def load_contract(content: bytes, service: str | None = None) -> Contract:
    """Check a contract; BusError CONTRACT_INVALID names the file and what is wrong with it."""
    if len(content) > MAX_BYTES:
        raise BusError("CONTRACT_INVALID", f"the contract has {len(content)} bytes, at most {MAX_BYTES} are taken")
    try:
        files = descriptor_pb2.FileDescriptorSet.FromString(content)
    except DecodeError:
        raise BusError("CONTRACT_INVALID", "the contract is no FileDescriptorSet, or a truncated one") from None
    named = _by_name(files)
    pool = DescriptorPool()
    for name in _in_order(named):
        try:
            pool.Add(named[name])
            pool.FindFileByName(name)
        except (TypeError, KeyError, ValueError) as error:
            raise BusError("CONTRACT_INVALID", f"{name} cannot be used: {str(error)[:300]}") from None
    for file in files.file:
        check_file(file)
    check_rules(files, pool)
    _check_details(pool, named)
    contract = Contract(pool, dict(_declared(files)), tuple(named))
    for declared, methods in contract.services.items():
        if len(methods) > MAX_METHODS:
            raise BusError(
                "CONTRACT_INVALID", f"{declared} has {len(methods)} methods, at most {MAX_METHODS} are taken"
            )
    if service is not None:
        contract.methods(service)
    return contract


def _check_details(pool: DescriptorPool, named: Mapping[str, descriptor_pb2.FileDescriptorProto]) -> None:
    """What gateways add to each contract must fit beside its files, or Envoy refuses the service's routes: it would keep
    those that it has, and with them rights that are revoked meanwhile."""
    for each in _DETAILS:
        if each.name not in named:
            try:
                pool.Add(descriptor_pb2.FileDescriptorProto.FromString(each.serialized_pb))
                pool.FindFileByName(each.name)
            except (TypeError, KeyError, ValueError) as error:
                raise BusError(
                    "CONTRACT_INVALID",
                    f"the contract has something else in the place of {each.name}: {str(error)[:300]}",
                ) from None
    packages = {file.package for file in (*named.values(), *_DETAILS)}
    for package in {name[:at] for name in packages for at in (*_dots(name), len(name)) if name}:
        with contextlib.suppress(KeyError):
            where = pool.FindFileContainingSymbol(package).name
            raise BusError(
                "CONTRACT_INVALID", f"{package[:64]!r} is a package, and {where} declares it as something else"
            )
    for wanted in _STATUS.fields:
        try:
            found = pool.FindMessageTypeByName(_STATUS.full_name).fields_by_name[wanted.name]
        except KeyError:
            found = None
        if found is None or (found.number, found.type) != (wanted.number, wanted.type):
            raise BusError("CONTRACT_INVALID", f"its {_STATUS.file.name} is not the one of googleapis")


def _dots(name: str) -> list[int]:
    return [at for at, letter in enumerate(name) if letter == "."]


def _by_name(files: descriptor_pb2.FileDescriptorSet) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    if not files.file:
        raise BusError("CONTRACT_INVALID", "the contract has no files")
    if len(files.file) > MAX_FILES:
        raise BusError("CONTRACT_INVALID", f"the contract has {len(files.file)} files, at most {MAX_FILES} are taken")
    named: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    for file in files.file:
        # A name that is no UTF-8 comes as bytes.
        if not isinstance(file.name, str) or not 0 < len(file.name) <= _MAX_NAME or not file.name.isprintable():
            raise BusError("CONTRACT_INVALID", f"a file's name is no text of 1 to {_MAX_NAME} characters")
        if file.name in named:
            raise BusError("CONTRACT_INVALID", f"{file.name} is in the contract twice")
        named[file.name] = file
    return named


def _in_order(named: Mapping[str, descriptor_pb2.FileDescriptorProto]) -> list[str]:
    """File names, imports first; a missing import and a cycle are refused. Without recursion: depth is the caller's."""
    order: dict[str, None] = {}
    for root in named:
        path, stack = {root: None}, [(root, iter(named[root].dependency))]
        while stack:
            name, imports = stack[-1]
            needed = next(imports, None)
            if needed is None:
                stack.pop()
                path.pop(name)
                order[name] = None
            elif needed not in named:
                raise BusError(
                    "CONTRACT_INVALID", f"{name} imports {needed[:64]!r}, which the contract does not include"
                )
            elif needed in path:
                raise BusError("CONTRACT_INVALID", f"{name} and {needed} import each other")
            elif needed not in order:
                path[needed] = None
                stack.append((needed, iter(named[needed].dependency)))
    return list(order)


def _declared(files: descriptor_pb2.FileDescriptorSet) -> list[tuple[str, tuple[Method, ...]]]:
    return [
        (f"{file.package}.{service.name}".lstrip("."), tuple(_method(each) for each in service.method))
        for file in files.file
        for service in file.service
    ]


def _method(each: descriptor_pb2.MethodDescriptorProto) -> Method:
    names = each.input_type.lstrip("."), each.output_type.lstrip(".")
    return Method(each.name, *names, each.client_streaming, each.server_streaming)
