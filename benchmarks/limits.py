"""What limits cost queues that have none: no-op tasks per second, with and without a full, limited queue beside."""

from __future__ import annotations

import argparse
import os

import psycopg

from benchmarks.database import a_database, a_server, vacuum
from benchmarks.machine import describe_server
from benchmarks.report import Report
from benchmarks.tasks import nap, noop
from benchmarks.worker import Worker, rate_of
from pq_core import PQ

VARIANTS = {
    "no limits anywhere": 0,
    "a limited queue beside, 1,000 waiting": 1000,
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this benchmark takes."""
    parser.add_argument("--tasks", type=int, default=30_000, help="without limits, in each round and variant")
    parser.add_argument("--concurrency", type=int, default=os.cpu_count() or 1)


def run(given: argparse.Namespace) -> Report:
    """Measure and report."""
    settings = {"tasks": given.tasks, "concurrency": given.concurrency, "rounds": given.rounds}
    report = Report("limits", settings)
    with a_server(given.dsn) as server, a_database(server) as dsn, PQ(dsn) as pq:
        report.server = describe_server(dsn)
        pq.include(noop.group)
        for _ in range(given.rounds):
            for variant, waiting in VARIANTS.items():
                _one(report, pq, dsn, variant, waiting, given)
    first, second = VARIANTS
    report.ratio("drain", second, first, goal=">= 0.95")
    report.note("the limited queue takes one task a second, so that nearly all of it waits at its limit all the time")
    return report


def _one(report: Report, pq: PQ, dsn: str, variant: str, waiting: int, given: argparse.Namespace) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE pq_tasks, pq_attempts, pq_statistics")
        connection.execute("DELETE FROM pq_queues")
        if waiting:
            pq.limit_queue("limited", concurrency=1, rate="1/s")
            pq.enqueue_many(nap.options(queue="limited").call(0.001) for _ in range(waiting))
        pq.enqueue_many(noop.call() for _ in range(given.tasks))
        vacuum(dsn)
        options = ("--tasks-per-child", "1000", "--concurrency", str(given.concurrency), "--queues", "default,limited")
        worker = Worker(dsn, *options)
        try:
            left = "SELECT count(*) FROM pq_tasks WHERE status = 'pending' AND due AND losses < 2 AND queue = 'default'"
            while connection.execute(left).fetchone() != (0,):
                connection.execute("SELECT pg_sleep(0.05)")
        finally:
            used = worker.stop()
        # What the limited queue let through is not counted.
        connection.execute("DELETE FROM pq_tasks WHERE queue = 'limited'")
    report.add(variant, "drain", rate_of(dsn, skip=0.05), "tasks/s")
    report.add(variant, "CPU of the worker", used.cpu / given.tasks * 1e6, "us/task")
