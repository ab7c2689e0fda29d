"""`lgsp service`: the registry's services."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lgsp.cli.durations import parse_duration, parse_instant
from lgsp.cli.instances import service_instances
from lgsp.cli.output import ExitCode, as_dict, print_json, print_record
from lgsp.cli.records import done, every_page, listed, new_operation, with_names
from lgsp.cli.session import Session, json_option, session_options


@click.group()
def service() -> None:
    """Services: what systems offer, each by its contract."""


@service.command("list")
@session_options
@json_option
def service_list(session: Session, as_json: bool) -> None:
    """List services. Example: lgsp service list"""
    columns = {
        "name": "SERVICE",
        "provider": "PROVIDER",
        "version": "VERSION",
        "state": "STATE",
        "names.vi": "TÊN",
        "sunset_at": "SUNSET",
    }
    listed(session, as_json, "ListServices", pb.ListServicesRequest(), "services", columns, "no service yet", _readable)


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    """What the table shows beside the record's own fields."""
    state = "retired" if "retired_at" in row else row.get("lifecycle", "LIFECYCLE_PUBLISHED")[10:].lower()
    return row | {"state": state, "version": row.get("version", 1)}


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


_CLASSES = ("public", "internal", "personal", "secret")
_CONTRACT = click.option(
    "--contract",
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Its .proto, or a compiled descriptor set.",
)


@service.command("publish")
@session_options
@json_option
@with_names
@click.option("--provider", required=True, metavar="SYSTEM", help="The system that offers it.")
@_CONTRACT
@click.option("--draft", is_flag=True, help="Keep it as a draft: nobody can call it yet.")
@click.option("--override", default="", metavar="REASON", help="Publish though it breaks the contract before; kept.")
@click.option("--classification", type=click.Choice(_CLASSES), help="What its data are.")
@click.option("--owner", default="", metavar="AGENCY", help="Who answers for it.")
@click.option("--contact", default="", metavar="TEXT", help="Where people write to.")
@click.option("--steward", "stewards", multiple=True, metavar="SYSTEM", help="Decides on its grants too; may repeat.")
@click.option("--idempotent", multiple=True, metavar="METHOD", help="A method that may be repeated; may repeat.")
@click.option("--deadline", metavar="TIME", help="Bound on a unary call, e.g. 5s. [default: 30s]")
@click.argument("name")
def service_publish(
    session: Session,
    as_json: bool,
    name: str,
    vi: str,
    en: str,
    contract: Path,
    draft: bool,
    override: str,
    classification: str | None,
    deadline: str | None,
    **given: Any,
) -> None:
    """Publish a service, or a new version of its contract. What would break its consumers is refused.

    \b
    Examples:
      lgsp service publish hanoi.park.v1.ParkService --provider H26.9/parks --contract park.proto --vi "Công viên" --en Parks
      lgsp service publish hanoi.park.v1.ParkService --provider H26.9/parks --contract park.proto --vi "Công viên" --en Parks \\
          --classification public --owner H26.9 --contact parks@hanoi.gov.vn
    """
    given["idempotent_methods"] = given.pop("idempotent")
    made = pb.Service(name=name, names=pb.Names(vi=vi, en=en), **given)
    if classification is not None:
        made.classification = pb.Classification.Value(f"CLASSIFICATION_{classification.upper()}")
    if deadline is not None:
        made.deadline.FromSeconds(parse_duration(deadline))
    request = pb.PublishServiceRequest(
        service=made, contract=_compiled(contract), draft=draft, override_reason=override, operation_id=new_operation()
    )
    done(session, as_json, "PublishService", request, "service")


service.add_command(service_publish, "create")


def _compiled(contract: Path) -> bytes:
    from lgsp.adapters.manifest import compile_proto

    return compile_proto(contract) if contract.suffix == ".proto" else contract.read_bytes()


@service.command("diff")
@session_options
@json_option
@_CONTRACT
@click.argument("name")
def service_diff(session: Session, as_json: bool, name: str, contract: Path) -> None:
    """Tell what a contract would break, and whom, without publishing it. Exit code 1 when it breaks something.

    Example: lgsp service diff hanoi.park.v1.ParkService --contract park.proto
    """
    with session.channel() as channel:
        request = pb.CheckContractRequest(service=name, contract=_compiled(contract))
        found = RegistryServiceStub(channel).CheckContract(request)
    if as_json:
        print_json(as_dict(found))
    else:
        for each in found.breaking:
            click.echo(f"breaks  {each.file}:{each.line}: {each.rule}: {each.message}")
        for use in found.affected:
            last = use.last_called_at.ToDatetime().isoformat() + "Z" if use.HasField("last_called_at") else "never seen"
            click.echo(f"  used by {use.consumer} ({use.method}, last {last}, {use.calls_30_days} calls in 30 days)")
        for each in found.advice:
            click.echo(f"advice  {each.file}:{each.line}: {each.rule}: {each.message}")
        click.echo("breaks its consumers" if found.breaking else "compatible")
    raise SystemExit(ExitCode.REFUSED if found.breaking else ExitCode.OK)


@service.command("versions")
@session_options
@json_option
@click.argument("name")
def service_versions(session: Session, as_json: bool, name: str) -> None:
    """List the published versions of a contract. Example: lgsp service versions hanoi.park.v1.ParkService"""
    columns = {
        "number": "VERSION",
        "published_at": "PUBLISHED",
        "published_by": "BY",
        "contract_digest": "SHA-256",
        "override_reason": "OVERRIDE",
    }
    request = pb.ListServiceVersionsRequest(service=name)
    listed(session, as_json, "ListServiceVersions", request, "versions", columns, "no version yet")


@service.command("deprecate")
@session_options
@json_option
@click.option("--sunset", metavar="TIME", help="When it is meant to be retired, ISO 8601.")
@click.option("--replaced-by", default="", metavar="NAME", help="The service that takes its place.")
@click.argument("name")
def service_deprecate(session: Session, as_json: bool, name: str, sunset: str | None, replaced_by: str) -> None:
    """Tell its callers, with every answer, that a service will end.

    Example: lgsp service deprecate hanoi.park.v1.ParkService --sunset 2027-06-30T00:00:00+07:00 --replaced-by hanoi.park.v2.ParkService
    """
    request = pb.DeprecateServiceRequest(name=name, replaced_by=replaced_by, operation_id=new_operation())
    if sunset is not None:
        request.sunset_at.FromDatetime(parse_instant(sunset))
    done(session, as_json, "DeprecateService", request, "service")


@service.command("retire")
@session_options
@json_option
@click.argument("name")
def service_retire(session: Session, as_json: bool, name: str) -> None:
    """Retire a service: from now on nobody is let through to it. Example: lgsp service retire hanoi.park.v1.ParkService"""
    request = pb.RetireServiceRequest(name=name, operation_id=new_operation())
    done(session, as_json, "RetireService", request, "service")


service.add_command(service_retire, "revoke")
service.add_command(service_instances, "instances")
