"""Instances of one provider as processes, a service of their own, and load on it, at a real node."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from lgsp.adapters.manifest import compile_proto
from lgsp.api.node.v1.node_pb2 import Instance, ListInstancesRequest
from lgsp.api.node.v1.node_pb2_grpc import NodeServiceStub
from lgsp.api.registry.v1 import registry_pb2 as pb
from lgsp.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lgsp.client import explain
from lgsp.gateway.datadir import file_name
from tests.support.city import City
from tests.support.instance import CONTRACT

OWNER, READER = "H26/pool-provider", "H26/pool-reader"


class Process:
    """One instance as a process; `name` is what it answers."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, address: str) -> None:
        self.name, self.process, self.address = name, process, address

    async def say(self, word: str) -> None:
        """Tell it something, and wait until it has done so."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{word}\n".encode())
        assert (await asyncio.wait_for(self.process.stdout.readline(), 10)).decode().strip() == word

    async def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)
        await asyncio.wait_for(self.process.wait(), 20)


class Pool:
    """A service of its own for one test, its instances, and calls to it as the reader."""

    def __init__(self, city: City, service: str, channel: grpc.aio.Channel, operator: grpc.aio.Channel) -> None:
        self.city, self.service, self._operator = city, service, operator
        self.who = channel.unary_unary(f"/{service}/Who")
        self.once = channel.unary_unary(f"/{service}/Once")
        self.running: list[Process] = []

    async def start(self, name: str, **options: object) -> Process:
        node = self.city.node
        key = node.layout.system_keys / f"{file_name(OWNER)}.jwk"
        said = {"target": node.target, "system": OWNER, "key": key, "ca": node.layout.ca} | options
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.instance", name, self.service),
            *(text for option, value in said.items() for text in (f"--{option}", str(value))),
            stdin=pipe,
            stdout=pipe,
        )
        self.running.append(Process(name, process, ""))
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode().split()
        assert line[:1] == ["registered"], line
        self.running[-1].address = line[1]
        return self.running[-1]

    async def answers(self, calls: int, method=None) -> collections.Counter[str]:
        """Who answered that many calls, one after the other; a failed call fails the test."""
        return collections.Counter([_name(await (method or self.who)(b"", timeout=10)) for _ in range(calls)])

    async def views(self) -> dict[str, Instance]:
        """Both views of every instance, by the name that it answers with, or else by its address."""
        answer = await NodeServiceStub(self._operator).ListInstances(ListInstancesRequest(service=self.service))
        assert answer.proxy_reached
        names = {each.address: each.name for each in self.running}
        return {names.get(each.address, each.address): each for each in answer.instances}

    async def until(self, holds, within_s: float = 20) -> dict[str, Instance]:
        """Wait until both views say so; a control process that is just coming back is waited for."""
        async with asyncio.timeout(within_s):
            while True:
                with contextlib.suppress(grpc.RpcError):
                    if holds(found := await self.views()):
                        return found
                await asyncio.sleep(0.05)


class Load:
    """Calls of many callers at once for as long as the block lasts; every answer is looked at."""

    def __init__(self, call) -> None:
        self._call, self.names, self.failed = call, collections.Counter[str](), collections.Counter[str]()

    async def _one(self) -> None:
        while True:
            try:
                self.names[_name(await self._call(b"", timeout=10))] += 1
            except grpc.RpcError as error:
                told = explain(error)
                self.failed[f"{told.reason or told.code().name}: {told.details()}"] += 1
                await asyncio.sleep(0.01)

    async def more(self, calls: int, within_s: float = 30) -> None:
        """Wait until that many further calls are over."""
        wanted = self.done + calls
        async with asyncio.timeout(within_s):
            while self.done < wanted:
                await asyncio.sleep(0.01)

    @property
    def done(self) -> int:
        return self.names.total() + self.failed.total()

    @classmethod
    @asynccontextmanager
    async def running(cls, call, callers: int = 12) -> AsyncIterator[Load]:
        load = cls(call)
        tasks = [asyncio.create_task(load._one()) for _ in range(callers)]
        try:
            await load.more(50)
            yield load
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _name(answer: bytes) -> str:
    assert answer[0] == 0x0A
    assert answer[1] == len(answer) - 2
    return answer[2:].decode()


async def enrol(city: City) -> None:
    for name in (OWNER, READER):
        key = city.node.layout.system_keys / f"{file_name(name)}.jwk"
        made = await city.lgsp("system", "create", name, "--vi", "Nhóm", "--en", "Pool", "--new-key", key)
        assert made.code == 0, made.err
    async with city.connect() as operator:
        rights = ("PublishService", "RegisterEndpoint", "Heartbeat", "DeregisterEndpoint")
        await grant(operator, OWNER, "lgsp.api.registry.v1.RegistryService", *rights)


async def publish(city: City, folder) -> str:
    package = f"pool{uuid.uuid4().hex[:8]}.v1"
    (folder / "pool.proto").write_text(CONTRACT.format(package=package), "utf-8")
    service = pb.Service(name=f"{package}.PoolService", names=pb.Names(vi="Nhóm", en="Pool"), provider=OWNER)
    async with city.connect(OWNER) as own:
        contract = compile_proto(folder / "pool.proto")
        await RegistryServiceStub(own).PublishService(pb.PublishServiceRequest(service=service, contract=contract))
    return service.name


async def grant(operator, consumer: str, service: str, *methods: str) -> None:
    made = pb.Grant(id=f"g-{uuid.uuid4().hex[:8]}", consumer=consumer, service=service, methods=methods)
    assert (await RegistryServiceStub(operator).CreateGrant(pb.CreateGrantRequest(grant=made))).effective
