"""`lgsp grant`: ask for, decide on, list and end grants."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click
from google.protobuf.timestamp_pb2 import Timestamp

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.cli.durations import parse_duration, parse_instant
from lgsp.cli.records import done, listed, new_operation
from lgsp.cli.session import Session, json_option, session_options

_STATES = {"requested": pb.GRANT_STATE_REQUESTED, "active": pb.GRANT_STATE_ACTIVE,
           "refused": pb.GRANT_STATE_REFUSED, "revoked": pb.GRANT_STATE_REVOKED}  # fmt: skip
_SUBJECT = (
    click.option("--consumer", default="", metavar="SYSTEM", help="For this system."),
    click.option("--agency", default="", metavar="ID", help="For every system of this agency."),
    click.option("--group", default="", metavar="ID", help="For every system of this group; `everyone` is built in."),
)
_TERMS = (
    click.option("--method", "methods", multiple=True, metavar="METHOD", help="Which method; may repeat; '*' is all."),
    click.option("--purpose", "purposes", multiple=True, metavar="CODE=LAW",
                 help="A purpose and its legal basis; may repeat. Calls name it in x-lgsp-purpose."),
    click.option("--field", "fields", multiple=True, metavar="METHOD:PATH",
                 help="A response field that is seen; may repeat. All others of that method are removed."),
    click.option("--rate", type=click.IntRange(1), metavar="N", help="Calls a second, on each node."),
    click.option("--daily-quota", type=click.IntRange(1), metavar="N", help="Calls a day (UTC+7), over all nodes."),
    click.option("--from", "start", metavar="TIME", help="From this instant, ISO 8601. [default: now]"),
    click.option("--until", "end", metavar="TIME", help="Until this instant, ISO 8601. [default: without end]"),
)  # fmt: skip


def _with(options: tuple[Any, ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        for add in reversed(options):
            function = add(function)
        return function

    return wrap


def _grant_of(**given: Any) -> pb.Grant:
    """The grant that the options describe."""
    made = pb.Grant(
        methods=given.pop("methods"), rate=given.pop("rate") or 0, daily_quota=given.pop("daily_quota") or 0
    )
    for text in given.pop("purposes"):
        code, _, law = text.partition("=")
        made.purposes.add(code=code, legal_basis=law)
    for method, paths in _by_method(given.pop("fields")).items():
        made.masks.add(method=method, paths=paths)
    for field, text in (("not_before", given.pop("start")), ("not_after", given.pop("end"))):
        if text is not None:
            getattr(made, field).FromDatetime(parse_instant(text))
    made.MergeFrom(pb.Grant(**given))
    return made


def _by_method(fields: tuple[str, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in fields:
        method, colon, path = text.partition(":")
        if not colon or not path:
            raise click.BadParameter(
                f"{text!r} is no METHOD:PATH such as GetCitizen:address.ward", param_hint="--field"
            )
        found.setdefault(method, []).append(path)
    return found


@click.group()
def grant() -> None:
    """Grants: who may use which methods of which service, for what, seeing which fields, and until when."""


@grant.command("list")
@session_options
@json_option
@click.option("--consumer", default="", metavar="SYSTEM", help="Only this system's.")
@click.option("--service", "service_name", default="", metavar="NAME", help="Only for this service.")
@click.option("--state", type=click.Choice(list(_STATES)), help="Only those in this state.")
@click.option("--expiring", metavar="TIME", help="Only those that end within this time, e.g. 30d or 12h.")
@click.option("--mine", is_flag=True, help="Only those that the caller holds or decides on.")
def grant_list(
    session: Session,
    as_json: bool,
    consumer: str,
    service_name: str,
    state: str | None,
    expiring: str | None,
    mine: bool,
) -> None:
    """List grants.

    \b
    Examples:
      lgsp grant list --consumer H26.15/one-stop
      lgsp grant list --state requested --mine     what waits for my decision
      lgsp grant list --expiring 30d --mine        what of mine ends within a month
    """
    columns = {
        "id": "ID",
        "subject": "FOR",
        "service": "SERVICE",
        "methods": "METHODS",
        "state": "STATE",
        "not_after": "UNTIL",
    }
    request = pb.ListGrantsRequest(consumer=consumer, service=service_name, mine=mine)
    if state is not None:
        request.state = _STATES[state]
    if expiring is not None:
        request.expiring_within.FromSeconds(parse_duration(expiring))
    listed(session, as_json, "ListGrants", request, "grants", columns, "no such grant", _readable)


def _readable(row: dict[str, Any]) -> dict[str, Any]:
    """What the table shows beside the record's own fields."""
    subject = row.get("consumer") or (f"agency {row['agency']}" if "agency" in row else f"group {row.get('group', '')}")
    state = "revoked" if "revoked_at" in row else row.get("state", "GRANT_STATE_ACTIVE")[12:].lower()
    if state == "active" and "not_after" in row and _is_past(row["not_after"]):
        state = "ended"
    return row | {"subject": subject, "state": state}


def _is_past(stamp: str) -> bool:
    until = Timestamp()
    until.FromJsonString(stamp)
    return until.ToDatetime(tzinfo=UTC) <= datetime.now(UTC)


@grant.command("show")
@session_options
@json_option
@click.argument("identifier")
def grant_show(session: Session, as_json: bool, identifier: str) -> None:
    """Show one grant with every step that led to it. Example: lgsp grant show one-stop-population"""
    done(session, as_json, "GetGrant", pb.GetGrantRequest(id=identifier), "grant")


@grant.command("create")
@session_options
@json_option
@click.option("--id", "identifier", default="", metavar="ID", help="Its identifier. [default: the registry chooses]")
@_with(_SUBJECT)
@click.option("--service", required=True, metavar="NAME", help="Which service.")
@_with(_TERMS)
def grant_create(session: Session, as_json: bool, identifier: str, **given: Any) -> None:
    """Grant at once, as an operator. It holds at this gateway when the command returns.

    \b
    Examples:
      lgsp grant create --consumer H26.15/one-stop --service hanoi.population.v1.PopulationService --method GetCitizen
      lgsp grant create --agency H26.15 --service hanoi.population.v1.PopulationService --method GetCitizen \\
          --purpose "residence=Luật 68/2020/QH14" --field GetCitizen:full_name --field GetCitizen:address.ward --rate 20
    """
    made = _grant_of(id=identifier, **given)
    done(session, as_json, "CreateGrant", pb.CreateGrantRequest(grant=made, operation_id=new_operation()), "grant")


@grant.command("request")
@session_options
@json_option
@click.option("--id", "identifier", default="", metavar="ID", help="Its identifier. [default: the registry chooses]")
@_with(_SUBJECT)
@click.option("--service", required=True, metavar="NAME", help="Which service.")
@_with(_TERMS)
@click.option("--reason", default="", metavar="TEXT", help="What the data are needed for, to who decides.")
def grant_request(session: Session, as_json: bool, identifier: str, reason: str, **given: Any) -> None:
    """Ask for a grant, as the system that wants it. It allows nothing until it is approved.

    Example: lgsp grant request --consumer H26.15/one-stop --service hanoi.population.v1.PopulationService --method GetCitizen --reason "hồ sơ cư trú"
    """
    request = pb.RequestGrantRequest(
        grant=_grant_of(id=identifier, **given), reason=reason, operation_id=new_operation()
    )
    done(session, as_json, "RequestGrant", request, "grant")


@grant.command("approve")
@session_options
@json_option
@_with(_TERMS)
@click.option("--reason", default="", metavar="TEXT", help="Why; kept with the grant.")
@click.argument("identifier")
def grant_approve(session: Session, as_json: bool, identifier: str, reason: str, **given: Any) -> None:
    """Approve what was asked for, or less of it: the options name what is narrower.

    Example: lgsp grant approve one-stop-population --until 2027-12-31T00:00:00+07:00 --reason "đúng thẩm quyền"
    """
    request = pb.ApproveGrantRequest(
        id=identifier, terms=_grant_of(**given), reason=reason, operation_id=new_operation()
    )
    done(session, as_json, "ApproveGrant", request, "grant")


@grant.command("narrow")
@session_options
@json_option
@_with(_TERMS)
@click.option("--reason", required=True, metavar="TEXT", help="Why; kept with the grant.")
@click.argument("identifier")
def grant_narrow(session: Session, as_json: bool, identifier: str, reason: str, **given: Any) -> None:
    """Make a grant in force narrower. Example: lgsp grant narrow one-stop-population --method GetCitizen --reason "chỉ cần tra cứu" """
    request = pb.NarrowGrantRequest(
        id=identifier, terms=_grant_of(**given), reason=reason, operation_id=new_operation()
    )
    done(session, as_json, "NarrowGrant", request, "grant")


@grant.command("refuse")
@session_options
@json_option
@click.option("--reason", required=True, metavar="TEXT", help="Why; kept with the grant.")
@click.argument("identifier")
def grant_refuse(session: Session, as_json: bool, identifier: str, reason: str) -> None:
    """Refuse what was asked for. Example: lgsp grant refuse one-stop-population --reason "không có căn cứ pháp lý" """
    request = pb.RefuseGrantRequest(id=identifier, reason=reason, operation_id=new_operation())
    done(session, as_json, "RefuseGrant", request, "grant")


@grant.command("revoke")
@session_options
@json_option
@click.option("--reason", required=True, metavar="TEXT", help="Why; kept in the registry.")
@click.argument("identifier")
def grant_revoke(session: Session, as_json: bool, identifier: str, reason: str) -> None:
    """Revoke a grant: new calls are refused when the command returns. Example: lgsp grant revoke one-stop-population --reason "hết hạn" """
    request = pb.RevokeGrantRequest(id=identifier, reason=reason, operation_id=new_operation())
    done(session, as_json, "RevokeGrant", request, "grant")
