"""`lgsp service instances`: where services are served, as the registry knows it and as the gateway does, side by side."""

from __future__ import annotations

from typing import Any, Final

import click

from lgsp.api.node.v1.node_pb2 import ListInstancesRequest
from lgsp.api.node.v1.node_pb2_grpc import NodeServiceStub
from lgsp.cli.output import as_dict, print_json, print_table
from lgsp.cli.session import Session, json_option, session_options

_PAGE: Final = 500
_COLUMNS: Final = {
    "service": "SERVICE",
    "address": "ADDRESS",
    "serving": "SERVING",
    "registry.system": "SYSTEM",
    "lease": "LEASE",
    "registry.weight": "WEIGHT",
    "registry.zone": "ZONE",
    "gateway": "GATEWAY",
    "proxy.active_requests": "ACTIVE",
    "proxy.requests": "CALLS",
    "proxy.failed_requests": "FAILED",
    "registry.refused": "REFUSED",
}


@click.command()
@session_options
@json_option
@click.argument("name", required=False, default="")
def service_instances(session: Session, as_json: bool, name: str) -> None:
    """List the instances of a service, or of all: lease and policy by the registry, health and calls by this gateway.

    \b
    Examples:
      lgsp service instances hanoi.population.v1.PopulationService
      lgsp service instances --json
    """
    found, reached, request = list[Any](), True, ListInstancesRequest(service=name, page_size=_PAGE)
    with session.channel() as channel:
        while True:
            answer = NodeServiceStub(channel).ListInstances(request)
            found += answer.instances
            reached &= answer.proxy_reached
            if not answer.next_page_token:
                break
            request.page_token = answer.next_page_token
    rows = [as_dict(each) | {"serving": each.serving} for each in found]
    if as_json:
        print_json({"instances": rows, "proxy_reached": reached})
        return
    print_table(_COLUMNS, [row | _readable(each) for row, each in zip(rows, found, strict=True)], "no instance")
    if not reached:
        click.echo("the gateway's Envoy did not answer: this is the registry's view alone", err=True)


def _readable(instance: Any) -> dict[str, str]:
    """A word for each view."""
    lease = "unknown" if not instance.HasField("registry") else "live" if instance.registry.live else "run out"
    return {"lease": lease, "gateway": _gateway(instance)}


def _gateway(instance: Any) -> str:
    proxy = instance.proxy
    if not instance.HasField("proxy"):
        return "unknown"
    if proxy.ejected:
        return "ejected"
    if proxy.failed_health_check:
        return "ill"
    return "healthy" if proxy.healthy else "leaving"
