"""Local endpoints that receive what SDKs send: an OTLP/HTTP collector, and a Sentry that reads envelopes."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

ROOT = Path(__file__).parents[2]
PATIENCE = 90.0
"""Seconds that a process of a test may take; the machine may be busy."""


@dataclass(slots=True, kw_only=True)
class Span:
    """One span as it arrived. ``links``: (trace id, span id) of each. Ids are hexadecimal; times nanoseconds."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent: str
    links: list[tuple[str, str]]
    attributes: dict[str, Any]
    resource: dict[str, Any]
    start: int
    end: int
    status: int
    message: str
    events: list[str]

    @property
    def place(self) -> tuple[str, str]:
        """What links to it say."""
        return self.trace_id, self.span_id


@dataclass(slots=True)
class Endpoint:
    """A server on a free port of this machine, and the bodies that were posted to it, by path."""

    port: int
    posts: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def spans(self) -> list[Span]:
        """All spans that arrived, in order."""
        found = []
        for path, body in self.posts:
            if path != "/v1/traces":
                continue
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                about = values(resource.resource.attributes)
                for scope in resource.scope_spans:
                    found += [_span(span, about) for span in scope.spans]
        return found

    def of_kind(self, kind: int, name: str = "") -> list[Span]:
        """Return the spans of one kind whose name begins so."""
        return [span for span in self.spans if span.kind == kind and span.name.startswith(name)]

    @property
    def points(self) -> list[tuple[str, dict[str, Any], Any]]:
        """All points of metrics: metric's name, attributes with those of the resource, the point."""
        found = []
        for path, body in self.posts:
            if path != "/v1/metrics":
                continue
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                about = values(resource.resource.attributes)
                for scope in resource.scope_metrics:
                    for metric in scope.metrics:
                        kind = metric.WhichOneof("data")
                        points = getattr(metric, kind).data_points
                        found += [(metric.name, {**about, **values(point.attributes)}, point) for point in points]
        return found

    @property
    def items(self) -> list[tuple[str, dict[str, Any]]]:
        """All items of Sentry's envelopes: type and content."""
        return [item for path, body in self.posts if path.endswith("/envelope/") for item in _items(body)]

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """Return the items of one type: ``event``, ``transaction``, ``check_in``."""
        return [content for each, content in self.items if each == kind]


@contextmanager
def endpoint() -> Iterator[Endpoint]:
    """Serve until the block is left, and until every connection that was made has ended."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # connections stay open, as with a real one
        timeout = 20

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            made.posts.append((self.path, body))
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    made = Endpoint(server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def run(module: str, *arguments: str, environment: dict[str, str], wrapper: tuple[str, ...] = ()) -> str:
    """Run a module of the tests in a process of its own, in which warnings are errors; return its output."""
    python = [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    done = subprocess.run(
        [*wrapper, *python, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def values(attributes: Any) -> dict[str, Any]:
    """Return protobuf's attributes as a dictionary."""
    return {pair.key: _value(pair.value) for pair in attributes}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return None if kind is None else getattr(value, kind)


def _span(span: Any, resource: dict[str, Any]) -> Span:
    return Span(
        name=span.name,
        kind=span.kind,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        attributes=values(span.attributes),
        resource=resource,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        status=span.status.code,
        message=span.status.message,
        events=[event.name for event in span.events],
    )


def _items(body: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    _, _, rest = body.partition(b"\n")
    while rest.strip():
        line, _, rest = rest.partition(b"\n")
        header = json.loads(line)
        length = header.get("length")
        content, rest = (rest[:length], rest[length + 1 :]) if length is not None else rest.split(b"\n", 1)
        yield header["type"], json.loads(content)
