"""The usage of all nodes: this node's counts from its call records, the others' by NATS; and whose daily quota is used up.

Bounds: a call is counted within half a second of its end, told to the other nodes within two seconds more. A quota is
therefore overrun by what its consumer calls in that time, and by its streams that still run. Without NATS each node counts
for itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from lgsp.api.registry.v1.registry_pb2 import Grant, Use
from lgsp.gateway.datadir import write_private
from lgsp.gateway.errors import DataDirError
from lgsp.gateway.usage import records
from lgsp.gateway.usage.counts import (
    Counts,
    Key,
    Tallies,
    Tally,
    by_service,
    day_of,
    dump,
    load,
    oldest_kept,
)
from lgsp.registry import streams
from lgsp.registry.grants import covers

log = structlog.get_logger("lgsp.usage")
READ_EVERY_S: Final = 0.25
TELL_EVERY_S: Final = 2.0
_PARTS: Final = 16


class _Kept(msgspec.Struct):
    """What the node keeps on disk: how far it read, and day → tallies."""

    position: records.Position
    days: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class _Quota:
    """A grant with a daily quota, and how to find whom it is for."""

    grant: Grant
    systems: Callable[[], frozenset[str]]


class Ledger:
    """`connect` gives a NATS client of the CORE account; `changed` is told the services whose grants' quota came to or
    left its end."""

    def __init__(
        self,
        node: str,
        access_log: Path,
        kept: Path,
        connect: Callable[..., Awaitable[Client]],
        changed: Callable[[set[str]], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._node, self._log, self._kept, self._connect = node, access_log, kept, connect
        self._changed, self._now = changed, now
        self._position, self._own = records.Position(), Counts()
        # node, day, part → service → tallies
        self._others: dict[tuple[str, str, str], dict[str, Tallies]] = {}
        self._dirty: set[tuple[str, int]] = set()
        self._unsaved, self._saving = False, asyncio.Lock()
        # Service → grant → who; the services to judge anew, and the day that was judged.
        self._quotas: dict[str, dict[str, _Quota]] = defaultdict(dict)
        self._service_of: dict[str, str] = {}
        self._unjudged: set[str] = set()
        self._judged = ""
        self._exhausted: dict[str, set[str]] = {}
        self._restore()

    # --- what others ask ---------------------------------------------------------------------------------------------

    def exhausted(self, grant: str) -> bool:
        """True when the grant's calls of this day are used up."""
        return grant in self._exhausted.get(self._service_of.get(grant, ""), ())

    def watch(self, grant: Grant, systems: Callable[[], frozenset[str]]) -> None:
        """Keep an eye on a grant's quota; one without a quota is forgotten."""
        before = self._service_of.pop(grant.id, None)
        if before is not None:
            del self._quotas[before][grant.id]
            self._unjudged.add(before)
        if grant.daily_quota and not grant.HasField("revoked_at"):
            self._quotas[grant.service][grant.id] = _Quota(grant, systems)
            self._service_of[grant.id] = grant.service
            self._unjudged.add(grant.service)

    def note_members(self, services: Iterable[str]) -> None:
        """Who belongs to an agency or a group has changed, for which grants on these services are."""
        self._unjudged.update(services)

    def forget(self, grant: str) -> None:
        """The grant is of a registry that is no more."""
        self.watch(Grant(id=grant), frozenset)

    def uses(self, service: str) -> list[Use]:
        """Who called which method of the service in the last 30 days, over all nodes."""
        calls: dict[tuple[str, str], list[Tally]] = defaultdict(list)
        for _, tallies in self._of(service):
            for key, tally in tallies.items():
                calls[key.consumer, key.method].append(tally)
        return [_use(*named, tallies) for named, tallies in sorted(calls.items())]

    # --- running -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Count and tell until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._count())
            group.create_task(self._share())

    async def _count(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(READ_EVERY_S)

    def look(self) -> None:
        """Count what was recorded since the last look, and find out whose quota that uses up."""
        self._read()
        self._judge()

    def _read(self) -> None:
        for key, time in records.read(self._log, self._position):
            day = self._own.add(key, time)
            self._dirty.add((day, _part(key.service)))
            self._unjudged.add(key.service)
            self._unsaved = True

    def _judge(self) -> None:
        """Find out whose day is over or has begun anew, where calls were made or quotas changed."""
        today = day_of(self._now())
        if today != self._judged:
            self._judged = today
            self._unjudged.update(self._quotas)
        unjudged, self._unjudged = self._unjudged, set()
        changed = {service for service in unjudged if self._judge_service(service, today)}
        if changed:
            log.info("daily quotas changed", services=sorted(changed))
            self._changed(changed)

    def _judge_service(self, service: str, today: str) -> bool:
        """True when a grant of the service came to its end or left it."""
        quotas, calls = self._quotas.get(service, {}), dict[Key, int]()
        for day, tallies in self._of(service) if quotas else ():
            if day == today:
                for key, tally in tallies.items():
                    calls[key] = calls.get(key, 0) + tally.calls
        spent = {name for name, each in quotas.items() if _calls(each, calls) >= each.grant.daily_quota}
        before, self._exhausted[service] = self._exhausted.get(service, set()), spent
        return spent != before

    def _of(self, service: str) -> Iterable[tuple[str, Mapping[Key, Tally]]]:
        """(day, tallies) of the service, of each node."""
        for day, services in self._own.days.items():
            if service in services:
                yield day, services[service]
        for (_, day, _), services in self._others.items():
            if service in services:
                yield day, services[service]

    # --- the other nodes ---------------------------------------------------------------------------------------------

    async def _share(self) -> None:
        while True:
            client: Client | None = None
            try:
                client = await self._connect()
                await self._follow(client)
                while client.is_connected:
                    await self._tell(client)
                    await asyncio.sleep(TELL_EVERY_S)
            except (nats.errors.Error, OSError, TimeoutError, streams.JetStreamError) as error:
                log.warning("usage not shared", why=str(error) or type(error).__name__)
            finally:
                await asyncio.shield(_close(client))
                await asyncio.shield(self._save())
            await asyncio.sleep(TELL_EVERY_S)

    async def _follow(self, client: Client) -> None:
        """Take what the others told last, and what they tell from now on."""
        inbox = client.new_inbox()
        await client.subscribe(inbox, cb=self._take)
        config = {
            "deliver_subject": inbox,
            "deliver_policy": "last_per_subject",
            "filter_subject": "usage.>",
            "ack_policy": "none",
            "inactive_threshold": 30_000_000_000,
            "mem_storage": True,
            "num_replicas": 1,
        }
        await streams.api(client, f"CONSUMER.CREATE.{streams.USAGE}", {"stream_name": streams.USAGE, "config": config})

    async def _take(self, message: Msg) -> None:
        _, node, day, part = message.subject.split(".")
        if node == _token(self._node):
            return
        with contextlib.suppress(msgspec.MsgspecError, zlib.error):
            told = by_service(load(zlib.decompress(message.data)))
            self._others[node, day, part] = told
            self._unjudged.update(told)

    async def _tell(self, client: Client) -> None:
        today = day_of(self._now())
        self._own.forget(today)
        self._others = {key: tallies for key, tallies in self._others.items() if key[1] >= oldest_kept(today)}
        dirty, self._dirty = self._dirty, set()
        try:
            while dirty:
                day, part = next(iter(dirty))
                tallies = self._own.flat(day, lambda service, part=part: _part(service) == part)  # type: ignore[misc]
                subject = f"usage.{_token(self._node)}.{day}.{part}"
                reply = await client.request(subject, zlib.compress(dump(tallies)), timeout=5)
                if b'"error"' in reply.data:
                    raise streams.JetStreamError(0, reply.data.decode(errors="replace")[:200])
                dirty.discard((day, part))
        finally:
            self._dirty |= dirty
        await asyncio.shield(self._save())

    # --- on disk -----------------------------------------------------------------------------------------------------

    async def _save(self) -> None:
        """Shielded from cancellation by who calls it; the last one waits for one that is under way."""
        async with self._saving:
            if not self._unsaved:
                return
            self._unsaved = False
            days = {day: dump(self._own.flat(day)) for day in self._own.days}
            content = msgspec.msgpack.encode(_Kept(self._position, days))
            try:
                await asyncio.to_thread(write_private, self._kept, content)
            except DataDirError as error:
                self._unsaved = True
                log.error("usage not kept", why=str(error))

    def _restore(self) -> None:
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            kept = msgspec.msgpack.decode(self._kept.read_bytes(), type=_Kept)
            self._own = Counts({day: load(content) for day, content in kept.days.items()})
            self._position = kept.position
            self._dirty = {(day, _part(service)) for day, each in self._own.days.items() for service in each}


def _calls(quota: _Quota, calls: Mapping[Key, int]) -> int:
    """Calls of the day that fall under the grant."""
    grant, systems = quota.grant, quota.systems() if calls else frozenset()
    codes = {purpose.code for purpose in grant.purposes}
    return sum(
        number
        for key, number in calls.items()
        if key.consumer in systems and covers(grant, key.method) and (not codes or key.purpose in codes)
    )


def _use(consumer: str, method: str, tallies: list[Tally]) -> Use:
    made = Use(consumer=consumer, method=method, calls_30_days=sum(each.calls for each in tallies))
    made.last_called_at.FromMilliseconds(max(each.last_ms for each in tallies))
    return made


def _part(service: str) -> int:
    return zlib.crc32(service.encode()) % _PARTS


def _token(node: str) -> str:
    """A node's name as one token of a subject."""
    return "".join(letter if letter.isalnum() else "_" for letter in node)


async def _close(client: Any) -> None:
    if client is not None:
        with contextlib.suppress(nats.errors.Error, OSError):
            await client.close()
