"""`lgsp agency`: the registry's agencies."""

from __future__ import annotations

import click

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.cli.records import done, listed, new_operation, with_names
from lgsp.cli.session import Session, json_option, session_options


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
    listed(
        session, as_json, "ListAgencies", pb.ListAgenciesRequest(parent=parent), "agencies", columns, "no agency yet"
    )


@agency.command("show")
@session_options
@json_option
@click.argument("identifier")
def agency_show(session: Session, as_json: bool, identifier: str) -> None:
    """Show one agency by its identifier or an older one. Example: lgsp agency show H26.15"""
    done(session, as_json, "GetAgency", pb.GetAgencyRequest(id=identifier), "agency")


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
