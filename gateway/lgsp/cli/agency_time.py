"""`lgsp agency as-of` and `resolve`: what the agencies were at an instant, and who stands for an old identifier today."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lgsp.cli.durations import parse_instant
from lgsp.cli.output import as_dict, print_json, print_table
from lgsp.cli.records import done, listed
from lgsp.cli.session import Session, json_option, session_options


@click.command("as-of")
@session_options
@json_option
@click.option("--parent", default="", metavar="ID", help="Only those that were below this agency.")
@click.argument("time")
@click.argument("identifier", required=False)
def agency_as_of(session: Session, as_json: bool, parent: str, time: str, identifier: str | None) -> None:
    """Show the agencies, or one of them, as they were at an instant (ISO 8601).

    \b
    Examples:
      lgsp agency as-of 2025-06-30T23:59:59+07:00
      lgsp agency as-of 2025-06-30 H26.15
    """
    instant = parse_instant(time)
    if identifier is not None:
        one = pb.GetAgencyRequest(id=identifier)
        one.as_of.FromDatetime(instant)
        done(session, as_json, "GetAgency", one, "agency")
        return
    columns = {"id": "ID", "names.vi": "TÊN", "names.en": "NAME", "parent": "PARENT"}
    all_then = pb.ListAgenciesRequest(parent=parent)
    all_then.as_of.FromDatetime(instant)
    listed(session, as_json, "ListAgencies", all_then, "agencies", columns, "no agency at that time")


@click.command("resolve")
@session_options
@json_option
@click.argument("identifier")
def agency_resolve(session: Session, as_json: bool, identifier: str) -> None:
    """Follow an old identifier to the agencies that stand for it today. Example: lgsp agency resolve 000.00.15.H26"""
    found, waiting, seen = list[pb.Agency](), [identifier], set[str]()
    with session.channel() as channel:
        while waiting:
            agency = RegistryServiceStub(channel).GetAgency(pb.GetAgencyRequest(id=waiting.pop(0))).agency
            if agency.id in seen:
                continue
            seen.add(agency.id)
            if _is_in_being(agency):
                found.append(agency)
            else:
                waiting += agency.successors
    if as_json:
        print_json({"agencies": [as_dict(each) for each in found]})
    else:
        rows = [as_dict(each) for each in found]
        print_table({"id": "ID", "names.vi": "TÊN", "names.en": "NAME"}, rows, "nobody took over")


def _is_in_being(agency: pb.Agency) -> bool:
    ended = agency.HasField("valid_until") and agency.valid_until.ToDatetime(tzinfo=UTC) <= datetime.now(UTC)
    return not ended and not agency.HasField("revoked_at")
