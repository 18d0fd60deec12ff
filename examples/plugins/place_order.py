"""The web application's part: it sets the SDK up for itself, and enqueues."""

from opentelemetry import trace
from shop import greet, pack, pq
from tracing import configure

configure()
pq.enqueue(pack.call(1))
pq.enqueue(greet.call("Ada"))
trace.get_tracer_provider().shutdown()
