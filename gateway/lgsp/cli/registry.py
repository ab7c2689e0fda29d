"""`lgsp registry`: backup, check and restore of the registry, on the node's own machine, while everything runs.

It speaks to NATS with the node's own key, so it works whoever the registry says is an operator.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec
import nats.errors

from lgsp.cli.output import ExitCode, fail, print_json, print_record
from lgsp.cli.session import data_dir_option, json_option
from lgsp.gateway import settings
from lgsp.gateway.nats import connect_core
from lgsp.gateway.settings import Settings
from lgsp.registry import backup, cut, restoring, streams

if TYPE_CHECKING:
    from nats.aio.client import Client

    from lgsp.registry.undone import Undone

T = TypeVar("T")
_CONNECT_S: Final = 10.0
_TELL_EVERY_S: Final = 1.0
_FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")


@click.group()
def registry() -> None:
    """The registry as a whole: backup, check, restore."""


@registry.command("backup")
@data_dir_option
@json_option
@_FILE
def registry_backup(data_dir: Path | None, as_json: bool, file: Path) -> None:
    """Save the registry, its history and its contracts to a file, while everything runs.

    Example: lgsp registry backup /srv/backup/registry-2026-01-31.lgspbak
    """
    node = _node(data_dir)
    if not file.absolute().parent.is_dir():
        fail(f"there is no folder {file.absolute().parent}", "Make it first, or name another file.", ExitCode.USAGE)
    with _told():
        found = _run(node, lambda nc: _save(nc, node, file.absolute()))
    _show(as_json, {"file": str(file), "bytes": file.stat().st_size} | found)


@registry.command("verify")
@json_option
@_FILE
def registry_verify(as_json: bool, file: Path) -> None:
    """Check a backup without restoring it. Example: lgsp registry verify registry-2026-01-31.lgspbak"""
    with _told(), _opened(file) as handle:
        summary = backup.check(handle)
    _show(as_json, {"file": str(file)} | _facts(summary))


@registry.command("restore")
@data_dir_option
@json_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--keep-revocations/--undo-revocations",
    default=True,
    show_default=True,
    help="What to do with rights that ended since the backup.",
)
@_FILE
def registry_restore(data_dir: Path | None, as_json: bool, yes: bool, keep_revocations: bool, file: Path) -> None:
    """Put the registry of a backup in the place of the one that is there, while everything runs.

    Gateways go on with the old one until the new one is whole. The old one is saved to D/backups first.

    \b
    Examples:
      lgsp registry restore registry-2026-01-31.lgspbak
      lgsp registry restore registry-2026-01-31.lgspbak --yes --json
    """
    node = _node(data_dir)
    if not yes and not sys.stdin.isatty():
        fail("a restore replaces the registry and asks first", "Give --yes where nobody can answer.", ExitCode.USAGE)
    with _told(), _opened(file) as handle:
        summary = backup.check(handle)
        if summary.header.city != node.city:
            fail(f"the backup is of {summary.header.city}, this node belongs to {node.city}", "Name another file.")
        found = _run(node, lambda nc: _restore(nc, node, handle, summary, yes, keep_revocations))
    _show(as_json, found)


@registry.command("thaw")
@data_dir_option
@json_option
def registry_thaw(data_dir: Path | None, as_json: bool) -> None:
    """Let the registry take changes again after a restore that was killed. Example: lgsp registry thaw"""
    node = _node(data_dir)
    with _told():
        thawed = _run(node, restoring.thaw)
    _show(as_json, {"thawed": thawed})


# --- what they do --------------------------------------------------------------------------------------------------------


async def _save(nc: Client, node: Settings, path: Path) -> dict[str, Any]:
    stream = await _registry_of(nc)
    header = cut.header(await streams.stream_info(nc, stream), node.city)
    with backup.creating(path, header) as writer, _progress() as tell:
        await cut.write_backup(nc, stream, writer, tell)
        missing = await cut.write_contracts(nc, writer, tell)
        end = writer.finish()
    return _facts(backup.Summary(header, end, missing))


async def _restore(
    nc: Client, node: Settings, handle: IO[bytes], summary: backup.Summary, yes: bool, keep: bool
) -> dict[str, Any]:
    stream = await _registry_of(nc)
    info = await streams.stream_info(nc, stream)
    ended = [each for each in await restoring.preview(nc, stream, handle) if not each.fact]
    _announce(summary, info, ended, keep)
    if not yes:
        click.confirm("Replace it?", abort=True, err=True)
    folder = node.layout.root / "backups"
    folder.mkdir(mode=0o700, exist_ok=True)
    for left in folder.glob(".before-restore-*"):  # by a restore that was killed
        left.unlink()
    stamp, incarnation = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()), info["config"]["metadata"][streams.INCARNATION]
    save_to = folder / f"before-restore-{stamp}-{incarnation[:8]}.lgspbak"
    replicas = info["config"]["num_replicas"]
    with _progress() as tell:
        done = await restoring.restore(
            nc, handle, summary, save_to, keep_revocations=keep, replicas=replicas, progress=tell
        )
    return {
        "incarnation": done.incarnation,
        "revision": done.revision,
        "records": done.messages,
        "contracts": done.contracts,
        "saved": str(done.saved),
        "kept": [_line(each) for each in done.kept if not each.fact],
        "undone": [_line(each) for each in done.undone],
    }


async def _registry_of(nc: Client) -> str:
    stream = await streams.registry_stream(nc)
    if stream is None:
        fail("there is no registry on this NATS yet", "Start the node with `lgsp up` first.")
    return stream


def _announce(summary: backup.Summary, info: dict[str, Any], ended: list[Undone], keep: bool) -> None:
    """On standard error: what is replaced by what, and which rights that ended since are at stake."""
    header, last = summary.header, info["state"]["last_seq"]
    click.echo(
        f"The registry of {header.city} at revision {last} is replaced by the backup of {header.time}, "
        f"revision {summary.end.revision}.",
        err=True,
    )
    if summary.missing or summary.unreadable:
        click.echo(
            f"The backup lacks {len(summary.missing)} contracts and has {summary.unreadable} unreadable records.",
            err=True,
        )
    if ended:
        click.echo("Ended since, and kept so:" if keep else "Ended since, and UNDONE by this:", err=True)
    for each in ended:
        click.echo(f"  {_line(each)}", err=True)


def _line(each: Undone) -> str:
    return f"{each.kind} {each.key}: {each.what}"


def _facts(summary: backup.Summary) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(summary.header)
    return found | {
        "revision": summary.end.revision,
        "records": summary.end.messages,
        "contracts": summary.end.contracts,
        "missing_contracts": summary.missing,
        "unreadable": summary.unreadable,
    }


# --- with what ------------------------------------------------------------------------------------------------------------


def _node(data_dir: Path | None) -> Settings:
    return settings.load(data_dir or settings.default_data_dir())


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    try:
        handle = file.open("rb")
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}", "Name a backup.", ExitCode.USAGE)
    with handle:
        yield handle


@contextmanager
def _told() -> Iterator[None]:
    """Inside, what can go wrong with the file and with NATS ends the command with its message."""
    try:
        yield
    except backup.BackupError as error:
        fail(str(error), "Use another backup; nothing was changed.")
    except streams.JetStreamError as error:
        fail(f"NATS refused: {error}", "See the node's log of NATS; `lgsp doctor` says how the registry is.")
    except (nats.errors.Error, TimeoutError) as error:
        fail(f"NATS does not answer: {type(error).__name__}", "Start the node with `lgsp up`.", ExitCode.UNREACHABLE)
    except OSError as error:
        fail(f"{error.filename or 'the file'} cannot be written: {error.strerror}", "Free some space, or name another.")


def _run(node: Settings, work: Callable[[Client], Awaitable[T]]) -> T:
    async def connected() -> T:
        async with _connection(node) as nc:
            return await work(nc)

    return asyncio.run(connected())


@asynccontextmanager
async def _connection(node: Settings) -> AsyncIterator[Client]:
    async def quiet(error: Exception) -> None:
        """A failure shows itself where it is waited for."""

    async with asyncio.timeout(_CONNECT_S):
        nc = await connect_core(node, error_cb=quiet)
    try:
        yield nc
    finally:
        await nc.close()


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Now and then a line on standard error; where a person watches, always the same one."""
    person, told = sys.stderr.isatty(), 0.0

    def tell(what: str, done: int, all_: int) -> None:
        nonlocal told
        if done < all_ and time.monotonic() - told < _TELL_EVERY_S:
            return
        told = time.monotonic()
        click.echo(f"{what} {done:,} of {all_:,}" + ("\r" if person else "\n"), nl=False, err=True)

    yield tell
    if person:
        click.echo("", err=True)


def _show(as_json: bool, found: dict[str, Any]) -> None:
    if as_json:
        print_json(found)
    else:
        print_record(found)
