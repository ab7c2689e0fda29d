"""Runs one node: its parts in order, its components, its signals, its status, its end.

Order of starting: NATS, then the control process, then Envoy, then components. Order of leaving: the other way round,
so that a component can say goodbye through a gateway that still answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec
import structlog

from lgsp.gateway import nats
from lgsp.gateway.datadir import write_private
from lgsp.gateway.errors import ListenError, NodeError, PartFailedError
from lgsp.gateway.operator import ensure_operator
from lgsp.gateway.settings import Settings, join_host_port, save
from lgsp.gateway.supervisor import envoy, parts
from lgsp.gateway.supervisor.child import Child, Part
from lgsp.gateway.supervisor.rotation import rotate
from lgsp.gateway.tls import ensure_tls

log = structlog.get_logger("lgsp.supervisor")
_UP_WITHIN_S: Final = 30.0
# A part that ends so often before it ever served will not serve.
_FIRST_TRIES: Final = 4
_ROTATE_EVERY_S: Final = 10.0
_LOG_TAIL: Final = 400


def prepare(settings: Settings) -> None:
    """Everything a node needs on disk before its first process; NodeError says what is wrong."""
    check_port(settings)
    ensure_tls(settings)
    ensure_operator(settings)
    nats.ensure_seeds(settings)
    save(settings)


def check_port(settings: Settings) -> None:
    """ListenError when somebody else listens on the public address. (Envoy shares ports, and so would not notice.)"""
    family = socket.AF_INET6 if ":" in settings.listen_host else socket.AF_INET
    where = join_host_port(settings.listen_host, settings.listen_port)
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.listen_host, settings.listen_port))
            probe.listen(1)
        except PermissionError:
            raise ListenError(
                f"{where} needs a right that this user does not have", "Choose a port above 1023 with --listen."
            ) from None
        except OSError as error:
            raise ListenError(
                f"{where} cannot be listened on: {error.strerror}",
                "Stop who listens there, or choose another --listen HOST:PORT.",
            ) from None


class Supervisor:
    """`run` serves until a signal; `started` is told once every part serves."""

    def __init__(self, settings: Settings, versions: dict[str, str], started: Callable[[dict[str, Any]], None]) -> None:
        self.settings, self._versions, self._started = settings, versions, started
        self._began = time.time()
        self._children: dict[str, Child] = {}
        self._stamps: dict[str, str] = {}
        self._state = "starting"
        self._stop = asyncio.Event()
        self._rescan = asyncio.Event()
        self._signals = 0

    async def run(self) -> None:
        """Start, supervise, and leave in order. PartFailedError when a part never came up."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._rescan.set)
        async with asyncio.TaskGroup() as group:
            stopping = group.create_task(self._stop.wait())
            try:
                starting = group.create_task(self._start(group))
                await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if starting.done():
                    starting.result()
                await stopping
            finally:
                self._state = "stopping"
                self._write_status()
                stopping.cancel()
                starting.cancel()
                await self._leave()

    # --- starting ----------------------------------------------------------------------------------------------------

    async def _start(self, group: asyncio.TaskGroup) -> None:
        settings = self.settings
        if settings.nats_url is None:
            await self._begin(group, parts.nats_part(settings))
        await self._begin(group, parts.control_part(settings))
        await self._begin(group, parts.envoy_part(settings))
        self._state = "up"
        self._rescan.set()
        self._write_status()
        self._started(self.status())
        async with asyncio.TaskGroup() as inner:
            inner.create_task(self._follow_components(group))
            inner.create_task(self._rotate_logs())

    async def _begin(self, group: asyncio.TaskGroup, part: Part) -> None:
        child = Child(part, lambda changed: self._write_status())
        self._children[part.name] = child
        group.create_task(child.run(), name=part.name)
        until = time.monotonic() + _UP_WITHIN_S
        while not child.up.is_set():
            if time.monotonic() > until or child.restarts >= _FIRST_TRIES:
                raise PartFailedError(f"{part.name} did not come up: {tail(part)}", f"Its whole log is {part.log}.")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(child.up.wait(), 0.05)

    async def _follow_components(self, group: asyncio.TaskGroup) -> None:
        """Run what is in the folder of components, now and at every SIGHUP."""
        while True:
            await self._rescan.wait()
            self._rescan.clear()
            found = {each.name: each for each in parts.installed(self.settings.layout.components)}
            for name in [
                name for name, stamp in self._stamps.items() if name not in found or found[name].stamp != stamp
            ]:
                del self._stamps[name]
                await self._children.pop(f"component {name}").stop()
            for name, each in found.items():
                if name not in self._stamps:
                    part = parts.component_part(self.settings, each)
                    child = Child(part, lambda changed: self._write_status())
                    self._stamps[name], self._children[part.name] = each.stamp, child
                    group.create_task(child.run(), name=part.name)
            self._write_status()

    async def _rotate_logs(self) -> None:
        settings = self.settings
        while True:
            await asyncio.sleep(_ROTATE_EVERY_S)
            try:
                done = await rotate(settings.layout.logs, settings.access_log, lambda: envoy.reopen_logs(settings))
            except OSError as error:
                log.error("logs not rotated", error=error.strerror)
                continue
            if done:
                log.info("logs rotated", logs=done)

    # --- leaving -----------------------------------------------------------------------------------------------------

    def _asked_to_stop(self) -> None:
        self._signals += 1
        self._stop.set()
        if self._signals > 1:  # asked twice: no more waiting
            for child in self._children.values():
                child.signal(signal.SIGKILL)

    async def _leave(self) -> None:
        components = [child for name, child in self._children.items() if name.startswith("component ")]
        await asyncio.gather(*(child.stop() for child in components))
        for name in ("envoy", "control", "nats"):
            if name in self._children:
                await self._children[name].stop()
        self._state = "stopped"
        self._write_status()

    # --- status ------------------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What `D/run/status.json` holds."""
        settings = self.settings
        return {
            "state": self._state,
            "pid": os.getpid(),
            "since": self._began,
            "node": settings.node,
            "city": settings.city,
            "target": settings.target,
            "issuer": settings.issuer,
            "data_dir": settings.data_dir,
            "nats_url": _quiet(lambda: nats.url(settings)),
            "versions": self._versions,
            "parts": [
                {
                    "name": child.part.name,
                    "state": child.state,
                    "pid": child.pid,
                    "since": child.since,
                    "restarts": child.restarts,
                    "last_exit": child.last_exit,
                    "log": str(child.part.log),
                }
                for child in self._children.values()
            ],
        }

    def _write_status(self) -> None:
        try:
            write_private(self.settings.layout.status, msgspec.json.encode(self.status()))
        except NodeError as error:
            # A full disk must not stop what still runs.
            log.error("status not written", detail=error.detail)


def tail(part: Part) -> str:
    """The last lines of a part's log, for an error message."""
    with contextlib.suppress(OSError):
        text = part.log.read_bytes()[-_LOG_TAIL:].decode("utf-8", "replace").strip()
        return text or "it wrote nothing"
    return "it has no log"


def _quiet(find: Callable[[], str]) -> str | None:
    try:
        return find()
    except NodeError:
        return None
