"""`lgsp call`: call a method of a registered service from its contract, without stubs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor

from lgsp.api.registry.v1.registry_pb2 import GetContractRequest
from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lgsp.cli.output import ExitCode, fail
from lgsp.cli.session import Session, session_options
from lgsp.registry.contracts import load_contract


@click.command()
@session_options
@click.option("-d", "--data", default="{}", metavar="JSON", help="The request; @FILE reads a file, - standard input.")
@click.option(
    "--contract",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="A descriptor set, instead of the registry's.",
)
@click.option("--purpose", default="", metavar="CODE", help="What for, when the grant names purposes.")
@click.option("-v", "--verbose", is_flag=True, help="Say the request id on standard error.")
@click.argument("method", metavar="SERVICE/METHOD")
def call(session: Session, data: str, contract: Path | None, purpose: str, verbose: bool, method: str) -> None:
    """Call a unary or server-streaming method; each answer is one line of JSON.

    \b
    Examples:
      lgsp call lgsp.api.registry.v1.RegistryService/ListServices
      lgsp call hanoi.population.v1.PopulationService/GetCitizen -d '{"id": "001..."}' --as H26.15/one-stop
    """
    service, _, name = method.lstrip("/").rpartition("/")
    if not service or not name:
        fail(f"{method!r} is no SERVICE/METHOD", "Write it like hanoi.park.v1.ParkService/GetPark.", ExitCode.USAGE)
    text = _read(data)
    content = contract.read_bytes() if contract is not None else _fetch(session, service)
    found = _method(content, service, name)
    request = _request(found, text)
    with session.channel() as channel:
        _invoke(
            channel, found, f"/{service}/{name}", request, (("x-lgsp-purpose", purpose),) if purpose else (), verbose
        )


def _read(data: str) -> str:
    try:
        if data == "-":
            return sys.stdin.read()
        return Path(data[1:]).read_text("utf-8") if data.startswith("@") else data
    except (OSError, UnicodeDecodeError) as error:
        fail(f"the request cannot be read: {error}", "Name a UTF-8 file of JSON.", ExitCode.USAGE)


def _fetch(session: Session, service: str) -> bytes:
    with session.as_operator().channel() as channel:
        return bytes(RegistryServiceStub(channel).GetContract(GetContractRequest(service=service)).contract)


def _method(content: bytes, service: str, name: str) -> MethodDescriptor:
    contract = load_contract(content, service)
    declared = contract.pool.FindServiceByName(service).methods_by_name
    if name not in declared:
        fail(f"{service} has no method {name}", f"It has {', '.join(declared)}.", ExitCode.USAGE)
    found: MethodDescriptor = declared[name]
    if found.client_streaming:
        fail(
            f"{name} takes a stream of requests, which this command does not send",
            "Use a stub; docs/consume.md shows how.",
            ExitCode.USAGE,
        )
    return found


def _request(method: MethodDescriptor, text: str) -> Any:
    request = message_factory.GetMessageClass(method.input_type)()
    try:
        json_format.Parse(text, request)
    except (json_format.ParseError, json.JSONDecodeError, RecursionError) as error:
        fields = ", ".join(field.name for field in method.input_type.fields) or "none"
        fail(f"the request is no {method.input_type.full_name}: {error}", f"Its fields are: {fields}.", ExitCode.USAGE)
    return request


def _invoke(
    channel: grpc.Channel,
    method: MethodDescriptor,
    path: str,
    request: Any,
    metadata: tuple[tuple[str, str], ...],
    verbose: bool,
) -> None:
    answer = message_factory.GetMessageClass(method.output_type)
    kind = channel.unary_stream if method.server_streaming else channel.unary_unary
    stub = kind(path, request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString)
    if method.server_streaming:
        running: Any = stub(request, metadata=metadata)
        for each in running:
            _print(each)
    else:
        each, running = stub.with_call(request, metadata=metadata)  # type: ignore[union-attr]
        _print(each)
    if verbose:
        found = next((value for key, value in running.initial_metadata() if key == "x-request-id"), "none")
        click.echo(f"request {found}", err=True)


def _print(message: Any) -> None:
    """As REST shows it: a field that was not sent is not there, whether it is empty or masked."""
    found = json_format.MessageToDict(message, preserving_proto_field_name=True)
    click.echo(json.dumps(found, ensure_ascii=False))
