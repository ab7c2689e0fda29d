"""`lgsp key`: make a key for a system, show its public half, rotate the node's token key."""

from __future__ import annotations

from pathlib import Path

import click

from lgsp.api.node.v1 import node_pb2
from lgsp.api.node.v1.node_pb2_grpc import NodeServiceStub
from lgsp.cli.output import as_dict, fail, print_json, print_record
from lgsp.cli.session import Session, json_option, session_options
from lgsp.client import Identity
from lgsp.gateway.operator import public_jwks


@click.group()
def key() -> None:
    """Keys: a system's own, and the node's token key."""


@key.command("new")
@click.argument("path", type=click.Path(path_type=Path))
def key_new(path: Path) -> None:
    """Make a private key (JWK, P-256, mode 0600) and print its public half (JWKS) for the operator.

    Example: lgsp key new one-stop.jwk > one-stop.pub.jwks
    """
    identity = Identity.generate("")
    try:
        identity.save(path)
    except FileExistsError:
        fail(f"{path} exists already", "Name a new file; a key is never overwritten.")
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}", "Name a file in a folder that you may write to.")
    click.echo(identity.jwks())


@key.command("public")
@click.argument("path", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def key_public(path: Path) -> None:
    """Print the public half (JWKS) of a private key."""
    try:
        click.echo(public_jwks(path.read_bytes()))
    except ValueError:
        fail(f"{path} holds no JWK", "Name a file made by `lgsp key new`.")


@key.command("rotate")
@session_options
@json_option
def key_rotate(session: Session, as_json: bool) -> None:
    """Make a new token-signing key for this node: published first, used once the gateway has it; no call is refused."""
    with session.channel() as channel:
        answer = NodeServiceStub(channel).RotateTokenKey(node_pb2.RotateTokenKeyRequest())
    if as_json:
        print_json(as_dict(answer))
    else:
        print_record(as_dict(answer))
