"""Turns every failure that the project knows into one message and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click
import grpc

from lgsp.adapters.manifest import ManifestError
from lgsp.api.errors import TABLE, BusError
from lgsp.cli.output import ExitCode, fail
from lgsp.client import CallError, explain
from lgsp.gateway.errors import NodeError

_NO_REASON_REMEDY: Final = {
    grpc.StatusCode.DEADLINE_EXCEEDED: "Give it longer with --timeout.",
    grpc.StatusCode.CANCELLED: "It was stopped on the way; call again.",
}


@contextmanager
def reported() -> Iterator[None]:
    """Inside, a known failure ends the process with its message; anything else is a fault of ours and shows itself."""
    try:
        yield
    except grpc.RpcError as error:
        told = explain(error)
        fail(call_text(told), told.remedy or _remedy(told), exit_code(told))
    except BusError as error:
        row = TABLE[error.reason.name]
        fail(f"{error.reason.name}: {error.detail or row.message}", row.remedy)
    except ManifestError as error:
        fail(str(error), "Mend the manifest; docs/plug.md shows every key.")
    except NodeError as error:
        fail(error.detail, error.remedy)
    except (KeyboardInterrupt, click.Abort):
        fail("interrupted", code=ExitCode.INTERRUPTED)
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:
        raise SystemExit(ExitCode.OK) from None


def call_text(told: CallError) -> str:
    """A refused call in one line: reason, whose fault, the words, and the id that finds it in every log."""
    name = told.reason or told.code().name
    parts = [f"{name}: {(told.details() or '').removeprefix(f'{name}: ')}"]
    if told.fault:
        parts.append(f"({told.fault}'s side)")
    if told.request_id:
        parts.append(f"[request {told.request_id}]")
    return " ".join(parts)


def exit_code(told: CallError) -> ExitCode:
    """UNREACHABLE when no gateway answered; a gateway that answers UNAVAILABLE names a reason."""
    away = told.code() is grpc.StatusCode.UNAVAILABLE and told.reason is None
    return ExitCode.UNREACHABLE if away else ExitCode.REFUSED


def _remedy(told: CallError) -> str:
    if exit_code(told) is ExitCode.UNREACHABLE:
        return "Start the node with `lgsp up`, or name a running one with --data-dir or --gateway."
    return _NO_REASON_REMEDY.get(told.code(), "")
