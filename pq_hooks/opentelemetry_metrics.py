"""The metrics of the messaging conventions, of the worker and of processes that enqueue; children have none.

A child inherits the worker's sums and would export them once more.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics

from pq_hooks.facts import error_type
from pq_hooks.flushing import Flusher

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter as Tally
    from opentelemetry.metrics import Histogram, MeterProvider

    from pq_core.types import AttemptOutcome, ClaimedTask

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
"""Boundaries of the duration's buckets, as the conventions advise."""

_log = logging.getLogger("pq.plugins")


def attributes_of(queue: str | None, operation: str) -> dict[str, Any]:
    """Return what the conventions say of every span and metric."""
    return {
        "messaging.system": "pq",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        **({"messaging.destination.name": queue} if queue is not None else {}),
    }


def sent(queues: Sequence[str], seconds: float, error: str | None) -> None:
    """Note one statement that enqueued a task for each of ``queues``, whether or not its transaction is committed.

    ``error``: the type of what it failed with; its tasks count all the same, for they were attempted.
    """
    meter = metrics.get_meter("pq")
    counter = meter.create_counter(
        "messaging.client.sent.messages", "{message}", "Number of messages producer attempted to send to the broker."
    )
    duration = meter.create_histogram(
        "messaging.client.operation.duration",
        "s",
        "Duration of messaging operation initiated by a producer or consumer client.",
        explicit_bucket_boundaries_advisory=SECONDS,
    )
    failed = {} if error is None else {"error.type": error}
    numbers = Counter(queues)
    for queue, number in numbers.items():
        counter.add(number, {**_measured(queue, "send"), **failed})
    only = queues[0] if len(numbers) == 1 else None
    duration.record(seconds, {**attributes_of(only, "send"), **failed})


def _measured(queue: str, operation: str) -> dict[str, Any]:
    attributes = attributes_of(queue, operation)
    del attributes["messaging.operation.type"]  # of spans, and of the duration of operations
    return attributes


class Metrics:
    """The instruments of one worker.

    ``make``: returns their provider, in the worker; ``None`` means the global one. A provider that was made here is
    flushed every ``interval`` seconds by a thread of the worker, and for at most ``limit`` seconds at its end.
    """

    def __init__(self, make: Callable[[], MeterProvider] | None, *, interval: float, limit: float) -> None:
        self._make = make
        self._interval = interval
        self._flusher = Flusher(limit)
        self._provider: MeterProvider | None = None
        self._pid = 0
        self._duration: Histogram | None = None
        self._consumed: Tally | None = None
        self._stopping = threading.Event()

    def start(self) -> None:
        """Make the instruments; a worker that begins another life in the same process keeps them."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        before = set(threading.enumerate())
        self._provider = self._make() if self._make is not None else metrics.get_meter_provider()
        meter = self._provider.get_meter("pq")
        self._duration = meter.create_histogram(
            "messaging.process.duration",
            "s",
            "Duration of processing operation.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._consumed = meter.create_counter(
            "messaging.client.consumed.messages",
            "{message}",
            "Number of messages that were delivered to the application.",
        )
        if self._make is not None:
            started = [thread.name for thread in set(threading.enumerate()) - before]
            if started:
                # Such a reader goes on in every child, and exports there what it has inherited.
                _log.warning(
                    "metrics=… started the thread %s; give its reader export_interval_millis=math.inf: "
                    "pq tells it when to export",
                    ", ".join(started),
                )
            self._stopping = threading.Event()
            threading.Thread(target=self._export, name="pq-metrics", daemon=True).start()

    def processed(self, task: ClaimedTask, outcome: AttemptOutcome) -> None:
        """Note one attempt."""
        if self._duration is None or self._consumed is None or outcome.outcome == "released":
            return
        attributes = _measured(task.queue, "process")
        if kind := error_type(outcome):
            attributes["error.type"] = kind
        self._duration.record(outcome.wall, attributes)
        self._consumed.add(1, attributes)

    def stop(self) -> None:
        """Export what there is."""
        self._stopping.set()
        flush = getattr(self._provider, "force_flush", None)
        if flush is not None:
            self._flusher(flush)

    def _export(self) -> None:
        flush = getattr(self._provider, "force_flush", None)
        stopping = self._stopping
        while flush is not None and not stopping.wait(self._interval):
            try:
                flush()
            except Exception:
                _log.warning("metrics can't be exported; tried again in %g s", self._interval, exc_info=True)
