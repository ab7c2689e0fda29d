"""`lgsp agency networks`: in which networks an agency's providers may answer."""

from __future__ import annotations

import click

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lgsp.cli.output import ExitCode, fail, print_json, print_record
from lgsp.cli.records import new_operation
from lgsp.cli.session import Session, json_option, session_options


@click.command()
@session_options
@json_option
@click.option("--clear", is_flag=True, help="Leave it none of its own: then those of the agency above hold.")
@click.argument("identifier")
@click.argument("networks", nargs=-1, metavar="[CIDR]...")
def agency_networks(session: Session, as_json: bool, identifier: str, networks: tuple[str, ...], clear: bool) -> None:
    """Set the networks in which the providers of an agency, and of those below it, may answer; without CIDR, show them.

    Endpoints outside get no more calls at once, and are told with their next heartbeat.

    \b
    Examples:
      lgsp agency networks H26.15 10.20.0.0/16 fd00:20::/48
      lgsp agency networks H26.15
    """
    if clear and networks:
        fail("--clear and networks exclude each other", "Give the one or the other.", ExitCode.USAGE)
    with session.channel() as channel:
        registry = RegistryServiceStub(channel)
        found = registry.GetAgency(pb.GetAgencyRequest(id=identifier)).agency
        if clear or networks:
            found.networks[:] = networks
            registry.ImportAgencies(pb.ImportAgenciesRequest(agencies=[found], operation_id=new_operation()))
        source, seen = found, {found.id}
        while not source.networks and source.parent and source.parent not in seen:
            source = registry.GetAgency(pb.GetAgencyRequest(id=source.parent)).agency
            seen.add(source.id)
    shown = {"agency": found.id, "networks": list(source.networks), "from": source.id if source.networks else ""}
    if as_json:
        print_json(shown)
    else:
        print_record(shown)
