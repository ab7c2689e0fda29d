"""Puts the registry of a backup in the place of the one that is there, while nodes run. See docs/decisions.

Rule 1: the new stream is filled under another subject, where nobody follows it, and takes over `registry.>` when it is whole:
        followers switch at once, from one whole registry to the other.
Rule 2: before that the old stream is frozen (its subject is taken away): nothing is acknowledged that would be lost. It is
        removed only when all of it is in a file.
Rule 3: wherever this is broken off, the old registry stands, at worst frozen: running it again, or `thaw`, goes on from there.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Awaitable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from nats.aio.client import Client

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry import backup, cut, schema, streams
from lgsp.registry.identifiers import subject
from lgsp.registry.undone import Undone, matters, undone

_FILLING: Final = "restoring."
_BATCH: Final = 500
_BATCH_BYTES: Final = 4 << 20
_ACK_S: Final = 30.0


@dataclass(slots=True)
class Restored:
    """What was done; `kept` are the revocations and facts that were written after the backup's own records."""

    stream: str
    incarnation: str
    revision: int
    messages: int
    contracts: int
    saved: Path
    kept: list[Undone] = field(default_factory=list)
    undone: list[Undone] = field(default_factory=list)


async def preview(nc: Client, stream: str, file: IO[bytes]) -> list[Undone]:
    """What restoring the file would undo, as things are at this moment."""
    now = await cut.last_records(nc, stream, matters)
    return list(undone(now, _last_of(file, now.keys()), time.time()))


async def restore(
    nc: Client,
    file: IO[bytes],
    summary: backup.Summary,
    save_to: Path,
    *,
    keep_revocations: bool = True,
    replicas: int = 1,
    progress: cut.Progress = lambda what, done, all_: None,
) -> Restored:
    """Restore a checked file; what is replaced is saved to `save_to` first. streams.JetStreamError when NATS refuses a
    step: the old registry then stands and takes changes again."""
    await tidy(nc)
    old = await streams.ensure_streams(nc, replicas)
    new = f"{streams.REGISTRY}_{uuid.uuid4().hex[:8]}"
    await _create(nc, new, replicas)
    try:
        done = await _fill(nc, new, file, summary, save_to, progress)
        await _freeze_and_save(nc, old, save_to, summary.header.city, progress)
        await _carry_over(nc, old, file, done, keep_revocations)
        await _verify(nc, new, done)
    except BaseException:
        await _best_effort(streams.api(nc, f"STREAM.DELETE.{new}"))
        await _best_effort(_set_subject(nc, old, streams.SUBJECTS))
        raise
    # From here on nothing is taken back: whether this reached NATS or not, one of the two is the registry.
    await _set_subject(nc, new, streams.SUBJECTS)
    await streams.api(nc, f"STREAM.DELETE.{old}")
    return done


async def thaw(nc: Client) -> bool:
    """Let a registry take changes again whose restore was broken off; False when it was not frozen."""
    await tidy(nc)
    old = await streams.registry_stream(nc)
    if old is None or not streams.is_frozen(await streams.stream_info(nc, old)):
        return False
    await _set_subject(nc, old, streams.SUBJECTS)
    return True


async def tidy(nc: Client) -> None:
    """Remove what a restore left that was killed: a half filled stream, or one that was replaced and saved."""
    left = (await streams.api(nc, "STREAM.NAMES", {"subject": f"{_FILLING}>"})).get("streams") or []
    if (await streams.api(nc, "STREAM.NAMES", {"subject": streams.SUBJECTS})).get("streams"):
        left += (await streams.api(nc, "STREAM.NAMES", {"subject": streams.FROZEN})).get("streams") or []
    for name in left:
        await streams.api(nc, f"STREAM.DELETE.{name}")


# --- steps ---------------------------------------------------------------------------------------------------------------


async def _create(nc: Client, name: str, replicas: int) -> None:
    config = streams.fresh(name, streams.STREAMS[streams.REGISTRY], replicas)
    config |= {"subjects": [f"{_FILLING}>"], "subject_transform": {"src": f"{_FILLING}>", "dest": streams.SUBJECTS}}
    await streams.api(nc, f"STREAM.CREATE.{name}", config)


async def _fill(
    nc: Client, stream: str, file: IO[bytes], summary: backup.Summary, save_to: Path, progress: cut.Progress
) -> Restored:
    filler = _Filler(nc)
    contracts = 0
    for frame in backup.frames(file):
        if isinstance(frame, backup.Stored):
            await filler.add(frame.subject, frame.data, whole=frame.whole)
            if frame.sequence % _BATCH == 0:
                progress("records", frame.sequence, summary.end.messages)
        else:
            await streams.publish(nc, f"contract.{frame.digest}", frame.packed, {"Nats-Msg-Id": frame.digest})
            contracts += 1
    await filler.flush()
    progress("records", filler.count, summary.end.messages)
    info = await streams.stream_info(nc, stream)
    incarnation = info["config"]["metadata"][streams.INCARNATION]
    return Restored(stream, incarnation, filler.count, filler.count, contracts, save_to)


async def _freeze_and_save(nc: Client, old: str, path: Path, city: str, progress: cut.Progress) -> None:
    """Most of it is saved before the registry is frozen, so that it is frozen for a moment only."""
    with backup.creating(path, cut.header(await streams.stream_info(nc, old), city)) as writer:
        await cut.write_backup(nc, old, writer, lambda what, done, all_: progress("saved", done, all_))
        await _set_subject(nc, old, streams.FROZEN)
        await cut.write_backup(nc, old, writer, lambda what, done, all_: progress("saved", done, all_))
        await cut.write_contracts(nc, writer, lambda what, done, all_: None)
        writer.finish()


async def _carry_over(nc: Client, old: str, file: IO[bytes], done: Restored, keep_revocations: bool) -> None:
    now = await cut.last_records(nc, old, matters)
    filler = _Filler(nc)
    for each in undone(now, _last_of(file, now.keys()), time.time()):
        if not each.fact and not keep_revocations:
            done.undone.append(each)
            continue
        each.record.operation_id, each.record.schema = f"restore {done.incarnation}", schema.CURRENT
        each.record.time.GetCurrentTime()
        await filler.add(subject(each.kind, each.key), each.record.SerializeToString(), whole=True)
        done.kept.append(each)
    await filler.flush()
    done.revision += filler.count


async def _verify(nc: Client, new: str, done: Restored) -> None:
    state = (await streams.stream_info(nc, new))["state"]
    if (state["first_seq"], state["last_seq"]) != (min(1, done.revision) or state["first_seq"], done.revision):
        raise streams.JetStreamError(0, f"the new stream holds {state['last_seq']} records instead of {done.revision}")


async def _set_subject(nc: Client, name: str, wanted: str) -> None:
    """The stream takes this subject from now on, and stores it as it is."""
    config: dict[str, Any] = (await streams.stream_info(nc, name))["config"]
    config.pop("subject_transform", None)
    await streams.api(nc, f"STREAM.UPDATE.{name}", config | {"subjects": [wanted]})


async def _best_effort(step: Awaitable[Any]) -> None:
    """On the way out: the first failure is what is told; what this leaves is tidied by the next restore."""
    try:
        await step
    except Exception:
        return


def _last_of(file: IO[bytes], keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], pb.Record]:
    """The last record of each of these keys, as the backup has it."""
    wanted = {subject(*key) for key in keys}
    found: dict[tuple[str, str], pb.Record] = {}
    for frame in backup.frames(file):
        if isinstance(frame, backup.Stored) and frame.subject in wanted:
            with contextlib.suppress(schema.UnreadableError):
                kind, key, record = schema.read(frame.subject, frame.data)
                found[kind, key] = record
    return found


class _Filler:
    """Writes messages to the stream that is being filled, in atomic batches, and says which were written together."""

    def __init__(self, nc: Client) -> None:
        self._nc, self._waiting, self._bytes, self.count = nc, list[tuple[str, bytes, bool]](), 0, 0

    async def add(self, where: str, data: bytes, *, whole: bool) -> None:
        self._waiting.append((_FILLING + where.removeprefix("registry."), data, whole))
        self._bytes += len(data)
        if len(self._waiting) >= _BATCH or self._bytes >= _BATCH_BYTES:
            await self.flush()

    async def flush(self) -> None:
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        await self._send(waiting)
        self.count += len(waiting)

    async def _send(self, waiting: Iterable[tuple[str, bytes, bool]]) -> None:
        rows, batch = list(waiting), uuid.uuid4().hex
        for index, (where, data, whole) in enumerate(rows, start=1):
            headers = {streams.WHOLE: str(int(whole)), "Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(index)}
            if index < len(rows):
                await self._nc.publish(where, data, headers=headers)
                continue
            headers["Nats-Batch-Commit"] = "1"
            await streams.publish(self._nc, where, data, headers, _ACK_S)
