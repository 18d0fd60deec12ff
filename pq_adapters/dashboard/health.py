"""What machines ask: does the process live, can it serve, and the metrics for Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute

from pq_adapters.dashboard.problems import problem_of
from pq_adapters.dashboard.roles import Role
from pq_adapters.dashboard.routes import dashboard_of, route
from pq_core.operating import QueueRecord
from pq_core.statistics import SECONDS, lower_bound
from pq_core.statistics_request import StatisticsRow, totals

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from pq_core.client import PQ
    from pq_core.types import WorkerRecord

FRESH = 2.0
"""Seconds for which metrics that were read are shown again."""
_BOUNDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)
"""Seconds at which the buckets of the histograms end."""


async def healthz(_: Request) -> Response:
    """Say that the process lives; without a look at anything."""
    return PlainTextResponse("ok\n")


async def readyz(request: Request) -> Response:
    """Say whether requests can be served: the database answers and has the tables."""
    try:
        await asyncio.wait_for(dashboard_of(request).pq.aperiodic_count(), timeout=5)
    except TimeoutError:
        return PlainTextResponse("the database does not answer\n", 503)
    except Exception as error:
        # What exactly is for the log and for those who are logged in.
        return PlainTextResponse(f"{problem_of(error).title}\n", 503)
    return PlainTextResponse("ok\n")


async def metrics(request: Request) -> Response:
    """Show the metrics in the text format of Prometheus."""
    return Response(await dashboard_of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


class Metrics:
    """The metrics of one dashboard, read from the database at most every other second, by one at a time."""

    def __init__(self, pq: PQ) -> None:
        self._pq = pq
        self._text = b""
        self._read_at = float("-inf")
        self._reading: asyncio.Future[bytes] | None = None

    async def text(self) -> bytes:
        """Return the text."""
        if monotonic() - self._read_at <= FRESH:
            return self._text
        reading = self._reading
        if reading is None or reading.get_loop() is not asyncio.get_running_loop():
            reading = self._reading = asyncio.ensure_future(self._read())
        # Who goes away must not take the answer from the others who wait for it.
        return await asyncio.shield(reading)

    async def _read(self) -> bytes:
        try:
            queues = await self._pq.aqueues()
            workers = await self._pq.aworkers()
            done = await self._pq._arun(totals(self._pq.schema))
            registry = CollectorRegistry(auto_describe=False)
            registry.register(_Found(queues, workers, done))
            self._text = generate_latest(registry)
            self._read_at = monotonic()
            return self._text
        finally:
            self._reading = None


class _Found(Collector):
    def __init__(
        self, queues: Iterable[QueueRecord], workers: Iterable[WorkerRecord], done: Iterable[StatisticsRow]
    ) -> None:
        self._queues, self._workers, self._done = queues, workers, done

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        yield from self._gauges()
        yield from self._counters()

    def _gauges(self) -> Iterator[Metric]:
        tasks = GaugeMetricFamily("pq_tasks", "Unfinished tasks, counted up to 10000 each", labels=["queue", "state"])
        oldest = GaugeMetricFamily("pq_oldest_wait_seconds", "How long a due task has waited at most", labels=["queue"])
        paused = GaugeMetricFamily("pq_queue_paused", "1 while the queue is paused", labels=["queue"])
        for queue in self._queues:
            for state in ("due", "scheduled", "running"):
                tasks.add_metric([queue.name, state], getattr(queue, state))
            oldest.add_metric([queue.name], queue.oldest_wait)
            paused.add_metric([queue.name], float(queue.paused))
        alive = [worker for worker in self._workers if worker.alive]
        yield from (tasks, oldest, paused)
        yield GaugeMetricFamily("pq_workers", "Workers with a lease", value=len(alive))
        yield GaugeMetricFamily(
            "pq_worker_slots", "Tasks that they run at once at most", value=sum(w.concurrency for w in alive)
        )

    def _counters(self) -> Iterator[Metric]:
        labels = ["queue", "task"]
        attempts = CounterMetricFamily("pq_attempts", "Attempts that have ended", labels=[*labels, "outcome"])
        cpu = CounterMetricFamily("pq_attempt_cpu_seconds", "CPU seconds of attempts", labels=labels)
        waits = HistogramMetricFamily("pq_wait_seconds", "From when a task was due until it started", labels=labels)
        runs = HistogramMetricFamily("pq_run_seconds", "How long attempts took", labels=labels)
        together: dict[tuple[str, str], list[StatisticsRow]] = {}
        for row in self._done:
            key = (row.queue or "", row.name or "")
            attempts.add_metric([*key, row.outcome or ""], row.count)
            together.setdefault(key, []).append(row)
        for key, found in together.items():
            cpu.add_metric(key, sum(row.cpu_seconds for row in found))
            waits.add_metric(key, _buckets([row.waits for row in found]), sum(row.wait_seconds for row in found))
            runs.add_metric(key, _buckets([row.runs for row in found]), sum(row.run_seconds for row in found))
        yield from (attempts, cpu, waits, runs)


def _buckets(histograms: list[dict[int, int]]) -> list[tuple[str, float]]:
    """Return cumulated counts by upper bound; each of our buckets counts where it ends."""
    found = []
    for bound in _BOUNDS:
        below = sum(
            count
            for histogram in histograms
            for place, count in histogram.items()
            if lower_bound(place + 1, SECONDS) <= bound * 1.0001
        )
        found.append((str(bound), float(below)))
    return [*found, ("+Inf", float(sum(sum(histogram.values()) for histogram in histograms)))]


def routes() -> list[BaseRoute]:
    """Return the routes: the first two tell nothing that is anybody's business, the third asks for a key."""
    return [
        route("/healthz", healthz, role=Role.PUBLIC, api=True),
        route("/readyz", readyz, role=Role.PUBLIC, api=True),
        route("/metrics", metrics, role=Role.VIEWER, api=True),
    ]
