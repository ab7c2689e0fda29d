"""A provider of everything: a gRPC server in a process of its own that gives every call the same answer."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from tests.bench.made_city import ANSWER


class _Everything(grpc.GenericRpcHandler):
    def service(self, details: grpc.HandlerCallDetails) -> Any:
        healthy = details.method.startswith("/grpc.health.")
        return grpc.unary_unary_rpc_method_handler(_is_well if healthy else _answer)


async def _answer(request: bytes, context: Any) -> bytes:
    return ANSWER


async def _is_well(request: bytes, context: Any) -> bytes:
    return b"\x08\x01"  # SERVING


async def main() -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Everything(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
