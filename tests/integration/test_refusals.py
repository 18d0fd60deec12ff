"""Old workers beside a new one: what they can't run they refuse once, and it goes to who can."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg

from pq_core import PQ, TaskStatus
from tests.integration import limit_tasks, schedule_tasks
from tests.integration.test_wake_ups import SLEEPER
from tests.integration.worker_process import eventually, running

OLD = "tests.integration.schedule_tasks:create_pq"
NEW = "tests.integration.limit_tasks:create_pq"


def releases(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT count(*) FROM pq_attempts WHERE outcome = 'released'").fetchone()
    assert row is not None
    return int(row[0])


def test_old_worker_refuses_a_new_function_once(database: str, connection: psycopg.Connection, tmp_path: Path) -> None:
    with (
        PQ(database, tasks=[limit_tasks.__name__, schedule_tasks.__name__]) as pq,
        running(database, tmp_path, app=OLD, concurrency=1, queues=("default",)),
    ):
        first = pq.enqueue(limit_tasks.work.call(os.devnull, "first"))
        eventually(lambda: releases(connection) == 1)
        more = pq.enqueue_many(limit_tasks.work.call(os.devnull, str(n)) for n in range(20))
        # Behind them, and of no higher priority.
        assert pq.wait(pq.enqueue(schedule_tasks.quick.call(7)), timeout=60) == 7
        assert releases(connection) == 1
        refuses = connection.execute("SELECT refuses FROM pq_workers").fetchall()
        assert refuses == [({limit_tasks.work.name: -(2**31)},)]

        with running(database, tmp_path, app=NEW, concurrency=1, queues=("default",)):
            for task_id in (first, *more):
                pq.wait(task_id, timeout=60)

    assert releases(connection) == 1


def test_workers_that_refuse_a_function_are_not_woken_for_it(database: str, connection: psycopg.Connection) -> None:
    connection.execute(SLEEPER, (1, 3))
    connection.execute("UPDATE pq_workers SET refuses = jsonb_build_object(%s::text, 0) WHERE id < 3", ("l.work",))
    connection.execute("UPDATE pq_workers SET refuses = '{\"l.work\": 2}' WHERE id = 3")
    for n in range(1, 4):
        connection.execute(f"LISTEN own_{n}")  # type: ignore[call-overload]
    with PQ(database, tasks=[limit_tasks.__name__]) as pq:
        for n in range(8):
            pq.enqueue(limit_tasks.work.call(os.devnull, str(n)))

    connection.execute("SELECT pg_notify('own_1', 'end')")
    found = []
    for notification in connection.notifies(timeout=30):
        if notification.payload == "end":
            break
        found.append(notification.channel)

    assert found == ["own_3"] * 8


def test_nothing_is_unroutable_while_a_live_worker_may_run_it(
    database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    connection.execute(SLEEPER, (900, 900))
    with (
        PQ(database, tasks=[limit_tasks.__name__]) as pq,
        running(database, tmp_path, app=OLD, queues=("default",), unroutable_after=0.3, poll_interval=0.1),
    ):
        task_id = pq.enqueue(limit_tasks.work.call(os.devnull, "new"))
        eventually(lambda: releases(connection) >= 8)  # it is tried again each 0.05 s: longer than it may be unroutable
        record = pq.get_task(task_id)
        assert record is not None
        assert record.status is TaskStatus.PENDING

        connection.execute("UPDATE pq_workers SET refuses = jsonb_build_object('l.work', 1) WHERE id = 900")
        eventually(lambda: (found := pq.get_task(task_id)) is not None and found.status is TaskStatus.FAILED)
        record = pq.get_task(task_id)
        assert record is not None
        assert "unroutable" in (record.error or "")
