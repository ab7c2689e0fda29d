"""Leases between nodes over a real NATS: what one hears the others know, and an outage forgives."""

from __future__ import annotations

import asyncio

from lgsp.registry.leases import Leases
from lgsp.registry.store import Store
from tests.contract.registry.stage import following
from tests.support.nats_server import running_nats, until


class Node:
    """A store with its leases, wired as the control process wires them."""

    def __init__(self, store: Store) -> None:
        self.store, self.now = store, 1000.0
        self.leases = Leases(15.0, 30.0, lambda: self.now)
        store.on_leases(lambda node, ages: [self.leases.beat(each, age) for each, age in ages.items()])
        store.on_outage_over(self.leases.forgive)


async def _second(server) -> tuple[Node, asyncio.Task[None]]:
    node = Node(Store(server.connect, None, "n2"))
    task = asyncio.create_task(node.store.run())
    await asyncio.wait_for(node.store.synced.wait(), 10)
    await until(lambda: node.store.connected)
    return node, task


async def test_heartbeats_reach_the_other_node_and_cost_no_record(tmp_path):
    with running_nats(tmp_path) as server:
        async with following(server) as store:
            first = Node(store)
            second, task = await _second(server)
            await until(lambda: store.connected)
            for node in (first, second):
                node.now += 31  # nothing is forgiven any more
            first.leases.beat("e", 3.0)
            assert not second.leases.live("e")
            await first.store.publish_leases(dict(first.leases.ages()))
            await until(lambda: second.leases.live("e"))
            assert second.leases.remaining("e") == 12.0
            assert store.state.revision == second.store.state.revision == 0
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_an_outage_of_nats_empties_no_cluster(tmp_path):
    with running_nats(tmp_path) as server:
        async with following(server) as store:
            node = Node(store)
            await until(lambda: store.connected)
            node.leases.beat("here")
            server.kill()
            await until(lambda: not store.connected)
            for _ in range(100):  # no other node is heard for longer than any lease runs
                node.leases.look(["here", "elsewhere"], store.connected)
                node.now += 1
                assert not node.leases.expired(["here", "elsewhere"])
            await store.publish_leases({"here": 0.0})  # nobody to tell: nothing happens
            server.start()
            await until(lambda: store.connected)
            node.now += 29  # the grace period: time for every provider to beat again
            node.leases.look(["here", "elsewhere"], store.connected)
            node.leases.beat("here")
            assert not node.leases.expired(["here", "elsewhere"])
            node.now += 2
            assert node.leases.look(["here", "elsewhere"], store.connected) == {"elsewhere"}
