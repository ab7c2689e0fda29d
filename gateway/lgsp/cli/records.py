"""What the commands about registry records share: paging, printing, operation ids."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import click
from google.protobuf.message import Message

from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lgsp.cli.output import as_dict, print_json, print_record, print_table
from lgsp.cli.session import Session

_PAGE = 500
names = (
    click.option("--vi", required=True, metavar="NAME", help="Name in Vietnamese."),
    click.option("--en", required=True, metavar="NAME", help="Name in English."),
)


def with_names(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--vi` and `--en`."""
    for add in reversed(names):
        function = add(function)
    return function


def every_page(method: Callable[[Any], Any], request: Any, field: str) -> list[Any]:
    """All records of a List method."""
    request.page_size = _PAGE
    found: list[Any] = []
    while True:
        answer = method(request)
        found += getattr(answer, field)
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token


def new_operation() -> str:
    """An operation id: repeating a write with it repeats the answer only."""
    return uuid.uuid4().hex


def listed(
    session: Session,
    as_json: bool,
    verb: str,
    request: Message,
    field: str,
    columns: dict[str, str],
    none: str,
    readable: Callable[[dict[str, Any]], dict[str, Any]] = lambda row: row,
) -> None:
    with session.channel() as channel:
        rows = [as_dict(each) for each in every_page(getattr(RegistryServiceStub(channel), verb), request, field)]
    if as_json:
        print_json({field: rows})
    else:
        print_table(columns, [readable(row) for row in rows], none)


def done(session: Session, as_json: bool, verb: str, request: Message, field: str) -> None:
    with session.channel() as channel:
        answer = getattr(RegistryServiceStub(channel), verb)(request)
    found = as_dict(answer)
    if as_json:
        print_json(found)
        return
    print_record(found.get(field, {}))
    if "effective" in answer.DESCRIPTOR.fields_by_name and not answer.effective:
        click.echo("stored; this gateway has not confirmed it yet: `lgsp doctor` says why", err=True)
