"""What workers count: written by real ones, merged by them, read by the client."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pq_core import PQ, InvalidOption
from pq_core.statistics import stored
from pq_core.statistics_request import totals
from pq_core.worker.claiming import Statements, number
from tests.integration import worker_tasks as tasks
from tests.integration.worker_process import eventually, running, until_empty

DAY = timedelta(days=1)


def merge(connection: psycopg.Connection, *, retention: float = 30 * 86400.0) -> bool:
    """Run the worker's own statement, as text."""
    text = Statements("public")["statistics_merge"].text.replace("$1", f"'{number(retention).decode()}'")
    row = connection.execute(text.encode()).fetchone()
    assert row is not None
    return bool(row[0])


def put(connection: psycopg.Connection, *, age: timedelta, worker: int, count: int, **columns: Any) -> None:
    values = {"queue": "default", "name": "n", "outcome": "succeeded", **columns}
    connection.execute(
        "INSERT INTO pq_statistics VALUES (date_trunc('minute', now() - %s), %s, %s, %s, %s, %s, 1, 2, 3, %s, %s, %s)",
        (age, worker, *values.values(), count, [5, count], stored({5: 1, 7: count}), []),
    )


def test_worker_counts_what_it_ends(database: str, tmp_path: Path) -> None:
    pq = PQ(database, tasks=[tasks.__name__])
    for _ in range(3):
        pq.enqueue(tasks.add.call(1))
    pq.enqueue(tasks.boom.call("no"))
    pq.enqueue(tasks.nap.call(0.2), queue="slow")

    until_empty(database, tmp_path, queues=["default", "slow"])

    by_outcome = {(row.queue, row.outcome): row for row in pq.statistics(by=["queue", "outcome"], last=DAY)}
    assert {key: row.count for key, row in by_outcome.items()} == {
        ("default", "succeeded"): 3,
        ("default", "raised"): 1,
        ("slow", "succeeded"): 1,
    }
    (napped,) = pq.statistics(by=["name"], last=timedelta(hours=1), queue="slow")
    assert napped.name == pq.registry.name_of(tasks.nap)
    assert napped.run_seconds >= 0.2
    assert (napped.run(0.5) or 0) >= 0.18
    assert sum(napped.waits.values()) == sum(napped.memory.values()) == 1
    (whole,) = asyncio.run(_all(pq))
    assert (whole.count, whole.queue, whole.time) == (5, None, None)
    assert whole.cpu_seconds > 0


async def _all(pq: PQ) -> Any:
    try:
        return await pq.astatistics(last=DAY)
    finally:
        await pq.aclose()


def test_worker_writes_while_it_runs_and_a_killed_one_loses_seconds_at_most(database: str, tmp_path: Path) -> None:
    pq = PQ(database, tasks=[tasks.__name__])
    with running(database, tmp_path) as worker:
        pq.enqueue(tasks.add.call(1))
        first = eventually(lambda: pq.statistics(last=DAY), what="the first figures")
        assert first[0].count == 1
        for _ in range(5):
            pq.enqueue(tasks.add.call(2))
        # The rows are written whole, again and again.
        eventually(lambda: pq.statistics(last=DAY)[0].count == 6, what="all six")
        (pid,) = worker.workers
        os.kill(pid, signal.SIGKILL)

        worker.started(2)

        assert pq.statistics(last=DAY)[0].count == 6


def test_two_workers_write_rows_of_their_own(database: str, tmp_path: Path, connection: psycopg.Connection) -> None:
    pq = PQ(database, tasks=[tasks.__name__])
    pq.enqueue(tasks.add.call(1))
    until_empty(database, tmp_path)
    pq.enqueue(tasks.add.call(1))
    until_empty(database, tmp_path)

    assert connection.execute("SELECT count(DISTINCT worker_id), sum(count) FROM pq_statistics").fetchone() == (2, 2)
    assert pq.statistics(last=DAY)[0].count == 2


def test_merging_changes_no_figure(connection: psycopg.Connection, database: str) -> None:
    pq = PQ(database)
    for worker in (1, 2, 3):
        for minutes in (20, 21, 90):
            put(connection, age=timedelta(minutes=minutes), worker=worker, count=worker)
    put(connection, age=timedelta(minutes=1), worker=4, count=100)
    views: list[dict[str, Any]] = [
        {"last": DAY},
        {"last": timedelta(hours=3)},
        {"last": DAY, "by": ["time", "name"], "step": timedelta(hours=1)},
        {"last": timedelta(hours=3), "by": ["time", "outcome"], "step": timedelta(minutes=5)},
    ]
    before = [pq.statistics(**view) for view in views]
    assert before[0][0].count == 118
    assert before[0][0].runs == {5: 10, 7: 118}

    assert merge(connection) is False
    again = [pq.statistics(**view) for view in views]
    put(connection, age=timedelta(minutes=20), worker=9, count=1)
    merge(connection)

    assert again == before
    assert connection.execute("SELECT count(*) FROM pq_statistics WHERE worker_id = 0").fetchone() == (3,)
    assert connection.execute("SELECT count(*) FROM pq_statistics WHERE worker_id = 4").fetchone() == (1,)
    assert [pq.statistics(**view)[0].count for view in views[:2]] == [119, 119]
    assert pq.statistics(last=DAY)[0].waits == {5: 119}


def test_old_rows_go(connection: psycopg.Connection, database: str) -> None:
    pq = PQ(database)
    put(connection, age=timedelta(days=40), worker=1, count=1)
    put(connection, age=timedelta(days=2), worker=1, count=2)
    merge(connection)
    merge(connection)

    assert [row.count for row in pq.statistics(last=timedelta(days=400))] == [2]
    # What was dropped still counts in the sums over everything, so that a counter never falls.
    assert [row.count for row in pq._run(totals("public"))] == [3]
    put(connection, age=timedelta(days=50), worker=1, count=5)
    merge(connection)
    merge(connection)
    (everything,) = pq._run(totals("public"))
    assert (everything.count, everything.runs) == (8, {5: 3, 7: 8})
    assert connection.execute("SELECT count(*) FROM pq_statistics").fetchone() == (1,)


def test_one_merges_at_a_time(connection: psycopg.Connection, database: str) -> None:
    put(connection, age=timedelta(hours=1), worker=1, count=1)
    with psycopg.connect(database) as other:
        merge(other)  # in an open transaction

        merge(connection)

        other.rollback()
    assert connection.execute("SELECT min(worker_id) FROM pq_statistics").fetchone() == (1,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "either last="),
        ({"last": DAY, "since": datetime(2026, 1, 1, tzinfo=UTC)}, "either last="),
        ({"last": DAY, "by": "name"}, "by='name'"),
        ({"last": DAY, "by": ["color"]}, "by="),
        ({"last": DAY, "by": ["time"]}, "step="),
        ({"last": DAY, "step": timedelta(minutes=1)}, "by="),
        ({"last": DAY, "by": ["time"], "step": timedelta(seconds=30)}, "whole minutes"),
        ({"last": timedelta(0)}, "above 0"),
        ({"since": datetime(2026, 1, 1)}, "tzinfo"),
    ],
)
def test_refuses_what_makes_no_sense(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidOption, match=words):
        PQ("postgresql://nowhere").statistics(**options)
