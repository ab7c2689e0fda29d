"""Keeps the logs bounded: each at most 32 MiB and one older generation."""

from __future__ import annotations

import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

MAX_BYTES: Final = 32 << 20


async def rotate(
    folder: Path, access_log: Path, reopen: Callable[[], Awaitable[None]], limit: int = MAX_BYTES
) -> list[str]:
    """Names of the logs that were rotated. `reopen` makes Envoy open its access log anew, so that no line is lost."""
    done = []
    for path in sorted(folder.glob("*.log")):
        if path.stat().st_size <= limit:
            continue
        older = path.with_suffix(".log.1")
        if path == access_log:
            path.replace(older)
            await reopen()
        else:
            # The process holds the file open for appending: copy and cut, instead of renaming under it.
            shutil.copyfile(path, older)
            older.chmod(0o600)
            os.truncate(path, 0)
        done.append(path.name)
    return done
