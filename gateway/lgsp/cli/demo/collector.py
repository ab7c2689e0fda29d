"""A small OTLP/gRPC trace receiver in memory: it stands for the city's observability backend."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True, slots=True)
class Span:
    """What the demo shows of a span; times in milliseconds."""

    service: str
    name: str
    duration_ms: float


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps spans by trace id (hex)."""

    def __init__(self) -> None:
        self.spans: dict[str, list[Span]] = defaultdict(list)
        self._arrived = asyncio.Condition()
        self.endpoint = ""

    async def Export(self, request: Any, context: Any) -> Any:
        for group in request.resource_spans:
            service = next((a.value.string_value for a in group.resource.attributes if a.key == "service.name"), "?")
            for scope in group.scope_spans:
                for span in scope.spans:
                    lasted = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
                    self.spans[span.trace_id.hex()].append(Span(service, span.name, lasted))
        async with self._arrived:
            self._arrived.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    async def wait_for(self, trace_id: str, services: set[str], timeout_s: float) -> list[Span]:
        """The spans of a trace once each of the services has sent one, or what there is after the time."""

        def complete() -> bool:
            return services <= {span.service for span in self.spans.get(trace_id, ())}

        try:
            async with asyncio.timeout(timeout_s), self._arrived:
                await self._arrived.wait_for(complete)
        except TimeoutError:
            return list(self.spans.get(trace_id, ()))
        return list(self.spans[trace_id])


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A receiver on a free port of the loopback."""
    collector = Collector()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(0.2)
