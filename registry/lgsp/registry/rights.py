"""Grants in force → what each method lets whom do: consumers, purposes, fields, rates. Pure.

Rule 1: a grant without purposes is the more generous: its consumer calls as it likes.
Rule 2: what a consumer sees is the union of the grants that its call falls under; a grant without a mask shows the whole.
Rule 3: fields are judged by the contract in force; a mask that no longer fits it keeps what it still names, and no more.
Rule 4: a used-up grant allows nothing; its consumer is told so unless another grant lets it through.
Rule 5: both walls, the provider's and the gateway's, stand on what is computed here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from google.protobuf.descriptor import Descriptor

from lgsp.api.errors import BusError
from lgsp.api.registry.v1.registry_pb2 import Grant
from lgsp.registry.grants import EVERY_METHOD, EVERYONE, methods_of
from lgsp.registry.masks import Leaf, leaf_fields, leaves
from lgsp.registry.state import State


@dataclass(frozen=True, slots=True)
class FieldRule:
    """A leaf of a response and who keeps it: `consumers` whatever the purpose, others for a purpose."""

    path: str
    consumers: frozenset[str] = frozenset()
    by_purpose: tuple[tuple[str, frozenset[str]], ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """What `viewers` see of a response: (consumer, purpose), of which an empty purpose is any that is not named."""

    viewers: tuple[tuple[str, str], ...]
    whole: bool = False
    leaves: tuple[Leaf, ...] = ()


@dataclass(frozen=True, slots=True)
class Limit:
    """`rate` calls a second of one consumer, shared by `methods`."""

    consumer: str
    methods: tuple[str, ...]
    rate: int


@dataclass(frozen=True, slots=True)
class Right:
    """A grant in force and the systems it is for; `everyone` when it is for all.

    What is asked often is read from the grant once: a city has hundreds of thousands.
    """

    grant: Grant
    systems: frozenset[str]
    exhausted: bool = False
    methods: frozenset[str] = field(init=False)
    purposes: frozenset[str] = field(init=False)
    masks: Mapping[str, frozenset[str]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "methods", methods_of(self.grant))
        object.__setattr__(self, "purposes", frozenset(each.code for each in self.grant.purposes))
        object.__setattr__(self, "masks", {mask.method: frozenset(mask.paths) for mask in self.grant.masks})

    @property
    def everyone(self) -> bool:
        return self.grant.group == EVERYONE

    def covers(self, method: str) -> bool:
        return method in self.methods or EVERY_METHOD in self.methods

    def seen(self, method: str) -> frozenset[str] | None:
        """The leaves it shows of a method's response; None is the whole."""
        return self.masks.get(method)


@dataclass(frozen=True, slots=True)
class Access:
    """What the rights say of one method; the fields of a MethodPolicy."""

    consumers: frozenset[str]
    purposes: tuple[tuple[str, frozenset[str]], ...]
    everyone: bool
    exhausted: frozenset[str]
    fields: tuple[FieldRule, ...]
    views: tuple[View, ...] = ()


def right_of(state: State, grant: Grant, *, exhausted: bool = False) -> Right:
    """The grant with the systems that it is for now, without revoked ones."""
    return Right(grant, frozenset(each for each in state.members(grant) if _is_active(state, each)), exhausted)


def _is_active(state: State, system: str) -> bool:
    entry = state.get("system", system)
    return entry is not None and not entry.record.system.HasField("revoked_at")


def access(rights: Iterable[Right], method: str, response: Descriptor | None) -> Access:
    """One method under `rights`; `response` describes what it answers, None when nobody's view is masked."""
    covering = [right for right in rights if right.covers(method)]
    usable = [right for right in covering if not right.exhausted]
    free = frozenset(system for right in usable if not right.purposes for system in right.systems)
    bound: dict[str, frozenset[str]] = defaultdict(frozenset)
    for right in usable:
        for system in (right.systems if right.purposes else frozenset()) - free:
            bound[system] |= right.purposes
    spent = frozenset(system for right in covering if right.exhausted for system in right.systems)
    everyone = any(right.everyone for right in usable)
    seen = response if not everyone and any(right.seen(method) is not None for right in usable) else None
    return Access(
        consumers=free,
        purposes=tuple(sorted(bound.items())),
        everyone=everyone,
        exhausted=spent - free - bound.keys(),
        fields=_fields(usable, method, seen) if seen is not None else (),
        views=_views(usable, method, seen) if seen is not None else (),
    )


def _views(rights: list[Right], method: str, response: Descriptor) -> tuple[View, ...]:
    """Those who see alike together; whoever is in none of them sees nothing."""
    try:
        known = leaf_fields(response)
    except BusError:
        known = ()  # see `_fields`
    everything = frozenset(leaf.path for leaf in known)
    seen: dict[tuple[str, str], tuple[bool, frozenset[str]]] = defaultdict(lambda: (False, frozenset()))
    for right in rights:
        shown = right.seen(method)
        for system in right.systems:
            for purpose in right.purposes or ("",):
                whole, paths = seen[system, purpose]
                seen[system, purpose] = (whole or shown is None, paths | (everything & (shown or frozenset())))
    alike: dict[tuple[bool, frozenset[str]], list[tuple[str, str]]] = defaultdict(list)
    for (system, purpose), (whole, paths) in seen.items():
        always = seen.get((system, ""), (False, frozenset()))
        whole = whole or always[0]
        alike[whole, frozenset() if whole else paths | always[1]].append((system, purpose))
    made = [
        View(tuple(sorted(viewers)), whole, tuple(leaf for leaf in known if leaf.path in paths))
        for (whole, paths), viewers in alike.items()
    ]
    return tuple(sorted(made, key=lambda view: view.viewers))


def whole_view(found: Access) -> View:
    """The one view of a method that nobody sees in part."""
    bound = [(system, purpose) for system, purposes in found.purposes for purpose in purposes]
    return View(tuple(sorted([*((system, "") for system in found.consumers), *bound])), whole=True)


def _fields(rights: list[Right], method: str, response: Descriptor) -> tuple[FieldRule, ...]:
    """A rule for each leaf; a message whose leaves all have the same keepers is one rule, so that no empty shell stays."""
    try:
        paths = leaves(response)
    except BusError:
        # The contract became recursive: nothing is told apart any more, so nothing is shown to those with a mask.
        whole = _keepers([right for right in rights if right.seen(method) is None], method, "")
        return tuple(FieldRule(field.name, *whole) for field in response.fields)
    rules = {path: _keepers(rights, method, path) for path in paths}
    return tuple(FieldRule(path, *kept) for path, kept in _collapsed(rules).items())


_Keepers = tuple[frozenset[str], tuple[tuple[str, frozenset[str]], ...]]


def _keepers(rights: list[Right], method: str, leaf: str) -> _Keepers:
    always: set[str] = set()
    by_purpose: dict[str, set[str]] = defaultdict(set)
    for right in rights:
        seen = right.seen(method)
        if seen is None or leaf in seen:
            if not right.purposes:
                always |= right.systems
            for purpose in right.purposes:
                by_purpose[purpose] |= right.systems
    return frozenset(always), tuple((purpose, frozenset(named)) for purpose, named in sorted(by_purpose.items()))


def _collapsed(rules: Mapping[str, _Keepers]) -> dict[str, _Keepers]:
    """Leaves under one parent with equal keepers become the parent, from the inside out."""
    found = dict(rules)
    parents = {path[:at] for path in rules for at, letter in enumerate(path) if letter == "."}
    for parent in sorted(parents, key=lambda each: -each.count(".")):
        below = [path for path in found if path.startswith(f"{parent}.")]
        keepers = {found[path] for path in below}
        if len(keepers) == 1:
            for path in below:
                del found[path]
            found[parent] = keepers.pop()
    return found


def limits(rights: Iterable[Right], methods: Iterable[str]) -> tuple[Limit, ...]:
    """The buckets of a service: one for each consumer and grant with a rate, without methods that it has unbounded."""
    known, usable = tuple(methods), [right for right in rights if not right.exhausted]
    unbounded: dict[str, set[str]] = defaultdict(set)
    for right in usable:
        if not right.grant.rate:
            for system in right.systems:
                unbounded[system].update(method for method in known if right.covers(method))
    rates: dict[tuple[str, tuple[str, ...]], int] = defaultdict(int)
    for right in usable:
        for system in right.systems if right.grant.rate else ():
            bounded = tuple(m for m in known if right.covers(m) and m not in unbounded[system])
            if bounded:
                rates[system, bounded] += right.grant.rate
    return tuple(Limit(system, bounded, rate) for (system, bounded), rate in sorted(rates.items()))
