"""SQLAlchemy: pq in the transaction of a session or connection, engines that survive a fork, a filter for Alembic.

``pq.using(session)`` finds this module by itself; import it for ``SafeEngines`` and ``exclude_pq_tables``.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

try:
    from sqlalchemy import URL, Connection, Engine, TextClause, text
    from sqlalchemy.exc import DBAPIError, UnboundExecutionError
    from sqlalchemy.orm import Session, scoped_session, sessionmaker
    from sqlalchemy.pool import Pool, SingletonThreadPool, StaticPool
except ImportError as error:
    raise ImportError('pq_adapters.sqlalchemy needs SQLAlchemy: pip install "pq-toolkit[sqlalchemy]"') from error

from psycopg.conninfo import conninfo_to_dict

from pq_core.dsn import find_dsn
from pq_core.errors import DatabaseUnavailable, InvalidDSN, UnsupportedConnection
from pq_core.executor import Statement
from pq_core.schema import TABLES, VERSION_TABLE

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

    from pq_core.types import DSN

    Sync = Connection | Session | scoped_session[Any]
    Async = AsyncConnection | AsyncSession | async_scoped_session[Any]

__all__ = [
    "AsyncSQLAlchemyExecutor",
    "SQLAlchemyExecutor",
    "SafeEngines",
    "engine_url",
    "exclude_pq_tables",
    "executor_for",
]


class SQLAlchemyExecutor:
    """The executor of a ``Session``, ``scoped_session`` or ``Connection``."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Sync) -> None:
        self._connection = connection

    def execute(self, statement: Statement, parameters: str) -> list[str]:
        return _execute(self._connection, statement, parameters)

    def in_transaction(self) -> bool:
        # The one that a session will use for the statement: AUTOCOMMIT may be said of that alone.
        connection = self._connection if isinstance(self._connection, Connection) else self._connection.connection()
        return not _autocommits(connection)


class AsyncSQLAlchemyExecutor:
    """The executor of an ``AsyncSession``, ``async_scoped_session`` or ``AsyncConnection``."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Async) -> None:
        self._connection = connection

    async def execute(self, statement: Statement, parameters: str) -> list[str]:
        # Not by .execute(): SQLModel's async session warns there, and this one way serves connections as well.
        return await _unscoped(self._connection).run_sync(_execute, statement, parameters)

    def in_transaction(self) -> bool:
        # Nothing here may wait for the database, so a session's engine has to speak for the connection it will lend.
        bind = _bind(self._connection)
        return bind is None or not _autocommits(bind)


def executor_for(connection: object) -> SQLAlchemyExecutor | AsyncSQLAlchemyExecutor | None:
    """Return the executor of a session or connection of SQLAlchemy or SQLModel; ``None`` for anything else.

    Raises UnsupportedConnection for an engine, a session factory, a session that can't tell which of several
    databases is meant, and for another database than Postgres.
    """
    if isinstance(connection, Connection | Session | scoped_session):
        _check_postgres(connection)
        return SQLAlchemyExecutor(connection)
    # Loaded if the connection is one of its kinds; without greenlet, loading it would fail.
    if "sqlalchemy.ext.asyncio" in sys.modules:
        from sqlalchemy.ext.asyncio import (
            AsyncConnection,
            AsyncEngine,
            AsyncSession,
            async_scoped_session,
            async_sessionmaker,
        )

        if isinstance(connection, AsyncConnection | AsyncSession | async_scoped_session):
            _check_postgres(connection)
            return AsyncSQLAlchemyExecutor(connection)
        if isinstance(connection, AsyncEngine | async_sessionmaker):
            raise UnsupportedConnection(_CLOSED.format("async with", type(connection).__name__))
    if isinstance(connection, Engine | sessionmaker):
        raise UnsupportedConnection(_CLOSED.format("with", type(connection).__name__))
    return None


_CLOSED = "using() needs an open session or connection: '{0} {1}.begin() as opened', then using(opened); got the {1}"


def _execute(connection: Sync, statement: Statement, parameters: str) -> list[str]:
    # Through the session, never its driver's connection: asyncpg's opens no transaction by itself. And all rows at
    # once: a server-side cursor runs a function's writes only as far as it is read, and refuses some statements.
    options = {"stream_results": False}
    try:
        rows = connection.execute(_clause(statement), {"parameters": parameters}, execution_options=options)
    except DBAPIError as error:
        # Only SQLAlchemy tells a driver's words for this; what has an SQLSTATE is told by that.
        if error.connection_invalidated and not any(getattr(error.orig, name, None) for name in ("sqlstate", "pgcode")):
            raise DatabaseUnavailable(
                f"the connection to the database is gone: {str(error).splitlines()[0]}"
            ) from error
        raise
    return [row[0] for row in rows]


@lru_cache(maxsize=1024)
def _clause(statement: Statement) -> TextClause:
    return text(statement.render(":parameters", lambda part: part.replace(":", "\\:")))


def _unscoped(connection: Async) -> AsyncConnection | AsyncSession:
    """Return the session that a scoped one stands for in this task, anything else as it is."""
    return connection() if hasattr(connection, "registry") else connection  # type: ignore[operator]


def _bind(connection: Sync | Async) -> Engine | Connection | None:
    """Return what a session will run on, or the connection itself; ``None`` before an async one is open."""
    if isinstance(connection, Connection):
        return connection
    if isinstance(connection, Session | scoped_session):
        return connection.get_bind()
    opened = _unscoped(connection)
    session: Session | None = getattr(opened, "sync_session", None)
    return opened.sync_connection if session is None else session.get_bind()  # type: ignore[union-attr]


def _autocommits(bind: Engine | Connection) -> bool:
    if isinstance(bind, Connection):
        return bool(getattr(bind.connection.dbapi_connection, "autocommit", False))
    level = bind.get_execution_options().get(
        "isolation_level", getattr(bind.dialect, "_on_connect_isolation_level", None)
    )
    return bool(level == "AUTOCOMMIT")


def _check_postgres(connection: Sync | Async) -> None:
    try:
        bind = _bind(connection)
    except UnboundExecutionError as error:
        raise UnsupportedConnection(
            "this session has several databases or none; name the one with pq's tables: "
            "using(session.connection(bind_arguments={'bind': engine})), with await before an async one's"
        ) from error
    if bind is not None and bind.dialect.name != "postgresql":
        raise UnsupportedConnection(
            f"pq's tables are in Postgres; this {type(connection).__name__} is {bind.dialect.name}'s"
        )


def engine_url(dsn: DSN | None = None, *, driver: str = "psycopg") -> URL:
    """Return the URL for an engine on pq's database: that of ``dsn``, else of PQ_DATABASE_URL, else of DATABASE_URL.

    ``driver``: "psycopg", "psycopg2" or "asyncpg". Raises InvalidDSN for what asyncpg has no parameter for.
    """
    said = {name: str(value) for name, value in conninfo_to_dict(find_dsn(dsn)).items() if value is not None}
    words = {name: said.pop(name, None) for name in ("user", "password", "dbname")}
    if driver == "asyncpg":
        # These two tell libpq how long to wait and who is there; asyncpg takes them in other ways, or not at all.
        said = {name: value for name, value in said.items() if name not in ("connect_timeout", "application_name")}
        said = {"ssl" if name == "sslmode" else name: value for name, value in said.items()}
        if unknown := said.keys() - {"host", "port", "ssl"}:
            raise InvalidDSN(f"asyncpg can't be told {sorted(unknown)[0]!r}: leave it out of the DSN")
    return URL.create(f"postgresql+{driver}", words["user"], words["password"], database=words["dbname"], query=said)


_PQ_TABLES = frozenset((*TABLES, VERSION_TABLE))


def exclude_pq_tables(name: str | None, type_: str, parent_names: Mapping[Any, str | None]) -> bool:
    """Keep Alembic's autogenerate from dropping what is pq's: ``context.configure(…, include_name=exclude_pq_tables)``.

    pq migrates its tables itself (``pq migrate``). They are known by their names, in any schema; functions and triggers
    too, which alembic_utils compares.
    """
    match type_:
        case "table":
            return name not in _PQ_TABLES
        case "function" | "trigger" if name is not None:
            from pq_core.migrations import runner

            # alembic_utils: schema.name(arguments)
            bare = name.removeprefix(f"{parent_names.get('schema_name')}.").partition("(")[0].strip('"')
            return bare not in (runner.function_names() if type_ == "function" else runner.trigger_names())
    return True


class SafeEngines:
    """The plugin that makes engines of the worker's image usable in its tasks: ``PQ(plugins=[SafeEngines()])``.

    A pooled connection belongs to the process that opened it. In every process forked from the worker, engines that
    exist before the first is get an empty pool; what the worker had open itself is not touched.
    """

    def __init__(self) -> None:
        self._engines: weakref.WeakSet[Engine] | None = None
        self._inherited: list[Pool] = []

    def pq_before_forks(self) -> None:
        """Find the engines, and renew their pools at every fork to come."""
        if self._engines is None:
            self._engines = weakref.WeakSet()
            # At the fork itself, so before any hook in the child; a task's own forks are covered, too.
            os.register_at_fork(after_in_child=self._renew)
        from pq_core.worker.image import objects_of

        self._engines.update(objects_of(Engine))  # SQLAlchemy keeps no list of them

    def _renew(self) -> None:
        for engine in self._engines or ():
            if isinstance(engine.pool, SingletonThreadPool | StaticPool) and engine.dialect.name == "sqlite":
                continue  # in memory: the connection is the data, and the child has a copy of it
            # Kept for good: some drivers say goodbye to the server when their object is collected.
            self._inherited.append(engine.pool)
            engine.dispose(close=False)
