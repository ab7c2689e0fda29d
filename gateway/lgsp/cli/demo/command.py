"""`lgsp demo`: builds a city in a temporary folder, shows each step, and takes everything down again."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import click
import grpc

from lgsp import client
from lgsp.cli.demo import city, database
from lgsp.cli.demo.collector import Collector, collecting
from lgsp.cli.demo.stage import Outcome, Stage, StepFailedError
from lgsp.cli.demo.steps import STEPS
from lgsp.cli.failures import call_text
from lgsp.cli.output import ExitCode, print_json
from lgsp.client import explain
from lgsp.gateway.datadir import file_name


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object at the end; progress goes to standard error.")
@click.option("--keep", is_flag=True, help="Leave the city running afterwards, until Ctrl-C, to try things in.")
def demo(as_json: bool, keep: bool) -> None:
    """Show the bus at work: Việt Nam's real administrative units, 100,800 synthetic citizens, every claim by a call.

    Starts PostgreSQL and a node in a temporary folder, plugs two core databases in, and takes about half a minute.
    The exit code is 0 only if every step holds.

    \b
    Examples:
      lgsp demo
      lgsp demo --json | jq '.steps[] | select(.ok | not)'
      lgsp demo --keep
    """
    folder = Path(tempfile.mkdtemp(prefix="lgsp-demo-"))
    board = Board(as_json)
    try:
        asyncio.run(_show(folder, board, keep))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        print_json({"ok": board.ok, "steps": board.steps})
    raise SystemExit(ExitCode.OK if board.ok else ExitCode.REFUSED)


class Board:
    """Where steps are shown, and remembered."""

    def __init__(self, as_json: bool) -> None:
        self.steps: list[dict[str, Any]] = []
        self._as_json = as_json

    @property
    def ok(self) -> bool:
        return bool(self.steps) and all(each["ok"] for each in self.steps)

    def doing(self, text: str) -> None:
        """Progress, for people."""
        click.echo(f"  … {text}", err=True)

    def show(self, name: str, ok: bool, took_s: float, outcome: Outcome) -> None:
        step = {
            "name": name,
            "ok": ok,
            "detail": outcome.detail,
            "ms": round(took_s * 1000, 1),
            "request_id": outcome.request_id,
        }
        self.steps.append(step | ({"figures": outcome.figures} if outcome.figures else {}))
        first, *more = outcome.detail.split("\n")
        lines = [
            f"{'✓' if ok else '✗'} {name:<14} {took_s * 1000:>8.1f} ms  {first}",
            *(f"{'':>28}{line}" for line in more),
        ]
        if outcome.request_id:
            lines.append(f"{'':>28}request {outcome.request_id}")
        click.echo("\n".join(lines), err=self._as_json)


async def _show(folder: Path, board: Board, keep: bool) -> None:
    async with AsyncExitStack() as stack:
        try:
            stage = await _build(folder, board, stack)
            for name, step in STEPS:
                await _take(board, name, step(stage))
        except asyncio.CancelledError:
            click.echo("interrupted; taking the city down", err=True)
            raise
        if keep:
            await _keep(stage)


async def _build(folder: Path, board: Board, stack: AsyncExitStack) -> Stage:
    """Database, node and components, each shown as a step."""
    board.doing("starting PostgreSQL and loading the data")
    began = time.perf_counter()
    data = folder / "data"
    data.mkdir()
    urls = await stack.enter_async_context(database.running(data))
    rows = await database.load(urls)
    text = f"PostgreSQL holds {rows['provinces']} provinces, {rows['wards']:,} wards and {rows['citizens']:,} synthetic citizens"
    board.show("data", True, time.perf_counter() - began, Outcome(text))
    collector = await stack.enter_async_context(collecting())
    board.doing("starting the node")
    began = time.perf_counter()
    node = await stack.enter_async_context(city.node(folder / "node", collector.endpoint))
    board.show("node", True, time.perf_counter() - began, Outcome(f"`lgsp up` serves https://{node.target}"))
    place = ["--data-dir", node.data_dir]
    components = folder / "components"
    components.mkdir()
    for name, manifest in city.write_components(components).items():
        board.doing(f"plugging in {name}")
        began = time.perf_counter()
        plugged = await city.lgsp_command("plug", str(manifest), *place, LGSP_DEMO_DATABASE=urls.get(name, ""))
        what = ", ".join(plugged["services"]) or "a consumer"
        board.show(f"plug {name}", True, time.perf_counter() - began, Outcome(f"{plugged['system']}: {what}"))
    return await stack.enter_async_context(_stage(node, collector))


@asynccontextmanager
async def _stage(node: Any, collector: Collector) -> AsyncIterator[Stage]:
    layout = node.layout
    shop_key = layout.system_keys / f"{file_name(city.SHOP)}.jwk"
    async with (
        client.connect(node.target, system=city.SHOP, key=shop_key, ca=layout.ca) as shop,
        client.connect(node.target, system=node.operator, key=layout.operator_key, ca=layout.ca) as operator,
    ):
        yield Stage(node, collector, shop, operator)


async def _take(board: Board, name: str, step: Any) -> None:
    """One step; a failure is shown and the next one is taken."""
    began = time.perf_counter()
    try:
        outcome, ok = await step, True
    except StepFailedError as error:
        outcome, ok = Outcome(str(error)), False
    except grpc.RpcError as error:
        told = explain(error)
        outcome, ok = Outcome(call_text(told), told.request_id or ""), False
    board.show(name, ok, time.perf_counter() - began, outcome)


async def _keep(stage: Stage) -> None:
    place = f"--data-dir {stage.node.data_dir}"
    click.echo(f"\nThe city keeps running; Ctrl-C takes it down. Try:\n  lgsp service list {place}", err=True)
    click.echo(f"  lgsp call {city.UNITS}/GetWard -d '{{\"code\": 70}}' --as {city.SHOP} {place}", err=True)
    click.echo(f"  lgsp doctor {place}", err=True)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
