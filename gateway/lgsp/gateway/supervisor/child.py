"""One part of a node as a process that is kept running.

Rule 1: a part dies with its supervisor, however that ends (PR_SET_PDEATHSIG, so it is spawned from the main thread).
Rule 2: a part that ends by itself is started again: at once, then after 0.2 s, doubling to 10 s; half a minute up resets.
Rule 3: a part is asked to stop (SIGTERM) before it is made to (SIGKILL).
Limit: PR_SET_PDEATHSIG is Linux's; elsewhere a supervisor killed with SIGKILL leaves its parts running.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import structlog

log = structlog.get_logger("lgsp.supervisor")
State = Literal["starting", "up", "restarting", "stopped"]
_PR_SET_PDEATHSIG: Final = 1
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _STEADY_S = 0.2, 10.0, 30.0
_POLL_S: Final = 0.02
_libc: Final = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True, slots=True)
class Part:
    """What to run. `command` is asked at every start; `ready` gets the process id and says whether it serves."""

    name: str
    command: Callable[[], list[str]]
    ready: Callable[[int], Awaitable[bool]]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    # Before SIGTERM: finish what is running.
    drain: Callable[[], Awaitable[None]] | None = None
    stop_within_s: float = 15.0


class Child:
    """A part and its process. `changed` is told of every change of state."""

    def __init__(self, part: Part, changed: Callable[[Child], None]) -> None:
        self.part, self._changed = part, changed
        self.state: State = "stopped"
        self.up = asyncio.Event()
        self.since = time.time()
        self.restarts = 0
        self.last_exit: int | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def run(self) -> None:
        """Until `stop`; restarts what ends."""
        pause = 0.0
        while not self._stopping.is_set():
            started = time.monotonic()
            await self._spawn()
            code = await self._watch()
            if self._stopping.is_set():
                break
            self.restarts, self.last_exit = self.restarts + 1, code
            pause = 0.0 if time.monotonic() - started > _STEADY_S else pause
            log.warning("part ended", part=self.part.name, exit=code, next_start_s=pause)
            self._become("restarting")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause or 0.001)
            pause = min(max(pause * 2, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        self._become("stopped")

    async def stop(self) -> None:
        """Drain, ask, then make it end; returns when it is gone."""
        process = self._process
        if self.part.drain is not None and self.pid is not None and not self._stopping.is_set():
            await self.part.drain()
        self._stopping.set()
        if process is None or process.returncode is not None:
            return
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), self.part.stop_within_s)
        except TimeoutError:
            log.warning("part made to end", part=self.part.name, after_s=self.part.stop_within_s)
            self.signal(signal.SIGKILL)
            await process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it still runs."""
        if self.pid is not None and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _spawn(self) -> None:
        self._become("starting")
        handle = os.open(self.part.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self.part.command(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=handle,
                stderr=handle,
                env={**os.environ, **self.part.environment},
                # Ctrl-C in a terminal reaches the supervisor alone, which then stops the parts in order.
                start_new_session=True,
                preexec_fn=_die_with_parent(os.getpid()),
            )
        finally:
            os.close(handle)

    async def _watch(self) -> int:
        """Wait for readiness, then for the end; the exit code (negative: signal)."""
        process = self._process
        assert process is not None
        readiness = asyncio.create_task(self._become_ready(process.pid))
        try:
            return await process.wait()
        finally:
            readiness.cancel()
            await asyncio.gather(readiness, return_exceptions=True)
            self.up.clear()

    async def _become_ready(self, pid: int) -> None:
        while not await self.part.ready(pid):
            await asyncio.sleep(_POLL_S)
        self._become("up")
        self.up.set()

    def _become(self, state: State) -> None:
        self.state, self.since = state, time.time()
        self._changed(self)


def _die_with_parent(parent: int) -> Callable[[], None] | None:
    libc = _libc
    if libc is None:
        return None

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died between fork and here
            os._exit(1)

    return ask
