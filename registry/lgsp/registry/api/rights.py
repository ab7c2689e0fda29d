"""Telling a provider what each consumer sees of its responses: the same computation on which the gateway's own mask stands.

Rule 1: a service is told whole, and whole again after every change; what is not told is not shown.
Rule 2: time is an input: a grant that begins or ends by itself is told at that instant.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import Final

from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry import rights
from lgsp.registry.api.base import Context, Part
from lgsp.registry.contracts import Contract, load_contract
from lgsp.registry.grants import boundaries, holds
from lgsp.registry.masks import with_keys
from lgsp.registry.recent import Made
from lgsp.registry.state import Change

MAX_SERVICES: Final = 100
SIGN_OF_LIFE_S: Final = 15.0
# By their bytes: loaded, a contract is some ten times as large.
_contracts: Final = Made(16 << 20)


class Rights(Part):
    """The method WatchRights."""

    async def WatchRights(
        self, request: pb.WatchRightsRequest, context: Context
    ) -> AsyncIterator[pb.WatchRightsResponse]:
        self._check_provider(self.caller(context), request.services)
        changed, services = asyncio.Event(), frozenset(request.services)

        def note(changes: list[Change]) -> None:
            if any(_touches(change, services) for change in changes):
                changed.set()

        self.store.listen(note)
        try:
            async for response in self._tell(sorted(services), changed):
                yield response
        finally:
            self.store.unlisten(note)

    def _check_provider(self, caller: str, services: Iterable[str]) -> None:
        named = list(services)
        if not 0 < len(named) <= MAX_SERVICES:
            raise BusError("REQUEST_MALFORMED", f"1 to {MAX_SERVICES} services are named")
        for name in named:
            self.need_visible("service", name, caller)
            provider = self.need_active_service(name).provider
            if caller != provider and not self.operators(caller):
                raise BusError("SERVICE_OWNED_BY_ANOTHER", f"{name} belongs to {provider}")

    async def _tell(self, services: list[str], changed: asyncio.Event) -> AsyncIterator[pb.WatchRightsResponse]:
        told: dict[str, bytes] = {}
        quiet = False
        while True:
            await self.store.synced.wait()
            changed.clear()
            until, now, fresh = self.state.revision, datetime.now(UTC), []
            for name in services:
                response = await self._views(name, now)
                if told.get(name) != (content := response.SerializeToString(deterministic=True)):
                    told[name] = content
                    fresh.append(response)
            if quiet and not fresh:
                fresh.append(pb.WatchRightsResponse())
            for number, response in enumerate(fresh, 1):
                response.revision, response.complete = until, number >= len(fresh)
                yield response
            quiet = not await self._changed(services, changed, now)

    async def _changed(self, services: list[str], changed: asyncio.Event, told: datetime) -> bool:
        """Wait for a change or an instant after `told` at which a grant begins or ends; False when neither came."""
        grants = (entry.record.grant for name in services for entry in self.state.grants_by_service(name))
        boundary = min((date for each in grants for date in boundaries(each) if date > told), default=None)
        left = (boundary - datetime.now(UTC)).total_seconds() if boundary else SIGN_OF_LIFE_S
        try:
            await asyncio.wait_for(changed.wait(), max(0.0, min(left, SIGN_OF_LIFE_S)))
        except TimeoutError:
            return left < SIGN_OF_LIFE_S
        return True

    async def _views(self, name: str, now: datetime) -> pb.WatchRightsResponse:
        service = self.need("service", name).record.service
        grants = [entry.record.grant for entry in self.state.grants_by_service(name)]
        held = [rights.right_of(self.state, grant) for grant in grants if holds(grant, now)]
        response = pb.WatchRightsResponse(service=name)
        _fill(response, held, _loaded(await self.store.get_contract(service.contract_digest)))
        return response


def _touches(change: Change, services: frozenset[str]) -> bool:
    """True when what is seen of these services may have changed; systems and groups change seldom."""
    if change.kind == "service":
        return change.key in services
    if change.kind == "grant":
        return any(
            entry is not None and entry.record.grant.service in services for entry in (change.entry, change.previous)
        )
    return change.kind in {"group", "system"}


def _fill(response: pb.WatchRightsResponse, held: list[rights.Right], contract: Contract) -> None:
    alike: dict[bytes, pb.MethodViews] = {}
    for method in contract.methods(response.service):
        found = rights.access(held, method.name, contract.pool.FindMessageTypeByName(method.output))
        if not found.everyone:
            views = found.views if found.fields else (rights.whole_view(found),)
            made = pb.MethodViews(views=map(_view, views), masked=bool(found.fields))
            alike.setdefault(made.SerializeToString(deterministic=True), made).methods.append(method.name)
    response.methods.extend(alike.values())


def _loaded(contract: bytes) -> Contract:
    return _contracts.of((contract,), len(contract), lambda: load_contract(contract))


def _view(view: rights.View) -> pb.View:
    leaves = (pb.Leaf(path=leaf.path, numbers=leaf.numbers, hollow=leaf.hollow) for leaf in with_keys(view.leaves))
    viewers = (pb.Viewer(consumer=consumer, purpose=purpose) for consumer, purpose in view.viewers)
    return pb.View(viewers=viewers, whole=view.whole, leaves=leaves)
