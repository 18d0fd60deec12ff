"""OpenTelemetry's SDK, set up in each process that needs it.

With OTEL_EXPORTER_OTLP_ENDPOINT spans go to a collector there; without, one line for each is printed.
"""

import os

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter


def line(span: ReadableSpan) -> str:
    links = "".join(f" linked to {link.context.span_id:016x}" for link in span.links)
    return f"{span.name} {span.get_span_context().span_id:016x}{links}\n"


# Made once, in the worker: neither has a thread, and no child has to make them again.
resource = Resource.create({"service.name": "shop"})
exporter: SpanExporter = ConsoleSpanExporter(formatter=line)
if "OTEL_EXPORTER_OTLP_ENDPOINT" in os.environ:
    exporter = OTLPSpanExporter()


def configure() -> None:
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(exporter))  # this has a thread
    trace.set_tracer_provider(provider)
