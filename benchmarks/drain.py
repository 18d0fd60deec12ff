"""No-op tasks per second of one ``pq worker``: a process per task and reused children, one worker process and two."""

from __future__ import annotations

import argparse
import os

import psycopg

from benchmarks.database import a_database, a_server, vacuum
from benchmarks.machine import describe_server
from benchmarks.report import Report
from benchmarks.tasks import noop
from benchmarks.worker import drained, rate_of
from pq_core import PQ


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this benchmark takes."""
    parser.add_argument("--tasks", type=int, default=20_000, help="with reused children; a tenth of it without")
    parser.add_argument("--concurrency", type=int, default=4, help="with a process for each task")
    parser.add_argument("--reused", type=int, default=os.cpu_count() or 1, help="concurrency with reused children")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tasks-per-child", type=int, nargs="+", default=[1, 1000])


def run(given: argparse.Namespace) -> Report:
    """Measure and report."""
    settings = {
        "tasks": given.tasks,
        "concurrency": given.concurrency,
        "with reused children": given.reused,
        "rounds": given.rounds,
    }
    report = Report("drain", settings)
    with a_server(given.dsn) as server, a_database(server) as dsn, PQ(dsn) as pq:
        report.server = describe_server(dsn)
        pq.include(noop.group)
        for _ in range(given.rounds):
            for per_child in given.tasks_per_child:
                for processes in given.processes:
                    count = given.tasks if per_child > 1 else max(given.tasks // 10, 100)
                    at_once = given.reused if per_child > 1 else given.concurrency
                    _one(report, pq, dsn, count, per_child, processes, at_once)
    report.note(
        "tasks/s by the database's own clock from the first completion to the last, Postgres on the same machine"
    )
    report.note("CPU is the worker's with all its children, user and system, start included; Postgres not included")
    return report


def _one(report: Report, pq: PQ, dsn: str, count: int, per_child: int, processes: int, concurrency: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE pq_tasks, pq_attempts, pq_statistics")
    pq.enqueue_many(noop.call() for _ in range(count))
    vacuum(dsn)
    options = ("--tasks-per-child", str(per_child), "--processes", str(processes), "--concurrency", str(concurrency))
    used = drained(dsn, *options)
    variant = f"{per_child} per child, {processes} process{'es' if processes > 1 else ''}"
    report.add(variant, "drain", rate_of(dsn, skip=0.05), "tasks/s")
    report.add(variant, "CPU of the worker", used.cpu / count * 1e6, "us/task")
    report.add(variant, "page faults", used.faults / count, "/task")
