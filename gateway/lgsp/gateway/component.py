"""`python -m lgsp.gateway.component --data-dir D NAME`: runs one plugged component, started by the supervisor.

Exit codes: 0 it was asked to end; 1 the component cannot begin, and its log says why.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import os
import signal
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import grpc
import msgspec
import structlog

from lgsp import client
from lgsp.adapters import manifest
from lgsp.adapters.run import run
from lgsp.api.errors import BusError
from lgsp.gateway import places, settings, telemetry
from lgsp.gateway.datadir import file_name, write_private
from lgsp.gateway.logs import configure
from lgsp.gateway.settings import Settings
from lgsp.gateway.supervisor.parts import Plugged

log = structlog.get_logger("lgsp.component")


def main() -> None:
    parser = argparse.ArgumentParser(prog="lgsp-component", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="the node's data directory")
    parser.add_argument("name", help="the component's folder in D/components")
    arguments = parser.parse_args()
    configure()
    node = settings.load(arguments.data_dir)
    with telemetry.tracing("lgsp-adapter", node):
        try:
            asyncio.run(_run(node, arguments.name))
        except (BusError, manifest.ManifestError, OSError, ValueError) as error:
            log.error("component cannot begin", component=arguments.name, why=str(error))
            sys.exit(1)


async def _run(node: Settings, name: str) -> None:
    stop, registered = asyncio.Event(), asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    folder = node.layout.components / name
    component = manifest.load(folder / "component.toml")
    contract = (folder / "contract.binpb").read_bytes()
    plugged = msgspec.json.decode((folder / "plugged.json").read_bytes(), type=Plugged)
    if Path(plugged.folder).is_dir():
        os.chdir(plugged.folder)  # relative paths of the manifest start where it was written

    def channel() -> AbstractAsyncContextManager[grpc.aio.Channel]:
        key = node.layout.system_keys / f"{file_name(system)}.jwk"
        return client.connect(node.target, system=system, key=key, ca=node.layout.ca)

    system = component.component.system
    marking = asyncio.create_task(_mark(node.run / f"component-{name}.ready", registered))
    try:
        await run(component, contract, channel, stop, registered, functools.partial(places.announce, node, system))
    finally:
        places.withdraw(node, system)
        marking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await marking


async def _mark(path: Path, registered: asyncio.Event) -> None:
    """Tell the supervisor that the endpoint is registered."""
    await registered.wait()
    write_private(path, str(os.getpid()))


if __name__ == "__main__":
    main()
