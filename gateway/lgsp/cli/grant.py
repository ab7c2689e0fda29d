"""`lgsp grant`: the registry's grants."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.cli.records import done, listed, new_operation
from lgsp.cli.session import Session, json_option, session_options


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
    listed(session, as_json, "ListGrants", request, "grants", columns, "no grant yet")


@grant.command("show")
@session_options
@json_option
@click.argument("identifier")
def grant_show(session: Session, as_json: bool, identifier: str) -> None:
    """Show one grant."""
    done(session, as_json, "GetGrant", pb.GetGrantRequest(id=identifier), "grant")


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
    done(session, as_json, "CreateGrant", pb.CreateGrantRequest(grant=made, operation_id=new_operation()), "grant")


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
    done(session, as_json, "RevokeGrant", request, "grant")
