"""Agencies over time: what an agency was at an instant, and what a reform makes of many at once. Pure.

Rule 1: nothing is forgotten: an agency that ends keeps its record, with its end and who took over.
Rule 2: a reform is one list of steps, applied in order to a copy; what comes out is written all at once or not at all.
Rule 3: who ends leaves nobody behind: agencies below it are dealt with in the same reform, systems and grants by its rule.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry import identifiers
from lgsp.registry.state import State

M = TypeVar("M", bound=Message)
MAX_RECORDS: Final = 1000
_MAX_ACT: Final = 200
_MAX_LIST: Final = 200


def agency_at(agency: pb.Agency, instant: Timestamp) -> pb.Agency | None:
    """The agency as it was at an instant; None when it was not in being."""
    at = instant.ToNanoseconds()
    if agency.HasField("valid_from") and at < agency.valid_from.ToNanoseconds():
        return None
    if agency.HasField("valid_until") and at >= agency.valid_until.ToNanoseconds():
        return None
    made = _copied(agency)
    period = next((each for each in agency.former if at < each.until.ToNanoseconds()), None)
    if period is not None:
        made.names.CopyFrom(period.names)
        made.parent = period.parent
    return made


def has_ended(agency: pb.Agency, now: Timestamp) -> bool:
    """True when it was revoked or its time is over."""
    over = agency.HasField("valid_until") and agency.valid_until.ToNanoseconds() <= now.ToNanoseconds()
    return agency.HasField("revoked_at") or over


def check_agency(agency: pb.Agency) -> None:
    """The form of a record; REORGANIZATION_INVALID or IDENTIFIER_INVALID names what is wrong."""
    for name in (agency.id, *agency.aliases, *agency.successors, *([agency.parent] if agency.parent else [])):
        identifiers.check_agency(name)
    times = [agency.valid_from, agency.valid_until]
    for time in (*times, *(period.until for period in agency.former)):
        try:
            time.ToDatetime()
        except (ValueError, OverflowError):
            raise BusError("REQUEST_MALFORMED", f"{agency.id}: a time is outside the years 1 to 9999") from None
    if (
        agency.HasField("valid_from")
        and agency.HasField("valid_until")
        and times[0].ToNanoseconds() >= times[1].ToNanoseconds()
    ):
        raise BusError("REORGANIZATION_INVALID", f"{agency.id} ends before it begins")
    if agency.id in (agency.parent, *agency.successors):
        raise BusError("REORGANIZATION_INVALID", f"{agency.id} cannot be above itself or succeed itself")
    if len(agency.act) > _MAX_ACT or max(map(len, (agency.aliases, agency.successors, agency.networks))) > _MAX_LIST:
        raise BusError(
            "REQUEST_TOO_LARGE", f"{agency.id}: an act has at most {_MAX_ACT} characters, a list {_MAX_LIST} entries"
        )
    for network in agency.networks:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise BusError(
                "REQUEST_MALFORMED", f"{network[:64]!r} is no network, which looks like 10.20.0.0/16"
            ) from None


@dataclass(slots=True)
class Reform:
    """A reform being worked out on top of `state`; `agencies`, `systems` and `grants` are what it changes."""

    state: State
    date: Timestamp
    act: str
    rule: pb.GrantRule.ValueType
    now: Timestamp
    actor: str
    agencies: dict[str, pb.Agency] = field(default_factory=dict)
    systems: dict[str, pb.System] = field(default_factory=dict)
    grants: dict[str, pb.Grant] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)

    def apply(self, changes: Sequence[pb.Reorganization]) -> None:
        """All steps, then what follows from them; REORGANIZATION_INVALID names the step."""
        if not changes:
            raise BusError("REORGANIZATION_INVALID", "the reform has no steps")
        for number, change in enumerate(changes, start=1):
            try:
                self._step(change)
            except BusError as error:
                if error.reason.name == "REORGANIZATION_INVALID":
                    raise BusError("REORGANIZATION_INVALID", f"step {number}: {error.detail}") from None
                raise
        self._need_nobody_left_behind()
        for agency in self.ended:
            self._hand_over(agency)
        total = len(self.agencies) + len(self.systems) + len(self.grants)
        if total > MAX_RECORDS:
            raise BusError(
                "REORGANIZATION_INVALID",
                f"{total} records would change, at most {MAX_RECORDS} can at once: divide the reform, for example by province",
            )

    # --- steps -------------------------------------------------------------------------------------------------------

    def _step(self, change: pb.Reorganization) -> None:
        kind = change.WhichOneof("change")
        if kind == "merge":
            self._merge(list(getattr(change.merge, "from")), change.merge.into)  # `from` is a word of Python's
        elif kind == "split":
            self._split(getattr(change.split, "from"), change.split.into)
        elif kind == "rename":
            self._rename(change.rename)
        elif kind == "abolish":
            self._end(change.abolish.id, [self._active(each).id for each in change.abolish.successors])
        else:
            raise BusError("REORGANIZATION_INVALID", "a step is a merge, a split, a rename or an end")

    def _merge(self, sources: list[str], into: pb.Agency) -> None:
        found = [self._active(each).id for each in sources]
        if not found or len(set(found)) < len(found):
            raise BusError("REORGANIZATION_INVALID", "a merge names agencies, each once")
        target = self._into(into)
        if target in found:
            raise BusError("REORGANIZATION_INVALID", f"{target} cannot be merged into itself: leave it out of `from`")
        for each in found:
            self._end(each, [target])

    def _split(self, source: str, into: Iterable[pb.Agency]) -> None:
        whole, parts = self._active(source).id, list(into)
        if not parts or len({each.id for each in parts}) < len(parts):
            raise BusError("REORGANIZATION_INVALID", f"{whole} is split into agencies, each once")
        targets = [whole if each.id == whole else self._into(each) for each in parts]
        if targets == [whole]:
            raise BusError("REORGANIZATION_INVALID", f"{whole} cannot be split into itself alone")
        if whole not in targets:
            self._end(whole, targets)

    def _rename(self, change: pb.Reorganization.Rename) -> None:
        agency = self._changed(self._active(change.id).id)
        period = agency.former.add(names=agency.names, parent=agency.parent)
        period.until.CopyFrom(self.date)
        if change.HasField("names"):
            agency.names.CopyFrom(change.names)
        if change.parent:
            agency.parent = self._active(change.parent).id
            self._need_no_circle(agency)
        agency.act = self.act
        if (period.names, period.parent) == (agency.names, agency.parent):
            raise BusError("REORGANIZATION_INVALID", f"{agency.id} would be as before")

    def _into(self, wanted: pb.Agency) -> str:
        """The id of an agency that takes over: one that goes on, or a new one that begins with the reform."""
        check_agency(wanted)
        known = self._find(wanted.id)
        if known is not None:
            return self._active(wanted.id).id
        for alias in wanted.aliases:
            if self._find(alias) is not None:
                raise BusError("REORGANIZATION_INVALID", f"{alias} means another agency already")
        if wanted.parent:
            self._active(wanted.parent)
        made = pb.Agency(id=wanted.id, names=wanted.names, parent=wanted.parent, aliases=wanted.aliases, act=self.act)
        made.networks.extend(wanted.networks)
        made.valid_from.CopyFrom(self.date)
        self.agencies[made.id] = made
        return made.id

    def _end(self, identifier: str, successors: list[str]) -> None:
        agency = self._changed(self._active(identifier).id)
        if agency.id in successors or len(set(successors)) < len(successors):
            raise BusError("REORGANIZATION_INVALID", f"{agency.id}: successors are other agencies, each once")
        if agency.HasField("valid_from") and agency.valid_from.ToNanoseconds() >= self.date.ToNanoseconds():
            raise BusError("REORGANIZATION_INVALID", f"{agency.id} would end before it began")
        agency.valid_until.CopyFrom(self.date)
        agency.ClearField("successors")
        agency.successors.extend(successors)
        agency.act = self.act
        self.ended.append(agency.id)

    # --- what follows ------------------------------------------------------------------------------------------------

    def _need_nobody_left_behind(self) -> None:
        gone = set(self.ended)
        for key in self.state.agencies_below(gone) | self.agencies.keys():
            agency = self._find(key)
            if agency is not None and agency.parent in gone and key not in gone and not has_ended(agency, self.now):
                raise BusError(
                    "REORGANIZATION_INVALID",
                    f"{key} is below {agency.parent}, which ends: move or end it in the same reform",
                )

    def _hand_over(self, agency: str) -> None:
        systems = [each for each in self.state.systems_of(agency) if not each.HasField("revoked_at")]
        grants = [each for each in self.state.grants_by_agency(agency) if not each.HasField("revoked_at")]
        if not systems and not grants:
            return
        if self.rule == pb.GRANT_RULE_MOVE:
            self._move(agency, systems, grants)
        elif self.rule == pb.GRANT_RULE_END:
            self._revoke(agency, systems, grants)
        else:
            raise BusError("REORGANIZATION_INVALID", f"{agency} has systems or grants: say whether they move or end")

    def _move(self, agency: str, systems: list[pb.System], grants: list[pb.Grant]) -> None:
        heir = self._heir(agency)
        for system in systems:
            self.systems[system.id] = _copied(system)
            self.systems[system.id].agency = heir
        for grant in grants:
            moved = self.grants[grant.id] = _copied(grant)
            moved.agency = heir
            self._note(moved, "moved", f"from {agency} to {heir}")

    def _heir(self, agency: str) -> str:
        """The first successor that goes on; one that ends in the same reform hands on to its own."""
        heir, gone = agency, set(self.ended)
        while heir in gone:
            successors = self.agencies[heir].successors
            if not successors:
                raise BusError(
                    "REORGANIZATION_INVALID", f"{agency} has no successor to which its systems and grants could move"
                )
            heir = successors[0]
        return heir

    def _revoke(self, agency: str, systems: list[pb.System], grants: list[pb.Grant]) -> None:
        reason = f"{agency} ended: {self.act}"[:500]
        for system in systems:
            ended = self.systems[system.id] = _copied(system)
            ended.revoked_at.CopyFrom(self.now)
            ended.revoked_reason = reason
            grants += [each for each in self.state.grants_of(system.id) if each.consumer == system.id]
        for grant in grants:
            if not grant.HasField("revoked_at"):
                revoked = self.grants[grant.id] = _copied(grant)
                revoked.revoked_at.CopyFrom(self.now)
                revoked.revoked_reason, revoked.state = reason, pb.GRANT_STATE_REVOKED
                self._note(revoked, "revoked", "")

    def _note(self, grant: pb.Grant, action: str, detail: str) -> None:
        step = grant.steps.add(actor=self.actor, action=action, reason=self.act, detail=detail)
        step.time.CopyFrom(self.now)

    # --- finding -----------------------------------------------------------------------------------------------------

    def _find(self, identifier: str) -> pb.Agency | None:
        if identifier in self.agencies:
            return self.agencies[identifier]
        entry = self.state.resolve_agency(identifier)
        return None if entry is None else self.agencies.get(entry.record.agency.id, entry.record.agency)

    def _active(self, identifier: str) -> pb.Agency:
        agency = self._find(identifier)
        if agency is None:
            raise BusError("REORGANIZATION_INVALID", f"{identifier[:64]!r} is no agency")
        if agency.HasField("revoked_at") or agency.HasField("valid_until"):
            raise BusError("REORGANIZATION_INVALID", f"{agency.id} has ended already")
        return agency

    def _changed(self, identifier: str) -> pb.Agency:
        """The agency in this reform's own copy."""
        if identifier not in self.agencies:
            found = self._find(identifier)
            assert found is not None
            self.agencies[identifier] = _copied(found)
        return self.agencies[identifier]

    def _need_no_circle(self, agency: pb.Agency) -> None:
        above, seen = agency.parent, set[str]()
        while above and above not in seen:
            if above == agency.id:
                raise BusError("REORGANIZATION_INVALID", f"{agency.id} would stand below itself")
            seen.add(above)
            found = self._find(above)
            above = found.parent if found is not None else ""


def _copied(message: M) -> M:
    made = type(message)()
    made.CopyFrom(message)
    return made
