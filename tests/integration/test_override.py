"""``pq.override()``: where the operations of a PQ go inside a block, who sees it, and what it refuses."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from pq_adapters.sqlalchemy import engine_url
from pq_core import (
    PQ,
    DatabaseUnavailable,
    InvalidOption,
    NotMigrated,
    Task,
    TransactionRequired,
    UnsupportedConnection,
    UseAsync,
    WaitTimeout,
)
from tests.extras import needs

NOWHERE = "host=127.0.0.1 port=1 connect_timeout=1"


@pytest.fixture
def pq() -> Iterator[PQ]:
    """The application's own: its database can't be reached, so that nothing gets there by mistake."""
    with PQ(NOWHERE) as pq:
        yield pq


@pytest.fixture
def add(pq: PQ) -> Task[..., int]:
    """A task of that PQ alone, so that it is enqueued there."""

    @pq.task(name="add")
    def add(a: int, b: int = 0) -> int:
        return a + b

    return add


def count(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT count(*) FROM pq_tasks").fetchone()
    assert row is not None
    return int(row[0])


def test_operations_and_tasks_go_to_the_other_database_and_back(
    pq: PQ, add: Task[..., int], database: str, connection: psycopg.Connection
) -> None:
    with pq.override(database) as same:
        assert same is pq
        task_id = pq.enqueue(add.call(1))
        add.enqueue(2)
        pq.enqueue_many([add.call(3), add.call(4)])
        assert pq.pending_count() == 4
        found = pq.get_task(task_id)
        assert found is not None
        assert found.name == "add"

    assert count(connection) == 4
    with pytest.raises(DatabaseUnavailable):
        pq.enqueue(add.call(5))


def test_a_function_may_return_the_dsn(pq: PQ, add: Task[..., int], database: str) -> None:
    def dsn() -> str:
        return database

    with pq.override(dsn):
        assert pq.dsn is dsn
        assert pq.listen_dsn is dsn
        pq.enqueue(add.call(1))

    assert pq.dsn == NOWHERE


def test_operations_join_the_open_transaction(
    pq: PQ, add: Task[..., int], database: str, connection: psycopg.Connection
) -> None:
    with psycopg.connect(database) as own:
        with pq.override(own):
            add.enqueue(1)
            pq.enqueue(add, 2, client_id="two")
            assert pq.upsert(add, 3, client_id="two") == pq.get_task_by_client_id("two").id  # type: ignore[union-attr]
            assert pq.pending_count() == 2
            assert count(connection) == 0
        own.rollback()

    assert count(connection) == 0


def test_an_error_of_ours_leaves_the_block_and_the_transaction_usable(pq: PQ, database: str) -> None:
    with psycopg.connect(database) as own:
        with pytest.raises(RuntimeError, match="stop"):
            with pq.override(own):
                raise RuntimeError("stop")
        assert pq.dsn == NOWHERE
        assert own.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize(
    "make", [Session, lambda engine: scoped_session(sessionmaker(engine))], ids=["plain", "scoped"]
)
def test_a_sqlalchemy_session_will_do(
    make: Callable[[sqlalchemy.Engine], Session],
    pq: PQ,
    add: Task[..., int],
    database: str,
    connection: psycopg.Connection,
) -> None:
    engine = sqlalchemy.create_engine(engine_url(database))
    with make(engine)() if make is not Session else make(engine) as session:  # type: ignore[operator]
        with pq.override(session):
            add.enqueue(1)
            assert pq.pending_count() == 1
        assert count(connection) == 0
        session.commit()
    engine.dispose()

    assert count(connection) == 1


def test_blocks_nest(pq: PQ, add: Task[..., int], database: str, connection: psycopg.Connection) -> None:
    with pq.override(database):
        with psycopg.connect(database) as own, pq.override(own):
            add.enqueue(1)
            own.rollback()
        add.enqueue(2)
        with pq.override(database, everywhere=True):
            add.enqueue(3)

    assert count(connection) == 2


def test_another_pq_is_not_meant(pq: PQ, database: str) -> None:
    with PQ(NOWHERE) as other, pq.override(database):
        with pytest.raises(DatabaseUnavailable):
            other.pending_count()


def test_a_block_holds_for_its_thread_and_copies_of_its_context(pq: PQ, database: str) -> None:
    said: dict[str, object] = {}

    def look(name: str) -> None:
        said[name] = pq.dsn

    with pq.override(database):
        context = contextvars.copy_context()
        threads = [
            threading.Thread(target=look, args=["bare"], **_bare()),
            threading.Thread(target=lambda: context.run(look, "copied")),
        ]
        for thread in threads:
            thread.start()
            thread.join()

    assert said == {"bare": NOWHERE, "copied": database}


def _bare() -> dict[str, contextvars.Context]:
    """From Python 3.14 on threads may inherit the context by themselves."""
    import inspect

    return {"context": contextvars.Context()} if "context" in inspect.signature(threading.Thread).parameters else {}


def test_everywhere_holds_for_all_threads(pq: PQ, database: str) -> None:
    said: list[object] = []

    with pq.override(database, everywhere=True):
        thread = threading.Thread(target=lambda: said.append(pq.dsn))
        thread.start()
        thread.join()

    assert (said, pq.dsn) == ([database], NOWHERE)


def test_tasks_of_one_loop_have_blocks_of_their_own(
    pq: PQ, add: Task[..., int], database: str, connection: psycopg.Connection
) -> None:
    async def inside(turn: asyncio.Event, other: asyncio.Event) -> object:
        async with pq.override(database):
            turn.set()
            await other.wait()
            await add.aenqueue(1)
            return pq.dsn

    async def outside(turn: asyncio.Event, other: asyncio.Event) -> object:
        await turn.wait()
        other.set()
        return pq.dsn

    async def main() -> list[object]:
        first, second = asyncio.Event(), asyncio.Event()
        return await asyncio.gather(inside(first, second), outside(first, second))

    assert asyncio.run(main()) == [database, NOWHERE]
    assert count(connection) == 1


def test_async_operations_join_an_async_transaction(
    pq: PQ, add: Task[..., int], database: str, connection: psycopg.Connection
) -> None:
    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(database) as own:
            with pq.override(own):
                await add.aenqueue(1)
                await pq.aenqueue_many([add.call(2)])
                assert await pq.apending_count() == 2
                with pytest.raises(UseAsync, match="the async twin"):
                    pq.pending_count()
                async with pq.asession() as session:
                    assert session is own
            await own.rollback()

    asyncio.run(main())

    assert count(connection) == 0


def test_async_operations_run_on_a_sync_connection(
    pq: PQ, add: Task[..., int], database: str, connection: psycopg.Connection
) -> None:
    async def main() -> None:
        await add.aenqueue(1)

    with psycopg.connect(database) as own, pq.override(own):
        asyncio.run(main())
        assert count(own) == 1
        own.rollback()

    assert count(connection) == 0


@needs("asyncpg", "greenlet")
def test_an_asyncpg_session_will_do(pq: PQ, add: Task[..., int], database: str, connection: psycopg.Connection) -> None:
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    async def main() -> None:
        engine = create_async_engine(engine_url(database, driver="asyncpg"))
        async with AsyncSession(engine) as session:
            with pq.override(session):
                await add.aenqueue(1)
            await session.commit()
        await engine.dispose()

    asyncio.run(main())

    assert count(connection) == 1


def test_what_needs_a_database_is_refused_on_a_connection(pq: PQ, add: Task[..., int], database: str) -> None:
    with psycopg.connect(database) as own, pq.override(own):
        task_id = add.enqueue(1)
        for call in (pq.run_worker_once, pq.run_db_migrations, pq.drop_tables, lambda: pq.wait(task_id, timeout=0.1)):
            with pytest.raises(UnsupportedConnection, match="use override"):
                call()
        with pq.session() as session:
            assert session is own
        own.rollback()


def test_a_finished_task_can_be_waited_for(pq: PQ, add: Task[..., int], database: str) -> None:
    with psycopg.connect(database) as own, pq.override(own):
        task_id = add.enqueue(1, 2)
        pq.run_inline()

        assert pq.wait(task_id) == 3


def test_waiting_works_on_another_database(pq: PQ, add: Task[..., int], database: str) -> None:
    with pq.override(database):
        with pytest.raises(WaitTimeout):
            pq.wait(add.enqueue(1), timeout=0.05)


def test_a_call_that_insists_on_a_transaction_is_refused_as_without_the_block(
    pq: PQ, add: Task[..., int], database: str
) -> None:
    with psycopg.connect(database) as own, pq.override(own):
        with pytest.raises(TransactionRequired):
            pq.enqueue(add.call(1).options(require_transaction=True))
        pq.using(own).enqueue(add.call(1).options(require_transaction=True))


def test_a_real_worker_follows(pq: PQ, add: Task[..., int], database: str) -> None:
    with pq.override(database):
        task_id = add.enqueue(1, 1)
        assert pq.run_worker_once() is True
        assert pq.wait(task_id, timeout=0) == 2


def test_errors_are_ours(pq: PQ, empty_database: str) -> None:
    with psycopg.connect(empty_database) as own, pq.override(own):
        with pytest.raises(NotMigrated):
            pq.pending_count()


def test_its_connections_are_closed_with_the_block(pq: PQ, database: str, connection: psycopg.Connection) -> None:
    async def main() -> None:
        async with pq.override(database):
            await pq.apending_count()

    with pq.override(database):
        pq.pending_count()
    asyncio.run(main())

    sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pq'"
    for _ in range(100):
        if connection.execute(sessions).fetchone() == (0,):
            break
        threading.Event().wait(0.02)
    assert connection.execute(sessions).fetchone() == (0,)


@pytest.mark.parametrize("target", [None, 7, Path("x")])
def test_nonsense_is_refused(target: object, pq: PQ) -> None:
    with pytest.raises((InvalidOption, UnsupportedConnection)):
        pq.override(target)
