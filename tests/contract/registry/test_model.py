"""Concurrent writers never lose a write: many clients against the real store, with NATS killed in between, against a model.

The model is the stream itself, read at the end with nothing of ours in between: each message with its sequence, the
operation that wrote it, and the one it replaced. Every answer that a client got is held against it:

- acknowledged: the records are there, once, at the answered revisions, in the place of what was expected
- REVISION_CONFLICT: nothing of the operation is there, and somebody else's record stands in its place
- REGISTRY_UNAVAILABLE (outcome unknown): all of it is there or nothing
- every follower told each record once, in order, what was written together together, and ended with the same state

`LGSP_MODEL_EXAMPLES` and `LGSP_MODEL_STEPS` make the run longer.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from lgsp.api.errors import BusError
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.registry import cut, streams
from lgsp.registry.identifiers import parse_subject
from lgsp.registry.store import Store, Write
from tests.support.nats_server import NatsServer, until

EXAMPLES = int(os.environ.get("LGSP_MODEL_EXAMPLES", "8"))
STEPS = int(os.environ.get("LGSP_MODEL_STEPS", "10"))
CLIENTS, KEYS = 3, 6


@dataclass
class Operation:
    """One write as a client asked for it, and every answer it got: revisions, or a reason."""

    id: str
    writes: list[Write]
    answers: list[list[int] | str] = field(default_factory=list)

    @property
    def keys(self) -> list[str]:
        return [each.key for each in self.writes]


class Client:
    """A control process's store, and what it told its listener: lists of (key, revision)."""

    def __init__(self, server: NatsServer, name: str, snapshot: Path | None) -> None:
        self.store = Store(server.connect, snapshot, name)
        self.told: list[list[tuple[str, int]]] = []
        self.store.listen(lambda changes: self.told.append([(each.key, each.entry.revision) for each in changes]))
        self.task = asyncio.get_running_loop().create_task(self.store.run())

    async def stop(self) -> None:
        self.task.cancel()
        done, _ = await asyncio.wait([self.task], timeout=20)
        assert done, "a control process does not end"


# What a client believes to be there when it writes: what its own state says, nothing, or what was there before.
BELIEFS = st.sampled_from(["known", "known", "known", "nothing", "stale"])
ONE = st.tuples(
    st.integers(0, CLIENTS - 1),
    st.lists(st.integers(0, KEYS - 1), min_size=1, max_size=4, unique=True),
    BELIEFS,
)
# Index of an earlier operation that is repeated, by this client.
AGAIN = st.tuples(st.integers(0, CLIENTS - 1), st.integers(0, 10_000))


class Registry(RuleBasedStateMachine):
    """Clients write, alone and at once; NATS dies and comes back; operations are repeated."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="lgsp-model-"))
        self.server = NatsServer(self.folder)
        self.operations: list[Operation] = []
        self.clients: list[Client] = []

    def run_async(self, work):
        return self.loop.run_until_complete(work)

    @initialize()
    def start(self) -> None:
        self.server.start()
        self.run_async(self._start())

    async def _start(self) -> None:
        # One of them keeps a copy on disk.
        self.clients = [
            Client(self.server, f"n{number}", self.folder / "snapshot" if number == 0 else None)
            for number in range(CLIENTS)
        ]
        for each in self.clients:
            await asyncio.wait_for(each.store.synced.wait(), 10)

    # --- what happens ------------------------------------------------------------------------------------------------

    @rule(asked=st.lists(ONE, min_size=1, max_size=6))
    def write_at_once(self, asked) -> None:
        self.run_async(self._all([self._new(*each) for each in asked]))

    @rule(asked=st.lists(ONE, min_size=1, max_size=5), again=st.lists(AGAIN, max_size=2), delay=st.floats(0, 0.03))
    def write_while_nats_is_killed(self, asked, again, delay) -> None:
        async def together() -> None:
            work = [self._new(*each) for each in asked] + self._repeated(again)
            await asyncio.gather(self._all(work), self._restart(delay))

        self.run_async(together())

    @rule(again=st.lists(AGAIN, min_size=1, max_size=3))
    def repeat(self, again) -> None:
        self.run_async(self._all(self._repeated(again)))

    @rule()
    def restart_a_control_process(self) -> None:
        async def restarted() -> None:
            told = self.clients[0].told
            await self.clients[0].stop()
            self.clients[0] = Client(self.server, "n0", self.folder / "snapshot")
            known = [entry.revision for _, _, entry in self.clients[0].store.state.entries()]
            assert sorted(known) == sorted({key: rev for each in told for key, rev in each}.values())
            self.clients[0].told = told
            self.clients[0].store._listeners[:] = [
                lambda changes: told.append([(each.key, each.entry.revision) for each in changes])
            ]
            await asyncio.wait_for(self.clients[0].store.synced.wait(), 10)

        self.run_async(restarted())

    async def _restart(self, delay: float) -> None:
        await asyncio.sleep(delay)
        await asyncio.to_thread(self.server.kill)
        await asyncio.to_thread(self.server.start)

    def _new(self, client: int, keys: list[int], belief: str):
        state = self.clients[client].store.state
        operation = uuid.uuid4().hex
        writes = []
        for number in keys:
            key = f"H26.{number}"
            entry = state.get("agency", key)
            expected = entry.revision if entry and belief != "nothing" else 0
            if belief == "stale" and expected:
                expected = max((old for old in self._revisions(key) if old < expected), default=0)
            writes.append(Write("agency", key, pb.Agency(id=key, act=operation), expected))
        self.operations.append(Operation(operation, writes))
        return self._ask(self.clients[client], self.operations[-1])

    def _revisions(self, key: str) -> set[int]:
        return {revision for client in self.clients for each in client.told for name, revision in each if name == key}

    def _repeated(self, again):
        known = list(self.operations)
        return [self._ask(self.clients[client], known[index % len(known)]) for client, index in again if known]

    async def _ask(self, client: Client, operation: Operation) -> None:
        try:
            answer = await client.store.write(operation.writes, operation_id=operation.id, actor="H26/test")
        except BusError as error:
            operation.answers.append(error.reason.name)
            return
        operation.answers.append(answer)
        for key, revision in zip(operation.keys, answer, strict=True):
            entry = client.store.state.get("agency", key)
            assert entry is not None
            assert entry.revision >= revision, "an answer came before the state had it"

    async def _all(self, work) -> None:
        await asyncio.gather(*work)

    # --- what must be so ---------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if self.clients:
                self.run_async(self._check())
        finally:
            self.run_async(self._stop())
            self.server.kill()
            self.loop.close()
            shutil.rmtree(self.folder)

    async def _stop(self) -> None:
        for each in self.clients:
            await each.stop()

    async def _check(self) -> None:
        stream = await self._stream()
        last = max(stream, default=0)
        await until(lambda: all(each.store.state.revision == last for each in self.clients))
        by_operation = self._check_stream(stream)
        for each in self.operations:
            self._check_answers(each, by_operation.get(each.id, {}), stream)
        for client in self.clients:
            self._check_follower(client, stream)

    async def _stream(self) -> dict[int, tuple[str, str]]:
        """Sequence → key and operation, as the server has it, by a connection of its own."""
        nc = await self.server.connect()
        try:
            last = (await streams.stream_info(nc, streams.REGISTRY))["state"]["last_seq"]
            found = {}
            if last:
                async for each in cut.messages(nc, streams.REGISTRY, 0, last):
                    record = pb.Record.FromString(each.data)
                    found[each.sequence] = (parse_subject(each.subject)[1], record.operation_id)
            return found
        finally:
            await nc.close()

    def _check_stream(self, stream) -> dict[str, dict[str, int]]:
        """Every message was asked for, once, and replaced what its writer expected. Operation → key → revision."""
        asked = {each.id: each for each in self.operations}
        standing: dict[str, int] = {}
        found: dict[str, dict[str, int]] = {}
        for sequence, (key, operation) in sorted(stream.items()):
            wanted = {each.key: each.expected for each in asked[operation].writes}
            assert wanted[key] == standing.get(key, 0), "a write replaced another that its writer had not seen"
            assert key not in found.setdefault(operation, {}), "an operation was written twice"
            found[operation][key] = standing[key] = sequence
        for operation, keys in found.items():
            assert set(keys) == set(asked[operation].keys), "half of what belongs together was written"
            assert max(keys.values()) - min(keys.values()) == len(keys) - 1, "something came in between"
        return found

    def _check_answers(self, operation: Operation, written: dict[str, int], stream) -> None:
        for answer in operation.answers:
            if isinstance(answer, list):
                assert dict(zip(operation.keys, answer, strict=True)) == written, "an acknowledged write is not there"
            elif answer == "REVISION_CONFLICT":
                assert not written, "a write was called a conflict and is there"
                assert any(
                    key == each.key and sequence > each.expected
                    for sequence, (key, _) in stream.items()
                    for each in operation.writes
                ), "a conflict with nobody"
            else:
                assert answer == "REGISTRY_UNAVAILABLE"

    def _check_follower(self, client: Client, stream) -> None:
        told = [revision for each in client.told for _, revision in each]
        assert told == sorted(stream), "a follower missed, repeated or disordered records"
        groups = {}
        for sequence, (_, operation) in stream.items():
            groups.setdefault(operation, set()).add(sequence)
        first = client.told[0] if client.told else []
        for each in client.told:
            for group in groups.values():
                inside = group & {revision for _, revision in each}
                assert inside in (set(), group) or each is first, "a follower was told half of what belongs together"
        last = {key: sequence for sequence, (key, _) in sorted(stream.items())}
        assert {key: entry.revision for key, entry in client.store.state.all("agency").items()} == last


Registry.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
TestConcurrentWriters = pytest.mark.timeout(900)(Registry.TestCase)
# nats-py forgets the socket of a try to reconnect that the server's death cut short; the loop ends here before it is collected.
TestConcurrentWriters = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")(
    TestConcurrentWriters
)
