"""What importing a file of agencies makes of the records that are there, and how it differs, field by field. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2 as pb

MAX_DRY_RUN: Final = 20_000
MAX_DIFFERENCES: Final = 10_000


def with_history(given: pb.Agency, known: pb.Agency) -> pb.Agency:
    """What an import makes of a record: files may leave out what an agency was before and that it was revoked."""
    made = pb.Agency()
    made.CopyFrom(given)
    if not made.former:
        made.former.extend(known.former)
    if known.HasField("revoked_at") and not made.HasField("revoked_at"):
        made.revoked_at.CopyFrom(known.revoked_at)
        made.revoked_reason = known.revoked_reason
    return made


def only(fields: Sequence[str], given: pb.Agency, known: pb.Agency) -> pb.Agency:
    """The record with those fields of `given`; REORGANIZATION_INVALID for a field that an agency does not have."""
    mask, kept = FieldMask(paths=fields), pb.Agency()
    if not mask.IsValidForDescriptor(pb.Agency.DESCRIPTOR):
        raise BusError("REORGANIZATION_INVALID", f"no field of an agency among {', '.join(fields)[:200]}")
    kept.CopyFrom(known)
    mask.MergeMessage(given, kept, replace_message_field=True, replace_repeated_field=True)
    return kept


def differences(before: pb.Agency, after: pb.Agency) -> list[pb.FieldChange]:
    """The fields that differ, in the order of the contract; a name is told by language."""
    old, new = _as_text(before), _as_text(after)
    return [
        pb.FieldChange(id=after.id, field=name, before=old.get(name, ""), after=new.get(name, ""))
        for name in dict.fromkeys([*old, *new])
        if old.get(name, "") != new.get(name, "")
    ]


def _as_text(agency: pb.Agency) -> dict[str, str]:
    found: dict[str, str] = {}
    for declared, value in agency.ListFields():
        if declared.name == "names":
            found |= {"names.vi": value.vi, "names.en": value.en}
        elif declared.name == "former":
            found["former"] = "; ".join(f"{each.names.vi} until {each.until.ToJsonString()}" for each in value)
        elif declared.is_repeated:
            found[declared.name] = ", ".join(value)
        else:
            found[declared.name] = value.ToJsonString() if isinstance(value, Timestamp) else str(value)
    return found
