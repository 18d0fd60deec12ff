"""The client against a real database: enqueue in every form, look-ups, cancel, retry, clearing, errors, processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from pq_core import (
    PQ,
    DatabaseNotConfigured,
    DatabaseUnavailable,
    DuplicateClientId,
    InvalidDSN,
    InvalidOption,
    InvalidTask,
    Outcome,
    Priority,
    SchemaIncompatible,
    TaskGroup,
    TaskNotAllowed,
    TaskOptions,
    TaskStatus,
    TransactionRequired,
    UnsupportedConnection,
    UseAsync,
    UseSync,
)
from pq_core.schema import CODE_REVISION
from pq_core.types import JSON

jobs = TaskGroup()


@jobs.task(name="add")
def add(a: int, b: int = 0) -> int:
    return a + b


@jobs.task(name="keyed")
def keyed(key: str) -> str:
    return key


@pytest.fixture
def pq(database: str) -> Iterator[PQ]:
    with PQ(database) as pq:
        pq.include(jobs)
        yield pq


def set_state(connection: psycopg.Connection, task_id: int, status: str, **columns: Any) -> None:
    names = "".join(f", {name} = %({name})s" for name in columns)
    connection.execute(
        f"UPDATE pq_tasks SET status = %(status)s{names} WHERE id = %(id)s",  # type: ignore[arg-type]
        {"status": status, "id": task_id, **columns},
    )


class Row:
    """What a test asks of one row in SQL."""

    def __init__(self, connection: psycopg.Connection, task_id: int) -> None:
        found = connection.cursor(row_factory=dict_row).execute("SELECT * FROM pq_tasks WHERE id = %s", (task_id,))
        row = found.fetchone()
        assert row is not None
        self.__dict__.update(row)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


# Enqueue


def test_both_forms_store_the_same(pq: PQ, connection: psycopg.Connection) -> None:
    moment = datetime.now(UTC) + timedelta(hours=1)
    first = pq.enqueue(add, 1, b=2, run_at=moment, priority=Priority.HIGH, max_runtime_seconds=5.0)
    second = pq.enqueue(add.call(1, b=2), run_at=moment, priority=75, timeout=5.0)
    third = pq.enqueue(add.options(run_at=moment, priority=75, timeout=5.0), 1, b=2)

    rows = [
        {k: v for k, v in vars(Row(connection, i)).items() if k not in ("id", "created_at")}
        for i in (first, second, third)
    ]
    assert rows[0] == rows[1] == rows[2]
    assert rows[0]["payload"] == {"args": [1], "kwargs": {"b": 2}}
    assert rows[0]["run_at"] == moment
    assert rows[0]["due"] is False


def test_run_in_is_measured_by_the_databases_clock(pq: PQ, connection: psycopg.Connection) -> None:
    row = Row(connection, pq.enqueue(add.options(run_in=timedelta(seconds=90)).call(1)))

    assert row.run_at - row.created_at == timedelta(seconds=90)


def test_naive_datetime_is_refused(pq: PQ) -> None:
    with pytest.raises(InvalidOption, match="timezone"):
        pq.enqueue(add, 1, run_at=datetime(2030, 1, 1))


def test_parameter_named_like_an_option_points_to_options(pq: PQ, connection: psycopg.Connection) -> None:
    with pytest.raises(InvalidTask, match=r"\.options\("):
        pq.enqueue(keyed, key="x")

    assert Row(connection, pq.enqueue(keyed.call(key="x"))).payload["kwargs"] == {"key": "x"}


def test_options_come_from_call_task_and_defaults_in_that_order(database: str, connection: psycopg.Connection) -> None:
    pq = PQ(database, defaults=TaskOptions(max_attempts=3, priority=25, queue="slow"))
    group = TaskGroup()

    @group.task(name="t", priority=75)
    def task() -> None: ...

    pq.include(group)
    row = Row(connection, pq.enqueue(task.options(queue="fast").call()))
    assert (row.max_attempts, row.priority, row.queue) == (3, 75, "fast")


def test_function_that_may_not_run_is_refused_with_the_fix(pq: PQ) -> None:
    with pytest.raises(TaskNotAllowed, match=r"allow=\['posixpath'\]"):
        pq.enqueue(os.path.join, "a")


def test_allowed_modules_functions_are_enqueued(database: str, connection: psycopg.Connection) -> None:
    pq = PQ(database, allow=["posixpath"])

    assert Row(connection, pq.enqueue(os.path.join, "a", "b")).name == "posixpath:join"


def test_tasks_of_the_pq_itself(database: str, connection: psycopg.Connection) -> None:
    pq = PQ(database)

    @pq.task(name="own")
    def own(n: int) -> int:
        return n

    assert Row(connection, own.enqueue(5)).payload["args"] == [5]
    assert Row(connection, own.options(priority=1).enqueue(5)).priority == 1


def test_duplicate_raises_or_returns(pq: PQ) -> None:
    first = pq.enqueue(add, 1, client_id="a")

    with pytest.raises(DuplicateClientId) as caught:
        pq.enqueue(add, 2, client_id="a")
    assert (caught.value.client_id, caught.value.existing_id) == ("a", first)
    assert pq.enqueue(add.options(client_id="a", on_duplicate="return").call(2)) == first


def test_many_return_duplicates_in_place(pq: PQ) -> None:
    first = pq.enqueue(add, 1, client_id="a")

    ids = pq.enqueue_many([add.options(client_id=c).call(1) for c in "bac"], on_duplicate="return")

    assert ids[1] == first
    assert len(set(ids)) == 3


def test_many_store_nothing_when_one_is_a_duplicate(pq: PQ) -> None:
    pq.enqueue(add, 1, client_id="a")
    calls = [add.call(0), *(add.options(client_id=c).call(1) for c in "bac")]

    with pytest.raises(DuplicateClientId, match="'a'"):
        pq.enqueue_many(calls)

    assert pq.pending_count() == 1


def test_batch_that_names_one_client_id_twice_is_refused(pq: PQ) -> None:
    with pytest.raises(DuplicateClientId, match="positions 0 and 2"):
        pq.enqueue_many(add.options(client_id=c).call(1) for c in "aba")

    assert pq.pending_count() == 0


def test_empty_batch_does_nothing(pq: PQ) -> None:
    assert pq.enqueue_many([]) == []


def test_require_transaction_outside_and_inside_one(database: str, pq: PQ) -> None:
    call = add.options(require_transaction=True).call(1)

    with pytest.raises(TransactionRequired, match="add"):
        pq.enqueue(call)
    with pytest.raises(TransactionRequired):
        pq.enqueue_many([add.call(1), call])
    with psycopg.connect(database, autocommit=True) as own:
        with pytest.raises(TransactionRequired):
            pq.using(own).enqueue(call)
        with own.transaction():
            assert pq.using(own).enqueue(call)


def test_plugins_fill_headers_and_can_not_keep_a_task_out(database: str, connection: psycopg.Connection) -> None:
    class Tracing:
        def pq_before_enqueue(self, headers: dict[str, str]) -> None:
            headers["trace"] = "\0t"

    class Broken:
        def pq_before_enqueue(self, headers: dict[str, str]) -> None:
            headers["gone"] = "x"
            raise RuntimeError("no")

    pq = PQ(database, plugins=[Broken(), Tracing()])
    pq.include(jobs)

    row = Row(connection, pq.enqueue(add.options(headers={"own": "1"}).call(1)))
    assert row.headers == {"own": "1", "trace": "\N{REPLACEMENT CHARACTER}t"}


# The user's psycopg connection


def test_user_connection_may_be_set_up_in_any_way(database: str, pq: PQ) -> None:
    with psycopg.connect(database, row_factory=dict_row, cursor_factory=psycopg.ClientCursor) as own:
        own.prepare_threshold = None
        assert pq.using(own).enqueue(add.call(1))
    with psycopg.connect(database, cursor_factory=psycopg.RawCursor, prepare_threshold=0) as own:
        assert [pq.using(own).enqueue(add.call(1)) for _ in range(3)]
    with psycopg.connect(database, client_encoding="latin1") as own:
        task_id = pq.using(own).enqueue(add.options(client_id="ü 漢 \U0001f418").call(1))
    with psycopg.connect(database) as own:
        own.adapters.register_loader("text", psycopg.types.numeric.IntLoader)
        assert pq.using(own).enqueue(add.call(1))

    task = pq.get_task(task_id)
    assert task is not None
    assert task.client_id == "ü 漢 \U0001f418"
    assert pq.pending_count() == 6


def test_pipeline_and_savepoints(database: str, pq: PQ) -> None:
    with psycopg.connect(database) as own, own.pipeline():
        own.execute("SELECT 1")
        first = pq.using(own).enqueue(add.call(1))
    with psycopg.connect(database) as own:
        kept = pq.using(own).enqueue(add.call(2))
        with own.transaction():
            pq.using(own).enqueue(add.call(3))
            raise psycopg.Rollback

    assert [task.id for task in pq.list_tasks()] == [kept, first]


def test_failed_transaction_gives_the_drivers_error(database: str, pq: PQ) -> None:
    with psycopg.connect(database) as own:
        with pytest.raises(psycopg.errors.DivisionByZero):
            own.execute("SELECT 1 / 0")

        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            pq.using(own).enqueue(add.call(1))


def test_using_refuses_what_nobody_knows(database: str, pq: PQ) -> None:
    with pytest.raises(UnsupportedConnection, match="object"):
        pq.using(object())
    with psycopg.connect(database) as own, pytest.raises(UnsupportedConnection, match=r"cursor\.connection"):
        pq.using(own.cursor())


def test_using_takes_a_tracers_proxy_of_a_connection(database: str, pq: PQ) -> None:
    class Proxy:
        def __init__(self, wrapped: object) -> None:
            self.wrapped = wrapped

        def __getattr__(self, name: str) -> object:
            return getattr(self.wrapped, name)

        @property
        def __class__(self) -> type:  # type: ignore[override]
            return type(self.wrapped)

    with psycopg.connect(database) as own:
        task_id = pq.using(Proxy(own)).enqueue(add.call(1))  # type: ignore[call-overload]

    assert pq.get_task(task_id) is not None


def test_session_lends_a_transaction(pq: PQ) -> None:
    def fail() -> None:
        with pq.session() as connection:
            pq.using(connection).enqueue(add.call(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with pq.session() as connection:
        pq.using(connection).enqueue(add.call(2))

    assert [task.payload["args"] for task in pq.list_tasks()] == [[2]]


def test_sync_and_async_sessions_name_the_call_to_make(database: str, pq: PQ) -> None:
    with psycopg.connect(database) as own, pytest.raises(UseSync, match=r"pq\.using\(session\)\.enqueue"):
        pq.using(own).aenqueue(add.call(1))

    async def check() -> None:
        async with await psycopg.AsyncConnection.connect(database) as own:
            with pytest.raises(UseAsync, match=r"await pq\.using\(session\)\.aenqueue"):
                pq.using(own).enqueue(add.call(1))
            with pytest.raises(AttributeError):
                pq.using(own).unheard_of  # noqa: B018

    asyncio.run(check())


def test_every_method_has_a_twin() -> None:
    from pq_core.async_methods import AsyncMethods
    from pq_core.methods import Methods

    plain = {name for name in vars(Methods) if not name.startswith("_")}
    assert {f"a{name}" for name in plain} == {name for name in vars(AsyncMethods) if not name.startswith("_")}


def test_tables_are_made_and_dropped_past_the_pooler(empty_database: str) -> None:
    pooled = PQ("host=127.0.0.1 port=1", listen_dsn=empty_database)
    direct = PQ(empty_database)

    pooled.run_db_migrations()
    assert direct.stats().due == 0
    pooled.drop_tables()

    async def twins() -> None:
        await pooled.arun_db_migrations()
        assert (await direct.astats()).due == 0
        await pooled.adrop_tables()
        await pooled.acreate_tables()
        assert (await direct.astats()).due == 0
        await direct.aclose()

    asyncio.run(twins())
    direct.close()


def test_async_methods_work(database: str, pq: PQ) -> None:
    async def use() -> list[Any]:
        async with PQ(database) as own:
            own.include(jobs)
            first = await own.aenqueue(add, 1, client_id="a")
            ids = await own.aenqueue_many([add.call(2), add.call(3)])
            with pytest.raises(DuplicateClientId):
                await own.aenqueue(add, 1, client_id="a")
            assert await own.aupsert(add, 9, client_id="a") == first
            async with own.asession() as connection:
                ids.append(await own.using(connection).aenqueue(add.call(4)))
            assert await own.acancel(first)
            assert await own.apending_count() == 3
            assert (await own.astats()).due == 3
            return [first, *ids]

    ids = asyncio.run(use())
    assert [task.id for task in pq.list_tasks()] == ids[::-1]


# Looking at tasks


def test_record_of_a_task(pq: PQ, connection: psycopg.Connection) -> None:
    task_id = pq.enqueue(add.options(client_id="a", headers={"h": "1"}, max_attempts=2).call(1))
    set_state(connection, task_id, "failed", outcome="crashed", error="boom", attempts=2, progress=0.5,
              progress_message="half", completed_at="infinity")  # fmt: skip

    task = pq.get_task(task_id)

    assert task is not None
    assert task == pq.get_task_by_client_id("a")
    assert (task.status, task.outcome, task.error, task.attempts) == (TaskStatus.FAILED, Outcome.CRASHED, "boom", 2)
    assert (task.headers, task.unique, task.created_at.tzinfo) == ({"h": "1"}, "retained", UTC)
    assert task.completed_at == datetime.max.replace(tzinfo=UTC)
    assert pq.progress(task_id) == (0.5, "half")
    assert pq.get_task(999) is None
    assert pq.get_task(10**30) is None
    assert pq.get_task_by_client_id("nobody") is None
    assert pq.progress(999) == (None, None)


def test_newest_task_of_a_client_id(pq: PQ, connection: psycopg.Connection) -> None:
    options = add.options(client_id="a", unique="unfinished")
    first = pq.enqueue(options.call(1))
    set_state(connection, first, "completed", completed_at="now")
    second = pq.enqueue(options.call(2))
    found = pq.get_task_by_client_id("a")
    assert found is not None
    assert found.id == second

    set_state(connection, second, "completed", completed_at="now")
    found = pq.get_task_by_client_id("a")
    assert found is not None
    assert found.id == second
    assert [task.id for task in pq.list_tasks(client_id="a")] == [second, first]


def test_lists_filter_and_page(pq: PQ, connection: psycopg.Connection) -> None:
    ids = pq.enqueue_many(add.options(queue="ab"[i % 2]).call(i) for i in range(6))
    for task_id in ids[:4]:
        set_state(connection, task_id, "failed", error=f"Boom {task_id}", completed_at=f"2030-01-0{task_id}")

    assert [task.id for task in pq.list_tasks(limit=2)] == ids[:3:-1]
    assert [task.id for task in pq.list_tasks(limit=2, before_id=ids[4])] == [ids[3], ids[2]]
    assert [task.id for task in pq.list_tasks(queue="a", status=["failed", "pending"])] == [ids[4], ids[2], ids[0]]
    assert [task.id for task in pq.list_tasks(ids=[ids[0], ids[5], 10**30])] == [ids[5], ids[0]]
    assert [task.id for task in pq.list_tasks(error="boom 2")] == [ids[1]]
    assert [task.id for task in pq.list_failed(2)] == [ids[3], ids[2]]
    assert [task.id for task in pq.list_failed(before=datetime(2030, 1, 3, tzinfo=UTC))] == [ids[1], ids[0]]
    assert pq.list_completed() == []
    assert [task.id for task in pq.list_pending()] == ids[:3:-1]
    assert pq.list_tasks(limit=0) == []
    with pytest.raises(InvalidOption, match="status"):
        pq.list_tasks(status="broken")
    with pytest.raises(InvalidOption, match="limit"):
        pq.list_tasks(limit=-1)


def test_counts_and_stats(pq: PQ, connection: psycopg.Connection) -> None:
    ids = pq.enqueue_many(add.options(queue="ab"[i % 2]).call(i) for i in range(6))
    pq.enqueue(add.options(run_in=timedelta(hours=1)).call(1))
    set_state(connection, ids[0], "running", worker_id=1)
    set_state(connection, ids[1], "completed", completed_at="now")
    connection.execute("UPDATE pq_tasks SET run_at = run_at - interval '1 min' WHERE id = %s", (ids[2],))

    assert pq.pending_count() == 5
    assert pq.pending_count(queue="b") == 2
    assert pq.counts() == {
        TaskStatus.PENDING: 5, TaskStatus.RUNNING: 1, TaskStatus.COMPLETED: 1, TaskStatus.FAILED: 0,
        TaskStatus.CANCELLED: 0, TaskStatus.BLOCKED: 0,
    }  # fmt: skip
    assert pq.counts(queue="a")[TaskStatus.RUNNING] == 1
    stats = pq.stats()
    assert (stats.due, stats.scheduled, stats.running, stats.workers) == (4, 1, 1, 0)
    assert (stats.queues["a"].due, stats.queues["b"].due, stats.queues["default"].scheduled) == (2, 2, 1)
    assert 60 <= stats.oldest_wait < 90


def test_workers_and_attempts(pq: PQ, connection: psycopg.Connection) -> None:
    task_id = pq.enqueue(add, 1)
    connection.execute("""
        INSERT INTO pq_workers (expires_at, lease, pid, concurrency, name, host, pq_version, queues)
        VALUES (now() + interval '1 h', '30 s', 7, 2, 'w', 'h', '0', ARRAY['a', 'b']), (now(), '30 s', 8, 1, 'x', 'h',
            '0', ARRAY['a'])
    """)
    set_state(connection, task_id, "running", worker_id=1)
    connection.execute(
        "INSERT INTO pq_attempts (task_id, fence, number, outcome, error) VALUES (%s, 1, 1, 'raised', 'e')", (task_id,)
    )

    first, second = pq.workers()
    assert (first.alive, first.running, first.queues, first.pid) == (True, 1, ("a", "b"), 7)
    assert (second.alive, second.running) == (False, 0)
    [attempt] = pq.attempts(task_id)
    assert (attempt.number, attempt.outcome, attempt.error) == (1, Outcome.RAISED, "e")
    assert attempt.finished_at is not None


# Changing tasks


def test_cancel_ends_a_waiting_task_and_asks_a_running_one(
    database: str, pq: PQ, connection: psycopg.Connection
) -> None:
    waiting, running, ended = pq.enqueue_many(add.call(i) for i in range(3))
    set_state(connection, running, "running", worker_id=7)
    set_state(connection, ended, "completed", completed_at="now")
    with psycopg.connect(database, autocommit=True) as listener:
        listener.execute("DO $$ BEGIN EXECUTE 'LISTEN ' || pq_channel('wake'); END $$")

        assert pq.cancel(waiting, reason="enough")
        assert pq.cancel(running)
        assert not pq.cancel(ended)
        assert not pq.cancel(999)

        assert [notify.payload for notify in listener.notifies(timeout=0.5)] == ["!cancel 7"]
    row = Row(connection, waiting)
    assert (row.status, row.outcome, row.cancel_reason) == ("cancelled", "cancelled", "enough")
    assert row.completed_at is not None
    row = Row(connection, running)
    assert (row.status, row.outcome, row.completed_at) == ("running", None, None)
    assert row.cancel_requested_at is not None


def test_cancel_and_retry_by_filter(pq: PQ, connection: psycopg.Connection) -> None:
    ids = pq.enqueue_many(add.options(queue="ab"[i % 2]).call(i) for i in range(6))

    assert pq.cancel_many(queue="a") == 3
    assert pq.pending_count() == 3
    assert pq.retry_many(queue="a", status="cancelled") == 3
    assert pq.pending_count() == 6
    set_state(connection, ids[0], "completed", completed_at="now")
    assert pq.retry_many(queue="a") == 0
    assert pq.retry_many(ids=ids) == 1
    for refused in (pq.cancel_many, pq.retry_many):
        with pytest.raises(InvalidOption, match="say which"):
            refused()
    with pytest.raises(InvalidOption, match="completed"):
        pq.retry_many(status="completed")


def test_retry_starts_from_the_beginning(pq: PQ, connection: psycopg.Connection) -> None:
    task_id = pq.enqueue(add, 1, run_at=datetime.now(UTC) + timedelta(days=1))
    set_state(connection, task_id, "failed", attempts=3, losses=1, snoozes=2, outcome="raised", error="e", fence=5,
              completed_at="now", worker_id=3, cancel_requested_at="now", progress=0.5)  # fmt: skip

    assert pq.retry(task_id)

    row = Row(connection, task_id)
    assert (row.status, row.due, row.attempts, row.losses, row.error, row.worker_id) == (
        "pending",
        True,
        0,
        0,
        None,
        None,
    )
    assert (row.fence, row.cancel_requested_at, row.completed_at, row.progress) == (5, None, None, None)
    assert not pq.retry(task_id)
    assert not pq.retry(999)


def test_retry_of_a_client_id_that_is_taken_says_by_whom(pq: PQ, connection: psycopg.Connection) -> None:
    options = add.options(client_id="a", unique="unfinished")
    first = pq.enqueue(options.call(1))
    set_state(connection, first, "failed", completed_at="now")
    second = pq.enqueue(options.call(2))

    with pytest.raises(DuplicateClientId) as caught:
        pq.retry(first)
    assert caught.value.existing_id == second
    assert pq.retry_many(client_id="a") == 0

    set_state(connection, second, "failed", completed_at="now")
    assert pq.retry_many(client_id="a") == 1
    assert Row(connection, second).status == "pending"


def test_racing_retries_of_one_client_id_revive_one(database: str, pq: PQ, connection: psycopg.Connection) -> None:
    options = add.options(client_id="a", unique="unfinished")
    for _ in range(20):
        ids = []
        for _ in range(2):
            ids.append(pq.enqueue(options.call(1)))
            set_state(connection, ids[-1], "failed", completed_at="now")
        outcomes: list[object] = []

        def retry(task_id: int, outcomes: list[object] = outcomes) -> None:
            try:
                outcomes.append(pq.retry(task_id))
            except DuplicateClientId as error:
                outcomes.append(error.existing_id)

        threads = [threading.Thread(target=retry, args=(task_id,)) for task_id in ids]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcome is True for outcome in outcomes) == [False, True]
        pq.clear_all()


def test_reschedule_moves_a_pending_task(pq: PQ, connection: psycopg.Connection) -> None:
    task_id = pq.enqueue(add, 1)

    assert pq.reschedule(task_id, run_in=timedelta(hours=1), priority=75)
    row = Row(connection, task_id)
    assert (row.due, row.priority) == (False, 75)
    assert pq.reschedule(task_id, run_at=datetime.now(UTC) - timedelta(hours=1))
    assert Row(connection, task_id).due is True
    set_state(connection, task_id, "running")
    assert not pq.reschedule(task_id, priority=1)
    with pytest.raises(InvalidOption, match="run_in"):
        pq.reschedule(task_id)
    with pytest.raises(InvalidOption, match="timezone"):
        pq.reschedule(task_id, run_at=datetime(2030, 1, 1))


def test_clearing_counts_and_spares_running_tasks(pq: PQ, connection: psycopg.Connection) -> None:
    ids = pq.enqueue_many(add.call(i) for i in range(8))
    for task_id, status in zip(ids, ("failed", "failed", "completed", "cancelled", "running"), strict=False):
        set_state(connection, task_id, status, completed_at=None if status == "running" else "2030-01-01")
    connection.execute(
        "INSERT INTO pq_attempts (task_id, fence, number, outcome) SELECT id, 1, 1, 'raised' FROM pq_tasks"
    )
    set_state(connection, ids[1], "failed", completed_at="2031-01-01")

    assert pq.clear_failed(before=datetime(2030, 6, 1, tzinfo=UTC)) == 1
    assert pq.clear_failed() == 1
    assert pq.clear_completed() == 1
    assert pq.attempts(ids[0]) == []
    assert pq.clear_all() == 4
    assert [task.id for task in pq.list_tasks()] == [ids[4]]
    assert len(pq.attempts(ids[4])) == 1
    assert pq.clear_all(include_running=True) == 1


def test_prune_deletes_what_ended_long_ago_in_batches(pq: PQ, connection: psycopg.Connection) -> None:
    ids = pq.enqueue_many(add.call(i) for i in range(10))
    connection.execute("UPDATE pq_tasks SET status = 'completed', completed_at = now() - id * interval '1 day'")
    set_state(connection, ids[9], "failed")

    assert pq.prune(timedelta(days=4, hours=12), statuses=["completed"], batch=2) == 5
    assert pq.prune(timedelta(days=4), statuses=["completed"], batch=2) == 1
    assert sorted(task.id for task in pq.list_tasks()) == [*ids[:3], ids[9]]
    assert pq.prune(timedelta(0)) == 4
    now = timedelta(0)
    for bad in ({"older_than": timedelta(-1)}, {"older_than": now, "statuses": ["running"]},
                {"older_than": now, "statuses": ["done"]}, {"older_than": now, "batch": 0}):  # fmt: skip
        with pytest.raises(InvalidOption):
            pq.prune(**bad)  # type: ignore[arg-type]


def test_complete_marks_the_task_in_the_callers_transaction(pq: PQ, connection: psycopg.Connection) -> None:
    task_id = pq.enqueue(add, 1, client_id="a")
    claimed = datetime.now(UTC)
    set_state(connection, task_id, "running", worker_id=3, fence=4, attempts=1, started_at=claimed)
    another = claimed + timedelta(microseconds=1)

    def completes(fence: int, started_at: datetime, worker_id: int, result: JSON = None) -> bool:
        return bound._run(
            pq.store.complete(task_id, fence=fence, started_at=started_at, worker_id=worker_id, result=result)
        )

    with pq.session() as own:
        bound = pq.using(own)
        assert not completes(3, claimed, 3)
        assert not completes(4, claimed, 2)
        assert not completes(4, another, 3), "of a claim in a history that was lost"
        assert completes(4, claimed, 3, {"a": 1})
        assert not completes(4, claimed, 3)
    row = Row(connection, task_id)
    assert (row.status, row.outcome, row.result) == ("completed", "succeeded", {"a": 1})
    assert pq.attempts(task_id) == []


def test_complete_gives_way_to_a_parked_version_and_keeps_the_history(pq: PQ, connection: psycopg.Connection) -> None:
    task_id = pq.upsert(add, 1, client_id="a")
    claimed = datetime.now(UTC)
    set_state(connection, task_id, "running", worker_id=3, fence=4, attempts=1, started_at=claimed)
    pq.upsert(add, 2, client_id="a")

    assert pq._run(pq.store.complete(task_id, fence=4, started_at=claimed, worker_id=3, result=1))

    row = Row(connection, task_id)
    assert (row.status, row.payload["args"], row.result, row.attempts) == ("pending", [2], None, 0)
    [attempt] = pq.attempts(task_id)
    assert (attempt.fence, attempt.outcome) == (4, Outcome.SUCCEEDED)


@pytest.mark.parametrize(
    ("method", "args", "options", "message"),
    [
        ("get_task", ("7",), {}, "task_id='7'"),
        ("attempts", ("x",), {}, "task_id='x'"),
        ("progress", (None,), {}, "task_id=None"),
        ("get_task_by_client_id", (7,), {}, "client_id=7"),
        ("retry_many", (), {"ids": 7}, "ids=7"),
        ("retry_many", (), {"ids": ["7"]}, "ids='7'"),
        ("cancel_many", (), {"queue": 7}, "queue=7"),
        ("cancel_many", (), {"nme": "add"}, r"cancel_many\(\): .*'nme'; did you mean 'name'"),
        ("clear_failed", ("yesterday",), {}, "before='yesterday'"),
        ("clear_failed", (datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),), {}, "years 1 to 9999"),
        ("list_tasks", (), {"nme": "add"}, r"list_tasks\(\): .*'nme'; did you mean 'name'"),
        ("list_tasks", (), {"before_id": 1.5}, "before_id=1.5"),
        ("counts", (), {"status": 7}, "status=7: give one of"),
    ],
)
def test_arguments_that_make_no_sense_are_told(
    pq: PQ, method: str, args: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidOption, match=message):
        getattr(pq, method)(*args, **options)


def test_one_state_alone_may_be_pruned(pq: PQ, connection: psycopg.Connection) -> None:
    for status in ("failed", "completed"):
        set_state(connection, pq.enqueue(add, 1), status, completed_at=datetime.now(UTC) - timedelta(days=1))

    assert pq.prune(timedelta(0), statuses="failed") == 1
    assert [task.status for task in pq.list_tasks(status=iter(["failed", "completed"]))] == ["completed"]


# Configuration, processes, threads


def test_constructor_touches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PQ_DATABASE_URL", "mysql://nope")

    pq = PQ(tasks=["no_such_module"])

    with pytest.raises(InvalidDSN, match="PQ_DATABASE_URL"):
        pq.stats()
    monkeypatch.delenv("PQ_DATABASE_URL")
    with pytest.raises(DatabaseNotConfigured):
        pq.stats()


@pytest.mark.parametrize(
    "options", [{"schema": ""}, {"schema": "a" * 64}, {"payload_limit": 0}, {"dsn": 7}, {"defaults": {"queue": "a"}}]
)
def test_constructor_refuses_what_can_not_work(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        PQ(**options)


def test_dsn_may_be_a_function_and_is_not_shown(database: str) -> None:
    calls: list[int] = []

    def dsn() -> str:
        calls.append(1)
        return database

    pq = PQ(dsn, schema="public", app="shop")
    assert not calls
    assert pq.stats().due == 0
    assert calls
    assert repr(pq) == "<PQ schema='public' app='shop'>"


def test_unreachable_database_is_said_in_one_line() -> None:
    with pytest.raises(DatabaseUnavailable) as caught:
        PQ("host=127.0.0.1 port=1 password=secret").stats()
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_schema_that_is_too_new_is_named(database: str, pq: PQ, connection: psycopg.Connection) -> None:
    asked: list[int] = []
    newer = CODE_REVISION + 1

    def say(revision: int, oldest_code: int) -> None:
        connection.execute("UPDATE pq_schema SET revision = %s, oldest_code = %s", (revision, oldest_code))

    async def asynchronous() -> None:
        say(newer, 1)
        asked.append((await pq.astats()).due)
        say(newer, newer)
        async with PQ(database) as late:
            with pytest.raises(SchemaIncompatible, match=f"needs code of revision {newer}"):
                await late.astats()
        # A connection from before goes on until a statement does not fit any more.
        asked.append((await pq.astats()).due)
        connection.execute("ALTER TABLE pq_tasks RENAME TO pq_tasks_of_2")
        with pytest.raises(SchemaIncompatible, match=f"needs code of revision {newer}"):
            await pq.alist_tasks()

    say(newer, 1)
    asked.append(pq.stats().due)
    asyncio.run(asynchronous())
    with PQ(database) as late, pytest.raises(SchemaIncompatible, match=f"needs code of revision {newer}"):
        late.stats()
    with pytest.raises(SchemaIncompatible, match=f"needs code of revision {newer}"):
        pq.list_tasks()
    assert asked == [0, 0, 0]


def test_role_that_may_only_enqueue_needs_no_right_to_the_schemas_revision(
    database: str, connection: psycopg.Connection
) -> None:
    from pq_core.compatibility import examine

    connection.execute("UPDATE pq_schema SET oldest_code = 2")
    connection.execute("SET ROLE pg_monitor")

    examine(connection, "public")
    examine(connection, 'no "such" schema')


def test_connection_that_the_server_ended_is_replaced(database: str, pq: PQ, connection: psycopg.Connection) -> None:
    assert pq.stats().due == 0
    own = "FROM pg_stat_activity WHERE application_name = 'pq' AND datname = current_database()"
    connection.execute(f"SELECT pg_terminate_backend(pid, 5000) {own}")

    assert pq.enqueue(add, 1)


def test_close_is_not_the_end(pq: PQ) -> None:
    pq.enqueue(add, 1)
    pq.close()

    assert pq.pending_count() == 1


def test_threads_share_one_client(pq: PQ) -> None:
    errors: list[BaseException] = []

    def body() -> None:
        try:
            for i in range(20):
                pq.enqueue(add, i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert pq.pending_count() == 160


def test_forked_processes_go_on_without_disturbing_the_parent(pq: PQ) -> None:
    pq.enqueue(add, 0)
    with pq.session() as connection:
        for n in range(3):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    pq.enqueue(add, n)
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert pq.pending_count() == 4


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_child_that_leaves_a_session_of_its_parent_does_not_end_it(pq: PQ, kind: str, used: bool) -> None:
    """The child leaves the block as any program does, by SystemExit; nothing it does may reach the server."""
    pq.enqueue(add, 0)

    def fork(done: Callable[[], None]) -> None:
        if (pid := os.fork()) == 0:
            if used:
                done()
            sys.exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    def plain() -> None:
        with pq.session() as connection:
            pq.using(connection).enqueue(add, 1)
            fork(lambda: str(pq.enqueue(add, 2)))

    async def asynchronous() -> None:
        async with pq.asession() as connection:
            await pq.using(connection).aenqueue(add, 1)
            fork(lambda: str(pq.enqueue(add, 2)))

    parent = os.getpid()
    try:
        if kind == "sync":
            plain()
        else:
            asyncio.run(asynchronous())
    except BaseException as error:
        if os.getpid() != parent:
            os._exit(0 if isinstance(error, SystemExit) else 1)
        raise
    assert pq.pending_count() == (3 if used else 2)


def test_import_of_the_package_is_light() -> None:
    code = (
        "import sys, pq_core; pq_core.TaskGroup; "
        "heavy = {'psycopg', 'sqlalchemy', 'alembic', 'pluggy', 'pydantic', 'click'} & set(sys.modules); "
        "assert not heavy, heavy; pq_core.PQ(); "
        "heavy = {'sqlalchemy', 'alembic', 'pluggy', 'pydantic', 'click', 'asyncio'} & set(sys.modules); print(heavy)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert {"sqlalchemy", "alembic", "pluggy", "pydantic", "click"}.isdisjoint(eval(done.stdout))
