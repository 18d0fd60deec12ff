"""Waiting for results: by notification, by polling, with a timeout. Ends are plain SQL here."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from pq_core import PQ, TaskFailed, TaskGroup, TaskNotFound, UnsupportedConnection, WaitTimeout
from pq_core.payload import encode_result

jobs = TaskGroup()


@jobs.task(name="price")
def price() -> Decimal:
    return Decimal(1)


@pytest.fixture
def pq(database: str) -> Iterator[PQ]:
    with PQ(database) as pq:
        pq.include(jobs)
        yield pq


def finish(dsn: str, task_id: int, status: str, result: Any = None, *, error: str | None = None) -> None:
    with psycopg.connect(dsn, autocommit=True) as own:
        own.execute(
            "WITH ended AS (UPDATE pq_tasks SET status = %s, result = %s::jsonb, error = %s, completed_at = now()"
            " WHERE id = %s RETURNING id), waited_for AS (DELETE FROM pq_waits w USING ended e WHERE w.task_id = e.id"
            " RETURNING e.id) SELECT pg_notify(pq_channel('done'), id::text) FROM waited_for",
            (status, None if result is None else json.dumps(encode_result(result)), error, task_id),
        )


@contextmanager
def later(seconds: float, *args: Any, **kwargs: Any) -> Iterator[None]:
    timer = threading.Timer(seconds, finish, args, kwargs)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def test_result_arrives_with_its_type(database: str, pq: PQ) -> None:
    task_id = pq.enqueue(price)

    with later(0.3, database, task_id, "completed", Decimal("1.50")):
        result = pq.wait(task_id, timeout=10)

    assert result == Decimal("1.50")
    assert type(result) is Decimal


def test_notification_ends_the_wait_at_once(database: str, pq: PQ) -> None:
    task_id = pq.enqueue(price)

    with later(0.7, database, task_id, "completed", 1):
        began = time.monotonic()
        assert pq.wait(task_id, poll=30) == 1
        took = time.monotonic() - began

    # Questions without a notification would come at 0.66 and 1.04 s.
    assert 0.6 < took < 0.95


def test_polling_serves_where_nothing_is_notified(database: str, pq: PQ) -> None:
    deaf = PQ(database, listen_dsn="host=127.0.0.1 port=1")
    task_id = pq.enqueue(price)

    with deaf, later(0.3, database, task_id, "completed", 1):
        assert deaf.wait(task_id, timeout=10) == 1


def test_finished_task_answers_at_once_without_listening(database: str, pq: PQ) -> None:
    task_id = pq.enqueue(price)
    finish(database, task_id, "completed", [1])

    assert PQ(database, listen_dsn="host=127.0.0.1 port=1").wait(task_id, timeout=0) == [1]


def test_timeout_names_the_state(pq: PQ) -> None:
    task_id = pq.enqueue(price)
    began = time.monotonic()

    with pytest.raises(WaitTimeout, match=f"task {task_id} is still pending after 0.3 s"):
        pq.wait(task_id, timeout=0.3)

    assert 0.25 < time.monotonic() - began < 1


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_failure_brings_the_error(database: str, pq: PQ, status: str) -> None:
    task_id = pq.enqueue(price)
    finish(database, task_id, status, error="Traceback\nValueError: no price")

    with pytest.raises(TaskFailed, match=f"{status}: ValueError: no price") as caught:
        pq.wait(task_id)
    assert caught.value.error == "Traceback\nValueError: no price"


def test_task_that_is_deleted_meanwhile_is_not_waited_for(pq: PQ) -> None:
    task_id = pq.enqueue(price)
    timer = threading.Timer(0.2, pq.clear_all)
    timer.start()

    with pytest.raises(TaskNotFound):
        pq.wait(task_id, timeout=10)
    timer.join()


def test_row_that_somebody_holds_does_not_outlast_the_timeout(database: str, pq: PQ) -> None:
    task_id = pq.enqueue(price)
    with psycopg.connect(database) as holder:
        holder.execute("SELECT 1 FROM pq_tasks FOR UPDATE")

        with pytest.raises(WaitTimeout):
            pq.wait(task_id, timeout=0.3)


def test_wait_inside_the_enqueuing_transaction_is_refused(pq: PQ) -> None:
    with pq.session() as connection:
        task_id = pq.using(connection).enqueue(price.call())

        with pytest.raises(UnsupportedConnection, match="commit first"):
            pq.using(connection).wait(task_id)
        with pytest.raises(TaskNotFound):
            pq.wait(task_id, timeout=5)


def test_many_wait_at_once_and_leave_clean_connections(database: str, pq: PQ) -> None:
    ids = pq.enqueue_many(price.call() for _ in range(8))
    results: list[Any] = []
    threads = [threading.Thread(target=lambda i=i: results.append(pq.wait(i, timeout=20))) for i in ids]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    for task_id in ids:
        finish(database, task_id, "completed", int(task_id))
    for thread in threads:
        thread.join(20)

    assert sorted(results) == ids
    with pq.session() as connection:
        assert connection.execute("SELECT pg_listening_channels()").fetchall() == []


def test_who_waits_needs_one_connection(database: str, pq: PQ, connection: psycopg.Connection) -> None:
    ids = pq.enqueue_many(price.call() for _ in range(8))
    threads = [threading.Thread(target=pq.wait, args=(i, 20), kwargs={"poll": 0.01}) for i in ids]
    for thread in threads:
        thread.start()
    counts: list[int] = []
    until = time.monotonic() + 1
    while time.monotonic() < until:
        [row] = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pq'"
        ).fetchall()
        counts.append(row[0])
    for task_id in ids:
        finish(database, task_id, "completed", 1)
    for thread in threads:
        thread.join(20)

    assert 1 < max(counts) <= 8


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_database_that_goes_away_is_waited_for(server: str, database: str, pq: PQ, kind: str) -> None:
    task_id = pq.enqueue(price)
    name = sql.Identifier(conninfo_to_dict(database)["dbname"])
    went: list[bool] = []

    def restart() -> None:
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
            ended = admin.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
                (conninfo_to_dict(database)["dbname"],),
            ).fetchall()
            went.extend(row[0] for row in ended)
            time.sleep(0.5)
            admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
        finish(database, task_id, "completed", 1)

    timer = threading.Timer(0.3, restart)
    timer.start()
    try:
        if kind == "sync":
            assert pq.wait(task_id, timeout=20) == 1
        else:
            assert asyncio.run(pq.await_(task_id, timeout=20)) == 1
    finally:
        timer.join()
    assert any(went)


def test_async_wait(database: str, pq: PQ) -> None:
    async def both() -> list[Any]:
        first, second = await pq.aenqueue(price), await pq.aenqueue(price)
        loop = asyncio.get_running_loop()
        loop.call_later(0.2, lambda: loop.run_in_executor(None, finish, database, first, "completed", 1))
        loop.call_later(0.1, lambda: loop.run_in_executor(None, finish, database, second, "completed", 2))
        results = await asyncio.gather(pq.await_(first, timeout=10), pq.await_(second, timeout=10))
        with pytest.raises(WaitTimeout):
            await pq.await_(await pq.aenqueue(price), timeout=0.1)
        await pq.aclose()
        return results

    assert asyncio.run(both()) == [1, 2]
