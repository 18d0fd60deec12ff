"""The SQLAlchemy adapter, beyond the contract that every executor keeps: what it refuses, engines in tasks, Alembic."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from pq_adapters.sqlalchemy import engine_url, exclude_pq_tables
from pq_core import (
    PQ,
    DatabaseUnavailable,
    InvalidDSN,
    Outcome,
    TaskGroup,
    TaskStatus,
    TransactionRequired,
    UnsupportedConnection,
    UseAsync,
    UseSync,
)
from tests.adapters import sqlalchemy_tasks as tasks
from tests.integration.worker_process import until_empty

jobs = TaskGroup()


@jobs.task(name="pack")
def pack(order: int) -> int:
    return order


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
def pq(database: str) -> Iterator[PQ]:
    with PQ(database, tasks=[tasks.__name__]) as pq:
        pq.include(jobs)
        yield pq


@pytest.fixture
def engine(database: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(engine_url(database))
    yield engine
    engine.dispose()


def test_row_and_task_are_one_transaction(pq: PQ, engine: sa.Engine) -> None:
    Base.metadata.create_all(engine)

    with Session(engine) as session, session.begin():
        order = Order()
        session.add(order)
        session.flush()
        kept = pq.using(session).enqueue(pack.call(order.id))
    with Session(engine) as session:
        session.add(Order())
        lost = pq.using(session).enqueue(pack.call(2))

    with Session(engine) as session:
        assert [order.id for order in session.scalars(sa.select(Order))] == [1]
    assert [task.id for task in pq.list_tasks()] == [kept]
    assert pq.get_task(lost) is None


def test_autocommit_is_no_transaction(pq: PQ, engine: sa.Engine) -> None:
    call = pack.options(require_transaction=True).call(1)
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")

    with autocommit.connect() as connection, Session(autocommit) as session, Session(engine) as by_itself:
        by_itself.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        for used in (connection, session, by_itself):
            with pytest.raises(TransactionRequired):
                pq.using(used).enqueue(call)
        pq.using(connection).enqueue(pack.call(2))
        assert len(pq.list_tasks()) == 1, "there already"
    with Session(engine) as session:
        assert pq.using(session).enqueue(call), "a session begins by itself"


@pytest.mark.parametrize("said", ["of the engine", "of its options"])
def test_async_autocommit_is_no_transaction(pq: PQ, database: str, said: str) -> None:
    call = pack.options(require_transaction=True).call(1)

    async def exercise() -> None:
        url = engine_url(database, driver="asyncpg")
        if said == "of the engine":
            engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
        else:
            engine = create_async_engine(url).execution_options(isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection, AsyncSession(engine) as session:
            for used in (connection, session):
                with pytest.raises(TransactionRequired):
                    await pq.using(used).aenqueue(call)
        await engine.dispose()

    asyncio.run(exercise())


def test_server_side_cursors_are_not_for_ours(pq: PQ, engine: sa.Engine) -> None:
    with engine.connect().execution_options(stream_results=True) as connection:
        pq.using(connection).enqueue_many(pack.call(i) for i in range(10))
        connection.commit()

    assert len(pq.list_tasks()) == 10


def test_wrong_twin_names_the_right_one(pq: PQ, engine: sa.Engine, database: str) -> None:
    session: Any = AsyncSession(create_async_engine(engine_url(database, driver="asyncpg")))

    with pytest.raises(UseAsync, match="aenqueue"):
        pq.using(session).enqueue(pack.call(1))
    with Session(engine) as sync, pytest.raises(UseSync, match="enqueue"):
        pq.using(sync).aenqueue(pack.call(1))  # type: ignore[attr-defined]


def test_what_is_not_open_is_refused_with_the_fix(pq: PQ, engine: sa.Engine, database: str) -> None:
    async_engine = create_async_engine(engine_url(database, driver="asyncpg"))

    for closed in (engine, sessionmaker(engine)):
        with pytest.raises(UnsupportedConnection, match=r"'with \w+\.begin\(\) as opened'"):
            pq.using(closed)  # type: ignore[call-overload]
    for async_closed in (async_engine, async_sessionmaker(async_engine)):
        with pytest.raises(UnsupportedConnection, match=r"'async with \w+\.begin\(\) as opened'"):
            pq.using(async_closed)  # type: ignore[call-overload]


def test_session_of_another_database_is_refused(pq: PQ) -> None:
    with Session(sa.create_engine("sqlite://")) as session, pytest.raises(UnsupportedConnection, match="sqlite"):
        pq.using(session)


def test_session_of_several_databases_has_to_name_one(pq: PQ, engine: sa.Engine) -> None:
    with Session(binds={Order: engine}) as session:
        with pytest.raises(UnsupportedConnection, match="bind_arguments"):
            pq.using(session)
        task_id = pq.using(session.connection(bind_arguments={"mapper": Order})).enqueue(pack.call(1))
        session.commit()

    assert pq.get_task(task_id)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_ended_connection_is_said_to_be_gone(
    pq: PQ, database: str, connection: psycopg.Connection, driver: str
) -> None:
    engine = sa.create_engine(engine_url(database, driver=driver))

    with Session(engine) as session:
        backend = session.scalar(sa.text("SELECT pg_backend_pid()"))
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", (backend,))
        with pytest.raises(DatabaseUnavailable) as caught:
            pq.using(session).enqueue(pack.call(1))
        session.rollback()
        assert pq.using(session).enqueue(pack.call(2)), "the session has another connection"
    engine.dispose()

    assert isinstance(caught.value.__cause__, sa.exc.DBAPIError)
    assert caught.value.__cause__.connection_invalidated


@pytest.mark.parametrize("driver", ["psycopg_async", "asyncpg"])
def test_ended_async_connection_is_said_to_be_gone(
    pq: PQ, database: str, connection: psycopg.Connection, driver: str
) -> None:
    async def exercise() -> DatabaseUnavailable:
        engine = create_async_engine(engine_url(database, driver=driver))
        async with AsyncSession(engine) as session:
            backend = await session.scalar(sa.text("SELECT pg_backend_pid()"))
            connection.execute("SELECT pg_terminate_backend(%s, 5000)", (backend,))
            with pytest.raises(DatabaseUnavailable) as caught:
                await pq.using(session).aenqueue(pack.call(1))
        await engine.dispose()
        return caught.value

    assert isinstance(asyncio.run(exercise()).__cause__, sa.exc.DBAPIError)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "psycopg_async", "asyncpg"])
def test_writes_and_completion_are_one_transaction(
    pq: PQ, database: str, connection: psycopg.Connection, tmp_path: Path, driver: str
) -> None:
    connection.execute("CREATE TABLE effects (task bigint, fence bigint)")
    completes = tasks.completes if driver in tasks.SYNC else tasks.acompletes
    task_id = pq.enqueue(completes.call(driver))

    until_empty(database, tmp_path, app=f"{tasks.__name__}:create_pq")

    record = pq.get_task(task_id)
    assert record
    assert (record.status, record.outcome) == (TaskStatus.COMPLETED, Outcome.SUCCEEDED)
    assert (record.result, record.attempts) == ("by complete", 2)
    assert connection.execute("SELECT task, fence FROM effects").fetchall() == [(task_id, 2)]
    assert "before the commit" in (pq.attempts(task_id)[0].error or "")


@pytest.mark.parametrize("tasks_per_child", [1, 2])
def test_engine_that_the_worker_used_works_in_its_tasks(
    pq: PQ, database: str, tmp_path: Path, tasks_per_child: int
) -> None:
    ids = [pq.enqueue(tasks.uses_engine.call(driver)) for driver in tasks.SYNC * 2]
    ids += [pq.enqueue(tasks.uses_async_engine.call(driver)) for driver in tasks.ASYNC * 2]

    worker = until_empty(
        database,
        tmp_path,
        app=f"{tasks.__name__}:create_pq",
        environment={"TEST_USE_IN_IMAGE": "1"},
        tasks_per_child=tasks_per_child,
        concurrency=1,
    )

    same, workers = True, False
    assert [pq.wait(task_id) for task_id in ids[:4]] == [[same, workers]] * 4
    if tasks_per_child == 1:  # a pooled connection of an async engine can't be used under a second task's event loop
        assert [pq.wait(task_id) for task_id in ids[4:]] == [[same, workers]] * 4
    for driver in tasks.SYNC:
        assert worker.text.count(f"worker on {driver}: True") == len(ids), "the worker keeps its connection"
        assert f"worker on {driver}: False" not in worker.text


def test_without_the_plugin_such_an_engine_fails_and_harms_nobody(pq: PQ, database: str, tmp_path: Path) -> None:
    task_id = pq.enqueue(tasks.uses_engine.call("psycopg"))

    worker = until_empty(
        database,
        tmp_path,
        app=f"{tasks.__name__}:create_pq",
        environment={"TEST_USE_IN_IMAGE": "1", "TEST_BLOCK": "SafeEngines"},
    )

    record = pq.get_task(task_id)
    assert record
    assert record.outcome is Outcome.RAISED
    assert "OperationalError" in (record.error or "")
    assert worker.text.count("worker on psycopg: True") == 1


def test_autogenerate_leaves_our_tables_alone(engine: sa.Engine) -> None:
    metadata = sa.MetaData()
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE theirs (id int)"))

    def changes(**options: Any) -> list[str]:
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts=options)
            return sorted(
                change[1].name for change in compare_metadata(context, metadata) if change[0] == "remove_table"
            )

    assert "pq_tasks" in changes()
    assert changes(include_name=exclude_pq_tables) == ["theirs"]
    assert changes(include_name=exclude_pq_tables, include_schemas=True) == ["theirs"]


def test_engine_url_carries_what_the_dsn_says() -> None:
    url = engine_url("postgresql://ann:s%40fe@db.example:6432/shop?sslmode=require&connect_timeout=3", driver="asyncpg")
    args, options = url.get_dialect()().create_connect_args(url)

    assert args == []
    assert options == {
        "host": "db.example", "port": 6432, "user": "ann", "password": "s@fe", "database": "shop", "ssl": "require",
    }  # fmt: skip
    assert engine_url("host=/run/pg dbname=shop").query == {"host": "/run/pg"}
    with pytest.raises(InvalidDSN, match="'options'"):
        engine_url("dbname=shop options=-csearch_path=x", driver="asyncpg")


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def test_missing_extra_is_named() -> None:
    done = run("import sys; sys.modules['sqlalchemy'] = None\nimport pq_adapters.sqlalchemy")

    assert 'pip install "pq-toolkit[sqlalchemy]"' in done.stderr.splitlines()[-1]


def test_sync_sessions_need_no_greenlet(database: str) -> None:
    done = run(
        "import sys; sys.modules['greenlet'] = None\n"
        "import sqlalchemy, sqlalchemy.orm, pq_core, pq_adapters.sqlalchemy as adapter\n"
        f"engine = sqlalchemy.create_engine(adapter.engine_url({database!r}))\n"
        "with sqlalchemy.orm.Session(engine) as session:\n"
        "    print(pq_core.PQ().using(session).pending_count())\n"
    )

    assert (done.stdout.strip(), done.stderr) == ("0", "")
