"""One database, many workers: tasks/s of 1, 2, 4 and 8 of them and who used the cores; what 64 idle ones cost."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg

from benchmarks.cpu import Moment, between, look, postmaster_of, tree_of
from benchmarks.database import a_database, a_server, vacuum
from benchmarks.machine import describe_server, memory_of
from benchmarks.report import Report
from benchmarks.tasks import nap, noop
from benchmarks.worker import PATIENCE, Worker, rate_of
from pq_core import PQ

REUSED, FORKED, WAITING = "no-op, reused children", "no-op, a process per task", "tasks that wait"
KINDS = (REUSED, FORKED, WAITING)
SETTLE = 15.0
"""Seconds in which idle workers have done what they do once: started, taken their image together, looked twice more."""

Connection = psycopg.Connection[tuple[Any, ...]]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this benchmark takes."""
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8], help="each a `pq worker` of its own")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS), help="of tasks and children")
    parser.add_argument("--tasks", type=int, default=40_000, help="no-op with reused children; a tenth of it without")
    parser.add_argument("--concurrency", type=int, default=2, help="of each worker [2]")
    parser.add_argument("--wait", type=float, default=0.02, help="seconds that a task which waits takes [0.02]")
    parser.add_argument("--seconds", type=float, default=5.0, help="that these keep the workers busy, about [5]")
    parser.add_argument("--idle", type=int, default=64, help="idle workers; 0: leave that part out [64]")
    parser.add_argument("--idle-seconds", type=float, default=60.0, help="that each round watches them [60]")


def run(given: argparse.Namespace) -> Report:
    """Measure and report."""
    names = ("workers", "tasks", "concurrency", "wait", "seconds", "idle", "idle_seconds", "rounds")
    report = Report("scale", {name: getattr(given, name) for name in names})
    with a_server(given.dsn) as server:
        report.server = describe_server(server)
        postmaster = postmaster_of(server)
        with a_database(server) as dsn, PQ(dsn) as pq:
            pq.include(noop.group)
            for _ in range(given.rounds):
                for kind in given.kinds:
                    for count in given.workers:
                        _drain(report, pq, dsn, postmaster, kind, count, given)
        for kind in given.kinds:
            for count in given.workers[1:]:
                # Each worker more adds nine tenths of the first, as long as cores are left.
                goal = f">= {1 + 0.9 * (count - 1):.1f} while cores are idle" if given.workers[0] == 1 else ""
                report.ratio(kind, _named(count), _named(given.workers[0]), goal=goal)
        if given.idle:
            _idle(report, server, postmaster, given)
    report.note("cores: of the workers with all their children, of all of Postgres, of anything else, and idle ones")
    report.note("tasks/s by the database's own clock, without the first twentieth; workers wait until all are there")
    if postmaster is None:
        report.note("Postgres is not on this machine: its CPU time is among neither")
    return report


def _named(count: int) -> str:
    return f"{count} worker{'s' if count > 1 else ''}"


def _drain(
    report: Report, pq: PQ, dsn: str, postmaster: int | None, kind: str, count: int, given: argparse.Namespace
) -> None:
    """Let workers that are there and asleep drain what a paused queue has held back."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE pq_tasks, pq_attempts, pq_statistics, pq_workers")
        pq.pause_queue("default")
        if kind == WAITING:
            most = max(int(given.seconds * count * given.concurrency / given.wait), 20)
            pq.enqueue_many(nap.call(given.wait) for _ in range(most))
        else:
            most = given.tasks if kind == REUSED else max(given.tasks // 10, 20)
            pq.enqueue_many(noop.call() for _ in range(most))
        vacuum(dsn)
        per_child = "1" if kind == FORKED else "1000"
        options = ("--tasks-per-child", per_child, "--concurrency", str(given.concurrency), "--prune-share", "0")
        with _workers(dsn, connection, count, options) as workers:
            before = look((worker.pid for worker in workers), postmaster)
            pq.resume_queue("default")
            _wait(lambda: _none_left(connection), "for the queue to be empty")
            after = look((worker.pid for worker in workers), postmaster)
            connections = _connections(connection)
    report.add(_named(count), kind, rate_of(dsn, skip=0.05), "tasks/s")
    _add_cores(report, _named(count), kind, before, after)
    report.add(_named(count), f"{kind}: connections", connections / count, "/worker")


@contextmanager
def _workers(dsn: str, connection: Connection, count: int, options: tuple[str, ...]) -> Iterator[list[Worker]]:
    """Run so many ``pq worker`` during the block, from when each of them has a lease and sleeps."""
    with ExitStack() as started:
        workers = []
        for _ in range(count):
            workers.append(worker := Worker(dsn, *options))
            started.callback(worker.stop)
        asleep = "SELECT count(*) FROM pq_workers WHERE sleeping"
        _wait(lambda: connection.execute(asleep).fetchone() == (count,), f"for {count} workers to lie down")
        yield workers
        for worker in workers:
            worker.ask_to_stop()  # all of them, before the first is waited for


def _add_cores(report: Report, variant: str, figure: str, before: Moment, after: Moment) -> None:
    shares = between(before, after)
    for name in ("workers", "postgres", "others", "idle"):
        report.add(variant, f"{figure}: {name}", getattr(shares, name), "cores")


def _none_left(connection: Connection) -> bool:
    left = "SELECT FROM pq_tasks WHERE status IN ('pending', 'running') LIMIT 1"
    return connection.execute(left).fetchone() is None


def _wait(done: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > until:
            raise RuntimeError(f"waited more than {PATIENCE:g} s {what}")
        time.sleep(0.05)


def _connections(connection: Connection) -> int:
    """Return how many sessions workers have; the one that deletes old tasks opens and closes a third for each round."""
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'pq w%'"
    ).fetchone()
    assert row is not None
    return int(row[0])


def _idle(report: Report, server: str, postmaster: int | None, given: argparse.Namespace) -> None:
    """Watch workers that have nothing to do."""
    variant = f"{given.idle} idle worker{'s' if given.idle > 1 else ''}"
    options = ("--concurrency", "1", "--tasks-per-child", "1000")
    with (
        a_database(server) as dsn,
        psycopg.connect(dsn, autocommit=True) as connection,
        _workers(dsn, connection, given.idle, options) as workers,
    ):
        time.sleep(min(SETTLE, given.idle_seconds))
        for _ in range(given.rounds):
            commits = _commits(connection)
            before = look((worker.pid for worker in workers), postmaster)
            time.sleep(given.idle_seconds)
            after = look((worker.pid for worker in workers), postmaster)
            shares = between(before, after)
            report.add(variant, "Postgres", 100 * shares.postgres, "% of a core")
            report.add(variant, "the workers", 100 * shares.workers, "% of a core")
            report.add(variant, "transactions", (_commits(connection) - commits) / (after.at - before.at), "/s")
            report.add(variant, "connections", _connections(connection) / given.idle, "/worker")
            _add_memory(report, variant, workers)
    report.note("idle workers: goal for Postgres < 2 % of a core; settings as by default")


def _add_memory(report: Report, variant: str, workers: list[Worker]) -> None:
    """Add what one worker takes: its share of all that the processes map, with its keeper; and the worker alone."""
    found = [[memory_of(pid) for pid in tree_of(worker.pid)] for worker in workers]
    whole = sum(one["Pss"] for processes in found for one in processes)
    report.add(variant, "PSS with the keeper", whole / len(workers), "MiB/worker")
    largest = [max(processes, key=lambda one: one["Rss"]) for processes in found]
    report.add(variant, "PSS", sum(one["Pss"] for one in largest) / len(workers), "MiB/worker")
    report.add(variant, "RSS", sum(one["Rss"] for one in largest) / len(workers), "MiB/worker")


def _commits(connection: Connection) -> int:
    row = connection.execute("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()").fetchone()
    assert row is not None
    return int(row[0])
