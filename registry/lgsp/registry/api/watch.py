"""Watching: everything that a caller may see, then every change, in order, whole, from any revision on.

Rule 1: the position is (incarnation, revision): on another incarnation, or beyond the last revision, the watcher is told
        to forget and gets a list anew. A list goes in the order of revisions, so it too is resumed where it broke off.
Rule 2: between two positions a record that changed several times is told once, as it is now.
Rule 3: what was written together is told together.
Rule 4: leases are no records: they are told with the list and whenever one turns, and move no position.
Rule 5: a watcher that is too slow costs a bounded queue: it is brought up from its position, not from memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Final

from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry.api.base import Context, Part
from lgsp.registry.state import Change, Entry

KINDS: Final = ("agency", "system", "service", "service_version", "endpoint", "grant", "group")
LEASE: Final = "lease"
BOOKMARK_S: Final = 15.0
_CHUNK: Final = 500
_QUEUE: Final = 1000


class Watching(Part):
    """The method Watch."""

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WatchResponse]:
        caller = self.caller(context)
        for kind in request.kinds:
            if kind not in (*KINDS, LEASE):
                known = ", ".join((*KINDS, LEASE))
                raise BusError("REQUEST_MALFORMED", f"{kind[:64]!r} is not watched; known are {known}")
        watcher = _Watcher(self, caller, request)
        self.store.listen(watcher.note)
        self.leases.listen(watcher.note_leases)
        try:
            async for response in watcher.responses():
                yield response
        finally:
            self.store.unlisten(watcher.note)
            self.leases.unlisten(watcher.note_leases)

    def sees(self, caller: str, kind: str, record: pb.Record) -> bool:
        """Operators see all; others what is public, what is their own and what they decide on."""
        return self.visible(caller, kind, record)


class _Watcher:
    """One watcher: where it is, and the changes that wait for it."""

    def __init__(self, part: Watching, caller: str, request: pb.WatchRequest) -> None:
        self._part, self._caller, self._service = part, caller, request.service
        self._kinds = frozenset(KINDS).intersection(request.kinds or KINDS)
        self._leases = not request.kinds or LEASE in request.kinds
        self._incarnation, self._revision = request.incarnation, request.revision
        self._queue: asyncio.Queue[tuple[int, list[Change]] | frozenset[str]] = asyncio.Queue()
        self._behind = False

    def note(self, changes: list[Change]) -> None:
        """From the store: what was written together, or how another registry differs."""
        if self._queue.qsize() >= _QUEUE or self._incarnation != self._part.store.incarnation:
            self._behind = True
        if not self._behind or self._queue.empty():
            self._queue.put_nowait((self._part.state.revision, changes))

    def note_leases(self, turned: frozenset[str]) -> None:
        """Leases that turned; who is behind gets all of them with the next list."""
        if self._queue.qsize() >= _QUEUE:
            self._behind = True
        if self._leases and not self._behind:
            self._queue.put_nowait(turned)

    async def responses(self) -> AsyncIterator[pb.WatchResponse]:
        while True:
            await self._part.store.synced.wait()
            self._behind, self._queue = False, asyncio.Queue()
            async for response in self._list():
                yield response
            async for response in self._follow():
                yield response

    async def _list(self) -> AsyncIterator[pb.WatchResponse]:
        """What changed since the position, or everything, as it is now; what changes meanwhile waits in the queue."""
        store, state = self._part.store, self._part.state
        fresh = self._incarnation != store.incarnation or self._revision > state.revision
        if fresh:
            self._incarnation, self._revision = store.incarnation, 0
        relist, until, entries = fresh, state.revision, state.since(self._revision)
        leases = self._states(state.all("endpoint")) if self._leases else []
        for start in range(0, len(entries), _CHUNK):
            chunk = entries[start : start + _CHUNK]
            records = [self._shown(kind, entry) for kind, _, entry in chunk if kind in self._kinds]
            self._revision = chunk[-1][2].revision
            if shown := [record for record in records if record]:
                yield self._response(shown, relist=relist, complete=False)
                relist = False
            else:
                await asyncio.sleep(0)  # much that is not for this watcher: others use the loop as well
        self._revision = until
        for start in range(0, len(leases), _CHUNK):
            yield self._response([], relist=relist, complete=False, leases=leases[start : start + _CHUNK])
            relist = False
        yield self._response([], relist=relist, complete=True)

    async def _follow(self) -> AsyncIterator[pb.WatchResponse]:
        """Changes as they come, until the watcher has to be brought up anew."""
        while not self._behind:
            try:
                noted = await asyncio.wait_for(self._queue.get(), BOOKMARK_S)
            except TimeoutError:
                yield self._response([], complete=True)
                continue
            if self._behind:
                return
            if isinstance(noted, frozenset):
                if states := self._states(noted):
                    yield self._response([], complete=True, leases=states)
                continue
            revision, changes = noted
            if revision <= self._revision:
                continue  # the list had it
            records = [
                self._shown(each.kind, each.entry) for each in changes if each.entry and each.kind in self._kinds
            ]
            self._revision = revision
            if shown := [record for record in records if record]:
                yield self._response(shown, complete=True)

    def _shown(self, kind: str, entry: Entry) -> pb.Record | None:
        """The record as this watcher may see it; None when it may not, or did not ask for it."""
        record = entry.record
        if self._service and self._service not in _services(kind, record):
            return None
        if not self._part.sees(self._caller, kind, record):
            return None
        shown = pb.Record()
        shown.CopyFrom(record)
        shown.ClearField("operation_id")
        if kind == "system":
            shown.system.ClearField("development_secret")
        return shown

    def _states(self, endpoints: Iterable[str]) -> list[pb.EndpointState]:
        """The leases of those that are in being and that this watcher may see; an end is told by the record."""
        entries = (self._part.state.get("endpoint", each) for each in sorted(endpoints))
        found = (self._shown("endpoint", each) for each in entries if each is not None)
        return [
            self._part.endpoint_state(each.endpoint)
            for each in found
            if each is not None and not each.endpoint.HasField("ended_at")
        ]

    def _response(
        self,
        changes: Iterable[pb.Record],
        *,
        complete: bool,
        relist: bool = False,
        leases: Iterable[pb.EndpointState] = (),
    ) -> pb.WatchResponse:
        return pb.WatchResponse(
            incarnation=self._incarnation,
            revision=self._revision,
            relist=relist,
            complete=complete,
            changes=changes,
            leases=leases,
        )


def _services(kind: str, record: pb.Record) -> Iterable[str]:
    """The services that a record is about."""
    if kind == "service":
        return (record.service.name,)
    if kind == "service_version":
        return (record.service_version.service,)
    if kind == "grant":
        return (record.grant.service,)
    return record.endpoint.services if kind == "endpoint" else ()
