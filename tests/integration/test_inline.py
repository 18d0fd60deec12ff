"""``run_inline``: the worker's decisions without a worker, in this process and in the caller's transaction."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy
from psycopg.conninfo import make_conninfo
from sqlalchemy.orm import Session

from pq_adapters.sqlalchemy import engine_url
from pq_core import (
    PQ,
    AttemptLost,
    Backoff,
    Cancel,
    EndedAttempt,
    InvalidOption,
    NoCurrentAttempt,
    Outcome,
    PayloadDecodeError,
    PQError,
    Retry,
    Snooze,
    TaskId,
    TaskStatus,
    UseAsync,
    current_attempt,
)
from pq_core.schema import migrate
from tests.extras import needs

NOWHERE = "host=127.0.0.1 port=1 connect_timeout=1"


@pytest.fixture
def pq() -> Iterator[PQ]:
    """The application's own: its database can't be reached, so that nothing gets there by mistake."""
    with PQ(NOWHERE) as pq:
        yield pq


@pytest.fixture
def own(database: str) -> Iterator[psycopg.Connection]:
    """The test's connection, with a transaction that is never committed."""
    with psycopg.connect(database) as own:
        yield own
        own.rollback()


def brief(ended: list[EndedAttempt]) -> list[tuple[str, int, str, str]]:
    return [(one.name, one.number, one.outcome.value, one.status.value) for one in ended]


def test_a_task_runs_in_the_open_transaction_and_leaves_with_it(
    pq: PQ, own: psycopg.Connection, connection: psycopg.Connection
) -> None:
    @pq.task(name="write")
    def write(text: str) -> int:
        own.execute("INSERT INTO notes VALUES (%s)", [text])
        return os.getpid()

    own.execute("CREATE TABLE notes (text text)")
    task_id = pq.using(own).enqueue(write.call("a"))

    (ended,) = pq.run_inline(using=own)

    assert (ended.id, ended.outcome, ended.status, ended.result) == (task_id, "succeeded", "completed", os.getpid())
    assert own.execute("SELECT text FROM notes").fetchall() == [("a",)]
    found = pq.using(own).get_task(task_id)
    assert found is not None
    assert (found.status, found.attempts, found.worker_id) == (TaskStatus.COMPLETED, 1, None)
    assert found.ledger is not None
    assert found.ledger["wall"] >= 0
    assert connection.execute("SELECT count(*) FROM pq_tasks").fetchone() == (0,)


def test_arguments_and_results_are_really_encoded(pq: PQ, own: psycopg.Connection) -> None:
    got: list[Any] = []

    @pq.task(name="typed")
    def typed(parent: TaskId[Any], when: timedelta, each: tuple[int, ...]) -> set[int]:
        got.extend([type(parent), when, each])
        return set(each)

    given = (1, 2)
    pq.using(own).enqueue(typed.call(TaskId(7), timedelta(seconds=1), given))
    (ended,) = pq.run_inline(using=own)

    assert got == [TaskId, timedelta(seconds=1), (1, 2)]
    assert got[2] is not given
    assert ended.result == {1, 2}


def test_what_tasks_enqueue_runs_as_well(pq: PQ, own: psycopg.Connection) -> None:
    @pq.task(name="down")
    def down(n: int) -> int:
        if n:
            down.enqueue(n - 1)
        return n

    pq.using(own).enqueue(down.call(3))

    assert [one.result for one in pq.run_inline(using=own)] == [3, 2, 1, 0]
    assert pq.run_inline(using=own) == []


def test_retries_follow_the_policy(pq: PQ, own: psycopg.Connection) -> None:
    @pq.task(name="cleanup")
    def cleanup() -> None: ...

    @pq.task(name="flaky", max_attempts=3, backoff=Backoff(base=0), on_failure=cleanup)
    def flaky() -> None:
        if current_attempt().number == 1:
            raise Retry("again", after=0)
        raise ValueError("broken")

    task_id = pq.using(own).enqueue(flaky.call())

    ended = pq.run_inline(using=own)

    assert brief(ended) == [
        ("flaky", 1, "raised", "pending"),
        ("flaky", 2, "raised", "pending"),
        ("flaky", 3, "raised", "failed"),
        ("cleanup", 1, "succeeded", "completed"),
    ]
    assert isinstance(ended[1].exception, ValueError)
    assert ended[1].exception_type == "ValueError"
    assert "ValueError: broken" in (ended[1].error or "")
    assert "pq_core" not in (ended[1].error or "")
    assert ended[2].final
    assert [one.outcome for one in pq.using(own).attempts(task_id)] == [Outcome.RAISED] * 3


def test_a_retry_that_is_not_due_waits(pq: PQ, own: psycopg.Connection) -> None:
    @pq.task(name="flaky", max_attempts=2, backoff=Backoff(base=60, jitter=0))
    def flaky() -> None:
        raise ValueError

    @pq.task(name="later")
    def later() -> None: ...

    task_id = pq.using(own).enqueue(flaky.call())
    pq.using(own).enqueue(later.call().options(run_in=timedelta(hours=1)))

    (ended,) = pq.run_inline(using=own)
    assert (ended.status, ended.final, ended.retry_in) == ("pending", False, pytest.approx(60, abs=1))

    pq.using(own).reschedule(task_id, run_in=timedelta(0))
    assert brief(pq.run_inline(using=own)) == [("flaky", 2, "raised", "failed")]


def test_snooze_cancel_exit_and_a_result_that_cannot_be_stored(pq: PQ, own: psycopg.Connection) -> None:
    raised: dict[str, BaseException] = {"snooze": Snooze(60), "cancel": Cancel("no"), "exit": SystemExit(3)}

    @pq.task(name="raise")
    def raises(what: str) -> object:
        if what in raised:
            raise raised[what]
        return object()

    pq.using(own).enqueue_many(raises.call(what) for what in [*raised, "object"])

    ended = pq.run_inline(using=own)

    assert [(one.outcome.value, one.status.value) for one in ended] == [
        ("snoozed", "pending"),
        ("cancelled", "cancelled"),
        ("raised", "failed"),
        ("succeeded", "completed"),
    ]
    assert "the result can't be stored" in (ended[3].error or "")


def test_unknown_names_are_released_and_unreadable_arguments_fail(pq: PQ, own: psycopg.Connection) -> None:
    @pq.task(name="known")
    def known(when: timedelta) -> None: ...

    own.execute("SELECT pq_enqueue(%s::jsonb)", ['[{"name": "nobody"}, {"name": "known", "args": ["soon"]}]'])

    ended = pq.run_inline(using=own)

    assert brief(ended) == [("nobody", 1, "released", "pending"), ("known", 1, "raised", "failed")]
    assert isinstance(ended[1].exception, PayloadDecodeError)


def test_limit_and_queues(pq: PQ, own: psycopg.Connection) -> None:
    @pq.task(name="note")
    def note(n: int) -> int:
        return n

    bound = pq.using(own)
    bound.enqueue_many(note.call(n).options(queue="odd" if n % 2 else "even", priority=n) for n in range(6))

    assert pq.run_inline(using=own, limit=0) == []
    assert [one.result for one in pq.run_inline(using=own, limit=1)] == [5]
    assert [one.result for one in pq.run_inline(using=own, queues=["even", "nothing"])] == [4, 2, 0]
    own.execute("INSERT INTO pq_queues (name, paused_at) VALUES ('odd', now())")
    assert pq.run_inline(using=own) == []
    own.execute("DELETE FROM pq_queues")
    assert [one.result for one in pq.run_inline(using=own, queues="odd")] == [3, 1]


@pytest.mark.parametrize("options", [{"limit": -1}, {"limit": True}, {"queues": []}, {"queues": [7]}])
def test_nonsense_is_refused(options: dict[str, Any], pq: PQ, own: psycopg.Connection) -> None:
    with pytest.raises(InvalidOption):
        pq.run_inline(using=own, **options)


def test_the_current_attempt_is_there_and_gone(pq: PQ, own: psycopg.Connection) -> None:
    @pq.task(name="self", timeout=30)
    def looks() -> list[Any]:
        attempt = current_attempt()
        attempt.progress(0.5, "half")
        assert attempt.remaining is not None
        return [attempt.id, attempt.number, attempt.headers["tenant"], attempt.remaining <= 30]

    task_id = pq.using(own).enqueue(looks.call().options(headers={"tenant": "a"}))
    (ended,) = pq.run_inline(using=own)

    assert ended.result == [task_id, 1, "a", True]
    assert pq.using(own).progress(task_id) == (0.5, "half")
    with pytest.raises(NoCurrentAttempt):
        current_attempt()


def test_a_task_completes_itself_in_the_transaction(pq: PQ, own: psycopg.Connection) -> None:
    @pq.task(name="complete", max_attempts=2)
    def completes() -> str:
        current_attempt().complete(own, result="stored")
        raise ValueError("changes nothing any more")

    task_id = pq.using(own).enqueue(completes.call())
    (ended,) = pq.run_inline(using=own)

    assert (ended.outcome, ended.status, ended.result) == ("succeeded", "completed", "stored")
    found = pq.using(own).get_task(task_id)
    assert found is not None
    assert (found.status, found.result) == (TaskStatus.COMPLETED, "stored")
    assert own.execute("SELECT worker_id FROM pq_tasks").fetchone() == (None,), "no worker ran it"


def test_a_completion_under_another_fence_is_lost(pq: PQ, own: psycopg.Connection) -> None:
    @pq.task(name="lost")
    def lost() -> None:
        own.execute("UPDATE pq_tasks SET fence = fence + 1")
        with pytest.raises(AttemptLost):
            current_attempt().complete(own)

    pq.using(own).enqueue(lost.call())

    assert brief(pq.run_inline(using=own)) == [("lost", 1, "lost", "pending")]


def test_a_completion_in_another_open_transaction_is_said(
    pq: PQ, database: str, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pq_core.inline.REPORTS", 2)

    with psycopg.connect(database) as other:

        @pq.task(name="elsewhere")
        def elsewhere() -> None:
            current_attempt().complete(other)

        pq.using(connection).enqueue(elsewhere.call())
        with pytest.raises(PQError, match=r"task 1 \(elsewhere\) has ended, but another transaction"):
            pq.run_inline(using=connection)


def test_a_version_parked_meanwhile_runs_next(pq: PQ, own: psycopg.Connection) -> None:
    @pq.task(name="debounced")
    def debounced(n: int) -> int:
        if n == 1:
            pq.upsert(debounced, 2, client_id="one")
        return n

    pq.using(own).upsert(debounced, 1, client_id="one")

    assert [(one.result, one.status.value) for one in pq.run_inline(using=own)] == [(1, "pending"), (2, "completed")]


def test_cancelled_while_it_runs(pq: PQ, own: psycopg.Connection) -> None:
    @pq.task(name="cancelled", max_attempts=5, backoff=Backoff(base=0))
    def cancelled() -> None:
        assert pq.cancel(current_attempt().id)
        raise ValueError

    pq.using(own).enqueue(cancelled.call())

    assert brief(pq.run_inline(using=own)) == [("cancelled", 1, "raised", "cancelled")]


def test_without_using_it_takes_what_the_override_says(
    pq: PQ, database: str, own: psycopg.Connection, connection: psycopg.Connection
) -> None:
    @pq.task(name="one")
    def one() -> None: ...

    with pq.override(own):
        one.enqueue()
        assert len(pq.run_inline()) == 1
    with pq.override(database):
        one.enqueue()
        assert len(pq.run_inline()) == 1

    assert connection.execute("SELECT status FROM pq_tasks").fetchall() == [("completed",)]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_an_interrupted_caller_gets_its_exception_and_the_task_is_put_back(
    error: BaseException, pq: PQ, connection: psycopg.Connection
) -> None:
    @pq.task(name="interrupted")
    def interrupted() -> None:
        raise error

    pq.using(connection).enqueue(interrupted.call())

    with pytest.raises(type(error)):
        pq.run_inline(using=connection)

    assert connection.execute("SELECT status, attempts, worker_id FROM pq_tasks").fetchall() == [("pending", 0, None)]


def test_a_transaction_that_the_task_broke_is_explained(pq: PQ, own: psycopg.Connection) -> None:
    @pq.task(name="breaks")
    def breaks() -> None:
        own.execute("SELECT nothing")

    @pq.task(name="careful")
    def careful() -> None:
        with own.transaction():
            own.execute("SELECT nothing")

    pq.using(own).enqueue(careful.call())
    assert brief(pq.run_inline(using=own)) == [("careful", 1, "raised", "failed")]

    pq.using(own).enqueue(breaks.call())
    with pytest.raises(psycopg.errors.InFailedSqlTransaction) as caught:
        pq.run_inline(using=own)
    assert "have it work in a savepoint" in "".join(caught.value.__notes__)


def test_async_tasks_run_in_a_loop_of_their_own_or_in_the_running_one(
    pq: PQ, own: psycopg.Connection, database: str
) -> None:
    @pq.task(name="nested")
    async def nested(n: int) -> int:
        await asyncio.sleep(0)
        if n:
            await nested.aenqueue(n - 1)
        return n

    pq.using(own).enqueue(nested.call(1))
    assert [one.result for one in pq.run_inline(using=own)] == [1, 0]

    async def main() -> list[EndedAttempt]:
        pq.using(own).enqueue(nested.call(2))
        with pytest.raises(UseAsync, match=r"await pq\.arun_inline"):
            pq.run_inline(using=own)
        assert [one.result for one in await pq.arun_inline(using=own)] == [2, 1, 0]
        async with await psycopg.AsyncConnection.connect(database) as connection:
            await pq.using(connection).aenqueue(nested.call(1))
            with pytest.raises(UseAsync):
                pq.run_inline(using=connection)
            ended = await pq.arun_inline(using=connection)
            await connection.rollback()
        return ended

    assert [one.result for one in asyncio.run(main())] == [1, 0]


def test_an_async_task_completes_itself_and_fails_as_a_sync_one(pq: PQ, database: str) -> None:
    @pq.task(name="acomplete")
    async def completes() -> None:
        await current_attempt().acomplete(opened[0], result=5)

    @pq.task(name="fails")
    async def fails() -> None:
        raise ValueError("no")

    opened: list[psycopg.AsyncConnection[Any]] = []

    async def main() -> list[EndedAttempt]:
        async with await psycopg.AsyncConnection.connect(database) as connection:
            opened.append(connection)
            await pq.using(connection).aenqueue_many([completes.call(), fails.call()])
            ended = await pq.arun_inline(using=connection)
            await connection.rollback()
            return ended

    ended = asyncio.run(main())
    assert brief(ended) == [("acomplete", 1, "succeeded", "completed"), ("fails", 1, "raised", "failed")]
    assert ended[0].result == 5


def test_a_cancelled_caller_puts_the_async_task_back(pq: PQ, connection: psycopg.Connection) -> None:
    @pq.task(name="sleeps")
    async def sleeps() -> None:
        await asyncio.sleep(60)

    pq.using(connection).enqueue(sleeps.call())

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pq.arun_inline(using=connection), 0.1)

    asyncio.run(main())

    assert connection.execute("SELECT status, attempts FROM pq_tasks").fetchall() == [("pending", 0)]


def test_a_task_may_run_tasks_inline_itself(pq: PQ, own: psycopg.Connection) -> None:
    @pq.task(name="inner")
    def inner() -> int:
        return current_attempt().id

    @pq.task(name="outer")
    def outer() -> list[int]:
        inner.enqueue()
        (ended,) = pq.run_inline()
        return [current_attempt().id, ended.result]

    task_id = pq.using(own).enqueue(outer.call())

    (ended,) = pq.run_inline(using=own)
    assert ended.result == [task_id, task_id + 1]


@pytest.mark.parametrize("schema", ['odd "name"', "100%: a", "{schema}"])
def test_any_schema(schema: str, empty_database: str) -> None:
    migrate(empty_database, schema)
    with PQ(NOWHERE, schema=schema) as pq, psycopg.connect(empty_database) as own:

        @pq.task(name="on_failure")
        def after() -> None: ...

        @pq.task(name="fail", on_failure=after)
        def fail() -> None:
            raise ValueError

        pq.using(own).enqueue(fail.call())

        assert brief(pq.run_inline(using=own)) == [
            ("fail", 1, "raised", "failed"),
            ("on_failure", 1, "succeeded", "completed"),
        ]


@pytest.mark.parametrize(
    "driver",
    [
        "psycopg",
        pytest.param("psycopg2", marks=needs("psycopg2")),
        pytest.param("asyncpg", marks=needs("asyncpg", "greenlet")),
    ],
)
def test_every_kind_of_session(driver: str, pq: PQ, database: str, connection: psycopg.Connection) -> None:
    @pq.task(name="task", max_attempts=2, backoff=Backoff(base=0))
    def task(text: str) -> str:
        if current_attempt().number == 1:
            raise ValueError(text)
        return text

    text = "100%: {} $1 \\ ' \N{SNOWMAN}"
    run: Callable[[], list[EndedAttempt]] = {
        "asyncpg": lambda: asyncio.run(_with_asyncpg(pq, database, task.call(text)))
    }.get(driver, lambda: _with_session(pq, database, driver, task.call(text)))

    ended = run()

    assert [one.outcome.value for one in ended] == ["raised", "succeeded"]
    assert ended[1].result == text
    assert connection.execute("SELECT status, result #>> '{}' FROM pq_tasks").fetchall() == [("completed", text)]


def _with_session(pq: PQ, dsn: str, driver: str, call: Any) -> list[EndedAttempt]:
    engine = sqlalchemy.create_engine(engine_url(dsn, driver=driver))
    with Session(engine) as session:
        pq.using(session).enqueue(call)
        ended = pq.run_inline(using=session)
        session.commit()
    engine.dispose()
    return ended


async def _with_asyncpg(pq: PQ, dsn: str, call: Any) -> list[EndedAttempt]:
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    engine = create_async_engine(engine_url(dsn, driver="asyncpg"))
    async with AsyncSession(engine) as session:
        await pq.using(session).aenqueue(call)
        ended = await pq.arun_inline(using=session)
        await session.commit()
    await engine.dispose()
    return ended


def test_times_and_numbers_of_any_session_are_read(pq: PQ, database: str) -> None:
    """The rows come as JSON, whose times follow the session's settings."""

    @pq.task(name="times", timeout=0.125)
    def times() -> list[str]:
        task = current_attempt().task
        return [str(task.run_at.utcoffset()), str(task.timeout), str(task.started_at >= task.created_at)]

    odd = make_conninfo(database, options="-c timezone=Asia/Kathmandu -c datestyle=SQL,DMY -c intervalstyle=iso_8601")
    with psycopg.connect(odd) as own:
        pq.using(own).enqueue(times.call())
        own.execute("UPDATE pq_tasks SET tick_at = 'infinity', schedule_id = 1")
        (ended,) = pq.run_inline(using=own)
        own.rollback()

    assert ended.result == ["0:00:00", "0.125", "True"]
