"""The executors of psycopg's connections: the user's, and our own past the cursor. Loads the driver."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, cast

import psycopg
from psycopg.generators import execute as execution
from psycopg.pq import ExecStatus, PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.rows import tuple_row

from pq_core.errors import UnsupportedConnection
from pq_core.executor import AsyncExecutor, Executor, Statement


def executor_for(connection: object) -> Executor | AsyncExecutor | None:
    """Return the executor of a connection of psycopg; None for anything else. Raises UnsupportedConnection."""
    match connection:
        case psycopg.Connection():
            return PsycopgExecutor(connection)
        case psycopg.AsyncConnection():
            return AsyncPsycopgExecutor(connection)
        case psycopg.Cursor() | psycopg.AsyncCursor():
            kind = type(connection)
            raise UnsupportedConnection(
                "using() needs the connection, not its cursor: pass cursor.connection "
                f"(got {kind.__module__}.{kind.__qualname__})"
            )
        case _:
            return None


class PsycopgExecutor:
    """The executor of a ``psycopg.Connection``."""

    __slots__ = ("_connection",)

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def execute(self, statement: Statement, parameters: str) -> list[str]:
        if _plainly_sendable(self._connection):
            return PooledExecutor(self._connection).execute(statement, parameters)
        # A cursor of our own kind: the connection's row_factory and cursor_factory are the user's business.
        with psycopg.Cursor(self._connection, row_factory=tuple_row) as cursor:
            _plain_text(cursor)
            cursor.execute(_psycopg_query(statement), (_sendable(self._connection, parameters),))
            return [row[0] for row in cursor.fetchall()]

    def in_transaction(self) -> bool:
        return _waits_for_commit(self._connection)


class AsyncPsycopgExecutor:
    """The executor of a ``psycopg.AsyncConnection``."""

    __slots__ = ("_connection",)

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection

    async def execute(self, statement: Statement, parameters: str) -> list[str]:
        if _plainly_sendable(self._connection):
            return await AsyncPooledExecutor(self._connection).execute(statement, parameters)
        async with psycopg.AsyncCursor(self._connection, row_factory=tuple_row) as cursor:
            _plain_text(cursor)
            await cursor.execute(_psycopg_query(statement), (_sendable(self._connection, parameters),))
            return [row[0] for row in await cursor.fetchall()]

    def in_transaction(self) -> bool:
        return _waits_for_commit(self._connection)


class PooledExecutor:
    """The executor of an idle connection of our own, in autocommit mode: past the cursor, whose work takes longer than
    libpq's. Users' connections get a cursor where it would do more than send: what is prepared there is theirs to say.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def execute(self, statement: Statement, parameters: str) -> list[str]:
        connection = self._connection
        pgconn = connection.pgconn
        if pgconn.parameter_status(b"client_encoding") != b"UTF8":
            return PsycopgExecutor(connection).execute(statement, parameters)
        with connection.lock:
            pgconn.send_query_params(_numbered_query(statement), (parameters.encode(),))
            return _texts(connection.wait(execution(pgconn)))


class AsyncPooledExecutor:
    """The async twin of ``PooledExecutor``."""

    __slots__ = ("_connection",)

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection

    async def execute(self, statement: Statement, parameters: str) -> list[str]:
        connection = self._connection
        pgconn = connection.pgconn
        if pgconn.parameter_status(b"client_encoding") != b"UTF8":
            return await AsyncPsycopgExecutor(connection).execute(statement, parameters)
        async with connection.lock:
            pgconn.send_query_params(_numbered_query(statement), (parameters.encode(),))
            return _texts(await connection.wait(execution(pgconn)))


def _plainly_sendable(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Tell whether a cursor would do nothing on the way but send: no BEGIN, no statement to prepare, no pipeline."""
    pgconn = connection.pgconn
    return (
        connection.prepare_threshold is None
        and pgconn.transaction_status == TransactionStatus.INTRANS
        and pgconn.pipeline_status == PipelineStatus.OFF
        and pgconn.parameter_status(b"client_encoding") == b"UTF8"
    )


def _texts(results: list[PGresult]) -> list[str]:
    """Return the rows of a statement's only result; raise what the server said instead."""
    for result in results:
        if result.status == ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)
    (result,) = results
    found = [result.get_value(row, 0) for row in range(result.ntuples)]
    return [cast(str, value if value is None else value.decode()) for value in found]


@lru_cache(maxsize=1024)
def _numbered_query(statement: Statement) -> bytes:
    return statement.render("$1").encode()


@lru_cache(maxsize=1024)
def _psycopg_query(statement: Statement) -> str:
    return statement.render("%s", lambda text: text.replace("%", "%%"))


_TEXT_LOADER = psycopg.adapters.get_loader(25, psycopg.pq.Format.TEXT)


def _plain_text(cursor: psycopg.Cursor[Any] | psycopg.AsyncCursor[Any]) -> None:
    """Make the cursor return text as ``str``, whatever the user's connection was taught."""
    adapters = cursor.adapters
    if _TEXT_LOADER is not None and adapters.get_loader(25, psycopg.pq.Format.TEXT) is not _TEXT_LOADER:
        adapters.register_loader("text", _TEXT_LOADER)


def _sendable(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], parameters: str) -> str:
    """Return the JSON text in characters that the connection's encoding has: JSON can escape any other."""
    if parameters.isascii() or connection.info.encoding == "utf-8":
        return parameters
    return _NOT_ASCII.sub(lambda found: _escaped(found[0]), parameters)


_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _waits_for_commit(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    # Without autocommit the next statement opens the transaction that the caller will commit.
    return not connection.autocommit or connection.info.transaction_status != TransactionStatus.IDLE
