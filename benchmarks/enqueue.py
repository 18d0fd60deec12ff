"""Enqueuing against a bare psycopg INSERT of the same row: alone, in a transaction, in bulk, from eight clients."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import psycopg

from benchmarks.database import a_database, a_server, vacuum
from benchmarks.machine import describe_server
from benchmarks.producers import LISTENERS, NEVER_TOLD, NOBODY, SEVERAL, SEVERAL_NEVER_TOLD, TOLD, enqueued_by_clients
from benchmarks.report import Report
from benchmarks.tasks import noop
from pq_core import PQ

COLUMNS = "name, payload, queue, priority, run_at, due"
INSERT = f"INSERT INTO pq_tasks ({COLUMNS}) VALUES (%s, %s::jsonb, %s, %s, now(), true) RETURNING id"
UNNEST = (
    f"INSERT INTO pq_tasks ({COLUMNS}) SELECT 'noop', p, 'default', 50, now(), true"
    " FROM unnest(%s::jsonb[]) WITH ORDINALITY AS u(p, n) ORDER BY n RETURNING id"
)
COPY = f"COPY pq_tasks ({COLUMNS}) FROM STDIN"

CLIENTS = "clients, one each commit"
BLOCK = 50
"""Tasks that one variant enqueues before it is the next one's turn."""

Connection = psycopg.Connection[tuple[int]]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this benchmark takes."""
    parser.add_argument("--tasks", type=int, default=1000, help="one by one, in each round and variant [1000]")
    parser.add_argument("--bulk", type=int, default=20_000, help="in one statement [20000]")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=2.0, help="that the clients enqueue, in each variant [2]")


def run(given: argparse.Namespace) -> Report:
    """Measure and report."""
    settings = {name: getattr(given, name) for name in ("tasks", "bulk", "clients", "seconds", "rounds")}
    report = Report("enqueue", settings)
    with a_server(given.dsn) as server, a_database(server) as dsn, PQ(dsn) as pq:
        report.server = describe_server(dsn)
        pq.include(noop.group)
        for _ in range(given.rounds):
            _own_transactions(report, pq, dsn, given.tasks)
            _in_a_transaction(report, pq, dsn, given.tasks)
            _bulk(report, pq, dsn, given.bulk)
            for variant in LISTENERS:
                _with_clients(report, dsn, given, variant)
    one, whole, many = "own transaction", "in a transaction", "bulk"
    report.ratio(one, "pq.enqueue", "INSERT", goal=">= 0.8")
    report.ratio(one, "pq.enqueue", "INSERT, prepared")
    report.ratio(whole, "pq.enqueue", "INSERT", goal=">= 0.77, which is 1.3 times the time")
    report.ratio(whole, "pq.enqueue", "INSERT, prepared")
    report.ratio(many, "pq.enqueue_many", "COPY")
    report.ratio(many, "pq.enqueue_many", "unnest")
    report.ratio(CLIENTS, TOLD, NEVER_TOLD, goal=">= 0.9")
    report.ratio(CLIENTS, SEVERAL, SEVERAL_NEVER_TOLD, goal=">= 0.9")
    for variant in list(LISTENERS)[1:]:
        report.ratio(CLIENTS, variant, NOBODY)
    report.note("workers share the cores with the clients: NOTIFY costs what those that nobody notifies don't cost")
    return report


def _with_clients(report: Report, dsn: str, given: argparse.Namespace, variant: str) -> None:
    _empty(dsn)
    found = enqueued_by_clients(dsn, given.clients, given.seconds, variant)
    report.add(variant, CLIENTS, found.rate, "tasks/s")
    report.add(variant, f"{CLIENTS}: notifications", found.notified, "/task")
    report.add(variant, f"{CLIENTS}: completed", found.worked, "tasks/s")


def payload(n: int) -> str:
    """Return the stored arguments of a task."""
    return f'{{"args": [{n}], "kwargs": {{}}}}'


def _insert(connection: Connection, n: int, *, prepare: bool) -> None:
    connection.execute(INSERT, ("noop", payload(n), "default", 50), prepare=prepare).fetchone()


def _own_transactions(report: Report, pq: PQ, dsn: str, count: int) -> None:
    _empty(dsn)
    with psycopg.connect(dsn, autocommit=True) as plain, psycopg.connect(dsn, autocommit=True) as prepared:
        variants: dict[str, Callable[[int], object]] = {
            "INSERT": lambda n: _insert(plain, n, prepare=False),
            "INSERT, prepared": lambda n: _insert(prepared, n, prepare=True),
            "pq.enqueue": lambda n: pq.enqueue(noop.call(n)),
        }
        _take_turns(report, "own transaction", variants, count)


def _in_a_transaction(report: Report, pq: PQ, dsn: str, count: int) -> None:
    _empty(dsn)
    # Nothing is prepared behind anybody's back: that would be another thing in each variant.
    with psycopg.connect(dsn, prepare_threshold=None) as plain, psycopg.connect(dsn) as prepared:
        bound = pq.using(plain)
        variants: dict[str, Callable[[int], object]] = {
            "INSERT": lambda n: _insert(plain, n, prepare=False),
            "INSERT, prepared": lambda n: _insert(prepared, n, prepare=True),
            "pq.enqueue": lambda n: bound.enqueue(noop.call(n)),
        }
        _take_turns(report, "in a transaction", variants, count)


def _take_turns(report: Report, figure: str, variants: dict[str, Callable[[int], object]], count: int) -> None:
    wall, cpu = dict.fromkeys(variants, 0.0), dict.fromkeys(variants, 0.0)
    for start in range(0, count, BLOCK):
        for name, variant in variants.items():
            began, used = time.perf_counter(), time.process_time()
            for n in range(start, start + BLOCK):
                variant(n)
            wall[name] += time.perf_counter() - began
            cpu[name] += time.process_time() - used
    done = len(range(0, count, BLOCK)) * BLOCK
    for name in variants:
        report.add(name, figure, done / wall[name], "tasks/s")
        report.add(name, f"{figure}: CPU", cpu[name] / done * 1e6, "us/task")


def _bulk(report: Report, pq: PQ, dsn: str, count: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:

        def unnest() -> None:
            connection.execute(UNNEST, ([payload(n) for n in range(count)],)).fetchall()

        def copy() -> None:
            with connection.cursor() as cursor, cursor.copy(COPY) as rows:
                now = "now"
                for n in range(count):
                    rows.write_row(("noop", payload(n), "default", 50, now, True))

        variants: dict[str, Callable[[], object]] = {
            "COPY": copy,
            "unnest": unnest,
            "pq.enqueue_many": lambda: pq.enqueue_many(noop.call(n) for n in range(count)),
        }
        for name, variant in variants.items():
            _empty(dsn)
            began, used = time.perf_counter(), time.process_time()
            variant()
            seconds = time.perf_counter() - began
            report.add(name, "bulk", count / seconds, "tasks/s")
            report.add(name, "bulk: CPU", (time.process_time() - used) / count * 1e6, "us/task")


def _empty(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE pq_tasks, pq_workers")
    vacuum(dsn)
