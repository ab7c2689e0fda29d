"""A provider as a process of its own: `python -m tests.support.instance NAME SERVICE --target …`.

It answers `Who` (idempotent) and `Once` (not) with its name, says `registered IP:PORT` on standard output when it is, and
takes words on standard input: `off` and `on` (its health), `fail` and `mend` (it answers UNAVAILABLE, or well again).
SIGTERM drains it.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

import grpc

from lgsp import client
from lgsp.adapters.provider import Provider

CONTRACT = """
syntax = "proto3";
package {package};
service PoolService {{
  rpc Who(Name) returns (Name) {{ option idempotency_level = NO_SIDE_EFFECTS; }}
  rpc Once(Name) returns (Name);
}}
message Name {{ string name = 1; }}
"""


class Instance:
    """`failing` makes every call UNAVAILABLE."""

    def __init__(self, name: str) -> None:
        self.answer = b"\x0a" + bytes([len(name)]) + name.encode()
        self.failing = False

    async def who(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:  # type: ignore[type-arg]
        if self.failing:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        await asyncio.sleep(0.002)  # long enough that a kill meets calls that are running
        return self.answer

    def handler(self, service: str) -> grpc.GenericRpcHandler:  # type: ignore[type-arg]
        methods = {name: grpc.unary_unary_rpc_method_handler(self.who) for name in ("Who", "Once")}
        return grpc.method_handlers_generic_handler(service, methods)


async def listen_to_words(instance: Instance, provider: Provider) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while word := (await reader.readline()).decode().strip():
        if word in ("on", "off"):
            await provider.health.set(word == "on", provider.services[0])
        else:
            instance.failing = word == "fail"
        print(word, flush=True)


async def main(arguments: argparse.Namespace) -> None:
    instance, stop = Instance(arguments.name), asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    provider = Provider(
        (arguments.service,),
        handlers=(instance.handler(arguments.service),),
        listen=arguments.listen,
        channel=lambda: client.connect(arguments.target, system=arguments.system, key=arguments.key, ca=arguments.ca),
        weight=arguments.weight,
        zone=arguments.zone,
    )
    words = asyncio.create_task(listen_to_words(instance, provider))
    serving = asyncio.create_task(provider.serve(stop))
    await provider.registered.wait()
    print(f"registered {provider.address}", flush=True)
    await serving
    words.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("service")
    for option in ("target", "system", "key", "ca"):
        parser.add_argument(f"--{option}", required=True)
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--weight", type=int, default=1)
    parser.add_argument("--zone", default="")
    asyncio.run(main(parser.parse_args()))
