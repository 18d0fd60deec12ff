"""Tasks that wait in a statement, by whatever holds the connection, for test_stopped_statements.py."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pq_core import PQ, Backoff, Role, TaskGroup, current_attempt, role

pq = PQ(app="statements")
jobs = TaskGroup(prefix="st")
AT_ONCE = Backoff(base=0, jitter=0)

LAZY = "PQ_TEST_LAZY_DRIVERS"
"""Set for a worker that has no driver in its image: each is loaded by the task that needs it."""

LOCK = "UPDATE hot SET n = n + 1 WHERE id = {id}"
WAIT = "SELECT pg_advisory_xact_lock(1)"
EFFECT = (
    "WITH waits AS MATERIALIZED (SELECT pg_advisory_xact_lock(1)) UPDATE hot SET n = n + 1 FROM waits WHERE id = {id}"
)
"""The test holds the advisory lock: what it gets when the test lets go, it does then."""


def create_pq() -> PQ:
    """The application of the worker; the database comes from PQ_DATABASE_URL."""
    if role() is Role.WORKER and LAZY not in os.environ:
        for module in ("psycopg", "psycopg_pool", "psycopg2", "asyncpg"):
            with contextlib.suppress(ImportError):
                importlib.import_module(module)
    pq.include(jobs)
    return pq


def dsn() -> str:
    return os.environ["PQ_DATABASE_URL"]


def _with_psycopg(statements: list[str], autocommit: bool) -> None:
    import psycopg

    with psycopg.connect(dsn(), autocommit=autocommit) as connection:
        for statement in statements:
            connection.execute(statement)


def _with_session(statements: list[str], autocommit: bool) -> None:
    with pq.session() as connection:
        for statement in statements:
            connection.execute(statement)


def _with_pool(statements: list[str], autocommit: bool) -> None:
    import psycopg_pool

    with (
        psycopg_pool.ConnectionPool(dsn(), min_size=1, kwargs={"autocommit": autocommit}) as pool,
        pool.connection() as connection,
    ):
        for statement in statements:
            connection.execute(statement)


def _in_thread(statements: list[str], autocommit: bool) -> None:
    with ThreadPoolExecutor(1) as executor:
        executor.submit(_with_psycopg, statements, autocommit).result()


def _with_sqlalchemy(driver: str) -> Callable[[list[str], bool], None]:
    def run(statements: list[str], autocommit: bool) -> None:
        from sqlalchemy import create_engine, text

        from pq_adapters.sqlalchemy import engine_url

        level: Any = {"isolation_level": "AUTOCOMMIT"} if autocommit else {}
        with create_engine(engine_url(dsn(), driver=driver), **level).begin() as connection:
            for statement in statements:
                connection.execute(text(statement))

    return run


def _with_psycopg2(statements: list[str], autocommit: bool) -> None:
    import psycopg2

    connection = psycopg2.connect(dsn())
    connection.autocommit = autocommit
    with connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def _set_up_django() -> None:
    import django
    from django.conf import settings
    from psycopg.conninfo import conninfo_to_dict

    parts = conninfo_to_dict(dsn())
    names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    database = {name: str(parts.get(part) or "") for name, part in names.items()}
    settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", **database}})
    django.setup()


def _with_django(statements: list[str], autocommit: bool) -> None:
    _set_up_django()
    import django.db

    if autocommit:
        _with_django_cursor(statements)
        return
    with django.db.transaction.atomic():
        _with_django_cursor(statements)


def _with_django_cursor(statements: list[str]) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


async def _with_psycopg_async(statements: list[str], autocommit: bool) -> None:
    import psycopg

    async with await psycopg.AsyncConnection.connect(dsn(), autocommit=autocommit) as connection:
        for statement in statements:
            await connection.execute(statement)


async def _with_asyncpg(statements: list[str], autocommit: bool) -> None:
    import asyncpg
    from psycopg.conninfo import conninfo_to_dict

    parts = conninfo_to_dict(dsn())
    connection = await asyncpg.connect(
        host=parts.get("host"),
        port=parts.get("port"),
        user=parts.get("user"),
        password=parts.get("password"),
        database=parts["dbname"],
    )
    if autocommit:
        for statement in statements:
            await connection.execute(statement)
        return
    async with connection.transaction():
        for statement in statements:
            await connection.execute(statement)


def _with_sqlalchemy_async(driver: str) -> Callable[[list[str], bool], Awaitable[None]]:
    async def run(statements: list[str], autocommit: bool) -> None:
        from sqlalchemy import text
        from sqlalchemy.ext.asyncio import create_async_engine

        from pq_adapters.sqlalchemy import engine_url

        level: Any = {"isolation_level": "AUTOCOMMIT"} if autocommit else {}
        async with create_async_engine(engine_url(dsn(), driver=driver), **level).begin() as connection:
            for statement in statements:
                await connection.execute(text(statement))

    return run


SYNC: dict[str, Callable[[list[str], bool], None]] = {
    "psycopg": _with_psycopg,
    "session": _with_session,
    "pool": _with_pool,
    "thread": _in_thread,
    "psycopg2": _with_psycopg2,
    "sqlalchemy-psycopg": _with_sqlalchemy("psycopg"),
    "sqlalchemy-psycopg2": _with_sqlalchemy("psycopg2"),
    "django": _with_django,
}
ASYNC: dict[str, Callable[[list[str], bool], Awaitable[None]]] = {
    "psycopg-async": _with_psycopg_async,
    "asyncpg": _with_asyncpg,
    "sqlalchemy-psycopg-async": _with_sqlalchemy_async("psycopg_async"),
    "sqlalchemy-asyncpg": _with_sqlalchemy_async("asyncpg"),
}


def _statements(row: int, effect: bool) -> tuple[list[str], bool]:
    if effect:
        return [EFFECT.format(id=row)], True
    first = current_attempt().number == 1
    return [LOCK.format(id=row), *([WAIT] if first else [])], False


@jobs.task(max_attempts=5, backoff=AT_ONCE)
def waits(kind: str, row: int, effect: bool = False) -> None:
    """With ``effect``: one statement that waits and then writes. Else a first attempt waits, with a row's lock."""
    SYNC[kind](*_statements(row, effect))


@jobs.task(max_attempts=5, backoff=AT_ONCE)
async def awaits(kind: str, row: int, effect: bool = False) -> None:
    """``waits`` for async drivers."""
    await ASYNC[kind](*_statements(row, effect))


@jobs.task
def cleans_up(row: int) -> None:
    """Wait in a statement, and use the same connection on the way out."""
    import psycopg

    with psycopg.connect(dsn()) as connection:
        try:
            connection.execute(WAIT)
        finally:
            connection.rollback()
            connection.execute(LOCK.format(id=row))
            connection.commit()


@jobs.task
def cannot_cancel() -> None:
    """Wait while nothing can be cancelled: another thread is at it."""
    import time

    from pq_core.worker import statements

    with statements._one_at_a_time:
        time.sleep(60)


@jobs.task
def holds_on() -> None:
    """Wait in a statement, whatever it is told."""
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with pq.session() as connection:
        connection.execute(WAIT)
