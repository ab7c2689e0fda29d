"""Groups: systems that get the same rights by one grant."""

from __future__ import annotations

from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry import paging
from lgsp.registry.api.base import EFFECTIVE_S, Context, Part, copied
from lgsp.registry.grants import check_group


class Groups(Part):
    """The methods about groups."""

    async def PutGroup(self, request: pb.PutGroupRequest, context: Context) -> pb.PutGroupResponse:
        caller, group = self.operator(context), copied(request.group)
        check_group(group)
        entry = self.state.get("group", group.id)
        revision = entry.revision if entry is not None else 0
        if entry is None or entry.record.group != group:
            if entry is not None and entry.record.group.HasField("ended_at"):
                raise BusError("ALREADY_EXISTS", f"the group {group.id} has ended; choose another name")
            for member in group.members:
                self.need_active_system(member)
            revision = await self.replace("group", group.id, group, entry, request.operation_id, caller)
        done = await self.effective(revision, EFFECTIVE_S)
        return pb.PutGroupResponse(group=group, revision=revision, effective=done)

    async def ListGroups(self, request: pb.ListGroupsRequest, context: Context) -> pb.ListGroupsResponse:
        caller = self.caller(context)
        found, token = paging.page(
            self.state, "group", request, lambda each: self.visible(caller, "group", each.record)
        )
        return pb.ListGroupsResponse(groups=[each.record.group for each in found], next_page_token=token)
