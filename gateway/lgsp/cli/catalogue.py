"""`lgsp catalogue`: what is on the bus, who uses it, what one may use, and what would break."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from lgsp.api.catalogue.v1 import catalogue_pb2 as pb
from lgsp.api.catalogue.v1.catalogue_pb2_grpc import CatalogueServiceStub
from lgsp.api.registry.v1 import registry_pb2
from lgsp.cli.durations import parse_duration
from lgsp.cli.output import ExitCode, as_dict, print_json, print_record, print_table
from lgsp.cli.records import every_page
from lgsp.cli.session import Session, json_option, session_options

_LIFECYCLES = ("draft", "published", "deprecated", "retired")
_CLASSES = ("public", "internal", "personal", "secret")
_FORMATS = {"proto": "proto", "descriptor": "descriptor_set", "openapi": "openapi"}
Row = dict[str, Any]


@click.group()
def catalogue() -> None:
    """The catalogue: find services, see their terms, users and contracts."""


@catalogue.command("search")
@session_options
@json_option
@click.option("--lifecycle", type=click.Choice(_LIFECYCLES), help="Only services that are there in their life.")
@click.option("--classification", type=click.Choice(_CLASSES), help="Only services with such data.")
@click.option("--agency", default="", metavar="ID", help="Only what this agency provides or answers for.")
@click.option("--usable", is_flag=True, help="Only what the caller may use now.")
@click.argument("words", nargs=-1)
def catalogue_search(
    session: Session,
    as_json: bool,
    lifecycle: str | None,
    classification: str | None,
    agency: str,
    usable: bool,
    words: tuple[str, ...],
) -> None:
    """Find services by words, with or without Vietnamese marks; without words, all of them.

    \b
    Examples:
      lgsp catalogue search dan cu
      lgsp catalogue search "hành chính" --lifecycle published --usable
    """
    request = pb.SearchRequest(query=" ".join(words), agency=agency, usable=usable)
    if lifecycle is not None:
        request.lifecycle = registry_pb2.Lifecycle.Value(f"LIFECYCLE_{lifecycle.upper()}")
    if classification is not None:
        request.classification = registry_pb2.Classification.Value(f"CLASSIFICATION_{classification.upper()}")
    columns = {
        "name": "SERVICE",
        "names.vi": "TÊN",
        "names.en": "NAME",
        "agency_names.vi": "CƠ QUAN",
        "state": "STATE",
        "usable": "USABLE",
    }
    _listed(session, as_json, "Search", request, "services", columns, "nothing found", _summary)


@catalogue.command("show")
@session_options
@json_option
@click.argument("name")
def catalogue_show(session: Session, as_json: bool, name: str) -> None:
    """Show a service: its methods, how they are called, and what the caller may do.

    Example: lgsp catalogue show lgsp.api.registry.v1.RegistryService
    """
    with session.channel() as channel:
        found = as_dict(CatalogueServiceStub(channel).Describe(pb.DescribeRequest(service=name)))
    if as_json:
        print_json(found)
        return
    methods, versions = found.pop("methods", []), found.pop("versions", [])
    service = found.pop("service")
    print_record(service | found | {"versions": [f"{each['number']} ({each['published_at']})" for each in versions]})
    click.echo()
    columns = {
        "call": "METHOD",
        "rest": "REST",
        "may": "MAY CALL",
        "purposes": "PURPOSES",
        "description": "WHAT IT DOES",
    }
    print_table(columns, [_method(each) for each in methods], "no method")


@catalogue.command("users")
@session_options
@json_option
@click.option("--method", default="", metavar="METHOD", help="Only of this method.")
@click.argument("name")
def catalogue_users(session: Session, as_json: bool, name: str, method: str) -> None:
    """Tell who uses a service: to its provider, its stewards and operators.

    Example: lgsp catalogue users hanoi.park.v1.ParkService --method GetPark
    """
    columns = {
        "use.consumer": "CONSUMER",
        "names.vi": "TÊN",
        "use.method": "METHOD",
        "calls": "CALLS (30 DAYS)",
        "use.last_called_at": "LAST",
        "purposes": "PURPOSES",
        "until": "UNTIL",
    }
    _listed(
        session,
        as_json,
        "ListUsers",
        pb.ListUsersRequest(service=name, method=method),
        "users",
        columns,
        "nobody uses it",
        lambda row: _terms(row) | {"calls": row["use"].get("calls_30_days", 0)},
    )


@catalogue.command("mine")
@session_options
@json_option
@click.option("--service", default="", metavar="NAME", help="Only of this service.")
@click.option("--expiring", metavar="TIME", help="Only what ends within this time, e.g. 30d.")
def catalogue_mine(session: Session, as_json: bool, service: str, expiring: str | None) -> None:
    """Tell what the caller may use now, and on which terms.

    \b
    Examples:
      lgsp catalogue mine --as H26.3/one-stop-shop
      lgsp catalogue mine --as H26.3/one-stop-shop --expiring 30d
    """
    request = pb.ListUsableRequest(service=service)
    if expiring is not None:
        request.expiring_within.FromSeconds(parse_duration(expiring))
    columns = {
        "call": "METHOD",
        "names.vi": "TÊN",
        "purposes": "PURPOSES",
        "fields": "FIELDS",
        "limits": "LIMITS",
        "until": "UNTIL",
    }
    _listed(session, as_json, "ListUsable", request, "methods", columns, "nothing: ask for a grant", _usable)


@catalogue.command("impact")
@session_options
@json_option
@click.option("--retire", is_flag=True, help="If the service is retired.")
@click.option("--method", metavar="METHOD", help="If this method goes.")
@click.option(
    "--contract",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="If this contract, a .proto or a descriptor set, takes the place of its own.",
)
@click.argument("name")
def catalogue_impact(
    session: Session, as_json: bool, name: str, retire: bool, method: str | None, contract: Path | None
) -> None:
    """Tell what would break, and for whom. Exit code 1 when somebody would lose something.

    \b
    Examples:
      lgsp catalogue impact hanoi.park.v1.ParkService --retire
      lgsp catalogue impact hanoi.park.v1.ParkService --contract park.proto
    """
    if sum((retire, method is not None, contract is not None)) != 1:
        raise click.UsageError("say what changes: one of --retire, --method and --contract")
    request = pb.ImpactRequest(service=name)
    if retire:
        request.retire = True
    elif method is not None:
        request.method = method
    elif contract is not None:
        request.contract = _compiled(contract)
    with session.channel() as channel:
        found = CatalogueServiceStub(channel).Impact(request)
    if as_json:
        print_json(as_dict(found))
    else:
        _tell(found)
    raise SystemExit(ExitCode.OK if found.harmless else ExitCode.REFUSED)


@catalogue.command("contract")
@session_options
@json_option
@click.option("--format", "form", type=click.Choice(list(_FORMATS)), default="proto", show_default=True)
@click.option("--version", type=click.IntRange(1), metavar="N", help="A published version. [default: the one in force]")
@click.option("--file", default="", metavar="PATH", help="With proto: another file of the contract.")
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write it there.")
@click.argument("name")
def catalogue_contract(
    session: Session, as_json: bool, name: str, form: str, version: int | None, file: str, out: Path | None
) -> None:
    """Print a contract: as .proto text, as a descriptor set, or as OpenAPI 3.1. With --json and -o, tell what was written.

    \b
    Examples:
      lgsp catalogue contract lgsp.api.registry.v1.RegistryService
      lgsp catalogue contract lgsp.api.registry.v1.RegistryService --format openapi -o registry.json
    """
    request = pb.GetDocumentRequest(service=name, format=_FORMATS[form], version=version or 0, file=file)
    with session.channel() as channel:
        found = CatalogueServiceStub(channel).GetDocument(request)
    if out is not None:
        out.write_bytes(found.data)
        told = {"file": str(out), "content_type": found.content_type, "bytes": len(found.data)}
        print_json(told) if as_json else click.echo(f"{out}: {len(found.data)} bytes, {found.content_type}")
    elif as_json:
        print_json(as_dict(found))
    else:
        click.echo(found.data, nl=False)


# --- what tables show ------------------------------------------------------------------------------------------------


def _listed(
    session: Session,
    as_json: bool,
    verb: str,
    request: Any,
    field: str,
    columns: dict[str, str],
    none: str,
    readable: Callable[[Row], Row],
) -> None:
    with session.channel() as channel:
        found = every_page(getattr(CatalogueServiceStub(channel), verb), request, field)
    rows = [as_dict(each) for each in found]
    if as_json:
        print_json({field: rows})
    else:
        print_table(columns, [readable(row) for row in rows], none)


def _summary(row: Row) -> Row:
    return row | {"state": row["lifecycle"][10:].lower(), "usable": "yes" if row.get("usable") else "–"}


def _method(row: Row) -> Row:
    gives = "stream " * row.get("server_streaming", False) + row["response"].rpartition(".")[2]
    takes = "stream " * row.get("client_streaming", False) + row["request"].rpartition(".")[2]
    may = "yes" if row.get("granted") else "–"
    if row.get("purpose_required"):
        may = "with a purpose"
    said = row.get("description", "").splitlines()
    rest = [f"{each['verb']} {each['path']}" for each in row.get("http", [])]
    call = f"{row['name']}({takes}) → {gives}"
    return _terms(row) | {"call": call, "rest": rest, "may": may, "description": said[0] if said else ""}


def _usable(row: Row) -> Row:
    made = _terms(row) | {"call": f"{row['service']}/{row['method']}"}
    if row.get("expiring"):
        made["until"] = f"{made['until']} (soon)"
    return made


def _terms(row: Row) -> Row:
    """The terms of all grants in a few cells."""
    terms = row.get("terms", [])
    limits = [f"{each['rate']}/s" for each in terms if "rate" in each]
    limits += [f"{each['daily_quota']}/day" for each in terms if "daily_quota" in each]
    fields = [",".join(each["fields"]) if "fields" in each else "all" for each in terms]
    ends = [each.get("until", "") for each in terms]
    return row | {
        "purposes": sorted({purpose["code"] for each in terms for purpose in each.get("purposes", [])}),
        "fields": "; ".join(dict.fromkeys(fields)),
        "limits": limits,
        "until": max(ends) if ends and all(ends) else "",
    }


def _tell(found: pb.ImpactResponse) -> None:
    for each in found.breaking:
        click.echo(f"breaks    {each.file}:{each.line}: {each.rule}: {each.message}")
    for use in found.affected:
        last = use.last_called_at.ToDatetime().isoformat() + "Z" if use.HasField("last_called_at") else "never seen"
        click.echo(f"affects   {use.consumer} ({use.method}, last {last}, {use.calls_30_days} calls in 30 days)")
    for name in found.grants:
        click.echo(f"grant     {name}")
    for name in found.replaces:
        click.echo(f"replaces  {name}")
    click.echo("harmless" if found.harmless else f"consumers that would lose something: {len(found.consumers)}")


def _compiled(contract: Path) -> bytes:
    from lgsp.adapters.manifest import compile_proto

    return compile_proto(contract) if contract.suffix == ".proto" else contract.read_bytes()
