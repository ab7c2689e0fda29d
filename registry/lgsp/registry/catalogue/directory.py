"""Keeps the index equal to the registry: records at once, the words of contracts as soon as they are fetched.

Rule 1: nothing is scanned for a query; a change touches the services that it is about, and no other.
Rule 2: what changed is taken up in small bites between other work, and before the next query: a node that starts with ten
        thousand services serves at once, and a query never misses what the registry had before it.
Rule 3: a contract that cannot be fetched now is tried again; until then its service is found by its record alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from lgsp.api.errors import BusError
from lgsp.api.registry.v1.registry_pb2 import Names, Service
from lgsp.registry.catalogue.facts import Facts, facts_of
from lgsp.registry.catalogue.index import Document, Index
from lgsp.registry.state import Change
from lgsp.registry.store import Store

_log = logging.getLogger("lgsp.catalogue")
_RETRY_S: Final = 1.0
_BITE: Final = 20


class Directory:
    """The services of a registry as they are searched; `run` fetches contracts until cancelled."""

    def __init__(self, store: Store) -> None:
        self._store, self._state = store, store.state
        self.index = Index()
        self._facts: dict[str, Facts] = {}
        self._agencies: dict[str, set[str]] = defaultdict(set)
        self._providers: dict[str, set[str]] = defaultdict(set)
        # Records not yet taken up, and services whose contract is not read yet; both in order.
        self._touched: dict[str, None] = dict.fromkeys(self._state.all("service"))
        self._waiting: dict[str, None] = {}
        self._unread: set[str] = set()
        self._wake = asyncio.Event()
        self._wake.set()
        store.listen(self.note)

    def note(self, changes: Iterable[Change]) -> None:
        """The registry changed."""
        for change in changes:
            if change.kind == "service":
                self._touched[change.key] = None
            elif change.kind == "agency":
                self._touched.update(dict.fromkeys(self._agencies.get(change.key, ())))
            elif change.kind == "system":
                self._touched.update(dict.fromkeys(self._providers.get(change.key, ())))
        self._wake.set()

    async def settle(self) -> None:
        """Take up every record that changed."""
        while self._touched:
            for name in list(self._touched)[:_BITE]:
                del self._touched[name]
                self._take(name)
            await asyncio.sleep(0)

    async def run(self) -> None:
        """Fetch what is new, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.settle()
            while self._waiting:
                await self._read(next(iter(self._waiting)))
                await self.settle()

    async def _read(self, name: str) -> None:
        del self._waiting[name]
        try:
            await self.facts(name)
        except BusError as error:
            if self._service(name) is None:
                return  # gone meanwhile
            if name not in self._unread:
                _log.warning("contract of %s not read: %s", name, error)
            self._unread.add(name)
            self._waiting[name] = None  # behind the others
            await asyncio.sleep(_RETRY_S)
        else:
            self._unread.discard(name)

    async def facts(self, name: str) -> Facts:
        """What the service's contract in force says; NOT_REGISTERED for no such service."""
        service = self._service(name)
        if service is None:
            raise BusError("NOT_REGISTERED", f"no service {name[:64]!r}")
        kept = self._facts.get(name)
        if kept is None or kept.digest != service.contract_digest:
            digest = service.contract_digest
            kept = await asyncio.to_thread(facts_of, digest, await self._store.get_contract(digest), name)
            self._facts[name] = kept
            self._take(name)
        return kept

    def description(self, name: str) -> str:
        """The contract's words on the service, as far as they were read."""
        facts = self._facts.get(name)
        return facts.description if facts else ""

    def agency(self, service: Service) -> tuple[str, Names]:
        """The agency to which the provider belongs now, and its names."""
        identifier = self._state.agency_of(service.provider)
        entry = self._state.resolve_agency(identifier)
        return identifier, entry.record.agency.names if entry else Names()

    # --- one service -------------------------------------------------------------------------------------------------

    def _service(self, name: str) -> Service | None:
        entry = self._state.get("service", name)
        return entry.record.service if entry else None

    def _take(self, name: str) -> None:
        service = self._service(name)
        if service is None:
            self.index.drop(name)
            self._facts.pop(name, None)
            self._waiting.pop(name, None)
            return
        facts = self._facts.get(name)
        if facts is None or facts.digest != service.contract_digest:
            self._waiting[name] = None
            self._wake.set()
        else:
            self._waiting.pop(name, None)
        self.index.put(name, self._document(service, facts))

    def _document(self, service: Service, facts: Facts | None) -> Document:
        agency, names = self.agency(service)
        for kept, key in (
            (self._agencies, agency),
            (self._agencies, service.owner),
            (self._providers, service.provider),
        ):
            kept[key].add(service.name)
        owner = self._state.resolve_agency(service.owner) if service.owner else None
        owned = (owner.record.agency.names.vi, owner.record.agency.names.en) if owner else ()
        own = (service.names.vi, service.names.en)
        return Document(
            {
                "name": own,
                "identifier": (service.name,),
                "method": facts.methods if facts else (),
                "agency": (agency, names.vi, names.en, service.owner, *owned, service.provider),
                "contact": (service.contact,),
                "text": (facts.text,) if facts else (),
            },
            own,
        )
