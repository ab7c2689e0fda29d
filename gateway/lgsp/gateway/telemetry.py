"""Sends the spans of one of our processes to the OTLP endpoint of the node, where one is set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lgsp.gateway.settings import Settings


@contextmanager
def tracing(service: str, settings: Settings) -> Iterator[None]:
    """Inside, this process exports spans as `service`; what is left is sent at the end."""
    if settings.otlp_endpoint is None:
        yield
        return
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": service, "service.instance.id": settings.node})
    provider = TracerProvider(resource=resource)
    exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint, insecure=settings.otlp_endpoint.startswith("http://"))
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=500))
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()
