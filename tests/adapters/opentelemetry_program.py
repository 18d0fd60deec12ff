"""What the tests of OpenTelemetry run: ``enqueue SCENARIO`` and ``work [NAME=VALUE …]``, in processes of their own.

COLLECTOR: the endpoint's URL. PARENTED, INHERITED, METRICS: set for such a plugin. FLUSH: its
flush_timeout.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import time
from contextlib import nullcontext, suppress

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from pq_core import PQ, Cancel, DuplicateClientId, Snooze, TaskGroup
from pq_hooks.batches import batch
from pq_hooks.opentelemetry import OpenTelemetry

COLLECTOR = os.environ["COLLECTOR"]
group = TaskGroup(queue="mail")


@group.task(name="secret", sensitive=True)
def secret(card: str) -> None:
    numbers = [card]
    raise LookupError(f"no account for {numbers}")


@group.task(name="letter")
def letter(number: int) -> int:
    with trace.get_tracer("app").start_as_current_span(f"letter {number}"):
        return number


@group.task(name="fail")
def fail() -> None:
    raise LookupError("no such letter")


@group.task(name="later")
def later() -> None:
    raise Snooze(3600)


@group.task(name="never")
def never() -> None:
    raise Cancel("nobody wants it")


@group.task(name="crash")
def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


@group.task(name="deaf", timeout=2, grace=0.2)
def deaf() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(30)


@group.task(name="slow", timeout=2)
def slow() -> None:
    time.sleep(30)


def resource() -> Resource:
    return Resource({"service.name": "letters", "process.pid": os.getpid()})


def configure() -> None:
    provider = TracerProvider(resource=resource())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{COLLECTOR}/v1/traces")))
    trace.set_tracer_provider(provider)


def metrics() -> MeterProvider:
    exporter = OTLPMetricExporter(f"{COLLECTOR}/v1/metrics")
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)
    return MeterProvider([reader], resource=resource())


def make() -> PQ:
    inherited = "INHERITED" in os.environ
    plugin = OpenTelemetry(
        configure=None if inherited else configure,
        parented="PARENTED" in os.environ,
        metrics=metrics if "METRICS" in os.environ else None,
        metrics_interval=0.2,
        flush_timeout=float(os.environ.get("FLUSH", "0.5")),
    )
    pq = PQ(plugins=[plugin])
    pq.include(group)
    return pq


def enqueue(scenario: str) -> None:
    configure()
    measured = metrics() if "METRICS" in os.environ else None
    if measured is not None:
        set_meter_provider(measured)
    pq = make()
    with trace.get_tracer("app").start_as_current_span("request") if scenario != "bare" else nullcontext():
        match scenario:
            case "batch":
                with batch():
                    pq.enqueue_many(letter.call(number) for number in range(10))
            case "measured":
                pq.enqueue(letter.call(1), client_id="a")
                pq.enqueue_many(letter.call(number) for number in range(3))
                pq.enqueue_many([letter.call(4), letter.options(queue="other").call(5)])
                with suppress(DuplicateClientId):
                    pq.enqueue(letter.call(1), client_id="a")
            case "ends":
                for each in (fail, later, never, crash, deaf, slow):
                    pq.enqueue(each.call())
            case _:
                for number in range(int(scenario)):
                    pq.enqueue(letter.call(number))
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    provider.shutdown()
    if measured is not None:
        measured.force_flush()


def work(options: dict[str, str]) -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stdout)
    pq = make()
    if os.environ.get("INHERITED") == "here":
        configure()
        for number in range(20):  # the parent's queue is not empty when it forks
            trace.get_tracer("app").start_span(f"parent {number}").end()
    began = time.monotonic()
    pq.run_worker(until_empty=True, **{"concurrency": 4, **{name: int(options[name]) for name in options}})
    print(f"took {time.monotonic() - began:.2f} s")
    if os.environ.get("INHERITED") == "here":
        provider = trace.get_tracer_provider()
        assert isinstance(provider, TracerProvider)
        provider.shutdown()


if __name__ == "__main__":
    if sys.argv[1] == "enqueue":
        enqueue(sys.argv[2])
    else:
        work(dict(word.split("=") for word in sys.argv[2:]))
