"""Write docs/cli.md from the command itself (`--write`), or fail if it differs (`--check`)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from lgsp.cli.main import cli

OUT = Path(__file__).parent.parent / "docs" / "cli.md"
_HEAD = """\
# The command `lgsp`

Written by `python scripts/document_cli.py --write`; CI fails if it differs from the command.

Exit codes: 0 done; 1 refused or failed; 2 wrong use; 3 the gateway cannot be reached; 130 interrupted. Errors go to standard error,
each with whose fault it is and what to do; `--json` puts one JSON document on standard output.
"""


def render() -> str:
    """The whole page."""
    context = click.Context(cli, info_name="lgsp", max_content_width=100, terminal_width=100)
    parts = [_HEAD]
    for name, command in _commands(context, cli, "lgsp"):
        text = command.get_help(click.Context(command, info_name=name, max_content_width=100, terminal_width=100))
        parts.append(f"## `{name}`\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


def _commands(context: click.Context, group: click.Group, prefix: str) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(context, command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="fail if the page differs")
    action.add_argument("--write", action="store_true", help="replace the page")
    fresh = render()
    if parser.parse_args().check:
        if OUT.read_text("utf-8") != fresh:
            sys.exit("docs/cli.md differs from the command, run `python scripts/document_cli.py --write`")
        return
    OUT.write_text(fresh, "utf-8")


if __name__ == "__main__":
    main()
