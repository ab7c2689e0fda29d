"""What a restore would undo: rights that ended or shrank since the backup, and facts about what runs now. Pure.

Rule 1: a revocation is never undone in silence: it is told, and kept unless somebody says otherwise.
Rule 2: keys and endpoints of running nodes and providers are facts of today; they are carried over always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from lgsp.api.registry.v1 import registry_pb2 as pb


@dataclass(frozen=True, slots=True)
class Undone:
    """A record to write after the backup's own, so that what it says stays so. `fact` needs nobody's decision."""

    kind: str
    key: str
    what: str
    record: pb.Record
    fact: bool = False


def undone(
    now: Mapping[tuple[str, str], pb.Record], then: Mapping[tuple[str, str], pb.Record], at_s: float
) -> Iterator[Undone]:
    """What is so `now` and was not so `then`, in the order of kinds and keys; both are last records, brought up. `at_s`
    is the time since the epoch: what came and was over by then is left out."""
    for kind, key in sorted(now):
        look, before = _LOOKS.get(kind), then.get((kind, key))
        if look is None or (before is None and _is_over(now[kind, key], at_s)):
            continue
        record = pb.Record()
        what = look(now[kind, key], before, record)
        if what:
            yield Undone(kind, key, what, record, fact=kind in _FACTS)


def matters(kind: str, record: pb.Record) -> bool:
    """False for a record that cannot be undone by any other before it: most are in force."""
    if kind == "grant":
        over = record.grant.state in (pb.GRANT_STATE_REVOKED, pb.GRANT_STATE_REFUSED)
        return over or any(step.action == "narrowed" for step in record.grant.steps)
    if kind in ("agency", "system"):
        return bool(getattr(record, kind).HasField("revoked_at"))
    if kind == "service":
        return record.service.lifecycle == pb.LIFECYCLE_RETIRED
    return kind in _LOOKS


def _ended(name: str) -> Callable[[pb.Record, pb.Record | None, pb.Record], str]:
    def look(now: pb.Record, then: pb.Record | None, made: pb.Record) -> str:
        current = getattr(now, name)
        if then is None or not current.HasField("revoked_at") or getattr(then, name).HasField("revoked_at"):
            return ""
        made.CopyFrom(then)
        kept = getattr(made, name)
        kept.revoked_at.CopyFrom(current.revoked_at)
        kept.revoked_reason = current.revoked_reason
        return "revoked"

    return look


def _grant(now: pb.Record, then: pb.Record | None, made: pb.Record) -> str:
    if then is None or then.grant.state not in (pb.GRANT_STATE_ACTIVE, pb.GRANT_STATE_REQUESTED):
        return ""
    over = {pb.GRANT_STATE_REVOKED: "revoked", pb.GRANT_STATE_REFUSED: "refused"}.get(now.grant.state, "")
    since = now.grant.steps[len(then.grant.steps) :]
    if not over and not any(step.action == "narrowed" for step in since):
        return ""
    made.CopyFrom(now)
    return over or "narrowed"


def _service(now: pb.Record, then: pb.Record | None, made: pb.Record) -> str:
    retired = pb.LIFECYCLE_RETIRED
    if then is None or now.service.lifecycle != retired or then.service.lifecycle == retired:
        return ""
    made.CopyFrom(then)
    made.service.lifecycle = retired
    made.service.retired_at.CopyFrom(now.service.retired_at)
    return "retired"


def _group(now: pb.Record, then: pb.Record | None, made: pb.Record) -> str:
    if then is None:
        return ""
    removed = set(then.group.members) - set(now.group.members)
    ended = now.group.HasField("ended_at") and not then.group.HasField("ended_at")
    if not removed and not ended:
        return ""
    made.CopyFrom(then)
    del made.group.members[:]
    made.group.members.extend(each for each in then.group.members if each not in removed)
    if ended:
        made.group.ended_at.CopyFrom(now.group.ended_at)
        return "ended"
    return f"without {', '.join(sorted(removed)[:10])}"


def _token(now: pb.Record, then: pb.Record | None, made: pb.Record) -> str:
    if then is not None:
        return ""
    made.CopyFrom(now)
    return "revoked"


def _node_key(now: pb.Record, then: pb.Record | None, made: pb.Record) -> str:
    if then is None:
        made.CopyFrom(now)
        return "in use"
    if now.node_key.HasField("retired_at") and not then.node_key.HasField("retired_at"):
        made.CopyFrom(now)
        return "retired"
    return ""


def _endpoint(now: pb.Record, then: pb.Record | None, made: pb.Record) -> str:
    ended = now.endpoint.HasField("ended_at")
    if then is None and not ended:
        made.CopyFrom(now)
        return "in use"
    if then is not None and ended and not then.endpoint.HasField("ended_at"):
        made.CopyFrom(now)
        return "ended"
    return ""


def _is_over(record: pb.Record, at_s: float) -> bool:
    """A token or a key that nobody accepts any more."""
    if record.HasField("token_revocation"):
        return record.token_revocation.expires_at.seconds <= at_s
    return record.HasField("node_key") and 0 < record.node_key.retired_at.seconds <= at_s


_FACTS: Final = frozenset({"node_key", "endpoint"})
# Kind → (now, then, the record to fill) → what happened since, empty for nothing.
_LOOKS: Final[dict[str, Callable[[pb.Record, pb.Record | None, pb.Record], str]]] = {
    "agency": _ended("agency"),
    "system": _ended("system"),
    "group": _group,
    "service": _service,
    "grant": _grant,
    "token_revocation": _token,
    "node_key": _node_key,
    "endpoint": _endpoint,
}
