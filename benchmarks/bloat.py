"""A steady rate through one queue, old tasks deleted meanwhile: table and indexes to what they take written anew."""

from __future__ import annotations

import argparse
import time
from datetime import timedelta
from typing import Any

import psycopg

from benchmarks.database import a_database, a_server
from benchmarks.machine import describe_server
from benchmarks.report import Report
from benchmarks.tasks import noop
from benchmarks.worker import running
from pq_core import PQ

WHOLE = HEAP, INDEXES, BOTH = "table", "indexes", "table and indexes"
STEP = 0.05
"""Seconds between two batches of tasks."""

SIZES = """
SELECT pg_get_indexdef(x.indexrelid), i.relname, pg_relation_size(i.oid)::float8 / 2 ^ 20
FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = %s::regclass ORDER BY i.relname
"""
HEALTH = """
SELECT n_dead_tup, autovacuum_count,
    (SELECT count(*) FROM pq_tasks WHERE status IN ('pending', 'running')), (SELECT count(*) FROM pq_tasks)
FROM pg_stat_user_tables WHERE relid = 'pq_tasks'::regclass
"""
LIVE = """
CREATE TEMP TABLE pq_live (LIKE pq_tasks INCLUDING DEFAULTS INCLUDING INDEXES) WITH ({options});
INSERT INTO pq_live SELECT * FROM pq_tasks ORDER BY id;
REINDEX TABLE pq_live;
"""

SHOWN = 0.1
"""MiB below which an index is not worth a line, nor a ratio to it: of a few pages it says nothing."""
AT_THE_END = "size at the end"

Connection = psycopg.Connection[tuple[Any, ...]]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this benchmark takes."""
    parser.add_argument("--rate", type=float, default=1000.0, help="tasks enqueued a second [1000]")
    parser.add_argument("--seconds", type=float, default=600.0, help="that each round lasts [600]")
    parser.add_argument("--keep", type=float, default=300.0, help="seconds that finished tasks are kept [300]")
    parser.add_argument("--every", type=float, default=30.0, help="seconds between two looks at the sizes [30]")


def run(given: argparse.Namespace) -> Report:
    """Measure and report."""
    settings = {name: getattr(given, name) for name in ("rate", "seconds", "keep", "every", "rounds")}
    report = Report("bloat", settings)
    with a_server(given.dsn) as server:
        report.server = describe_server(server)
        for _ in range(given.rounds):
            with a_database(server) as dsn, PQ(dsn) as pq:
                pq.include(noop.group)
                _steady(report, pq, dsn, given)
    for what in [name for name, figure in report.series if figure == AT_THE_END]:
        anew = report.series.get((f"{what}, written anew", AT_THE_END))
        if anew is not None and anew.median >= SHOWN:
            report.ratio(AT_THE_END, what, anew.variant, goal="<= 2" if what in WHOLE else "")
    report.note("written anew: the same rows copied into a new table with the same indexes and storage parameters")
    report.note("autovacuum with stock settings comes by once a minute: what is dead in between is part of each size")
    return report


def _steady(report: Report, pq: PQ, dsn: str, given: argparse.Namespace) -> None:
    """Enqueue at the given rate beside one worker, and look at the sizes every now and then."""
    pq.set_retention("default", finished=timedelta(seconds=given.keep))
    every = min(10.0, given.keep / 4)
    options = ("--tasks-per-child", "1000", "--concurrency", "2", "--prune-interval", f"{every:g}")
    with running(dsn, *options), psycopg.connect(dsn, autocommit=True) as connection:
        began, enqueued, looked = time.monotonic(), 0, 0
        while (passed := time.monotonic() - began) < given.seconds:
            wanted = int(given.rate * passed) - enqueued
            if wanted > 0:
                pq.enqueue_many(noop.call(enqueued + n) for n in range(wanted))
                enqueued += wanted
            if passed >= (looked + 1) * given.every:
                looked += 1
                _look(report, connection, f"after {looked * given.every:g} s")
            time.sleep(max(0.0, STEP - (time.monotonic() - began - passed)))
        _at_the_end(report, connection, enqueued / (time.monotonic() - began))


def _look(report: Report, connection: Connection, when: str) -> None:
    """Add the sizes of a moment. The copy takes a part of a second: what is enqueued then comes after it, at once."""
    now, live = _sizes(connection, "pq_tasks"), _live(connection)
    dead, vacuums, unfinished, rows = _one(connection, HEALTH)
    for what in WHOLE:
        report.add(when, f"{what}, to its live size", _total(now, what) / max(_total(live, what), 1e-9), "times")
    report.add(when, "table and indexes", _total(now, BOTH), "MiB")
    report.add(when, "rows", rows, "rows")
    report.add(when, "dead rows", dead, "rows")
    report.add(when, "unfinished", unfinished, "tasks")
    report.add(when, "autovacuum came", vacuums, "times")


def _at_the_end(report: Report, connection: Connection, rate: float) -> None:
    now, live = _sizes(connection, "pq_tasks"), _live(connection)
    (unfinished,) = _one(connection, "SELECT count(*) FROM pq_tasks WHERE status IN ('pending', 'running')")
    for what in WHOLE:
        report.add(what, AT_THE_END, _total(now, what), "MiB")
        report.add(f"{what}, written anew", AT_THE_END, _total(live, what), "MiB")
    for name, size in now.items():
        if name != HEAP and max(size, live[name]) >= SHOWN:
            report.add(name, AT_THE_END, size, "MiB")
            report.add(f"{name}, written anew", AT_THE_END, live[name], "MiB")
    for table in ("pq_attempts", "pq_statistics"):
        (size,) = _one(connection, f"SELECT pg_total_relation_size('{table}')::float8 / 2 ^ 20")
        report.add(table, AT_THE_END, size, "MiB")
    report.add("enqueued", "steady rate", rate, "tasks/s")
    report.add("unfinished at the end", "steady rate", unfinished, "tasks")


def _sizes(connection: Connection, table: str, names: dict[str, str] | None = None) -> dict[str, float]:
    """Return MiB of the table and of each of its indexes. ``names``: of indexes, by what they are on."""
    found = {HEAP: float(_one(connection, f"SELECT pg_table_size('{table}')::float8 / 2 ^ 20")[0])}
    for definition, name, size in connection.execute(SIZES, (table,)):
        found[name if names is None else names[_on(definition)]] = float(size)
    return found


def _live(connection: Connection) -> dict[str, float]:
    """Return what the same rows take in a new table."""
    names = {_on(definition): name for definition, name, _ in connection.execute(SIZES, ("pq_tasks",))}
    (options,) = _one(
        connection,
        "SELECT string_agg(o, ', ') FROM pg_class, unnest(reloptions) o"
        " WHERE oid = 'pq_tasks'::regclass AND o LIKE 'fillfactor%%'",
    )
    connection.execute(LIVE.format(options=options or "fillfactor = 100"))
    try:
        return _sizes(connection, "pq_live", names)
    finally:
        connection.execute("DROP TABLE pq_live")


def _on(definition: str) -> str:
    """Return what an index is on, without the names of index and table."""
    return definition.partition(" USING ")[2]


def _total(sizes: dict[str, float], what: str) -> float:
    indexes = sum(size for name, size in sizes.items() if name != HEAP)
    return {HEAP: sizes[HEAP], INDEXES: indexes, BOTH: sizes[HEAP] + indexes}[what]


def _one(connection: Connection, query: str) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()  # type: ignore[call-overload]
    assert row is not None
    return tuple(row)
