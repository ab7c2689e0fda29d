"""The parts of a node: what each runs, when it serves, how it leaves."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lgsp.gateway import nats
from lgsp.gateway.datadir import write_private
from lgsp.gateway.settings import Settings
from lgsp.gateway.supervisor import envoy
from lgsp.gateway.supervisor.child import Part


def nats_part(settings: Settings) -> Part:
    """The embedded NATS server. Its port is chosen at the first start and kept: clients reconnect to it."""
    port = -1

    def command() -> list[str]:
        nats.forget_ports_files(settings)
        return nats.write_config(settings, port)

    async def ready(pid: int) -> bool:
        nonlocal port
        found = nats.listening_port(settings, pid)
        if found is None or not await _accepts("127.0.0.1", found):
            return False
        port = found
        write_private(settings.nats_url_file, f"nats://127.0.0.1:{port}")
        return True

    return Part("nats", command, ready, settings.layout.logs / "nats.log")


def control_part(settings: Settings) -> Part:
    """The control process; it serves once its three sockets answer."""
    command = [sys.executable, "-m", "lgsp.gateway.control", "--data-dir", settings.data_dir]

    async def ready(pid: int) -> bool:
        sockets = (settings.ads_socket, settings.api_socket, settings.oauth_socket)
        return all([await _answers(each) for each in sockets])

    return Part("control", lambda: command, ready, settings.layout.logs / "control.log")


def envoy_part(settings: Settings) -> Part:
    """Envoy."""

    async def ready(pid: int) -> bool:
        return await envoy.ready(settings)

    return Part(
        "envoy",
        lambda: envoy.command(settings),
        ready,
        settings.layout.logs / "envoy.log",
        drain=lambda: envoy.drain(settings),
    )


@dataclass(frozen=True, slots=True)
class Installed:
    """A component in the data directory; another `stamp` is another version of it."""

    name: str
    folder: Path
    stamp: str


class Plugged(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`plugged.json` beside an installed manifest: where it came from, and the secrets it named by `url_env`."""

    folder: str
    environment: dict[str, str] = {}


def installed(components: Path) -> Iterator[Installed]:
    """The components in `D/components` that are complete."""
    for folder in sorted(components.iterdir()):
        if (folder / "plugged.json").is_file():
            stats = [each.stat() for each in sorted(folder.iterdir()) if each.is_file()]
            stamp = json.dumps([[each.st_ino, each.st_mtime_ns, each.st_size] for each in stats])
            yield Installed(folder.name, folder, stamp)


def component_part(settings: Settings, component: Installed) -> Part:
    """A plugged component's adapter; it serves once its endpoint is registered (it then writes `ready`)."""
    marker = settings.run / f"component-{component.name}.ready"
    command = [sys.executable, "-m", "lgsp.gateway.component", "--data-dir", settings.data_dir, component.name]

    def start() -> list[str]:
        marker.unlink(missing_ok=True)
        return command

    async def ready(pid: int) -> bool:
        return marker.exists() and marker.read_text("ascii").strip() == str(pid)

    plugged = msgspec.json.decode((component.folder / "plugged.json").read_bytes(), type=Plugged)
    log = settings.layout.logs / f"component-{component.name}.log"
    return Part(f"component {component.name}", start, ready, log, plugged.environment)


async def _accepts(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


async def _answers(socket: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(str(socket))
    except OSError:
        return False
    writer.close()
    return True
