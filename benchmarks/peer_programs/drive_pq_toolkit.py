"""Ours, with the worker as a process of its own."""

from __future__ import annotations

import os

from timing import COUNT, DSN, SAMPLES, finish, rate, sample  # type: ignore[import-not-found]

from benchmarks.tasks import clock_to, noop
from benchmarks.worker import drained, rate_of, running
from pq_core import PQ

PER_CHILD = ("--tasks-per-child", os.environ["PQ_BENCH_PER_CHILD"])
AT_ONCE = ("--concurrency", at_once) if (at_once := os.environ.get("PQ_BENCH_CONCURRENCY")) else ()


def main() -> None:
    """Measure; print."""
    pq = PQ(DSN)
    pq.include(noop.group)
    pq.create_tables()
    figures = {
        "enqueue, one by one": rate(500, lambda: [pq.enqueue(noop.call()) for _ in range(500)]),
        "enqueue, bulk": rate(10_000, lambda: pq.enqueue_many(noop.call() for _ in range(10_000))),
    }
    pq.clear_all()
    pq.enqueue_many(noop.call() for _ in range(COUNT))
    drained(DSN, *PER_CHILD, *AT_ONCE, "--processes", os.environ.get("PQ_BENCH_WORKERS", "1"))
    figures["drain"] = rate_of(DSN, skip=0.05)
    with running(DSN, *PER_CHILD, *AT_ONCE):
        samples = [sample(lambda place: pq.enqueue(clock_to.call(place))) for _ in range(SAMPLES + 3)][3:]
    finish(figures, samples)


if __name__ == "__main__":
    main()
