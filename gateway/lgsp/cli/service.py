"""`lgsp service`: the registry's services."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lgsp.cli.output import as_dict, print_json, print_record
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
    columns = {"name": "SERVICE", "provider": "PROVIDER", "names.vi": "TÊN", "retired_at": "RETIRED"}
    listed(session, as_json, "ListServices", pb.ListServicesRequest(), "services", columns, "no service yet")


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
    done(session, as_json, "PublishService", request, "service")


@service.command("revoke")
@session_options
@json_option
@click.argument("name")
def service_revoke(session: Session, as_json: bool, name: str) -> None:
    """Retire a service: from now on nobody is let through to it."""
    request = pb.RetireServiceRequest(name=name, operation_id=new_operation())
    done(session, as_json, "RetireService", request, "service")
