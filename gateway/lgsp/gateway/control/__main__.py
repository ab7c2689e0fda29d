"""`python -m lgsp.gateway.control --data-dir D`: one control process, started and ended by the supervisor."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

from lgsp.gateway import settings, telemetry
from lgsp.gateway.control.process import Control
from lgsp.gateway.logs import configure


def main() -> None:
    parser = argparse.ArgumentParser(prog="lgsp-control", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="the node's data directory")
    arguments = parser.parse_args()
    configure()
    node = settings.load(arguments.data_dir)
    with telemetry.tracing("lgsp-control", node):
        asyncio.run(_run(node))


async def _run(configured: settings.Settings) -> None:
    task = asyncio.current_task()
    assert task is not None
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, task.cancel)
    try:
        await Control(configured).run()
    except asyncio.CancelledError:
        return


if __name__ == "__main__":
    main()
