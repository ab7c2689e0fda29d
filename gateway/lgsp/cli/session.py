"""Who calls, and which gateway: options shared by every command that uses the bus."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import grpc

from lgsp import client
from lgsp.cli.output import ExitCode, fail
from lgsp.gateway import settings
from lgsp.gateway.datadir import file_name

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Session:
    """A gateway and one system's credentials for it; `node` is set where the node's data directory is at hand."""

    target: str
    system: str
    key: Path
    ca: Path | None
    timeout_s: float
    node: settings.Settings | None = None

    @contextmanager
    def channel(self) -> Iterator[grpc.Channel]:
        """A channel of threads; ValueError and OSError about the key become a message."""
        try:
            identity = client.Identity.load(self.system, self.key)
        except FileNotFoundError:
            fail(
                f"there is no key of {self.system} at {self.key}",
                "Name its private JWK with --key, or enrol the system first.",
            )
        except (OSError, ValueError) as error:
            fail(f"the key of {self.system} cannot be used: {error}", "Name a file with one private JWK.")
        with client.connect_sync(self.target, identity=identity, ca=self.ca, timeout=self.timeout_s) as channel:
            yield channel

    def as_operator(self) -> Session:
        """The same gateway as its operator, where this machine holds the operator's key; else as oneself."""
        if self.node is None:
            return self
        return Session(
            self.target, self.node.operator, self.node.layout.operator_key, self.ca, self.timeout_s, self.node
        )


def data_dir_option(function: _F) -> _F:
    """`--data-dir`."""
    text = "The node's data directory. [default: LGSP_DATA_DIR or ~/.local/share/lgsp]"
    return click.option("--data-dir", type=click.Path(path_type=Path), default=None, metavar="D", help=text)(function)


def json_option(function: _F) -> _F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(function)


def session_options(function: _F) -> _F:
    """Adds the options of a session and hands the command `session`."""

    @functools.wraps(function)
    def wrapped(
        *args: Any,
        data_dir: Path | None,
        gateway: str | None,
        ca: Path | None,
        system: str | None,
        key: Path | None,
        timeout: float,
        **more: Any,
    ) -> Any:
        session = find(data_dir, gateway, ca, system, key, timeout)
        return function(*args, session=session, **more)

    path = click.Path(path_type=Path)
    for add in (
        click.option(
            "--timeout",
            type=click.FloatRange(min=0.001),
            default=30.0,
            show_default=True,
            metavar="S",
            help="Deadline in seconds.",
        ),
        click.option("--key", type=path, envvar="LGSP_KEY", metavar="FILE", help="The system's private JWK."),
        click.option(
            "--as",
            "system",
            envvar="LGSP_SYSTEM",
            metavar="SYSTEM",
            help="Call as this system. [default: the operator]",
        ),
        click.option(
            "--ca", type=path, envvar="LGSP_CA", metavar="FILE", help="PEM that the gateway's certificate comes from."
        ),
        click.option(
            "--gateway",
            envvar="LGSP_GATEWAY",
            metavar="HOST:PORT",
            help="A gateway elsewhere. [default: the local node's]",
        ),
    ):
        wrapped = add(wrapped)
    return data_dir_option(wrapped)  # type: ignore[return-value]


def find(
    data_dir: Path | None, gateway: str | None, ca: Path | None, system: str | None, key: Path | None, timeout_s: float
) -> Session:
    """What was named, or else the local node and its operator; NodeError when there is no such node."""
    if gateway is not None and data_dir is None:
        if system is None or key is None:
            fail(
                "--gateway needs --as SYSTEM and --key FILE",
                "Name who calls: --as H26.15/one-stop --key one-stop.jwk",
                ExitCode.USAGE,
            )
        return Session(gateway, system, key, ca, timeout_s)
    node = settings.load(data_dir or settings.default_data_dir())
    caller = system or node.operator
    own = node.layout.operator_key if caller == node.operator else node.layout.system_keys / f"{file_name(caller)}.jwk"
    return Session(gateway or node.target, caller, key or own, ca or node.layout.ca, timeout_s, node)
