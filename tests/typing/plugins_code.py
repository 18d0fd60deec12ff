"""How users set up the plugins that pq brings: type checkers must agree with every line."""

from __future__ import annotations

import sentry_sdk
from opentelemetry.metrics import MeterProvider, NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider, TracerProvider

from pq_core import PQ
from pq_hooks.logging import TaskLogging
from pq_hooks.opentelemetry import OpenTelemetry
from pq_hooks.sentry import Sentry


def configure() -> TracerProvider:
    return NoOpTracerProvider()


def metrics() -> MeterProvider:
    return NoOpMeterProvider()


def init() -> None:
    sentry_sdk.init(traces_sample_rate=1.0)


pq = PQ(
    plugins=[
        OpenTelemetry(configure=configure, parented=True, metrics=metrics, metrics_interval=30, flush_timeout=0.2),
        OpenTelemetry(),
        Sentry(init=init, monitors={"report": {"checkin_margin": 5}, "tidy": None}, flush_timeout=1),
        Sentry(monitors=False),
        TaskLogging,
    ]
)

OpenTelemetry(configure=configure())  # type: ignore[arg-type]
Sentry(monitors=["report"])  # type: ignore[arg-type]
