"""Reading a stream of the registry from outside: all messages up to a revision, or the last of every key. Bounded memory."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg

from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry import backup, schema, streams

_BATCH: Final = 500
_WAIT_S: Final = 10.0
Progress = Callable[[str, int, int], None]


async def messages(nc: Client, stream: str, after: int, until: int) -> AsyncIterator[backup.Stored]:
    """The messages beyond `after` up to `until`, and what was written together with the last of them."""
    whole = True
    config = {"deliver_policy": "by_start_sequence", "opt_start_seq": after + 1}
    async for message in _pulled(nc, stream, config, until - after):
        whole = streams.is_whole(message.headers)
        sequence = message.metadata.sequence.stream
        yield backup.Stored(sequence, message.subject, whole, message.data)
        if sequence >= until and whole:
            return


async def last_records(
    nc: Client, stream: str, wanted: Callable[[str, pb.Record], bool]
) -> dict[tuple[str, str], pb.Record]:
    """The last record of every key, of those that are wanted; what cannot be read is left out."""
    found: dict[tuple[str, str], pb.Record] = {}
    total = (await streams.stream_info(nc, stream))["state"].get("num_subjects", 0)
    config = {"deliver_policy": "last_per_subject", "filter_subject": streams.SUBJECTS}
    async for message in _pulled(nc, stream, config, total):
        try:
            kind, key, record = schema.read(message.subject, message.data)
        except schema.UnreadableError:
            continue
        if wanted(kind, record):
            found[kind, key] = record
    return found


async def _pulled(nc: Client, stream: str, start: dict[str, Any], total: int) -> AsyncIterator[Msg]:
    """At least `total` messages, if the consumer has them, as they are asked for; streams.JetStreamError when it ends
    before."""
    config = start | {
        "ack_policy": "none",
        "replay_policy": "instant",
        "inactive_threshold": 60_000_000_000,
        "mem_storage": True,
        "num_replicas": 1,
    }
    if total <= 0:
        return
    made = await streams.api(nc, f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config})
    inbox = nc.new_inbox()
    subscription = await nc.subscribe(inbox, pending_msgs_limit=-1, pending_bytes_limit=-1)
    request = json.dumps({"batch": _BATCH, "expires": int(_WAIT_S * 1e9)}).encode()
    try:
        waiting = taken = 0
        while True:
            if waiting == 0:
                if taken >= total and start["deliver_policy"] == "last_per_subject":
                    return
                await nc.publish(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{made['name']}", request, reply=inbox)
                waiting = _BATCH
            message = await subscription.next_msg(timeout=_WAIT_S)
            if not message.reply:
                raise streams.JetStreamError(0, f"the stream {stream} ended before its end was reached")
            waiting, taken = waiting - 1, taken + 1
            yield message
            if taken >= total and start["deliver_policy"] == "last_per_subject":
                return
    finally:
        await subscription.unsubscribe()
        await streams.api(nc, f"CONSUMER.DELETE.{stream}.{made['name']}")


async def write_backup(
    nc: Client, stream: str, writer: backup.Writer, progress: Progress, until: int | None = None
) -> None:
    """All messages that the writer does not have yet, up to the last one of this moment or `until`."""
    last = until if until is not None else (await streams.stream_info(nc, stream))["state"]["last_seq"]
    if last <= writer.revision:
        return
    async for stored in messages(nc, stream, writer.revision, last):
        writer.message(stored)
        if stored.sequence % _BATCH == 0:
            progress("records", stored.sequence, last)
    progress("records", writer.revision, last)


async def write_contracts(nc: Client, writer: backup.Writer, progress: Progress) -> list[str]:
    """The contracts that the written records name; answers those that the registry itself lacks."""
    missing = []
    for number, digest in enumerate(sorted(writer.digests), start=1):
        try:
            answer = await streams.api(
                nc, f"STREAM.MSG.GET.{streams.CONTRACTS}", {"last_by_subj": f"contract.{digest}"}
            )
        except streams.JetStreamError as error:
            if error.code != streams.NO_MESSAGE:
                raise
            missing.append(digest)
            continue
        writer.contract(backup.Kept(digest, base64.b64decode(answer["message"].get("data", ""))))
        progress("contracts", number, len(writer.digests))
    return missing


def header(info: dict[str, Any], city: str) -> backup.Header:
    """The header of a backup that is made now of the stream with this `STREAM.INFO`."""
    return backup.Header(
        format=backup.FORMAT,
        schema=schema.CURRENT,
        city=city,
        incarnation=info["config"]["metadata"][streams.INCARNATION],
        revision=info["state"]["last_seq"],
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )
