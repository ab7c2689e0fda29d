"""`lgsp`: the group of commands. A command's code is imported when it is used, so that `lgsp --help` is quick."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Final

import click

from lgsp.cli.output import ExitCode, fail

# gRPC's fork handlers are for programs that go on after fork(); ours exec at once, and they warn on standard error.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# Command → module:attribute, short help.
COMMANDS: Final = {
    "up": ("lgsp.cli.up:up", "Run a node: gateway, registry and broker, until Ctrl-C."),
    "demo": ("lgsp.cli.demo.command:demo", "Show the bus at work on real data, step by step."),
    "plug": ("lgsp.cli.plug:plug", "Put a component on the bus by its manifest."),
    "unplug": ("lgsp.cli.plug:unplug", "Take a plugged component off the bus."),
    "call": ("lgsp.cli.call:call", "Call a method of any service, without stubs."),
    "agency": ("lgsp.cli.agency:agency", "List, import, reform and show agencies, also as of a date."),
    "system": ("lgsp.cli.system:system", "List, show, create and revoke systems."),
    "service": ("lgsp.cli.service:service", "Publish, compare, deprecate, retire and show services."),
    "catalogue": ("lgsp.cli.catalogue:catalogue", "Find services; see their terms, users and contracts."),
    "grant": ("lgsp.cli.grant:grant", "Ask for, decide on, list and end grants."),
    "group": ("lgsp.cli.group:group", "Make and list groups of systems."),
    "key": ("lgsp.cli.key:key", "Make keys for systems; rotate the node's token key."),
    "token": ("lgsp.cli.token:token", "Print an access token, for curl and generic clients."),
    "credential": ("lgsp.cli.credential:credential", "Keep credentials for legacy HTTP/JSON systems."),
    "registry": ("lgsp.cli.registry:registry", "Back up, check and restore the registry."),
    "doctor": ("lgsp.cli.doctor:doctor", "Check every part of a node and say what to do."),
}


class _Lazy(click.Group):
    """Imports a command's module only when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        try:
            found: click.Command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if error.name and error.name.startswith("lgsp."):
                raise
            extra = "demo" if cmd_name == "demo" else "server"
            text = f"`lgsp {cmd_name}` needs {error.name}, which is not installed"
            fail(text, f"Install it with `pip install 'lgsp[{extra}]'`.", ExitCode.REFUSED)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="lgsp", prog_name="lgsp")
def cli() -> None:
    """The open data-sharing bus for cities.

    \b
    lgsp demo                 see everything work on real data
    lgsp up                   run a node
    lgsp plug component.toml  put a component on the bus
    lgsp call SERVICE/METHOD -d '{"code": 4}'

    Exit codes: 0 done, 1 refused or failed, 2 wrong use, 3 the gateway cannot be reached.
    """


def main() -> None:
    """Entry point; every known failure is one clear message and an exit code."""
    from lgsp.cli.failures import reported

    # Vietnamese must come out whole whatever the terminal says it can do.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    with reported():
        # Not click's own ending: it would call an interruption a failure.
        code = cli.main(standalone_mode=False)
    sys.exit(code if isinstance(code, int) else ExitCode.OK)


if __name__ == "__main__":
    main()
