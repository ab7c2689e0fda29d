"""Answers methods from a relational database, PostgreSQL (asyncpg) or SQLite (aiosqlite), by the plans of a contract.

Rule 1: values only ever travel as bound parameters.
Rule 2: a method that is not declared to write runs on connections that cannot.
Rule 3: the caller's deadline bounds the statement, and a caller that goes away cancels it in the database.
Rule 4: no text of the database's errors reaches a caller.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
from google.protobuf.message import Message
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from lgsp.adapters.sql.check import check
from lgsp.adapters.sql.plan import Plan, Shape, plans
from lgsp.adapters.sql.values import UnfitError
from lgsp.api.errors import BusError

log = logging.getLogger("lgsp.adapters.sql")
_DRIVERS: Final = {"postgresql+asyncpg": "postgresql", "sqlite+aiosqlite": "sqlite"}
_POOL_WAIT_S: Final = 5.0
# Rows fetched at once by a stream: bounds its memory, and back-pressure does the rest.
_CHUNK: Final = 200
_CANCELLED: Final = "57014"
# Steps of SQLite's virtual machine between two looks at whether the call was cancelled: about a millisecond.
_SQLITE_STEPS: Final = 100_000


class SqlAdapter:
    """`url` is an SQLAlchemy URL of one of the two drivers; nothing is opened before `provision`."""

    def __init__(self, contract: bytes, services: tuple[str, ...], url: str, *, pool_size: int = 8) -> None:
        self._driver = url.partition("://")[0]
        if self._driver not in _DRIVERS:
            raise BusError("CONTRACT_INVALID", f"the database URL must start with {' or '.join(_DRIVERS)}")
        self.services, self._url, self._pool_size = services, url, pool_size
        self._plans = plans(contract, services)
        self._engines: dict[bool, AsyncEngine] = {}
        # A stream holds its connection for as long as its reader takes: some are kept for unary calls.
        self._streams = asyncio.Semaphore(max(1, pool_size // 2))

    async def provision(self) -> None:
        """Open the pools: one that cannot write, and one that can if a method needs it."""
        for write in {plan.option.write for plan in self._plans} | {False}:
            self._engines[write] = self._engine(write)
        try:
            async with self._connection(self._engines[False]):
                pass
        except (SQLAlchemyError, OSError) as error:
            # The driver's own words, without SQLAlchemy's and without the URL, which may hold a password.
            told = getattr(error, "orig", None) or error
            raise BusError("PROVIDER_UNAVAILABLE", f"the database cannot be opened: {told}") from None

    async def validate(self) -> None:
        """BusError CONTRACT_INVALID lists every method, column and reason that does not fit."""
        wrong: list[str] = []
        for plan in self._plans:
            async with self._connection(self._engines[plan.option.write]) as connection:
                wrong += await check(connection, plan)
        if wrong:
            raise BusError("CONTRACT_INVALID", "\n".join(wrong))

    async def clean_up(self) -> None:
        """Close the pools."""
        while self._engines:
            _, engine = self._engines.popitem()
            await engine.dispose()

    def handlers(self) -> Sequence[grpc.GenericRpcHandler[Any, Any]]:
        """A generic handler a service."""
        return [
            grpc.method_handlers_generic_handler(
                service, {plan.method: self._handler(plan) for plan in self._plans if plan.service == service}
            )
            for service in self.services
        ]

    def _engine(self, write: bool) -> AsyncEngine:
        longest = int(max(plan.timeout_s for plan in self._plans) * 1000)
        options: dict[str, Any] = {"pool_size": self._pool_size, "max_overflow": 0, "pool_timeout": _POOL_WAIT_S}
        if _DRIVERS[self._driver] == "postgresql":
            settings = {"application_name": "lgsp", "statement_timeout": str(longest)}
            settings |= {} if write else {"default_transaction_read_only": "on"}
            options["connect_args"] = {"server_settings": settings, "timeout": _POOL_WAIT_S}
        engine = create_async_engine(self._url, **options)
        if _DRIVERS[self._driver] == "sqlite":
            event.listen(engine.sync_engine, "connect", _interruptible)
            event.listen(engine.sync_engine, "invalidate", _abandon)
            if not write:
                event.listen(engine.sync_engine, "connect", _query_only)
        return engine

    # --- answering ---------------------------------------------------------------------------------------------------

    def _handler(self, plan: Plan) -> Any:
        make = (
            grpc.unary_stream_rpc_method_handler if plan.shape is Shape.STREAM else grpc.unary_unary_rpc_method_handler
        )
        serve = self._stream if plan.shape is Shape.STREAM else self._unary

        def behaviour(request: Message, context: Any) -> Any:
            return serve(plan, request, context)

        return make(
            behaviour,
            request_deserializer=plan.request.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    async def _unary(self, plan: Plan, request: Message, context: Any) -> Message:
        values = plan.bind(request)
        async with self._bounded(plan, context) as connection:
            rows = (await connection.execute(plan.statement, values)).mappings().all()
        return _one(plan, rows) if plan.shape is Shape.ONE else _page(plan, request, rows)

    async def _stream(self, plan: Plan, request: Message, context: Any) -> None:
        # It writes instead of yielding: a bound on time does not reach into a generator that stands still.
        values = plan.bind(request)
        try:
            await asyncio.wait_for(self._streams.acquire(), _POOL_WAIT_S)
        except TimeoutError:
            raise BusError("OVERLOADED", "as many streams as this provider allows run already") from None
        try:
            async with self._bounded(plan, context, transaction=True) as connection:
                options = {"yield_per": _CHUNK}
                async with connection.stream(plan.statement, values, execution_options=options) as result:
                    async for row in result.mappings():
                        await context.write(plan.message(row))
        finally:
            self._streams.release()

    @asynccontextmanager
    async def _bounded(self, plan: Plan, context: Any, *, transaction: bool = False) -> AsyncIterator[AsyncConnection]:
        """A connection for one call; every failure inside leaves as a BusError."""
        remaining = context.time_remaining()
        bound = plan.timeout_s if remaining is None else min(plan.timeout_s, remaining)
        engine = self._engines[plan.option.write]
        try:
            async with asyncio.timeout(bound), self._connection(engine, plan.option.write or transaction) as connection:
                yield connection
        except TimeoutError:
            raise BusError("DEADLINE_EXCEEDED") from None
        except UnfitError as error:
            log.error("%s: %s", plan.name, error)
            raise BusError("RECORD_DOES_NOT_FIT_CONTRACT", str(error)) from None
        except (SQLAlchemyError, OSError) as error:
            raise _explained(plan, error) from error

    @asynccontextmanager
    async def _connection(self, engine: AsyncEngine, transaction: bool = False) -> AsyncIterator[AsyncConnection]:
        async with engine.connect() as bare:
            # One statement needs no BEGIN and COMMIT of its own: that is half the round trips.
            connection = bare if transaction else await bare.execution_options(isolation_level="AUTOCOMMIT")
            yield connection
            if transaction:
                await connection.commit()


def _one(plan: Plan, rows: Sequence[Any]) -> Message:
    if not rows:
        raise BusError("RECORD_NOT_FOUND")
    return _fitting(plan, rows[0])


def _page(plan: Plan, request: Message, rows: Sequence[Any]) -> Message:
    response: Any = plan.response()
    size = plan.page_size(request) if plan.paged else len(rows)
    if len(rows) > size:
        response.next_page_token = plan.token(request, rows[size - 1][plan.option.page_key])
    getattr(response, plan.rows_field).extend(_fitting(plan, row) for row in rows[:size])
    return response  # type: ignore[no-any-return]


def _fitting(plan: Plan, row: Any) -> Message:
    try:
        return plan.message(row)
    except UnfitError as error:
        log.error("%s: %s", plan.name, error)
        raise BusError("RECORD_DOES_NOT_FIT_CONTRACT", str(error)) from None


def _query_only(connection: Any, record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA query_only = ON")
    cursor.close()


def _interruptible(connection: Any, record: Any) -> None:
    """SQLite runs in a thread that a cancelled task does not stop: the statement itself asks whether it is still wanted."""
    abandoned = record.info["abandoned"] = threading.Event()
    connection.run_async(lambda raw: raw.set_progress_handler(abandoned.is_set, _SQLITE_STEPS))


def _abandon(connection: object, record: Any, reason: object) -> None:
    """SQLAlchemy gives up a connection whose call was cancelled; its closing waits for the running statement."""
    record.info["abandoned"].set()


def _explained(plan: Plan, error: Exception) -> BusError:
    """What a caller may know of a database error: whose fault it is."""
    state = getattr(getattr(error, "orig", None), "sqlstate", None) or ""
    log.error("%s: %s %s", plan.name, type(error).__name__, state)
    if state == _CANCELLED:
        return BusError("DEADLINE_EXCEEDED")
    if state[:2] in {"22", "23"} or isinstance(error, IntegrityError):
        return BusError("REQUEST_MALFORMED", "the database refused the values")
    lost = isinstance(error, PoolTimeoutError | OSError) or state[:2] in {"08", "53", "57"}
    if lost or (isinstance(error, DBAPIError) and error.connection_invalidated):
        return BusError("PROVIDER_UNAVAILABLE", "the provider's database cannot be reached")
    return BusError("PROVIDER_FAULT")
