"""`lgsp up`: run a node until it is asked to stop."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path
from typing import Any

import click

from lgsp.cli.session import data_dir_option, json_option
from lgsp.gateway import settings
from lgsp.gateway.datadir import hold_lock, open_data_dir
from lgsp.gateway.errors import NodeError
from lgsp.gateway.logs import configure
from lgsp.gateway.settings import Options, Settings
from lgsp.gateway.supervisor.binaries import check_binaries
from lgsp.gateway.supervisor.node import Supervisor, prepare


@click.command()
@data_dir_option
@json_option
@click.option(
    "--listen", metavar="H:P", help="Public address; port 0 chooses a free one and keeps it. [default: 127.0.0.1:8443]"
)
@click.option("--public-host", metavar="HOST", help="Name or address by which callers reach this node.")
@click.option("--city", metavar="ID", help="Agency identifier of the city, at the first start. [default: H26]")
@click.option("--nats-url", metavar="URL", help="An existing NATS cluster instead of the embedded server.")
@click.option(
    "--profile",
    type=click.Choice(["standard", "development"]),
    help="development also takes client secrets, and endpoints on loopback and in any network.",
)
@click.option("--zone", metavar="NAME", help="Where this node stands: calls go to instances of the same zone first.")
@click.option("--otlp-endpoint", metavar="URL", help="Send traces there by OTLP/gRPC, e.g. http://127.0.0.1:4317.")
@click.option("--envoy", "envoy_binary", metavar="FILE", help="Envoy to use. [default: the one installed with lgsp]")
@click.option(
    "--nats-server", "nats_binary", metavar="FILE", help="NATS server to use. [default: the one installed with lgsp]"
)
def up(data_dir: Path | None, as_json: bool, **said: Any) -> None:
    """Run a node: NATS, control process and Envoy, supervised, until Ctrl-C or SIGTERM.

    What is chosen at the first start (city, port, endpoints) is kept in the data directory.

    \b
    Examples:
      lgsp up
      lgsp up --data-dir ./city --listen 0.0.0.0:8443 --public-host bus.hanoi.example
      lgsp up --nats-url nats://nats-1:4222 --otlp-endpoint http://127.0.0.1:4317
    """
    os.umask(0o077)  # whatever a part of the node makes is its owner's alone
    configure(logging.WARNING, people=not as_json)
    layout = open_data_dir(data_dir or settings.default_data_dir())
    with hold_lock(layout):
        node = settings.resolve(layout, Options(**said))
        prepare(node)
        run(node, as_json)
    if not as_json:
        click.echo("stopped")


def run(node: Settings, as_json: bool) -> None:
    """Supervise until a signal; PartFailedError when a part never came up."""

    async def supervise() -> None:
        versions = await check_binaries(node)
        await Supervisor(node, versions, lambda status: _show(node, status, as_json)).run()

    try:
        asyncio.run(supervise())
    except* NodeError as group:
        raise _first(group) from None


def _first(group: BaseExceptionGroup[NodeError]) -> NodeError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _show(node: Settings, status: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(status, ensure_ascii=False))
        return
    layout = node.layout
    versions = ", ".join(f"{name.partition('_')[0]} {version}" for name, version in status["versions"].items())
    rows = {
        "gateway": f"https://{node.target}  (gRPC, gRPC-Web and REST)",
        "tokens": f"{node.issuer}/oauth2/token",
        "authority": str(layout.ca),
        "operator": f"{node.operator}, key {layout.operator_key}",
        "nats": f"{status['nats_url']}" + ("" if node.nats_url is None else "  (not ours)"),
        "data": str(layout.root),
        "logs": str(layout.logs),
        "versions": versions,
    }
    city = node.city_names
    click.echo(f"LGSP bus of {city.vi} ({node.city}) is up; Ctrl-C stops it.")
    for name, value in rows.items():
        click.echo(f"  {name.ljust(9)}  {value}")
    if node.profile == "development":
        click.echo(
            "  DEVELOPMENT PROFILE: client secrets and endpoints on loopback are accepted; never use it with real data."
        )
