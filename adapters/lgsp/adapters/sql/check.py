"""Holds every plan against the live database before anything is served: does the query parse, do its columns fit.

PostgreSQL tells column types when it prepares a statement; SQLite has no column types, so there only names are checked and
values are checked as they come. A method that writes without saying so is refused here where its plan shows it.
"""

from __future__ import annotations

import json
from typing import Any, Final

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from lgsp.adapters.sql.plan import Plan
from lgsp.adapters.sql.values import COLUMN_FITS, UnfitError, kind_of

_UNDECLARED: Final = "it writes; declare it with `write: true`, or let it only read"


async def check(connection: AsyncConnection, plan: Plan) -> list[str]:
    """What does not fit, each with the column and the reason; nothing when all fits."""
    try:
        columns = await _columns(connection, plan)
    except UnfitError as error:
        return [f"{plan.name}: {error}"]
    except Exception as error:  # drivers have no common base for what a server refuses to prepare
        return [f"{plan.name}: the query is refused: {_first_line(error)}"]
    return [f"{plan.name}: {wrong}" for wrong in (_misfit(plan, *column) for column in columns) if wrong]


async def _columns(connection: AsyncConnection, plan: Plan) -> list[tuple[str, str | None]]:
    compiled = plan.statement.compile(dialect=connection.dialect)
    raw: Any = (await connection.get_raw_connection()).driver_connection
    if connection.dialect.name == "postgresql":
        prepared = await raw.prepare(str(compiled))
        if not plan.option.write and await _modifies(raw, str(compiled), len(prepared.get_parameters())):
            raise UnfitError(_UNDECLARED)
        return [(each.name, each.type.name) for each in prepared.get_attributes()]
    nothing = dict.fromkeys(compiled.params)
    bound = tuple(nothing[name] for name in compiled.positiontup or ())
    _, program = await _run(raw, f"EXPLAIN {compiled}", bound)
    if plan.option.write:
        return []
    # https://www.sqlite.org/opcode.html#Transaction: a P2 that is not zero begins a write.
    if any(opcode == "Transaction" and p2 for _, opcode, _, p2, *_ in program):
        raise UnfitError(_UNDECLARED)
    wrapped = f"SELECT * FROM ({compiled}) LIMIT 0"  # noqa: S608 the query is the contract's own
    names, _ = await _run(raw, wrapped, bound)
    return [(name, None) for name in names]


async def _modifies(raw: Any, query: str, parameters: int) -> bool:
    """True when the plan itself writes; a function that writes shows only when it is called, and is refused then."""
    try:
        found = await raw.fetchval(f"EXPLAIN (FORMAT JSON) {query}", *[None] * parameters)
    except Exception:  # a function may refuse NULL: then nothing is known, and the connection still cannot write
        return False
    explained = json.loads(found) if isinstance(found, str) else found
    return '"Node Type": "ModifyTable"' in json.dumps(explained)


async def _run(raw: Any, statement: str, bound: tuple[Any, ...]) -> tuple[list[str], list[Any]]:
    cursor = await raw.execute(statement, bound)
    names = [each[0] for each in cursor.description or ()]
    rows = await cursor.fetchall()
    await cursor.close()
    return names, rows


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
