"""`lgsp system`: the registry's systems."""

from __future__ import annotations

from pathlib import Path

import click
import grpc

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.cli.output import ExitCode, fail
from lgsp.cli.records import done, listed, new_operation, with_names
from lgsp.cli.session import Session, json_option, session_options
from lgsp.client import Identity, explain


@click.group()
def system() -> None:
    """Systems: what calls and what answers, each with its own key."""


@system.command("list")
@session_options
@json_option
def system_list(session: Session, as_json: bool) -> None:
    """List systems. Example: lgsp system list --json"""
    columns = {"id": "ID", "names.vi": "TÊN", "names.en": "NAME", "revoked_at": "REVOKED"}
    listed(session, as_json, "ListSystems", pb.ListSystemsRequest(), "systems", columns, "no system yet")


@system.command("show")
@session_options
@json_option
@click.argument("identifier")
def system_show(session: Session, as_json: bool, identifier: str) -> None:
    """Show one system. Example: lgsp system show H26.15/one-stop"""
    done(session, as_json, "GetSystem", pb.GetSystemRequest(id=identifier), "system")


@system.command("create")
@session_options
@json_option
@with_names
@click.option(
    "--jwks",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Its public keys (RFC 7517).",
)
@click.option(
    "--new-key",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Make a key here (private, 0600) and register its public half.",
)
@click.argument("identifier")
def system_create(
    session: Session, as_json: bool, identifier: str, vi: str, en: str, jwks: Path | None, new_key: Path | None
) -> None:
    """Create a system with its public keys.

    \b
    Examples:
      lgsp system create H26.15/one-stop --vi "Một cửa" --en "One stop" --new-key one-stop.jwk
      lgsp system create H26.15/one-stop --vi "Một cửa" --en "One stop" --jwks one-stop.pub.jwks
    """
    if (jwks is None) == (new_key is None):
        fail(
            "give either --jwks FILE or --new-key FILE",
            "A system's owner keeps its private key; --jwks needs the public half only.",
            ExitCode.USAGE,
        )
    public = jwks.read_text("utf-8") if jwks is not None else _make_key(identifier, new_key)
    made = pb.System(id=identifier, names=pb.Names(vi=vi, en=en), jwks=public)
    try:
        done(
            session,
            as_json,
            "CreateSystem",
            pb.CreateSystemRequest(system=made, operation_id=new_operation()),
            "system",
        )
    except grpc.RpcError as error:
        if new_key is not None and explain(error).reason is not None:
            new_key.unlink(missing_ok=True)  # the key of a system that was refused is of no use to anybody
        raise


def _make_key(identifier: str, path: Path | None) -> str:
    assert path is not None
    identity = Identity.generate(identifier)
    try:
        identity.save(path)
    except FileExistsError:
        fail(f"{path} exists already", "Name a new file; a key is never overwritten.")
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}", "Name a file in a folder that you may write to.")
    return identity.jwks()


@system.command("revoke")
@session_options
@json_option
@click.option("--reason", required=True, metavar="TEXT", help="Why; kept in the registry.")
@click.argument("identifier")
def system_revoke(session: Session, as_json: bool, identifier: str, reason: str) -> None:
    """Revoke a system for good. Example: lgsp system revoke H26.15/one-stop --reason "key lost" """
    request = pb.RevokeSystemRequest(id=identifier, reason=reason, operation_id=new_operation())
    done(session, as_json, "RevokeSystem", request, "system")
