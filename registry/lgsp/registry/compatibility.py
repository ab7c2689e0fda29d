"""Would a new contract break its consumers? Asked of buf (`buf breaking`, `buf lint`) on descriptor sets, bounded in time.

The rules are WIRE_JSON (what travels keeps its meaning, in protobuf and in JSON) and that no service and no method goes:
WIRE_JSON alone does not see a deleted method. Lint is advice.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import sys
import tempfile
import weakref
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec
from google.protobuf.descriptor import Descriptor

from lgsp.api.errors import BusError
from lgsp.api.registry.v1.registry_pb2 import Finding, Use
from lgsp.registry.contracts import Contract

MAX_FINDINGS: Final = 100
_SECONDS: Final = 30.0
_BREAKING: Final = '{"version":"v2","breaking":{"use":["WIRE_JSON","RPC_NO_DELETE","SERVICE_NO_DELETE"]}}'
_LINT: Final = '{"version":"v2","lint":{"use":["STANDARD"],"except":["PACKAGE_DIRECTORY_MATCH"]}}'
_FOUND: Final = 100
_AT_ONCE: Final = 2
_KNOWN: Final = 256
# What buf found in files of these digests, the oldest first; and whose turn it is, in each event loop.
_known: dict[tuple[str, bytes, bytes], list[Finding]] = {}
_turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = weakref.WeakKeyDictionary()
_QUOTED: Final = re.compile(r'"([A-Za-z_][\w.]*)"')


class _Row(msgspec.Struct):
    path: str = ""
    start_line: int = 0
    start_column: int = 0
    type: str = ""
    message: str = ""


async def breaking(new: bytes, old: bytes) -> list[Finding]:
    """What `new` breaks for who was built against `old`; at most MAX_FINDINGS."""
    return await _remembered(("breaking", new, old), lambda: _breaking(new, old))


async def _breaking(new: bytes, old: bytes) -> list[Finding]:
    with tempfile.TemporaryDirectory(prefix="lgsp-buf-") as folder:
        after, before = Path(folder) / "new.binpb", Path(folder) / "old.binpb"
        after.write_bytes(new)
        before.write_bytes(old)
        return await _buf(folder, "breaking", str(after), "--against", str(before), "--config", _BREAKING)


async def advice(contract: bytes, files: Iterable[str]) -> list[Finding]:
    """Lint of the provider's own `files`; imports are not its to change."""
    own = set(files)
    found = await _remembered(("lint", contract, b""), lambda: _lint(contract))
    return [each for each in found if each.file in own]


async def _lint(contract: bytes) -> list[Finding]:
    with tempfile.TemporaryDirectory(prefix="lgsp-buf-") as folder:
        path = Path(folder) / "contract.binpb"
        path.write_bytes(contract)
        return await _buf(folder, "lint", str(path), "--config", _LINT)


async def _remembered(question: tuple[str, bytes, bytes], ask: Callable[[], Awaitable[list[Finding]]]) -> list[Finding]:
    """What buf said of the very same files before, or what it says now; a few processes at a time."""
    kind, new, old = question
    key = kind, hashlib.sha256(new).digest(), hashlib.sha256(old).digest()
    if key not in _known:
        async with _turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(_AT_ONCE)):
            found = await ask()
        while len(_known) >= _KNOWN:
            _known.pop(next(iter(_known)))
        _known[key] = found
    return list(_known[key])


async def _buf(folder: str, *arguments: str) -> list[Finding]:
    binary = shutil.which("buf", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if binary is None:
        raise BusError("INTERNAL", "buf is not installed on this node, so no contract can be checked")
    process = await asyncio.create_subprocess_exec(
        binary,
        *arguments,
        "--error-format",
        "json",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"HOME": folder, "BUF_CACHE_DIR": folder, "PATH": os.environ.get("PATH", "")},
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), _SECONDS)
    except TimeoutError:
        raise BusError("CONTRACT_INVALID", f"the contract could not be checked within {_SECONDS:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode not in (0, _FOUND):
        raise BusError("CONTRACT_INVALID", f"the contract cannot be checked: {err.decode(errors='replace')[:300]}")
    return [_finding(line) for line in out.splitlines()[:MAX_FINDINGS]]


def _finding(line: bytes) -> Finding:
    row = msgspec.json.decode(line, type=_Row)
    named = _QUOTED.findall(row.message)
    return Finding(
        file=row.path,
        line=row.start_line,
        column=row.start_column,
        rule=row.type,
        message=row.message.partition(" See http")[0][:500],
        subject=named[-1] if named else "",
    )


def in_words(findings: Iterable[Finding], most: int = 5) -> str:
    """The first findings in one line."""
    rows = list(findings)
    text = "; ".join(f"{each.file}:{each.line}: {each.rule}: {each.message}" for each in rows[:most])
    return text + (f"; and {len(rows) - most} more" if len(rows) > most else "")


def users_in_words(uses: Iterable[Use], most: int = 10) -> str:
    """Who uses what breaks, the latest first, with when and how often; in one line."""
    rows = sorted(uses, key=lambda use: (-use.last_called_at.ToNanoseconds(), use.consumer, use.method))
    if not rows:
        return "No consumer uses what it breaks."
    told = ", ".join(f"{use.consumer} ({use.method}, {_last(use)})" for use in rows[:most])
    return f"Used by {told}" + (f" and {len(rows) - most} more." if len(rows) > most else ".")


def _last(use: Use) -> str:
    if not use.HasField("last_called_at"):
        return "no call on record"
    when = use.last_called_at.ToDatetime().strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"last {when}, {use.calls_30_days} calls in 30 days"


def touched_methods(contract: Contract, service: str, findings: Iterable[Finding]) -> set[str]:
    """The methods of the contract before that a finding may concern: by name, or by a message they carry."""
    named = {name.rpartition(".")[2] for each in findings for name in _QUOTED.findall(each.message)}
    return {
        method.name
        for method in contract.methods(service)
        if method.name in named or named & (_carried(contract, method.input) | _carried(contract, method.output))
    }


def _carried(contract: Contract, message: str) -> set[str]:
    """Short names of the messages and enums that a message holds, itself included."""
    found: set[str] = set()
    waiting: list[Descriptor] = [contract.pool.FindMessageTypeByName(message)]
    while waiting:
        each = waiting.pop()
        if each.full_name not in found:
            found.add(each.full_name)
            found.update(field.enum_type.full_name for field in each.fields if field.enum_type is not None)
            waiting += [field.message_type for field in each.fields if field.message_type is not None]
    return {name.rpartition(".")[2] for name in found}
