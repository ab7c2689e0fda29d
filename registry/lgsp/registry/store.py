"""The registry on NATS: one JetStream stream, followed from a sequence that survives restarts.

Rule 1: state is the last message of each subject; every process keeps it whole and applies messages in stream order.
Rule 2: a write is a compare-and-set with an operation id. An unknown outcome is repeated identically; a conflict is
        success if the record there is ours.
Rule 3: several writes at once are an atomic batch, and followers apply a batch only when it is whole.
Rule 4: another incarnation of the stream, or one shorter than what we saw, is read anew from its beginning, beside the
        state that stands; listeners are told the difference once it is whole.
Rule 5: whoever cannot reach NATS is told so (REGISTRY_UNAVAILABLE); nothing is assumed.
Rule 6: a message that cannot be read stops nobody and is not lost: it is counted, and its key is held (held.py).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import uuid
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import nats.errors
from google.protobuf.message import DecodeError, Message
from nats.aio.client import Client
from nats.aio.msg import Msg

from lgsp.api.errors import BusError
from lgsp.api.registry.v1.registry_pb2 import Record
from lgsp.registry import contracts, rows, schema, snapshot, streams
from lgsp.registry.held import Held
from lgsp.registry.identifiers import subject
from lgsp.registry.recent import Recent
from lgsp.registry.state import Change, Entry, State, difference

T = TypeVar("T")
WRITE_BUDGET_S: Final = 8.0
_TRY_S: Final = 2.0
_POLL_S: Final = 1.0
_SNAPSHOT_EVERY_S: Final = 10.0
MAX_BATCH: Final = 1000
_CONTRACT_BYTES: Final = 256 << 20
_WRONG_SEQUENCE: Final = frozenset({10071, 10164})
_WRONG_STREAM: Final = 10060
_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
_EXPECTED_STREAM: Final = "Nats-Expected-Stream"
_UNREACHABLE: Final = (nats.errors.Error, OSError, TimeoutError, streams.JetStreamError)


@dataclass(frozen=True, slots=True)
class Write:
    """One record to write; `expected` is the revision it replaces, 0 when there must be none."""

    kind: str
    key: str
    value: Message
    expected: int


class Store:
    """`connect(**callbacks)` gives a NATS client of the CORE account; `snapshot_path` may be None."""

    def __init__(
        self, connect: Callable[..., Awaitable[Client]], snapshot_path: Path | None, node: str, replicas: int = 1
    ) -> None:
        self._connect, self._path, self._node, self._replicas = connect, snapshot_path, node, replicas
        self.state = State()
        self.connected = False
        self.synced = asyncio.Event()
        self.last_error = ""
        self.held = Held()
        self.frozen = False
        self._incarnation = ""
        self._stream = streams.REGISTRY
        self._beside: State | None = None
        self._on_replaced: Callable[[], None] | None = None
        self._nc: Client | None = None
        self._disturbed = asyncio.Event()
        self._applied = asyncio.Condition()
        self._listeners: list[Callable[[list[Change]], None]] = []
        self._on_leases: Callable[[str, dict[str, float]], None] | None = None
        self._on_reconnect: Callable[[], None] | None = None
        # What the copy on disk lacks; `_afresh` when it has to be begun anew.
        self._unsaved: dict[tuple[str, str], Entry] = {}
        self._saved, self._afresh = -1, True
        self._batch: list[tuple[int, str, bytes]] = []
        # Compressed, so that a right can still end by itself while NATS is away.
        self._contracts = Recent(_CONTRACT_BYTES)
        if snapshot_path is not None and (kept := snapshot.load(snapshot_path)):
            self.state, self._incarnation = kept
            self._saved, self._afresh = self.state.revision, False

    def listen(self, callback: Callable[[list[Change]], None]) -> None:
        """Be told of every change, in order, on the event loop; the callback must not block."""
        self._listeners.append(callback)

    def unlisten(self, callback: Callable[[list[Change]], None]) -> None:
        """Not to be told any more."""
        self._listeners.remove(callback)

    @property
    def incarnation(self) -> str:
        """Names the stream that is followed: another one has another history."""
        return self._incarnation

    def on_leases(self, callback: Callable[[str, dict[str, float]], None]) -> None:
        """Be told of other nodes' heartbeats: node, {endpoint: age in seconds}."""
        self._on_leases = callback

    def on_outage_over(self, callback: Callable[[], None]) -> None:
        """Be told when NATS is there again after it was away."""
        self._on_reconnect = callback

    def on_replaced(self, callback: Callable[[], None]) -> None:
        """Be told when another registry stands in the place of the one before, whole."""
        self._on_replaced = callback

    # --- following ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow the stream until cancelled, through every outage."""
        saver = asyncio.create_task(self._save_now_and_then())
        try:
            while not _is_cancelled():
                try:
                    await self._follow()
                except (*_UNREACHABLE, BusError) as error:
                    self.last_error = str(error) or type(error).__name__
                self.connected = False
                await asyncio.sleep(0.1)
            raise asyncio.CancelledError
        finally:
            saver.cancel()
            await self._save()
            if self._nc is not None:
                with contextlib.suppress(nats.errors.Error, OSError):  # the server may have gone first
                    await self._nc.close()

    async def _follow(self) -> None:
        nc = await self._client()
        stream = await streams.ensure_streams(nc, self._replicas)
        self._disturbed.clear()
        info = await streams.stream_info(nc, stream)
        self._recognise(info)
        inbox = nc.new_inbox()
        subscription = await nc.subscribe(inbox, pending_msgs_limit=-1, pending_bytes_limit=-1)
        leases = await nc.subscribe("leases.*", cb=self._take_leases)
        try:
            await self._deliver_to(nc, stream, inbox)
            self.connected, self.last_error = True, ""
            if self._on_reconnect is not None:
                self._on_reconnect()
            await self._read(nc, subscription, info)
        finally:
            for each in (subscription, leases):
                if nc.is_connected:
                    await each.unsubscribe()

    async def _client(self) -> Client:
        if self._nc is None or self._nc.is_closed:
            self._nc = await self._connect(
                disconnected_cb=self._note_disturbance, reconnected_cb=self._note_disturbance,
                closed_cb=self._note_disturbance, error_cb=self._ignore_error,
            )  # fmt: skip
        if not self._nc.is_connected:
            raise nats.errors.ConnectionClosedError
        return self._nc

    async def _note_disturbance(self) -> None:
        self._disturbed.set()
        self.connected = self.connected and bool(self._nc and self._nc.is_connected)

    async def _ignore_error(self, error: Exception) -> None:
        self.last_error = str(error) or type(error).__name__

    def _recognise(self, info: dict[str, Any]) -> None:
        """Rule 4: resume, or begin anew beside what stands."""
        incarnation = info["config"]["metadata"][streams.INCARNATION]
        self.frozen = streams.is_frozen(info)
        self._beside = None
        if incarnation == self._incarnation and self.state.revision <= info["state"]["last_seq"]:
            self._stream = info["config"]["name"]
            return
        self.synced.clear()
        self._beside = State()
        self.held.clear()

    async def _complete(self, info: dict[str, Any]) -> None:
        """The stream was read to its end: what was built beside takes the place of what stood, at once."""
        if self._beside is not None:
            before, self._beside = State(), self._beside
            before.become(self.state)
            self.state.become(self._beside)
            self._beside = None
            known, self._incarnation = self._incarnation, info["config"]["metadata"][streams.INCARNATION]
            self._stream = info["config"]["name"]
            self._unsaved = {(kind, key): entry for kind, key, entry in self.state.entries()}
            self._saved, self._afresh = -1, True
            self._tell(difference(before, self.state))
            if known and self._on_replaced is not None:
                self._on_replaced()
        self.synced.set()
        async with self._applied:
            self._applied.notify_all()

    async def _deliver_to(self, nc: Client, stream: str, inbox: str) -> None:
        config = {
            "deliver_subject": inbox,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": (self._beside or self.state).revision + 1,
            "ack_policy": "none",
            "replay_policy": "instant",
            "inactive_threshold": 30_000_000_000,
            "mem_storage": True,
            "num_replicas": 1,
        }
        self._batch.clear()
        await streams.api(nc, f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config})

    async def _read(self, nc: Client, subscription: Any, info: dict[str, Any]) -> None:
        target, position = info["state"]["last_seq"], (self._beside or self.state).revision
        if position >= target:
            await self._complete(info)
        while not self._disturbed.is_set() and not _is_cancelled():
            try:
                message: Msg = await subscription.next_msg(timeout=_POLL_S)
            except nats.errors.TimeoutError:
                if await self._is_over(nc, info["config"]["name"], position):
                    return
                continue
            sequence = message.metadata.sequence.stream
            if sequence != position + 1:
                return  # a gap
            position = sequence
            await self._take(message, sequence)
            if position >= target and not self._batch and not self.synced.is_set():
                await self._complete(info)

    async def _is_over(self, nc: Client, stream: str, position: int) -> bool:
        """True when a delivery was lost, or another stream is the registry now: subscribe again from what we have."""
        now = await streams.stream_info(nc, stream)
        self.frozen = streams.is_frozen(now)
        if self.frozen and await streams.registry_stream(nc) != stream:
            return True
        return bool(now["state"]["last_seq"] > position or not nc.is_connected)

    async def _take(self, message: Msg, sequence: int) -> None:
        self._batch.append((sequence, message.subject, message.data))
        if not streams.is_whole(message.headers):
            return
        whole, self._batch = self._batch, []
        state = self._beside or self.state
        changes = [state.apply(*each) for each in self._readable(whole)]
        state.revision = sequence
        if state is self.state:
            self._unsaved.update({(each.kind, each.key): each.entry for each in changes if each.entry is not None})
            self._tell(changes)
        async with self._applied:
            self._applied.notify_all()

    def _readable(self, whole: list[tuple[int, str, bytes]]) -> list[tuple[str, str, Entry]]:
        """Rule 6: the records that were written together, or none of them. An unknown kind is left out alone: this
        release has nothing that it could be at odds with."""
        found: list[tuple[str, str, Entry]] = []
        refused: list[tuple[int, schema.UnreadableError]] = []
        for sequence, where, data in whole:
            try:
                kind, key, record = schema.read(where, data)
            except schema.UnreadableError as error:
                refused.append((sequence, error))
            else:
                found.append((kind, key, Entry(record, sequence)))
        for sequence, fault in refused:
            named = [(fault.kind, fault.key)] if fault.kind else []
            self.held.hold(sequence, str(fault), named + ([] if fault.foreign else [each[:2] for each in found]))
        if any(not fault.foreign for _, fault in refused):
            return []
        for kind, key, _ in found:
            self.held.release(kind, key)
        return found

    def _tell(self, changes: list[Change]) -> None:
        for listener in tuple(self._listeners):
            listener(changes)

    async def _take_leases(self, message: Msg) -> None:
        node = message.subject.partition(".")[2]
        if self._on_leases is not None and node != self._node:
            self._on_leases(node, json.loads(message.data))

    async def publish_leases(self, ages: dict[str, float]) -> None:
        """Tell the other nodes about the heartbeats that came here; lost when NATS is away, the next one follows."""
        if self.connected and self._nc is not None and self._nc.is_connected:
            await self._nc.publish(f"leases.{self._node}", json.dumps(ages).encode())

    # --- the copy on disk --------------------------------------------------------------------------------------------

    async def _save_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(_SNAPSHOT_EVERY_S)
            await self._save()

    async def _save(self) -> None:
        # While something is held there is no new copy: it would hide from the next start what was left out.
        revision, incarnation = self.state.revision, self._incarnation
        if self._path is None or not incarnation or self.held.keys or self._saved == revision:
            return
        changed, self._unsaved = self._unsaved, {}
        afresh, self._afresh = self._afresh, False
        try:
            await asyncio.to_thread(snapshot.save, self._path, changed, incarnation, revision, afresh=afresh)
            if incarnation == self._incarnation:  # else another registry came meanwhile, of which nothing is saved
                self._saved = revision
        except OSError as error:
            self.last_error = f"the copy on disk is not written: {error}"
            if incarnation != self._incarnation:
                return
            if isinstance(error, rows.DamagedError):
                changed = {(kind, key): entry for kind, key, entry in self.state.entries()}
            self._unsaved = changed | self._unsaved
            self._afresh |= afresh or isinstance(error, rows.DamagedError)

    # --- writing -----------------------------------------------------------------------------------------------------

    async def write(self, writes: Sequence[Write], *, operation_id: str, actor: str) -> list[int]:
        """Write all or nothing; answers the revisions, and only when the local state has them.

        BusError REVISION_CONFLICT when a record is not at its expected revision, REGISTRY_UNAVAILABLE after 8 s without NATS.
        """
        if not 0 < len(writes) <= MAX_BATCH:
            raise BusError("REQUEST_TOO_LARGE", f"at most {MAX_BATCH} records are written at once")
        for each in writes:
            if held := self.held.reason(each.kind, each.key):
                raise BusError("REGISTRY_UNAVAILABLE", f"the {each.kind} {each.key} cannot be changed here: {held}")
        bodies, stream = [self._record(each, operation_id, actor) for each in writes], self._stream
        revisions = await self._until(lambda nc: self._try(nc, writes, bodies, operation_id, stream))
        await self._wait_applied(max(revisions))
        return revisions

    def _record(self, write: Write, operation_id: str, actor: str) -> bytes:
        record = Record(operation_id=operation_id, actor=actor, schema=schema.CURRENT)
        record.time.GetCurrentTime()
        getattr(record, write.kind).CopyFrom(write.value)
        return record.SerializeToString()

    async def _until(self, attempt: Callable[[Client], Awaitable[T]]) -> T:
        """Repeat `attempt` while its outcome is unknown, within the budget."""
        until = asyncio.get_running_loop().time() + WRITE_BUDGET_S
        while True:
            try:
                if self._nc is None or not self._nc.is_connected:
                    raise nats.errors.ConnectionClosedError
                return await attempt(self._nc)
            except _UNREACHABLE as error:
                if asyncio.get_running_loop().time() > until:
                    why = "the registry is being restored" if self.frozen else "no answer from NATS"
                    raise BusError("REGISTRY_UNAVAILABLE", f"{why}: {type(error).__name__}") from error
            await asyncio.sleep(0.1)

    async def _try(
        self, nc: Client, writes: Sequence[Write], bodies: list[bytes], operation_id: str, stream: str
    ) -> list[int]:
        try:
            if len(writes) == 1:
                return [await self._publish(nc, writes[0], bodies[0], operation_id, stream)]
            return await self._publish_batch(nc, writes, bodies, stream)
        except streams.JetStreamError as error:
            if error.code == _WRONG_STREAM:
                raise BusError(
                    "REGISTRY_UNAVAILABLE", "the registry was replaced meanwhile; read it again and repeat"
                ) from error
            if error.code not in _WRONG_SEQUENCE:
                raise
        return await self._ours_already(nc, writes, operation_id, stream)

    async def _publish(self, nc: Client, write: Write, body: bytes, operation_id: str, stream: str) -> int:
        headers = {
            _EXPECTED: str(write.expected),
            _EXPECTED_STREAM: stream,
            # With the revision that it replaces: another change under an id that was used already is no repetition, and
            # NATS would acknowledge it without keeping it.
            "Nats-Msg-Id": f"{operation_id}:{write.kind}:{hash_of(write.key)}:{write.expected}",
        }
        return int((await self._ack(nc, subject(write.kind, write.key), body, headers))["seq"])

    async def _publish_batch(self, nc: Client, writes: Sequence[Write], bodies: list[bytes], stream: str) -> list[int]:
        batch = uuid.uuid4().hex
        for index, (write, body) in enumerate(zip(writes, bodies, strict=True), start=1):
            headers = {_EXPECTED: str(write.expected), "Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(index)}
            headers[_EXPECTED_STREAM] = stream
            if index < len(writes):
                await nc.publish(subject(write.kind, write.key), body, headers=headers)
                continue
            headers["Nats-Batch-Commit"] = "1"
            last = int((await self._ack(nc, subject(write.kind, write.key), body, headers))["seq"])
        return list(range(last - len(writes) + 1, last + 1))

    async def _ack(self, nc: Client, where: str, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
        return await streams.publish(nc, where, body, headers, _TRY_S)

    async def _ours_already(self, nc: Client, writes: Sequence[Write], operation_id: str, stream: str) -> list[int]:
        """After a conflict: the revisions if this very operation replaced what was expected, REVISION_CONFLICT otherwise.

        Not the last record decides but the one that came next: ours may have been replaced by another since.
        """
        found = []
        for write in writes:
            where = subject(write.kind, write.key)
            next_one = await self._one(nc, stream, {"next_by_subj": where, "seq": write.expected + 1})
            if next_one is None or _operation_of(next_one[0]) != operation_id:
                raise BusError("REVISION_CONFLICT", f"the {write.kind} {write.key} was changed meanwhile")
            found.append(next_one[1])
        return found

    async def _last(self, nc: Client, stream: str, where: str) -> tuple[bytes, int] | None:
        return await self._one(nc, stream, {"last_by_subj": where})

    async def _one(self, nc: Client, stream: str, which: dict[str, Any]) -> tuple[bytes, int] | None:
        try:
            message = (await streams.api(nc, f"STREAM.MSG.GET.{stream}", which))["message"]
        except streams.JetStreamError as error:
            if error.code == streams.NO_MESSAGE:
                return None
            raise
        return base64.b64decode(message.get("data", "")), int(message["seq"])

    async def _wait_applied(self, revision: int) -> None:
        try:
            async with asyncio.timeout(WRITE_BUDGET_S), self._applied:
                await self._applied.wait_for(lambda: self.state.revision >= revision)
        except TimeoutError:
            raise BusError("REGISTRY_UNAVAILABLE", "written, but not seen again yet; read it again") from None

    # --- beside the registry -----------------------------------------------------------------------------------------

    async def put_contract(self, content: bytes) -> str:
        """Keep a contract; answers its SHA-256 in hex."""
        digest = hashlib.sha256(content).hexdigest()
        packed = zlib.compress(content, 9)
        await self._until(lambda nc: self._ack(nc, f"contract.{digest}", packed, {"Nats-Msg-Id": digest}))
        self._contracts.put(digest, packed)
        return digest

    async def get_contract(self, digest: str) -> bytes:
        """The contract with this digest; BusError NOT_REGISTERED when there is none."""
        packed = self._contracts.get(digest)
        if packed is None:
            found = await self._until(lambda nc: self._last(nc, streams.CONTRACTS, f"contract.{digest}"))
            if found is None:
                raise BusError("NOT_REGISTERED", f"no contract {digest[:12]}…")
            packed = found[0]
        content = zlib.decompressobj().decompress(packed, contracts.MAX_BYTES + 1)
        if len(content) > contracts.MAX_BYTES or hashlib.sha256(content).hexdigest() != digest:
            raise BusError("CONTRACT_INVALID", f"the stored contract {digest[:12]}… is damaged")
        self._contracts.put(digest, packed)
        return content

    async def claim_once(self, name: str, ttl_s: float) -> bool:
        """True for the first who claims `name` on any node within 15 minutes; BusError REGISTRY_UNAVAILABLE when
        nobody can tell. `ttl_s` beyond those 15 minutes is refused."""
        if ttl_s > 900:
            raise BusError("REQUEST_MALFORMED", "a name can be claimed for 15 minutes at most")
        where = f"once.{hash_of(name)}"
        nc = self._nc
        if nc is None or not nc.is_connected:
            raise BusError("REGISTRY_UNAVAILABLE")
        try:
            await self._ack(nc, where, b"", {_EXPECTED: "0"})
        except streams.JetStreamError as error:
            if error.code in _WRONG_SEQUENCE:
                return False
            raise BusError("REGISTRY_UNAVAILABLE") from error
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise BusError("REGISTRY_UNAVAILABLE") from error
        return True


def _is_cancelled() -> bool:
    """True once this task was cancelled, even if somebody swallowed it: `asyncio.wait_for` of Python 3.11, in which
    nats-py waits for messages, drops a cancellation that comes together with a message."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _operation_of(data: bytes) -> str:
    """The operation that wrote a message; empty for one that is no record."""
    try:
        return Record.FromString(data).operation_id
    except DecodeError:
        return ""


def hash_of(name: str) -> str:
    """A name of any form as one token."""
    return hashlib.sha256(name.encode()).hexdigest()[:40]
