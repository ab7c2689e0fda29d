"""`lgsp agency|system|service|grant`: list, show, create and revoke the registry's records."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import grpc
from google.protobuf.message import Message

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lgsp.cli.output import ExitCode, as_dict, fail, print_json, print_record, print_table
from lgsp.cli.session import Session, json_option, session_options
from lgsp.client import Identity, explain

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


def _listed(
    session: Session, as_json: bool, verb: str, request: Message, field: str, columns: dict[str, str], none: str
) -> None:
    with session.channel() as channel:
        rows = [as_dict(each) for each in every_page(getattr(RegistryServiceStub(channel), verb), request, field)]
    if as_json:
        print_json({field: rows})
    else:
        print_table(columns, rows, none)


def _done(session: Session, as_json: bool, verb: str, request: Message, field: str) -> None:
    with session.channel() as channel:
        answer = getattr(RegistryServiceStub(channel), verb)(request)
    found = as_dict(answer)
    if as_json:
        print_json(found)
        return
    print_record(found.get(field, {}))
    if "effective" in answer.DESCRIPTOR.fields_by_name and not answer.effective:
        click.echo("stored; this gateway has not confirmed it yet: `lgsp doctor` says why", err=True)


# --- agencies ----------------------------------------------------------------------------------------------------------


@click.group()
def agency() -> None:
    """Agencies: the tree of those who offer and use data."""


@agency.command("list")
@session_options
@json_option
@click.option("--parent", default="", metavar="ID", help="Only those below this agency.")
def agency_list(session: Session, as_json: bool, parent: str) -> None:
    """List agencies. Example: lgsp agency list --parent H26"""
    columns = {"id": "ID", "names.vi": "TÊN", "names.en": "NAME", "parent": "PARENT", "revoked_at": "REVOKED"}
    _listed(
        session, as_json, "ListAgencies", pb.ListAgenciesRequest(parent=parent), "agencies", columns, "no agency yet"
    )


@agency.command("show")
@session_options
@json_option
@click.argument("identifier")
def agency_show(session: Session, as_json: bool, identifier: str) -> None:
    """Show one agency by its identifier or an older one. Example: lgsp agency show H26.15"""
    _done(session, as_json, "GetAgency", pb.GetAgencyRequest(id=identifier), "agency")


@agency.command("create")
@session_options
@json_option
@with_names
@click.option(
    "--parent", default=None, metavar="ID", help="The agency above it. [default: its identifier without the last part]"
)
@click.option("--alias", multiple=True, metavar="ID", help="An older identifier that must keep resolving; may repeat.")
@click.argument("identifier")
def agency_create(
    session: Session, as_json: bool, identifier: str, parent: str | None, alias: tuple[str, ...], vi: str, en: str
) -> None:
    """Create an agency. Example: lgsp agency create H26.15 --vi "Sở Tư pháp" --en "Department of Justice" """
    above = identifier.rpartition(".")[0] if parent is None else parent
    made = pb.Agency(id=identifier, names=pb.Names(vi=vi, en=en), parent=above, aliases=alias)
    _done(session, as_json, "CreateAgency", pb.CreateAgencyRequest(agency=made, operation_id=new_operation()), "agency")


@agency.command("revoke")
@session_options
@json_option
@click.option("--reason", required=True, metavar="TEXT", help="Why; kept in the registry.")
@click.argument("identifier")
def agency_revoke(session: Session, as_json: bool, identifier: str, reason: str) -> None:
    """Revoke an agency: nothing new is registered below it; revoke its systems one by one.

    Example: lgsp agency revoke H26.15 --reason "merged into H26.16"
    """
    request = pb.RevokeAgencyRequest(id=identifier, reason=reason, operation_id=new_operation())
    _done(session, as_json, "RevokeAgency", request, "agency")


# --- systems -----------------------------------------------------------------------------------------------------------


@click.group()
def system() -> None:
    """Systems: what calls and what answers, each with its own key."""


@system.command("list")
@session_options
@json_option
def system_list(session: Session, as_json: bool) -> None:
    """List systems. Example: lgsp system list --json"""
    columns = {"id": "ID", "names.vi": "TÊN", "names.en": "NAME", "revoked_at": "REVOKED"}
    _listed(session, as_json, "ListSystems", pb.ListSystemsRequest(), "systems", columns, "no system yet")


@system.command("show")
@session_options
@json_option
@click.argument("identifier")
def system_show(session: Session, as_json: bool, identifier: str) -> None:
    """Show one system. Example: lgsp system show H26.15/one-stop"""
    _done(session, as_json, "GetSystem", pb.GetSystemRequest(id=identifier), "system")


@system.command("create")
@session_options
@json_option
@with_names
@click.option(
    "--jwks",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Its public keys (RFC 7517).",
)
@click.option(
    "--new-key",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Make a key here (private, 0600) and register its public half.",
)
@click.argument("identifier")
def system_create(
    session: Session, as_json: bool, identifier: str, vi: str, en: str, jwks: Path | None, new_key: Path | None
) -> None:
    """Create a system with its public keys.

    \b
    Examples:
      lgsp system create H26.15/one-stop --vi "Một cửa" --en "One stop" --new-key one-stop.jwk
      lgsp system create H26.15/one-stop --vi "Một cửa" --en "One stop" --jwks one-stop.pub.jwks
    """
    if (jwks is None) == (new_key is None):
        fail(
            "give either --jwks FILE or --new-key FILE",
            "A system's owner keeps its private key; --jwks needs the public half only.",
            ExitCode.USAGE,
        )
    public = jwks.read_text("utf-8") if jwks is not None else _make_key(identifier, new_key)
    made = pb.System(id=identifier, names=pb.Names(vi=vi, en=en), jwks=public)
    try:
        _done(
            session,
            as_json,
            "CreateSystem",
            pb.CreateSystemRequest(system=made, operation_id=new_operation()),
            "system",
        )
    except grpc.RpcError as error:
        if new_key is not None and explain(error).reason is not None:
            new_key.unlink(missing_ok=True)  # the key of a system that was refused is of no use to anybody
        raise


def _make_key(identifier: str, path: Path | None) -> str:
    assert path is not None
    identity = Identity.generate(identifier)
    try:
        identity.save(path)
    except FileExistsError:
        fail(f"{path} exists already", "Name a new file; a key is never overwritten.")
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}", "Name a file in a folder that you may write to.")
    return identity.jwks()


@system.command("revoke")
@session_options
@json_option
@click.option("--reason", required=True, metavar="TEXT", help="Why; kept in the registry.")
@click.argument("identifier")
def system_revoke(session: Session, as_json: bool, identifier: str, reason: str) -> None:
    """Revoke a system for good. Example: lgsp system revoke H26.15/one-stop --reason "key lost" """
    request = pb.RevokeSystemRequest(id=identifier, reason=reason, operation_id=new_operation())
    _done(session, as_json, "RevokeSystem", request, "system")


# --- services ----------------------------------------------------------------------------------------------------------


@click.group()
def service() -> None:
    """Services: what systems offer, each by its contract."""


@service.command("list")
@session_options
@json_option
def service_list(session: Session, as_json: bool) -> None:
    """List services. Example: lgsp service list"""
    columns = {"name": "SERVICE", "provider": "PROVIDER", "names.vi": "TÊN", "retired_at": "RETIRED"}
    _listed(session, as_json, "ListServices", pb.ListServicesRequest(), "services", columns, "no service yet")


@service.command("show")
@session_options
@json_option
@click.argument("name")
def service_show(session: Session, as_json: bool, name: str) -> None:
    """Show a service, its methods and where it is served. Example: lgsp service show hanoi.population.v1.PopulationService"""
    from lgsp.registry.contracts import load_contract

    with session.channel() as channel:
        registry = RegistryServiceStub(channel)
        found = as_dict(registry.GetService(pb.GetServiceRequest(name=name)).service)
        contract = registry.GetContract(pb.GetContractRequest(service=name)).contract
        places = every_page(registry.ListEndpoints, pb.ListEndpointsRequest(service=name), "endpoints")
    found["methods"] = [_signature(each) for each in load_contract(contract).methods(name)]
    live = {each.endpoint.address: each.live for each in places if not each.endpoint.HasField("ended_at")}
    found["endpoints"] = [f"{address} ({'live' if up else 'lease expired'})" for address, up in live.items()]
    if as_json:
        print_json({"service": found})
    else:
        print_record(found)


def _signature(method: Any) -> str:
    takes, gives = ("stream " * method.client_streaming, "stream " * method.server_streaming)
    return f"{method.name}({takes}{method.input}) → {gives}{method.output}"


@service.command("create")
@session_options
@json_option
@with_names
@click.option("--provider", required=True, metavar="SYSTEM", help="The system that offers it.")
@click.option(
    "--contract",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Its .proto, or a compiled descriptor set.",
)
@click.argument("name")
def service_create(session: Session, as_json: bool, name: str, provider: str, contract: Path, vi: str, en: str) -> None:
    """Publish a service, or a new version of its contract.

    Example: lgsp service create hanoi.park.v1.ParkService --provider H26.9/parks --contract park.proto --vi "Công viên" --en Parks
    """
    from lgsp.adapters.manifest import compile_proto

    content = compile_proto(contract) if contract.suffix == ".proto" else contract.read_bytes()
    made = pb.Service(name=name, names=pb.Names(vi=vi, en=en), provider=provider)
    request = pb.PublishServiceRequest(service=made, contract=content, operation_id=new_operation())
    _done(session, as_json, "PublishService", request, "service")


@service.command("revoke")
@session_options
@json_option
@click.argument("name")
def service_revoke(session: Session, as_json: bool, name: str) -> None:
    """Retire a service: from now on nobody is let through to it."""
    request = pb.RetireServiceRequest(name=name, operation_id=new_operation())
    _done(session, as_json, "RetireService", request, "service")


# --- grants ------------------------------------------------------------------------------------------------------------


@click.group()
def grant() -> None:
    """Grants: which system may use which methods of which service, and until when."""


@grant.command("list")
@session_options
@json_option
@click.option("--consumer", default="", metavar="SYSTEM", help="Only this system's.")
@click.option("--service", "service_name", default="", metavar="NAME", help="Only for this service.")
def grant_list(session: Session, as_json: bool, consumer: str, service_name: str) -> None:
    """List grants. Example: lgsp grant list --consumer H26.15/one-stop"""
    columns = {
        "id": "ID",
        "consumer": "CONSUMER",
        "service": "SERVICE",
        "methods": "METHODS",
        "not_after": "UNTIL",
        "revoked_at": "REVOKED",
    }
    request = pb.ListGrantsRequest(consumer=consumer, service=service_name)
    _listed(session, as_json, "ListGrants", request, "grants", columns, "no grant yet")


@grant.command("show")
@session_options
@json_option
@click.argument("identifier")
def grant_show(session: Session, as_json: bool, identifier: str) -> None:
    """Show one grant."""
    _done(session, as_json, "GetGrant", pb.GetGrantRequest(id=identifier), "grant")


@grant.command("create")
@session_options
@json_option
@click.option("--id", "identifier", default="", metavar="ID", help="Its identifier. [default: the registry chooses]")
@click.option("--consumer", required=True, metavar="SYSTEM", help="Who may call.")
@click.option("--service", "service_name", required=True, metavar="NAME", help="Which service.")
@click.option(
    "--method", "methods", multiple=True, required=True, metavar="METHOD", help="Which method; may repeat; '*' is all."
)
@click.option("--from", "start", metavar="TIME", help="From this instant, ISO 8601. [default: now]")
@click.option("--until", "end", metavar="TIME", help="Until this instant, ISO 8601. [default: without end]")
def grant_create(
    session: Session,
    as_json: bool,
    identifier: str,
    consumer: str,
    service_name: str,
    methods: tuple[str, ...],
    start: str | None,
    end: str | None,
) -> None:
    """Grant methods of a service to a system. It holds at this gateway when the command returns.

    Example: lgsp grant create --consumer H26.15/one-stop --service hanoi.population.v1.PopulationService --method GetCitizen
    """
    made = pb.Grant(id=identifier, consumer=consumer, service=service_name, methods=methods)
    for field, text in (("not_before", start), ("not_after", end)):
        if text is not None:
            getattr(made, field).FromDatetime(_instant(text))
    _done(session, as_json, "CreateGrant", pb.CreateGrantRequest(grant=made, operation_id=new_operation()), "grant")


def _instant(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no ISO 8601 time such as 2026-12-31T17:00:00+07:00") from None
    return found.astimezone(UTC)


@grant.command("revoke")
@session_options
@json_option
@click.option("--reason", required=True, metavar="TEXT", help="Why; kept in the registry.")
@click.argument("identifier")
def grant_revoke(session: Session, as_json: bool, identifier: str, reason: str) -> None:
    """Revoke a grant: new calls are refused when the command returns."""
    request = pb.RevokeGrantRequest(id=identifier, reason=reason, operation_id=new_operation())
    _done(session, as_json, "RevokeGrant", request, "grant")
