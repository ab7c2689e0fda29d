"""Usage on a real NATS server: two nodes count as one, a restart forgets nothing, a day begins anew."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from lgsp.api.registry.v1.registry_pb2 import Grant
from lgsp.gateway.datadir import write_private
from lgsp.gateway.usage import ledger
from lgsp.gateway.usage.ledger import Ledger
from lgsp.registry import streams
from tests.support.nats_server import running_nats, until

NOON = datetime(2026, 1, 31, 5, tzinfo=UTC)
A, B = "H26.1/a", "H26.1/b"


@pytest.fixture
async def server(tmp_path):
    with running_nats(tmp_path) as running:
        client = await running.connect()
        await streams.ensure_streams(client)
        await client.close()
        yield running


class Node:
    """A node's ledger, its call records and the services it was told to look at."""

    def __init__(self, server, folder, name: str) -> None:
        self.log, self.now, self.told = folder / f"{name}.log", NOON, []
        self.ledger = Ledger(name, self.log, folder / f"{name}.bin", server.connect, self.told.extend, lambda: self.now)

    def call(self, consumer: str, method: str = "Get", purpose: str = "", service: str = "t.v1.S") -> None:
        line = {
            "time": self.now.isoformat().replace("+00:00", "Z"),
            "route": f"{service}/{method}",
            "client": consumer,
            "purpose": purpose or None,
            "upstream": "127.0.0.1:1",
            "kind": "DownstreamEnd",
        }
        with self.log.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def quota(self, name: str, calls: int, systems: frozenset[str] = frozenset({A}), **fields) -> None:
        grant = Grant(id=name, service="t.v1.S", methods=["*"], daily_quota=calls, **fields)
        self.ledger.watch(grant, lambda: systems)


@asynccontextmanager
async def running(server, folder, *names: str):
    nodes = [Node(server, folder, name) for name in names]
    tasks = [asyncio.create_task(node.ledger.run()) for node in nodes]
    try:
        yield nodes
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_two_nodes_share_a_day(server, tmp_path):
    async with running(server, tmp_path, "n1", "n2") as (one, two):
        for node in (one, two):
            node.quota("shared", 3)
            node.quota("other", 3, frozenset({B}))
        for _ in range(2):
            one.call(A)
        two.call(A)
        await until(lambda: one.ledger.exhausted("shared") and two.ledger.exhausted("shared"))
        assert one.told == two.told == ["t.v1.S"]
        assert not one.ledger.exhausted("other")
        (use,) = two.ledger.uses("t.v1.S")
        assert (use.consumer, use.method, use.calls_30_days) == (A, "Get", 3)


async def test_a_restart_forgets_nothing_and_counts_nothing_twice(server, tmp_path):
    async with running(server, tmp_path, "n1") as (node,):
        node.call(A)
        node.call(A)
        await until(lambda: len(node.ledger.uses("t.v1.S")) == 1)
    async with running(server, tmp_path, "n1") as (node,):
        node.call(A)
        await until(lambda: node.ledger.uses("t.v1.S")[0].calls_30_days == 3)
        node.quota("few", 3)
        await until(lambda: node.ledger.exhausted("few"))
        assert [use.calls_30_days for use in node.ledger.uses("t.v1.S")] == [3]


async def test_who_ends_waits_for_the_counts_that_are_being_written(server, tmp_path, monkeypatch):
    begun, go = threading.Event(), threading.Event()

    def held_up(*arguments: object) -> None:
        begun.set()
        assert go.wait(20)
        write_private(*arguments)

    monkeypatch.setattr(ledger, "write_private", held_up)
    node = Node(server, tmp_path, "n1")
    task = asyncio.create_task(node.ledger.run())
    try:
        node.call(A)
        await until(begun.is_set)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=0.5)
        assert not done
    finally:
        go.set()
        await asyncio.gather(task, return_exceptions=True)
    assert (tmp_path / "n1.bin").exists()


async def test_only_calls_that_fall_under_the_grant_use_it_up(server, tmp_path):
    async with running(server, tmp_path, "n1") as (node,):
        grant = Grant(id="p", service="t.v1.S", methods=["Get"], daily_quota=2)
        grant.purposes.add(code="tax")
        node.ledger.watch(grant, lambda: frozenset({A}))
        node.call(A, purpose="census")
        node.call(A, method="Put", purpose="tax")
        node.call(B, purpose="tax")
        node.call(A, purpose="tax")
        await until(lambda: sum(use.calls_30_days for use in node.ledger.uses("t.v1.S")) == 4)
        assert not node.ledger.exhausted("p")
        node.call(A, purpose="tax")
        await until(lambda: node.ledger.exhausted("p"))


async def test_a_new_day_a_larger_quota_and_a_revocation_give_calls_back(server, tmp_path):
    async with running(server, tmp_path, "n1") as (node,):
        node.quota("few", 1)
        node.call(A)
        await until(lambda: node.ledger.exhausted("few"))
        node.quota("few", 2)
        await until(lambda: not node.ledger.exhausted("few"))
        node.call(A)
        await until(lambda: node.ledger.exhausted("few"))
        node.now += timedelta(hours=12)  # midnight in Vietnam is at 17:00 UTC
        await until(lambda: not node.ledger.exhausted("few"))
        node.call(A)
        node.call(A)
        await until(lambda: node.ledger.exhausted("few"))
        gone = Grant(id="few", service="t.v1.S", methods=["*"], daily_quota=2)
        gone.revoked_at.GetCurrentTime()
        node.ledger.watch(gone, lambda: frozenset({A}))
        assert not node.ledger.exhausted("few")
