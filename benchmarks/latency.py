"""Milliseconds from commit to the first line of the task, on an idle worker, fork included."""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Iterator

from benchmarks.database import a_database, a_server
from benchmarks.machine import describe_server
from benchmarks.report import Report
from benchmarks.tasks import clock
from benchmarks.worker import running
from pq_core import PQ, TaskStatus

IDLE = (0.03, 0.09)
"""Seconds between two samples, drawn at random: the worker is asleep again, and not in step with its polling."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this benchmark takes."""
    parser.add_argument("--samples", type=int, default=60, help="in each round and variant [60: 300 with 5 rounds]")
    parser.add_argument("--tasks-per-child", type=int, nargs="+", default=[1, 1000])
    parser.add_argument("--spares", type=int, nargs="+", default=[0, 2], help="with one task per child")


def run(given: argparse.Namespace) -> Report:
    """Measure and report."""
    report = Report("latency", {"samples": given.samples, "rounds": given.rounds})
    every: dict[str, list[float]] = {}
    with a_server(given.dsn) as server, a_database(server) as dsn, PQ(dsn) as pq:
        report.server = describe_server(dsn)
        pq.include(clock.group)
        for _ in range(given.rounds):
            for variant, options in _variants(given):
                with running(dsn, *options):
                    samples = [_sample(pq) for _ in range(given.samples + 5)][5:]
                every.setdefault(variant, []).extend(samples)
                report.add(variant, "p50", statistics.median(samples), "ms")
                report.add(variant, "p99", percentile(samples, 0.99), "ms")
    for variant, samples in every.items():
        p50, p99, worst = statistics.median(samples), percentile(samples, 0.99), max(samples)
        report.note(
            f"{variant}: all {len(samples)} samples: p50 {p50:.2f} ms, p99 {p99:.2f} ms, longest {worst:.1f} ms"
        )
    report.note("from when enqueue() returns, which is after the commit, to the clock read in the task's first line")
    return report


def _variants(given: argparse.Namespace) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Return the workers to compare, each with its name: reused children need no spares."""
    for per_child in given.tasks_per_child:
        options = ("--tasks-per-child", str(per_child))
        if per_child > 1:
            yield f"{per_child} per child", options
        else:
            for spares in given.spares:
                yield f"1 per child, {spares} forked ahead", (*options, "--spares", str(spares))


def percentile(values: list[float], share: float) -> float:
    """Return the smallest value that ``share`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _sample(pq: PQ) -> float:
    time.sleep(random.uniform(*IDLE))
    task_id = pq.enqueue(clock.call())
    committed = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    until = time.monotonic() + 30
    while time.monotonic() < until:
        time.sleep(0.02)  # not while the task is on its way
        record = pq.get_task(task_id)
        if record is not None and record.status is TaskStatus.COMPLETED:
            return (int(record.result) - committed) / 1e6
    raise RuntimeError(f"the task {task_id} did not run within 30 s")
