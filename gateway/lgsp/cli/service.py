"""`lgsp service`: the registry's services."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lgsp.cli.durations import parse_duration, parse_instant
from lgsp.cli.instances import service_instances
from lgsp.cli.output import ExitCode, as_dict, fail, print_json, print_record, print_table
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
@click.option("--audit", type=click.Choice(["standard", "strict"]), help="How its calls are recorded.")
@click.option(
    "--browser-origin", "browser_origins", multiple=True, metavar="URL", help="Whose pages may call it; may repeat."
)
@click.option("--owner", default="", metavar="AGENCY", help="Who answers for it.")
@click.option("--contact", default="", metavar="TEXT", help="Where people write to.")
@click.option("--steward", "stewards", multiple=True, metavar="SYSTEM", help="Decides on its grants too; may repeat.")
@click.option("--idempotent", multiple=True, metavar="METHOD", help="A method that may be repeated; may repeat.")
@click.option("--deadline", metavar="TIME", help="Bound on a unary call, e.g. 5s. [default: 30s]")
@click.option("--rest", metavar="URL", help="Base URL of an HTTP/JSON system that the gateway calls itself.")
@click.option(
    "--rest-ca",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="PEM that its certificate comes from.",
)
@click.option("--rest-credential", default="", metavar="NAME", help="A credential of the node (`lgsp credential`).")
@click.option("--all", "every", is_flag=True, help="Every service that the contract declares itself.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
def service_publish(
    session: Session,
    as_json: bool,
    names: tuple[str, ...],
    every: bool,
    vi: str,
    en: str,
    contract: Path,
    draft: bool,
    override: str,
    classification: str | None,
    audit: str | None,
    deadline: str | None,
    rest: str | None,
    rest_ca: Path | None,
    rest_credential: str,
    **given: Any,
) -> None:
    """Publish services, or a new version of their contract. What would break their consumers is refused.

    Several are published by one change, all or none (200 at most). In --vi and --en, {service} stands for a service's
    own short name.

    \b
    Examples:
      lgsp service publish hanoi.park.v1.ParkService --provider H26.9/parks --contract park.proto --vi "Công viên" --en Parks
      lgsp service publish hanoi.park.v1.ParkService --provider H26.9/parks --contract park.proto --vi "Công viên" --en Parks \\
          --classification public --owner H26.9 --contact parks@hanoi.gov.vn
      lgsp service publish --all --provider H26.9/parks --contract city.binpb --vi "Công viên: {service}" --en "Parks: {service}"
    """
    content = _compiled(contract)
    if every == bool(names):
        fail("name the services, or give --all", "`lgsp service publish --help` has examples.", ExitCode.USAGE)
    given["idempotent_methods"] = given.pop("idempotent")
    if rest is not None:
        authorities = rest_ca.read_text("ascii", "replace") if rest_ca is not None else ""
        given["rest"] = pb.RestUpstream(base_url=rest, credential=rest_credential, ca=authorities)
    elif rest_ca is not None or rest_credential:
        fail("--rest-ca and --rest-credential belong to --rest", "Give --rest URL too.", ExitCode.USAGE)
    if classification is not None:
        given["classification"] = pb.Classification.Value(f"CLASSIFICATION_{classification.upper()}")
    if audit is not None:
        given["audit"] = pb.AuditLevel.Value(f"AUDIT_LEVEL_{audit.upper()}")
    made = [_service(name, vi, en, deadline, given) for name in names or _declared(content)]
    if len(made) > 1:
        _publish_many(session, as_json, made, content, draft, override)
        return
    request = pb.PublishServiceRequest(
        service=made[0], contract=content, draft=draft, override_reason=override, operation_id=new_operation()
    )
    done(session, as_json, "PublishService", request, "service")


def _service(name: str, vi: str, en: str, deadline: str | None, given: dict[str, Any]) -> pb.Service:
    short = name.rpartition(".")[2]
    names = pb.Names(vi=vi.replace("{service}", short), en=en.replace("{service}", short))
    made = pb.Service(name=name, names=names, **given)
    if deadline is not None:
        made.deadline.FromSeconds(parse_duration(deadline))
    return made


def _declared(content: bytes) -> list[str]:
    """The services of the contract's own files: those that no other file of it imports."""
    from google.protobuf import descriptor_pb2

    from lgsp.registry.contracts import load_contract

    load_contract(content)
    files = descriptor_pb2.FileDescriptorSet.FromString(content).file
    imported = {name for file in files for name in file.dependency}
    found = [f"{each.package}.{one.name}" for each in files if each.name not in imported for one in each.service]
    if not found:
        fail("the contract declares no service of its own", "Name the services.")
    return found


def _publish_many(
    session: Session, as_json: bool, made: list[pb.Service], content: bytes, draft: bool, override: str
) -> None:
    request = pb.PublishServicesRequest(contracts=[content], operation_id=new_operation())
    for each in made:
        request.services.add(service=each, override_reason=override, draft=draft)
    with session.channel() as channel:
        answer = RegistryServiceStub(channel).PublishServices(request)
    if as_json:
        print_json(as_dict(answer))
        return
    columns = {"name": "SERVICE", "version": "VERSION", "state": "STATE", "contract_digest": "SHA-256"}
    print_table(columns, [_readable(as_dict(each.service)) for each in answer.services], "")


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
