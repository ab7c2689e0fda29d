"""The JetStream streams of the CORE account: their settings as data, made when missing, checked when there.

The registry is whichever stream takes `registry.>`: a restore fills another one and lets it take that subject over. A
stream whose subject was taken away and given to no other is frozen: a restore is under way, or was broken off.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any, Final

from nats.aio.client import Client

from lgsp.api.errors import BusError

REGISTRY, CONTRACTS, ONCE, USAGE = "REGISTRY", "CONTRACTS", "ONCE", "USAGE"
INCARNATION: Final = "lgsp-incarnation"
SUBJECTS: Final = "registry.>"
FROZEN: Final = "frozen.registry.>"
# On messages that a restore wrote: 1 for the last of those that were written together at first, 0 for the others.
WHOLE: Final = "Lgsp-Whole"
_NANOSECONDS: Final = 1_000_000_000
NO_MESSAGE: Final = 10037
_NOT_FOUND: Final = 10059

_DURABLE: Final[dict[str, Any]] = {
    "storage": "file",
    "retention": "limits",
    "discard": "new",
    "allow_direct": False,
    "deny_purge": True,
    "duplicate_window": 120 * _NANOSECONDS,
}
STREAMS: Final[dict[str, dict[str, Any]]] = {
    REGISTRY: _DURABLE | {"subjects": [SUBJECTS], "max_bytes": 8 << 30, "deny_delete": True, "allow_atomic": True},
    CONTRACTS: _DURABLE | {"subjects": ["contract.*"], "max_bytes": 4 << 30, "max_msgs_per_subject": 1},
    ONCE: _DURABLE | {"subjects": ["once.*"], "max_bytes": 1 << 30, "deny_purge": False, "max_age": 900 * _NANOSECONDS},
    USAGE: _DURABLE
    | {
        "subjects": ["usage.>"],
        "max_bytes": 1 << 30,
        "max_msgs_per_subject": 1,
        "deny_purge": False,
        "max_age": 40 * 86_400 * _NANOSECONDS,
    },
}


class JetStreamError(Exception):
    """The server refused an API call; `code` is its err_code."""

    def __init__(self, code: int, description: str) -> None:
        self.code = code
        super().__init__(f"{description} ({code})")


async def api(nc: Client, subject: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
    """One call of the JetStream API; nats-py's own calls do not know every setting that we need."""
    reply = await nc.request(f"$JS.API.{subject}", json.dumps(content or {}).encode(), timeout=5)
    answer: dict[str, Any] = json.loads(reply.data)
    if error := answer.get("error"):
        raise JetStreamError(error.get("err_code", 0), error.get("description", ""))
    return answer


async def publish(
    nc: Client, subject: str, data: bytes, headers: dict[str, str], timeout_s: float = 5
) -> dict[str, Any]:
    """Publish one message and answer what the stream acknowledged."""
    reply = await nc.request(subject, data, timeout=timeout_s, headers=headers)
    answer: dict[str, Any] = json.loads(reply.data or b'{"error": {"description": "no answer"}}')
    if error := answer.get("error"):
        raise JetStreamError(error.get("err_code", 0), error.get("description", ""))
    return answer


async def stream_info(nc: Client, name: str) -> dict[str, Any]:
    """`STREAM.INFO` of a stream."""
    return await api(nc, f"STREAM.INFO.{name}")


async def registry_stream(nc: Client) -> str | None:
    """The name of the stream that is the registry, be it frozen; None when there is none."""
    for subject in (SUBJECTS, FROZEN):
        found = await api(nc, "STREAM.NAMES", {"subject": subject})
        if names := found.get("streams"):
            return str(names[0])
    return None


def is_frozen(info: dict[str, Any]) -> bool:
    """True while the stream takes no writes because a restore was begun and not ended."""
    return list(info["config"].get("subjects") or ()) != [SUBJECTS]


async def ensure_streams(nc: Client, replicas: int = 1) -> str:
    """Make the streams that are missing; a stream with other safety settings is refused, not used. Answers the name of
    the registry's."""
    registry = await registry_stream(nc) or REGISTRY
    for name, wanted in STREAMS.items():
        await _ensure(nc, registry if name == REGISTRY else name, wanted, replicas)
    return registry


async def _ensure(nc: Client, name: str, wanted: dict[str, Any], replicas: int) -> None:
    try:
        found = (await stream_info(nc, name))["config"]
    except JetStreamError as error:
        if error.code != _NOT_FOUND:
            raise
        await api(nc, f"STREAM.CREATE.{name}", fresh(name, wanted, replicas))
        return
    free = {"max_bytes"} | ({"subjects"} if found.get("subjects") == [FROZEN] else set())
    differing = [key for key, value in wanted.items() if key not in free and found.get(key, False) != value]
    if differing:
        raise BusError("REGISTRY_UNAVAILABLE", f"the stream {name} has other settings for {', '.join(differing)}")


def fresh(name: str, wanted: dict[str, Any], replicas: int) -> dict[str, Any]:
    """The configuration of a new stream, with an incarnation of its own."""
    return wanted | {"name": name, "num_replicas": replicas, "metadata": {INCARNATION: uuid.uuid4().hex}}


def is_whole(headers: Mapping[str, str] | None) -> bool:
    """True for a message that ends what was written together."""
    found = headers or {}
    if WHOLE in found:
        return found[WHOLE] == "1"
    return "Nats-Batch-Id" not in found or "Nats-Batch-Commit" in found
