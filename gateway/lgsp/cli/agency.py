"""`lgsp agency`: the registry's agencies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lgsp.cli.agency_files import FileError, read, write_csv, write_json
from lgsp.cli.agency_networks import agency_networks
from lgsp.cli.agency_time import agency_as_of, agency_resolve
from lgsp.cli.durations import parse_instant
from lgsp.cli.output import as_dict, fail, print_json
from lgsp.cli.records import done, every_page, listed, new_operation, with_names
from lgsp.cli.session import Session, json_option, session_options

_AT_ONCE: Final = 1000


@click.group()
def agency() -> None:
    """Agencies: the tree of those who offer and use data."""


@agency.command("list")
@session_options
@json_option
@click.option("--parent", default="", metavar="ID", help="Only those below this agency.")
@click.option("--as-of", metavar="TIME", help="Those in being at this instant, as they were then, ISO 8601.")
def agency_list(session: Session, as_json: bool, parent: str, as_of: str | None) -> None:
    """List agencies.

    \b
    Examples:
      lgsp agency list --parent H26
      lgsp agency list --as-of 2025-06-30
    """
    columns = {
        "id": "ID",
        "names.vi": "TÊN",
        "names.en": "NAME",
        "parent": "PARENT",
        "valid_until": "UNTIL",
        "successors": "SUCCESSORS",
    }
    request = _list_request(as_of, parent=parent)
    listed(session, as_json, "ListAgencies", request, "agencies", columns, "no such agency")


def _list_request(as_of: str | None, **fields: str) -> pb.ListAgenciesRequest:
    request = pb.ListAgenciesRequest(**fields)  # type: ignore[arg-type]
    if as_of is not None:
        request.as_of.FromDatetime(parse_instant(as_of))
    return request


@agency.command("show")
@session_options
@json_option
@click.option("--as-of", metavar="TIME", help="As it was at this instant, ISO 8601.")
@click.argument("identifier")
def agency_show(session: Session, as_json: bool, identifier: str, as_of: str | None) -> None:
    """Show one agency by its identifier or an older one. Example: lgsp agency show H26.15 --as-of 2025-06-30"""
    request = pb.GetAgencyRequest(id=identifier)
    if as_of is not None:
        request.as_of.FromDatetime(parse_instant(as_of))
    done(session, as_json, "GetAgency", request, "agency")


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
    done(session, as_json, "CreateAgency", pb.CreateAgencyRequest(agency=made, operation_id=new_operation()), "agency")


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
    done(session, as_json, "RevokeAgency", request, "agency")


# --- files -------------------------------------------------------------------------------------------------------------


@agency.command("import")
@session_options
@json_option
@click.option("--dry-run", is_flag=True, help="Tell what would change, and change nothing.")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def agency_import(session: Session, as_json: bool, file: Path, dry_run: bool) -> None:
    """Import agencies from a CSV or JSON file; repeating it changes nothing.

    What a CSV has no column for stays as it is. Each 1,000 are written as one, parents first. A larger file that was broken off goes on where it stopped when the
    command is repeated; --dry-run shows each field that would change.

    Example: lgsp agency import agencies.csv --dry-run
    """
    try:
        content = read(file)
    except FileError as error:
        fail(str(error), "Mend the file; nothing was changed.")
    agencies = content.agencies
    total, at_once = pb.ImportAgenciesResponse(), len(agencies) or 1 if dry_run else _AT_ONCE
    with session.channel() as channel:
        for start in range(0, len(agencies), at_once):
            part = agencies[start : start + at_once]
            request = pb.ImportAgenciesRequest(
                agencies=part, fields=content.fields, dry_run=dry_run, operation_id=new_operation()
            )
            answer = RegistryServiceStub(channel).ImportAgencies(request)
            total.MergeFrom(answer)
            total.unchanged = len(agencies[: start + at_once]) - len(total.created) - len(total.changed)
            click.echo(f"{min(start + at_once, len(agencies))} of {len(agencies)}", err=True)
    if as_json:
        print_json(_import_result(total, dry_run))
        return
    for name in total.created:
        click.echo(f"+ {name}")
    for change in total.differences:
        click.echo(f"~ {change.id} {change.field}: {change.before or '–'} → {change.after or '–'}")
    counts = f"{len(total.created)} created, {len(total.changed)} changed, {total.unchanged} unchanged"
    click.echo(counts + " (dry run)" * dry_run)


def _import_result(total: pb.ImportAgenciesResponse, dry_run: bool) -> dict[str, Any]:
    return {
        "created": list(total.created),
        "changed": list(total.changed),
        "unchanged": total.unchanged,
        "differences": [as_dict(each) for each in total.differences],
        "dry_run": dry_run,
    }


@agency.command("export")
@session_options
@click.option("--format", "form", type=click.Choice(["csv", "json"]), default="csv", show_default=True)
@click.option("--as-of", metavar="TIME", help="Those in being at this instant, as they were then, ISO 8601.")
def agency_export(session: Session, form: str, as_of: str | None) -> None:
    """Write all agencies to standard output. Example: lgsp agency export --format json > agencies.json"""
    with session.channel() as channel:
        found = every_page(RegistryServiceStub(channel).ListAgencies, _list_request(as_of), "agencies")
    click.echo(write_json(found) if form == "json" else write_csv(found), nl=False)


# --- reforms -----------------------------------------------------------------------------------------------------------

_REFORM = (
    click.option("--act", required=True, metavar="TEXT", help="The decree or decision."),
    click.option("--date", metavar="TIME", help="When it takes effect in law, ISO 8601. [default: now]"),
    click.option("--grants", type=click.Choice(["move", "end"]), help="What becomes of systems and grants."),
    click.option("--dry-run", is_flag=True, help="Tell what would change, and change nothing."),
)


def _with_reform(function: Callable[..., Any]) -> Callable[..., Any]:
    for add in reversed(_REFORM):
        function = add(function)
    return function


def _reform(
    session: Session,
    as_json: bool,
    changes: list[pb.Reorganization],
    act: str,
    date: str | None,
    grants: str | None,
    dry_run: bool,
) -> None:
    rule = pb.GRANT_RULE_UNSPECIFIED if grants is None else pb.GrantRule.Value(f"GRANT_RULE_{grants.upper()}")
    request = pb.ReorganizeAgenciesRequest(
        changes=changes, act=act, grants=rule, dry_run=dry_run, operation_id=new_operation()
    )
    if date is not None:
        request.date.FromDatetime(parse_instant(date))
    with session.channel() as channel:
        answer = RegistryServiceStub(channel).ReorganizeAgencies(request)
    if as_json:
        print_json(as_dict(answer))
        return
    for each in answer.agencies:
        end = f"ends {each.valid_until.ToJsonString()[:10]} → {', '.join(each.successors) or 'nobody'}"
        click.echo(f"agency  {each.id}: {end if each.HasField('valid_until') else each.names.vi or 'goes on'}")
    for kind, found in (("system", answer.systems), ("grant", answer.grants)):
        for one in found:
            click.echo(f"{kind:<7} {one.id}: {'revoked' if one.HasField('revoked_at') else f'moves to {one.agency}'}")
    click.echo("dry run: nothing was changed" if dry_run else "done")


@agency.command("merge")
@session_options
@json_option
@_with_reform
@click.option("--into", required=True, metavar="ID", help="The agency that takes over; a new one needs --vi and --en.")
@click.option(
    "--parent", default=None, metavar="ID", help="Above a new one. [default: its identifier without the last part]"
)
@click.option("--vi", default="", metavar="NAME", help="Name in Vietnamese of a new one.")
@click.option("--en", default="", metavar="NAME", help="Name in English of a new one.")
@click.argument("sources", nargs=-1, required=True)
def agency_merge(
    session: Session,
    as_json: bool,
    into: str,
    parent: str | None,
    vi: str,
    en: str,
    sources: tuple[str, ...],
    **rest: Any,
) -> None:
    """Merge agencies into one; their identifiers keep resolving.

    Example: lgsp agency merge H26.15 H26.16 --into H26.40 --vi "Sở Nội vụ" --en "Home Affairs" --grants move --act "Nghị quyết 1/2026"
    """
    above = into.rpartition(".")[0] if parent is None else parent
    target = pb.Agency(id=into, names=pb.Names(vi=vi, en=en), parent=above)
    change = pb.Reorganization(merge=pb.Reorganization.Merge(**{"from": sources, "into": target}))  # type: ignore[arg-type]
    _reform(session, as_json, [change], **rest)


@agency.command("split")
@session_options
@json_option
@_with_reform
@click.option("--into", multiple=True, required=True, metavar="ID=NAME", help="An agency that takes over; may repeat.")
@click.argument("source")
def agency_split(session: Session, as_json: bool, into: tuple[str, ...], source: str, **rest: Any) -> None:
    """Split an agency; it goes on if it is among those that take over.

    Example: lgsp agency split H26.15 --into "H26.41=Sở A" --into "H26.42=Sở B" --grants move --act "Nghị quyết 2/2026"
    """
    parts = [each.partition("=") for each in into]
    targets = [pb.Agency(id=i, names=pb.Names(vi=name), parent=i.rpartition(".")[0]) for i, _, name in parts]
    change = pb.Reorganization(split=pb.Reorganization.Split(**{"from": source, "into": targets}))  # type: ignore[arg-type]
    _reform(session, as_json, [change], **rest)


@agency.command("rename")
@session_options
@json_option
@_with_reform
@click.option("--vi", default="", metavar="NAME", help="New name in Vietnamese.")
@click.option("--en", default="", metavar="NAME", help="New name in English.")
@click.option("--parent", default="", metavar="ID", help="Another agency above it.")
@click.argument("identifier")
def agency_rename(session: Session, as_json: bool, identifier: str, vi: str, en: str, parent: str, **rest: Any) -> None:
    """Give an agency another name or place; what it was stays on record.

    Example: lgsp agency rename H26.15 --vi "Sở Tư pháp và Nội vụ" --en "Justice and Home Affairs" --act "Nghị quyết 3/2026"
    """
    change = pb.Reorganization.Rename(id=identifier, parent=parent)
    if vi or en:
        change.names.CopyFrom(pb.Names(vi=vi, en=en))
    _reform(session, as_json, [pb.Reorganization(rename=change)], **rest)


@agency.command("abolish")
@session_options
@json_option
@_with_reform
@click.option("--successor", "successors", multiple=True, metavar="ID", help="Who takes over; may repeat.")
@click.argument("identifier")
def agency_abolish(session: Session, as_json: bool, identifier: str, successors: tuple[str, ...], **rest: Any) -> None:
    """End an agency. Example: lgsp agency abolish H26.15 --successor H26.16 --grants move --act "Nghị quyết 4/2026" """
    change = pb.Reorganization(abolish=pb.Reorganization.Abolish(id=identifier, successors=successors))
    _reform(session, as_json, [change], **rest)


agency.add_command(agency_as_of)
agency.add_command(agency_resolve)
agency.add_command(agency_networks, "networks")
