"""Upsert: the latest version runs, never two at once, none is lost. Claims and ends are plain SQL here."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from pq_core import PQ, InvalidOption, TaskGroup, TaskStatus

jobs = TaskGroup()

CLAIM = """
    UPDATE pq_tasks
    SET status = 'running', worker_id = 1, fence = fence + 1, attempts = attempts + 1, started_at = now()
    WHERE id = (SELECT id FROM pq_tasks WHERE status = 'pending' AND due LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING id, fence, (payload -> 'args' -> 0)::int
"""
END = """
    UPDATE pq_tasks SET status = %s, outcome = %s, error = 'e', completed_at = clock_timestamp()
    WHERE id = %s AND fence = %s AND status = 'running' RETURNING id
"""


@jobs.task(name="save")
def save(version: int) -> None: ...


@pytest.fixture
def pq(database: str) -> Iterator[PQ]:
    with PQ(database) as pq:
        pq.include(jobs)
        yield pq


def test_waiting_task_is_replaced_in_place(pq: PQ) -> None:
    first = pq.upsert(save, 1, client_id="a")
    second = pq.upsert(save, 2, client_id="a", run_at=datetime.now(UTC) + timedelta(hours=1), priority=75)

    task = pq.get_task(first)
    assert second == first
    assert task is not None
    assert (task.payload["args"], task.priority, task.status) == ([2], 75, TaskStatus.PENDING)
    assert task.run_at > task.created_at + timedelta(minutes=59)
    with pq.session() as connection:
        assert connection.execute("SELECT due FROM pq_tasks").fetchall() == [(False,)]


def test_finished_task_runs_again_as_new(pq: PQ, connection: psycopg.Connection) -> None:
    task_id = pq.upsert(save, 1, client_id="a")
    row = connection.execute(CLAIM).fetchone()
    assert row is not None
    connection.execute(END, ("failed", "raised", task_id, row[1]))

    assert pq.upsert(save, 2, client_id="a") == task_id

    task = pq.get_task(task_id)
    assert task is not None
    assert (task.status, task.payload["args"], task.attempts, task.error) == (TaskStatus.PENDING, [2], 0, None)
    assert task.fence == row[1]


@pytest.mark.parametrize(("status", "outcome"), [("completed", "succeeded"), ("failed", "raised"), ("pending", "lost")])
def test_running_task_is_left_alone_until_its_end(
    pq: PQ, connection: psycopg.Connection, status: str, outcome: str
) -> None:
    task_id = pq.upsert(save, 1, client_id="a")
    row = connection.execute(CLAIM).fetchone()
    assert row is not None

    for version in (2, 3):
        assert pq.upsert(save, version, client_id="a") == task_id
    running = pq.get_task(task_id)
    assert running is not None
    assert (running.status, running.payload["args"]) == (TaskStatus.RUNNING, [1])
    assert connection.execute(CLAIM).fetchone() is None

    connection.execute(END, (status, outcome, task_id, row[1]))

    assert connection.execute(CLAIM).fetchone() == (task_id, row[1] + 1, 3)


def test_cancel_drops_what_was_parked_before_and_keeps_what_comes_after(pq: PQ, connection: psycopg.Connection) -> None:
    task_id = pq.upsert(save, 1, client_id="a")
    row = connection.execute(CLAIM).fetchone()
    assert row is not None
    pq.upsert(save, 2, client_id="a")
    assert pq.cancel(task_id)
    connection.execute(END, ("cancelled", "cancelled", task_id, row[1]))
    task = pq.get_task(task_id)
    assert task is not None
    assert task.status is TaskStatus.CANCELLED

    pq.retry(task_id)
    row = connection.execute(CLAIM).fetchone()
    assert row is not None
    pq.cancel(task_id)
    pq.upsert(save, 3, client_id="a")
    connection.execute(END, ("cancelled", "cancelled", task_id, row[1]))
    task = pq.get_task(task_id)
    assert task is not None
    assert (task.status, task.payload["args"], task.cancel_requested_at) == (TaskStatus.PENDING, [3], None)


def test_upsert_needs_a_client_id(pq: PQ) -> None:
    with pytest.raises(InvalidOption, match="client_id"):
        pq.upsert(save.call(1))


@pytest.mark.parametrize("unique", ["retained", "unfinished"])
def test_two_racing_upserts_never_run_two_at_once_nor_lose_the_last(database: str, pq: PQ, unique: str) -> None:
    """Two clients upsert 1,000 times each while two workers claim and end; every end is drawn at random."""
    done = threading.Event()
    problems: list[str] = []
    ran: list[int] = []

    def upsert(start: int) -> None:
        for version in range(start, start + 1000):
            pq.upsert(save.options(client_id="a", unique=unique).call(version))

    def work(seed: int) -> None:
        draw = random.Random(seed)
        with psycopg.connect(database, autocommit=True) as own:
            while True:
                last = done.is_set()
                row = own.execute(CLAIM).fetchone()
                if row is None:
                    if last:
                        return
                    continue
                running = own.execute("SELECT count(*) FROM pq_tasks WHERE status = 'running'").fetchone()
                if running != (1,):
                    problems.append(f"{running} running")
                ran.append(row[2])
                status, outcome = draw.choice([("completed", "succeeded"), ("failed", "raised"), ("pending", "lost")])
                if own.execute(END, (status, outcome, row[0], row[1])).fetchone() is None:
                    problems.append("an end was lost")

    clients = [threading.Thread(target=upsert, args=(start,)) for start in (0, 1000)]
    workers = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for thread in clients + workers:
        thread.start()
    for thread in clients:
        thread.join(100)
    # A version that comes after all others must be the last that runs.
    pq.upsert(save.options(client_id="a", unique=unique).call(5000))
    done.set()
    for thread in workers:
        thread.join(60)

    assert not problems
    assert ran[-1] == 5000
    assert pq.pending_count() == 0
