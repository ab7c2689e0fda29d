"""What a grant may say, and what makes one grant narrower than another. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from google.protobuf.descriptor import Descriptor
from google.protobuf.timestamp_pb2 import Timestamp

from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry import identifiers
from lgsp.registry.masks import expand

EVERYONE: Final = "everyone"
EVERY_METHOD: Final = "*"
# Service → method → what the right to it includes. Who may register an endpoint may be told what its callers see: a
# provider that is not told takes no calls, and its right may be older than the method.
_INCLUDED: Final = {"lgsp.api.registry.v1.RegistryService": {"RegisterEndpoint": "WatchRights"}}
MAX_PURPOSES: Final = 50
MAX_RATE: Final = 1_000_000
MAX_QUOTA: Final = 10**12
_PURPOSE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_BASIS: Final = 500
# Whose data ask for a purpose (Law 91/2025/QH15).
GUARDED: Final = frozenset({pb.CLASSIFICATION_PERSONAL, pb.CLASSIFICATION_SECRET})


def holds(grant: pb.Grant, now: datetime) -> bool:
    """True while a grant is in force: approved, begun, not ended, not revoked. The end itself is outside."""
    return usable_from(grant, now) and (not grant.HasField("not_before") or _instant(grant.not_before) <= now)


def usable_from(grant: pb.Grant, now: datetime) -> bool:
    """True while a grant is in force or will be by itself."""
    return (
        grant.state == pb.GRANT_STATE_ACTIVE
        and not grant.HasField("revoked_at")
        and (not grant.HasField("not_after") or now < _instant(grant.not_after))
    )


def methods_of(grant: pb.Grant) -> frozenset[str]:
    """The methods that a grant names, and those that they include."""
    included = _INCLUDED.get(grant.service, {})
    return frozenset(grant.methods).union(included[each] for each in included.keys() & grant.methods)


def covers(grant: pb.Grant, method: str) -> bool:
    """True when the grant names the method, all, or one that includes it."""
    return not methods_of(grant).isdisjoint({EVERY_METHOD, method})


def boundaries(grant: pb.Grant) -> list[datetime]:
    """When a grant begins and ends by itself."""
    if grant.HasField("revoked_at"):
        return []
    found = [grant.not_before] if grant.HasField("not_before") else []
    found += [grant.not_after] if grant.HasField("not_after") else []
    return [_instant(each) for each in found]


def _instant(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)


def check_subject(grant: pb.Grant) -> None:
    """Exactly one of system, agency and group; `everyone` only for what is bound by nothing else."""
    named = [text for text in (grant.consumer, grant.agency, grant.group) if text]
    if len(named) != 1:
        raise BusError("REQUEST_MALFORMED", "a grant names one consumer: a system, an agency or a group")
    if grant.group == EVERYONE and (grant.masks or grant.rate or grant.daily_quota or grant.purposes):
        raise BusError("GRANT_TERMS_REFUSED", "a grant for everyone has no purposes, masks, rate or quota")


def check_terms(
    grant: pb.Grant, service: pb.Service, responses: Mapping[str, Descriptor], kept: Sequence[pb.Mask] = ()
) -> None:
    """Methods, purposes, masks, limits and validity fit the service; `responses` are its methods' responses.

    Masks are replaced by the leaves they stand for today, so that what a later contract adds is not in them; those that
    are `kept` are leaves already.
    """
    _check_methods(grant, responses)
    _check_purposes(grant, service)
    _check_limits(grant)
    check_validity(grant)
    _expand_masks(grant, responses, kept)


def _check_methods(grant: pb.Grant, responses: Mapping[str, Descriptor]) -> None:
    if not grant.methods:
        raise BusError("REQUEST_MALFORMED", "a grant names its methods, or `*` for every one")
    for method in grant.methods:
        if method not in responses and list(grant.methods) != [EVERY_METHOD]:
            raise BusError("METHOD_UNKNOWN", f"{grant.service} has no method {method[:64]!r}")


def _check_purposes(grant: pb.Grant, service: pb.Service) -> None:
    guarded = service.classification in GUARDED
    if guarded and not grant.purposes:
        raise BusError("PURPOSE_INVALID", f"{service.name} holds personal or secret data: a grant names its purposes")
    if len(grant.purposes) > MAX_PURPOSES or len({each.code for each in grant.purposes}) < len(grant.purposes):
        raise BusError("PURPOSE_INVALID", f"a grant has at most {MAX_PURPOSES} purposes, each once")
    for purpose in grant.purposes:
        if not _PURPOSE.fullmatch(purpose.code):
            raise BusError(
                "PURPOSE_INVALID", f"{purpose.code[:64]!r} is no purpose code, which looks like `residence-check`"
            )
        if len(purpose.legal_basis) > _MAX_BASIS or (guarded and not purpose.legal_basis.strip()):
            raise BusError(
                "PURPOSE_INVALID", f"the purpose {purpose.code} needs a legal basis of 1 to {_MAX_BASIS} characters"
            )


def _check_limits(grant: pb.Grant) -> None:
    if not 0 <= grant.rate <= MAX_RATE or not 0 <= grant.daily_quota <= MAX_QUOTA:
        raise BusError("REQUEST_MALFORMED", f"a rate is 0 to {MAX_RATE} calls a second, a daily quota 0 to {MAX_QUOTA}")


def check_validity(grant: pb.Grant) -> None:
    """The times are times, and in order."""
    given = {field.name: value for field, value in grant.ListFields()}
    times = [given[name] for name in ("not_before", "not_after") if name in given]
    for time in times:
        try:
            time.ToDatetime(tzinfo=UTC)
        except (ValueError, OverflowError):
            raise BusError("REQUEST_MALFORMED", "a time of the grant is outside the years 1 to 9999") from None
    if len(times) == 2 and times[0].ToNanoseconds() >= times[1].ToNanoseconds():
        raise BusError("REQUEST_MALFORMED", "the grant ends before it begins")


def _expand_masks(grant: pb.Grant, responses: Mapping[str, Descriptor], kept: Sequence[pb.Mask]) -> None:
    granted = set(responses) if list(grant.methods) == [EVERY_METHOD] else set(grant.methods)
    masks = {mask.method: mask for mask in grant.masks}
    if len(masks) < len(grant.masks):
        raise BusError("MASK_INVALID", "a method has two masks")
    for method, mask in masks.items():
        if method not in granted:
            raise BusError("MASK_INVALID", f"the grant masks {method[:64]!r}, which it does not grant")
        if mask not in kept:
            mask.paths[:] = sorted(expand(responses[method], mask.paths))


def with_terms(grant: pb.Grant, terms: pb.Grant) -> pb.Grant:
    """The grant with the terms that `terms` sets; what it leaves unset stays.

    Masks of methods that are no longer granted go with them; a purpose that names no law keeps the one it had.
    """
    made = pb.Grant()
    made.CopyFrom(grant)
    laws = {each.code: each.legal_basis for each in grant.purposes}
    for name in ("methods", "purposes", "masks"):
        if getattr(terms, name):
            made.ClearField(name)
            getattr(made, name).extend(getattr(terms, name))
    if terms.methods and not terms.masks and list(made.methods) != [EVERY_METHOD]:
        kept = [mask for mask in grant.masks if mask.method in terms.methods]
        made.ClearField("masks")
        made.masks.extend(kept)
    for purpose in made.purposes:
        purpose.legal_basis = purpose.legal_basis or laws.get(purpose.code, "")
    for name in ("rate", "daily_quota"):
        if getattr(terms, name):
            setattr(made, name, getattr(terms, name))
    if terms.HasField("not_before"):
        made.not_before.CopyFrom(terms.not_before)
    if terms.HasField("not_after"):
        made.not_after.CopyFrom(terms.not_after)
    return made


def check_narrower(old: pb.Grant, new: pb.Grant, methods: Iterable[str]) -> list[str]:
    """What of `new` is narrower than `old`, in words; GRANT_TERMS_REFUSED when anything is wider.

    Both have passed `check_terms`; `methods` are all the contract has.
    """
    wider = [name for name, allowed in _comparisons(old, new, frozenset(methods)) if not allowed]
    if wider:
        raise BusError("GRANT_TERMS_REFUSED", f"wider than the grant: {', '.join(wider)}")
    names = ("methods", "purposes", "masks", "rate", "daily_quota", "not_before", "not_after")
    return [name for name in names if getattr(old, name) != getattr(new, name)]


def _comparisons(old: pb.Grant, new: pb.Grant, methods: frozenset[str]) -> list[tuple[str, bool]]:
    had, has = _granted(old, methods), _granted(new, methods)
    codes, old_codes = {p.code for p in new.purposes}, {p.code for p in old.purposes}
    return [
        ("methods", has <= had and (list(new.methods) != [EVERY_METHOD] or list(old.methods) == [EVERY_METHOD])),
        ("purposes", not old_codes or (bool(codes) and codes <= old_codes)),
        ("masks", all(_seen_less(old, new, method) for method in has)),
        ("rate", not old.rate or 0 < new.rate <= old.rate),
        ("daily_quota", not old.daily_quota or 0 < new.daily_quota <= old.daily_quota),
        ("not_before", not old.HasField("not_before") or _ns(new.not_before) >= _ns(old.not_before)),
        ("not_after", not old.HasField("not_after") or 0 < _ns(new.not_after) <= _ns(old.not_after)),
    ]


def _granted(grant: pb.Grant, methods: frozenset[str]) -> frozenset[str]:
    return methods if list(grant.methods) == [EVERY_METHOD] else frozenset(grant.methods)


def _seen_less(old: pb.Grant, new: pb.Grant, method: str) -> bool:
    before = next((frozenset(mask.paths) for mask in old.masks if mask.method == method), None)
    after = next((frozenset(mask.paths) for mask in new.masks if mask.method == method), None)
    return before is None or (after is not None and after <= before)


def _ns(time: Timestamp) -> int:
    return time.ToNanoseconds()


def check_group(group: pb.Group) -> None:
    """Identifier and members are well formed; `everyone` is built in."""
    identifiers.check_grant(group.id)
    if group.id == EVERYONE:
        raise BusError("ALREADY_EXISTS", "`everyone` is built in: it is every system that is not revoked")
    if len(set(group.members)) < len(group.members):
        raise BusError("REQUEST_MALFORMED", "a system is in the group twice")
    for member in group.members:
        identifiers.check_system(member)
