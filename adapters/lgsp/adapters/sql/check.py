"""Holds every plan against the live database before anything is served: does the query parse, do its columns fit.

PostgreSQL tells column types when it prepares a statement; SQLite has no column types, so there only names are checked and
values are checked as they come.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from lgsp.adapters.sql.plan import Plan
from lgsp.adapters.sql.values import COLUMN_FITS, kind_of


async def check(connection: AsyncConnection, plan: Plan) -> list[str]:
    """What does not fit, each with the column and the reason; nothing when all fits."""
    try:
        columns = await _columns(connection, plan)
    except Exception as error:  # drivers have no common base for what a server refuses to prepare
        return [f"{plan.name}: the query is refused: {_first_line(error)}"]
    return [f"{plan.name}: {wrong}" for wrong in (_misfit(plan, *column) for column in columns) if wrong]


async def _columns(connection: AsyncConnection, plan: Plan) -> list[tuple[str, str | None]]:
    compiled = plan.statement.compile(dialect=connection.dialect)
    raw: Any = (await connection.get_raw_connection()).driver_connection
    if connection.dialect.name == "postgresql":
        prepared = await raw.prepare(str(compiled))
        return [(each.name, each.type.name) for each in prepared.get_attributes()]
    nothing = dict.fromkeys(compiled.params)
    bound = tuple(nothing[name] for name in compiled.positiontup or ())
    await _run(raw, f"EXPLAIN {compiled}", bound)
    if plan.option.write:
        return []
    wrapped = f"SELECT * FROM ({compiled}) LIMIT 0"  # noqa: S608 the query is the contract's own
    return [(name, None) for name in await _run(raw, wrapped, bound)]


async def _run(raw: Any, statement: str, bound: tuple[Any, ...]) -> list[str]:
    cursor = await raw.execute(statement, bound)
    names = [each[0] for each in cursor.description or ()]
    await cursor.close()
    return names


def _misfit(plan: Plan, column: str, kind: str | None) -> str | None:
    try:
        path = plan.path(column)
    except KeyError as error:
        return f"column {column!r}: {error.args[0]}"
    field = path[-1]
    if any(step.is_repeated for step in path) or kind_of(field) is None:
        return f"column {column!r}: the field cannot be filled from a column"
    if kind is None:
        return None
    fits = COLUMN_FITS.get(kind)
    if fits is None:
        return f"column {column!r}: the type {kind} has no counterpart; cast it, for example to text"
    if kind_of(field) not in fits:
        return f"column {column!r}: the type {kind} does not fit the field's {kind_of(field)}, only {', '.join(sorted(fits))}"
    return None


def _first_line(error: Exception) -> str:
    told = error.orig if isinstance(error, DBAPIError) and error.orig else error
    return str(told).splitlines()[0][:300] if str(told) else type(told).__name__
