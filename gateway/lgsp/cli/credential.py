"""`lgsp credential`: what this node shows to legacy HTTP/JSON systems. Values come by standard input or the environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from lgsp.cli.output import ExitCode, fail, print_json, print_table
from lgsp.cli.session import data_dir_option, json_option
from lgsp.gateway import credentials, settings
from lgsp.gateway.datadir import Layout


@click.group()
def credential() -> None:
    """Credentials of this node for legacy HTTP/JSON systems; kept in its data directory (0600)."""


@credential.command("set")
@data_dir_option
@json_option
@click.option(
    "--header", default="Authorization", show_default=True, metavar="NAME", help="The header that carries it."
)
@click.option(
    "--system",
    "systems",
    metavar="SYSTEM",
    multiple=True,
    required=True,
    help="Send it for services that this system provides, and for no others; may be repeated.",
)
@click.option("--env", "variable", metavar="VAR", help="Take the value from this variable. [default: standard input]")
@click.argument("name")
def credential_set(
    data_dir: Path | None, as_json: bool, header: str, systems: tuple[str, ...], variable: str | None, name: str
) -> None:
    """Keep a credential, or replace it: calls carry the new value within seconds, nothing is restarted.

    The value is the whole header, such as `Bearer …` or `Basic …`; it is never an argument, which others could see.

    \b
    Examples:
      lgsp credential set land-registry --system H26.9/land < token.txt
      LAND_KEY=… lgsp credential set land-registry --system H26.9/land --header X-Api-Key --env LAND_KEY
    """
    found = credentials.checked(name, header, _value(variable), systems)
    credentials.save(_layout(data_dir), name, found)
    _said(as_json, name, "kept")


@credential.command("list")
@data_dir_option
@json_option
def credential_list(data_dir: Path | None, as_json: bool) -> None:
    """List the credentials by name, header and systems, without their values. Example: lgsp credential list"""
    layout = _layout(data_dir)
    rows = []
    for name in credentials.stamps(layout):
        found = credentials.load(layout, name)
        header, systems = (found.header, ", ".join(found.systems)) if found else ("", "")
        state = "unreadable" if found is None else "ok" if systems else "for no system: set it again with --system"
        rows.append({"name": name, "header": header, "systems": systems, "state": state})
    if as_json:
        print_json({"credentials": rows})
    else:
        print_table(
            {"name": "CREDENTIAL", "header": "HEADER", "systems": "FOR", "state": "STATE"}, rows, "no credential yet"
        )


@credential.command("remove")
@data_dir_option
@json_option
@click.argument("name")
def credential_remove(data_dir: Path | None, as_json: bool, name: str) -> None:
    """Remove a credential: services that need it are refused from then on, not called without it.

    Example: lgsp credential remove land-registry
    """
    layout = _layout(data_dir)
    if name not in credentials.stamps(layout) or not credentials.remove(layout, name):
        fail(f"there is no credential {name[:64]!r}", "See `lgsp credential list`.")
    _said(as_json, name, "removed")


def _layout(data_dir: Path | None) -> Layout:
    return settings.load(data_dir or settings.default_data_dir()).layout


def _value(variable: str | None) -> str:
    if variable is None:
        if sys.stdin.isatty():
            click.echo("the value, then Enter and Ctrl-D:", err=True)
        return sys.stdin.read(credentials.MAX_VALUE + 2).rstrip("\r\n")
    if variable not in os.environ:
        fail(f"the environment variable {variable} is not set", "Set it for this command.", ExitCode.USAGE)
    return os.environ[variable]


def _said(as_json: bool, name: str, state: str) -> None:
    if as_json:
        print_json({"credential": name, "state": state})
    else:
        click.echo(f"{name}: {state}")
