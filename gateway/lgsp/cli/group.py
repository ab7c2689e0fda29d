"""`lgsp group`: systems that get the same rights by one grant."""

from __future__ import annotations

import click

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.cli.records import done, listed, new_operation, with_names
from lgsp.cli.session import Session, json_option, session_options


@click.group()
def group() -> None:
    """Groups: systems that get the same rights by one grant."""


@group.command("list")
@session_options
@json_option
def group_list(session: Session, as_json: bool) -> None:
    """List groups. Example: lgsp group list"""
    columns = {"id": "ID", "names.vi": "TÊN", "names.en": "NAME", "members": "MEMBERS"}
    listed(session, as_json, "ListGroups", pb.ListGroupsRequest(), "groups", columns, "no group yet")


@group.command("put")
@session_options
@json_option
@with_names
@click.option("--member", "members", multiple=True, metavar="SYSTEM", help="A system in it; may repeat.")
@click.argument("identifier")
def group_put(session: Session, as_json: bool, identifier: str, members: tuple[str, ...], vi: str, en: str) -> None:
    """Make a group, or give it other members: its grants follow at once.

    Example: lgsp group put clinics --vi "Trạm y tế" --en Clinics --member H26.20/clinic-a --member H26.20/clinic-b
    """
    made = pb.Group(id=identifier, names=pb.Names(vi=vi, en=en), members=members)
    done(session, as_json, "PutGroup", pb.PutGroupRequest(group=made, operation_id=new_operation()), "group")
