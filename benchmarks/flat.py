"""Claim and drain beside a backlog: rows pending, due next week, finished; many queues; a snapshot held."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import psycopg

from benchmarks.database import a_database, a_server, vacuum
from benchmarks.machine import describe_server
from benchmarks.report import Report
from benchmarks.tasks import noop
from benchmarks.worker import Worker, rate_of
from pq_core import PQ

PAYLOAD = '{"args": [], "kwargs": {}}'
MILLION = 1_000_000

ROWS = {
    "an empty table": "",
    "pending": "INSERT INTO pq_tasks (name, payload, run_at, due) SELECT 'noop', '{p}', now(), true"
    " FROM generate_series(1, {n})",
    "due next week, critical": "INSERT INTO pq_tasks (name, payload, run_at, due, priority) SELECT 'old', '{p}',"
    " now() + interval '7 days' + i * interval '1 ms', false, 100 FROM generate_series(1, {n}) i",
    "finished": "INSERT INTO pq_tasks (name, payload, run_at, due, status, started_at, completed_at, outcome)"
    " SELECT 'old', '{p}', t, true, 'completed', t, t, 'succeeded'"
    " FROM generate_series(1, {n}) i, LATERAL (SELECT now() - i * interval '10 ms') s(t)",
    "200 queues": "INSERT INTO pq_tasks (name, payload, run_at, due, queue) SELECT 'noop', '{p}', now(), true,"
    " 'queue' || i % 200 FROM generate_series(1, {n}) i",
}
"""What is there before the tasks that are drained."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this benchmark takes."""
    parser.add_argument("--rows", type=int, default=MILLION, help="pending and future; ten times as many finished")
    parser.add_argument("--tasks", type=int, default=10_000, help="drained in each round and variant")
    parser.add_argument("--held", type=int, default=300_000, help="drained while a snapshot is held open")
    parser.add_argument("--tasks-per-child", type=int, default=1000)


def run(given: argparse.Namespace) -> Report:
    """Measure and report."""
    settings = {name: getattr(given, name) for name in ("rows", "tasks", "held", "tasks_per_child", "rounds")}
    report = Report("flat", settings)
    counts = dict.fromkeys(ROWS, given.rows) | {"finished": 10 * given.rows, "200 queues": given.tasks}
    options = ("--tasks-per-child", str(given.tasks_per_child))
    with a_server(given.dsn) as server:
        with _filled(server, counts) as databases:
            report.server = describe_server(server)
            for _ in range(given.rounds):
                for variant, dsn in databases.items():
                    _drain(report, variant, dsn, counts[variant], given.tasks, options)
        for variant in list(ROWS)[1:]:
            report.ratio("drain", variant, "an empty table", goal=">= 0.77")
        _held(report, server, given.held, options)
    report.ratio("drain, snapshot held", "last fifth", "first fifth", goal=">= 0.8")
    return report


@contextmanager
def _filled(server: str, counts: dict[str, int], done: int = 0) -> Iterator[dict[str, str]]:
    """Yield a database for each variant, filled and vacuumed."""
    if done == len(ROWS):
        yield {}
        return
    variant = list(ROWS)[done]
    with a_database(server) as dsn:
        if (fill := ROWS[variant]) and variant != "200 queues":
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute(fill.format(n=counts[variant], p=PAYLOAD))
            vacuum(dsn)
        with _filled(server, counts, done + 1) as rest:
            yield {variant: dsn, **rest}


def _drain(report: Report, variant: str, dsn: str, rows: int, count: int, options: tuple[str, ...]) -> None:
    """Add ``count`` tasks unless there are more than enough, and let a worker run so many."""
    queues: tuple[str, ...] = ()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DELETE FROM pq_tasks WHERE status = 'completed' AND name <> 'old'")
        if variant == "200 queues":
            connection.execute(ROWS[variant].format(n=count, p=PAYLOAD))
            queues = ("--queues", ",".join(f"queue{n}" for n in range(200)))
        elif variant != "pending" or rows < count:
            connection.execute(ROWS["pending"].format(n=count, p=PAYLOAD))
        vacuum(dsn)
        started = _now(connection)
        worker = Worker(dsn, *options, *queues)
        try:
            while _completed(connection, started) < count:
                connection.execute("SELECT pg_sleep(0.05)")
        finally:
            used = worker.stop()
        ended = _completed(connection, started)
    report.add(variant, "drain", rate_of(dsn, skip=0.05), "tasks/s")
    report.add(variant, "CPU of the worker", used.cpu / max(ended, 1) * 1e6, "us/task")


def _now(connection: psycopg.Connection[tuple[Any, ...]]) -> datetime:
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    found: datetime = row[0]
    return found


def _completed(connection: psycopg.Connection[tuple[Any, ...]], since: datetime) -> int:
    # Not what is left: to count a million rows again and again took a third of both cores from what is measured.
    words = "SELECT count(*) FROM pq_tasks WHERE status = 'completed' AND completed_at >= %s"
    row = connection.execute(words, (since,)).fetchone()
    return 0 if row is None else int(row[0])


def _held(report: Report, server: str, count: int, options: tuple[str, ...]) -> None:
    """Drain while another transaction's snapshot keeps every dead row from being vacuumed."""
    with a_database(server) as dsn, PQ(dsn) as pq, psycopg.connect(dsn) as holder:
        pq.include(noop.group)
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT count(*) FROM pq_tasks")
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(ROWS["pending"].format(n=count, p=PAYLOAD))
            Worker(dsn, *options, "--until-empty").wait()
            fifths = connection.execute(
                "SELECT fifth, count(*) / extract(epoch FROM max(completed_at) - min(completed_at))::float8"
                " FROM (SELECT completed_at, ntile(5) OVER (ORDER BY completed_at) AS fifth FROM pq_tasks) t"
                " GROUP BY 1 ORDER BY 1"
            ).fetchall()
        for name, (_, rate) in zip(("first", "second", "third", "fourth", "last"), fifths, strict=True):
            report.add(f"{name} fifth", "drain, snapshot held", rate, "tasks/s")
