"""The SQL adapter on real PostgreSQL and SQLite: one suite over both."""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import linecache
import sys
import textwrap
import threading
from contextlib import asynccontextmanager

import grpc
import pytest
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from lgsp.adapters.manifest import compile_proto
from lgsp.adapters.provider import Provider
from lgsp.adapters.sql.adapter import SqlAdapter
from lgsp.api.errors import BusError
from lgsp.client import explain
from tests.support.postgres import running_postgres

TABLE = {
    "postgresql": "CREATE TABLE thing (id integer PRIMARY KEY, name text NOT NULL, note text, price numeric, day date,"
    " seen timestamptz, raw bytea, ok boolean)",
    "sqlite": "CREATE TABLE thing (id integer PRIMARY KEY, name text NOT NULL, note text, price text, day text,"
    " seen text, raw blob, ok boolean)",
}
SLOW = {
    "postgresql": "SELECT 1 AS id FROM pg_sleep(60)",
    "sqlite": "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c LIMIT 1000000000) SELECT max(x) % 7 AS id FROM c",
}
HEAD = """
syntax = "proto3"; package t.v1;
import "google/protobuf/timestamp.proto"; import "google/type/date.proto"; import "google/type/decimal.proto";
import "lgsp/api/adapter/v1/options.proto";
message Key { int32 id = 1; }
message Thing { int32 id = 1; string name = 2; optional string note = 3; google.type.Decimal price = 4;
  google.type.Date day = 5; google.protobuf.Timestamp seen = 6; bytes raw = 7; optional bool ok = 8; }
message Bare { int32 id = 1; string note = 2; }
message Things { repeated Thing things = 1; string next_page_token = 2; }
message Page { int32 page_size = 1; string page_token = 2; }
message PutThing { int32 id = 1; string name = 2; }
"""
COLUMNS = "id, name, note, price, day, seen, raw, ok"


def service(*methods: str) -> str:
    return HEAD + "service Things_ {" + "\n".join(methods) + "}"


def method(name: str, takes: str, gives: str, query: str, **option: object) -> str:
    more = "".join(
        f" {key}: {str(value).lower() if isinstance(value, bool) else repr(value)}" for key, value in option.items()
    )
    return f'rpc {name}({takes}) returns ({gives}) {{ option (lgsp.api.adapter.v1.sql) = {{query: "{query}"{more}}}; }}'


GOOD = (
    method("Get", "Key", "Thing", f"SELECT {COLUMNS} FROM thing WHERE id = :id"),
    method("List", "Page", "Things", f"SELECT {COLUMNS} FROM thing WHERE (:page_after IS NULL OR id > :page_after) ORDER BY id LIMIT :page_limit", page_key="id", max_page_size=4),
    method("Stream", "Key", "stream Thing", f"SELECT {COLUMNS} FROM thing WHERE id >= :id ORDER BY id"),
    method("Put", "PutThing", "Key", "INSERT INTO thing (id, name) VALUES (:id, :name) RETURNING id", write=True),
    method("Null", "Key", "Bare", "SELECT id, note FROM thing WHERE id = :id"),
)  # fmt: skip

STREAM = method("Stream", "Key", "stream Thing", "SELECT id, name FROM thing WHERE id >= :id ORDER BY id")
SNEAK = method("Sneak", "PutThing", "Key", "INSERT INTO thing (id, name) VALUES (:id, :name) RETURNING id")
ENDLESS = {
    "postgresql": "SELECT generate_series(1, 1000000000) AS id",
    "sqlite": "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c LIMIT 1000000000) SELECT x AS id FROM c",
}


@pytest.fixture(scope="module", params=["postgresql", "sqlite"])
def url(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("db")
    if request.param == "sqlite":
        yield f"sqlite+aiosqlite:///{folder}/things.db"
        return
    with running_postgres(folder) as found:
        yield found


@pytest.fixture
async def database(url):
    dialect = url.partition("+")[0]
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE IF EXISTS thing"))
        await connection.execute(text(TABLE[dialect]))
        values = {"price": "1234567890.05", "day": "2025-07-01", "seen": "2025-07-01T00:00:00+07:00"}
        if dialect == "postgresql":
            values = {
                "price": decimal.Decimal("1234567890.05"),
                "day": dt.date(2025, 7, 1),
                "seen": dt.datetime.fromisoformat(values["seen"]),
            }
        full = f"INSERT INTO thing ({COLUMNS}) VALUES (1, 'Phường Ô Chợ Dừa ạảãẵặ', 'ghi chú', :price, :day, :seen, :raw, true)"
        await connection.execute(text(full), values | {"raw": b"\x00\xff"})
        for number in range(2, 11):
            await connection.execute(text(f"INSERT INTO thing (id, name) VALUES ({number}, 'Đ{number}')"))
    await engine.dispose()
    return url


@asynccontextmanager
async def served(tmp_path, url: str, *methods: str, validate: bool = True):
    """A served contract and a caller `call(method, **fields)`."""
    source = tmp_path / "t.proto"
    source.write_text(textwrap.dedent(service(*methods)), encoding="utf-8")
    contract = compile_proto(source)
    adapter = SqlAdapter(contract, ("t.v1.Things_",), url, pool_size=2)
    stop = asyncio.Event()
    try:
        await adapter.provision()
        if validate:
            await adapter.validate()
        provider = Provider(adapter.services, handlers=adapter.handlers())
        task = asyncio.create_task(provider.serve(stop))
        try:
            await until(lambda: provider.address or task.done())
            async with grpc.aio.insecure_channel(provider.address) as channel:
                yield _caller(contract, channel)
        finally:
            stop.set()
            await task
    finally:
        await adapter.clean_up()


async def until(condition, bound: float = 10) -> None:
    """Wait for a condition that nothing tells us about."""
    async with asyncio.timeout(bound):
        while not condition():
            await asyncio.sleep(0.01)


def _caller(contract: bytes, channel: grpc.aio.Channel):
    pool = DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(contract).file:
        pool.Add(file)
    declared = pool.FindServiceByName("t.v1.Things_")

    def call(name: str, /, timeout: float | None = 20, **fields):
        found = declared.methods_by_name[name]
        request = message_factory.GetMessageClass(found.input_type)(**fields)
        kind = channel.unary_stream if found.server_streaming else channel.unary_unary
        answer = message_factory.GetMessageClass(found.output_type)
        return kind(f"/t.v1.Things_/{name}", type(request).SerializeToString, answer.FromString)(
            request, timeout=timeout
        )

    return call


async def refused(call) -> str | None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return explain(caught.value).reason


async def test_every_type_arrives(tmp_path, database):
    async with served(tmp_path, database, *GOOD) as call:
        thing = await call("Get", id=1)
        assert (thing.name, thing.note) == ("Phường Ô Chợ Dừa ạảãẵặ", "ghi chú")
        assert thing.price.value == "1234567890.05"
        assert (thing.day.year, thing.day.month, thing.day.day) == (2025, 7, 1)
        assert thing.seen.seconds == 1751302800
        assert (thing.raw, thing.ok) == (b"\x00\xff", True)


async def test_nulls_leave_fields_unset_or_are_refused(tmp_path, database):
    methods = (
        method("Get", "Key", "Thing", "SELECT id, name, note, price, day, seen, ok FROM thing WHERE id = :id"),
        GOOD[4],
    )
    async with served(tmp_path, database, *methods) as call:
        thing = await call("Get", id=2)
        assert not any(thing.HasField(name) for name in ("note", "price", "day", "seen", "ok"))
        assert await refused(call("Null", id=2)) == "RECORD_DOES_NOT_FIT_CONTRACT"
        assert (await call("Null", id=1)).note == "ghi chú"


async def test_no_row_is_not_found(tmp_path, database):
    async with served(tmp_path, database, *GOOD) as call:
        assert await refused(call("Get", id=404)) == "RECORD_NOT_FOUND"


async def test_pages_meet_every_row_once(tmp_path, database):
    listing = method("List", "Page", "Things", "SELECT id, name FROM thing WHERE (:page_after IS NULL OR id > :page_after) ORDER BY id LIMIT :page_limit", page_key="id", max_page_size=4)  # fmt: skip
    async with served(tmp_path, database, listing) as call:
        seen, token = [], ""
        while True:
            page = await call("List", page_size=3, page_token=token)
            seen += [thing.id for thing in page.things]
            token = page.next_page_token
            if not token:
                break
        assert seen == list(range(1, 11))
        assert len((await call("List", page_size=1000)).things) == 4
        assert await refused(call("List", page_token="zzzz")) == "PAGE_TOKEN_INVALID"
        assert await refused(call("List", page_size=-1)) == "REQUEST_MALFORMED"


async def test_streams_and_writes(tmp_path, database):
    async with served(tmp_path, database, STREAM, GOOD[3]) as call:
        assert [thing.id async for thing in call("Stream", id=8)] == [8, 9, 10]
        assert (await call("Put", id=50, name="mới")).id == 50
        assert [thing.name async for thing in call("Stream", id=50)] == ["mới"]
        assert await refused(call("Put", id=50, name="lại")) == "REQUEST_MALFORMED"


async def test_a_write_that_is_not_declared_cannot_happen(tmp_path, database):
    async with served(tmp_path, database, STREAM, SNEAK, validate=False) as call:
        assert await refused(call("Sneak", id=51, name="x")) == "PROVIDER_FAULT"
        assert [thing.id async for thing in call("Stream", id=51)] == []


async def test_a_write_hidden_in_a_function_cannot_happen(tmp_path, database):
    if not database.startswith("postgresql"):
        pytest.skip("SQLite has no functions of its own language")
    engine = create_async_engine(database)
    async with engine.begin() as connection:
        body = "INSERT INTO thing (id, name) VALUES (60, 'x') RETURNING id"
        await connection.execute(
            text(f"CREATE OR REPLACE FUNCTION hidden() RETURNS integer LANGUAGE sql AS $${body}$$")
        )
    await engine.dispose()
    async with served(tmp_path, database, STREAM, method("Sneak", "Key", "Key", "SELECT hidden() AS id")) as call:
        assert await refused(call("Sneak", id=1)) == "PROVIDER_FAULT"
        assert [thing.id async for thing in call("Stream", id=60)] == []


async def test_values_are_only_ever_bound(tmp_path, database):
    find = method("Find", "PutThing", "Thing", "SELECT id, name FROM thing WHERE name = :name")
    async with served(tmp_path, database, find) as call:
        assert await refused(call("Find", name="' OR 1=1 --")) == "RECORD_NOT_FOUND"
        assert await refused(call("Find", name="a\x00b")) == "REQUEST_MALFORMED"


async def test_the_callers_deadline_frees_the_connection(tmp_path, database):
    dialect = database.partition("+")[0]
    slow = method("Slow", "Key", "Key", SLOW[dialect])
    async with served(tmp_path, database, slow, GOOD[0]) as call:
        for _ in range(4):  # twice the pool: each must give its connection back
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call("Slow", timeout=0.3, id=1)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert (await call("Get", id=1)).id == 1


async def test_the_methods_own_bound_is_told_as_the_deadline(tmp_path, database):
    slow = method("Slow", "Key", "Key", SLOW[database.partition("+")[0]], timeout_ms=200)
    async with served(tmp_path, database, slow, GOOD[0]) as call:
        for _ in range(3):
            assert await refused(call("Slow", timeout=None, id=1)) == "DEADLINE_EXCEEDED"
        assert (await call("Get", id=1)).id == 1


async def test_a_cancelled_call_ends_in_the_database(tmp_path, database):
    slow = method("Slow", "Key", "Key", SLOW[database.partition("+")[0]])
    async with watching(database) as running, served(tmp_path, database, slow) as call:
        asked = call("Slow", timeout=None, id=1)
        waiting = asyncio.ensure_future(_ended(asked))
        await until_running(running, True)
        asked.cancel()
        await waiting
        await until_running(running, False)


async def test_an_abandoned_stream_gives_its_connection_back(tmp_path, database):
    endless = method("Endless", "Key", "stream Key", ENDLESS[database.partition("+")[0]])
    async with served(tmp_path, database, endless, GOOD[0]) as call:
        for _ in range(4):
            stream = call("Endless", timeout=None, id=1)
            assert (await stream.read()).id == 1
            stream.cancel()
        assert (await call("Get", id=1)).id == 1


async def test_a_stream_ends_with_the_methods_own_time(tmp_path, database):
    endless = method("Endless", "Key", "stream Key", ENDLESS[database.partition("+")[0]], timeout_ms=300)
    async with served(tmp_path, database, endless, GOOD[0]) as call:
        assert await refused(_all(call("Endless", timeout=None, id=1))) == "DEADLINE_EXCEEDED"
        assert (await call("Get", id=1)).id == 1


async def _all(stream) -> None:
    async for _ in stream:
        pass


async def _ended(call) -> None:
    with pytest.raises(asyncio.CancelledError):
        await call


@asynccontextmanager
async def watching(url: str):
    """`running()` tells whether the adapter's slow statement runs: PostgreSQL's own view, SQLite's busy worker thread."""
    if url.startswith("sqlite"):
        yield _sqlite_runs
        return
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lgsp' AND state = 'active' AND query LIKE '%pg_sleep%'"
    async with engine.connect() as connection:

        async def running() -> bool:
            return bool(await connection.scalar(text(query)))

        yield running
    await engine.dispose()


async def _sqlite_runs() -> bool:
    # A worker of aiosqlite that is idle stands in its queue's `get`; one that runs a statement stands in the statement.
    frames = sys._current_frames()
    workers = [thread for thread in threading.enumerate() if "_connection_worker_thread" in thread.name]
    lines = [
        linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        for frame in (frames[each.ident] for each in workers)
    ]
    return any("function()" in line for line in lines)


async def until_running(running, wanted: bool) -> None:
    async with asyncio.timeout(10):
        while await running() is not wanted:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (method("A", "Key", "Thing", "SELECT id, surname FROM thing"), "surname"),
        (method("A", "Key", "Thing", "SELECT id, 1 AS wrong FROM thing"), "wrong"),
        (method("A", "Key", "Thing", "SELECT id FROM thing WHERE id = :nobody"), "nobody"),
        (method("A", "Key", "Thing", "SELECT FROM WHERE"), "t.v1.Things_/A"),
        (
            method("A", "PutThing", "Key", "INSERT INTO thing (id, name) VALUES (:id, :name) RETURNING id"),
            "write: true",
        ),
        (method("A", "stream Key", "Thing", "SELECT id FROM thing"), "stream"),
        (method("A", "PutThing", "Key", "INSERT INTO thing (id, name) VALUES (:id, :name) RETURNING id"), "it writes"),
        ("rpc A(Key) returns (Thing);", "no (lgsp.api.adapter.v1.sql) query"),
    ],
)
async def test_what_does_not_fit_is_refused_at_start(tmp_path, database, bad, named):
    with pytest.raises(BusError) as caught:
        async with served(tmp_path, database, bad):
            pass
    assert caught.value.reason.name == "CONTRACT_INVALID"
    assert named in caught.value.detail
    assert "t.v1.Things_/A" in caught.value.detail


async def test_types_that_do_not_fit_are_refused_at_start(tmp_path, database):
    if not database.startswith("postgresql"):
        pytest.skip("SQLite has no column types to hold against the contract")
    bad = method("A", "Key", "Thing", "SELECT count(*) AS id FROM thing")
    with pytest.raises(BusError, match="int8 does not fit the field's int32"):
        async with served(tmp_path, database, bad):
            pass
