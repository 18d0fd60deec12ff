"""Running one statement in somebody's transaction: what an executor is, and the two for psycopg.

An executor never begins, commits or rolls back. It takes the connection as it is: autocommit or not, inside
nested transactions, in a pipeline, with any row or cursor factory.
"""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NoReturn, Protocol, TypeGuard, cast

import psycopg
from psycopg.generators import execute as execution
from psycopg.pq import ExecStatus, PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGresult
from psycopg.rows import tuple_row

from pq_core.errors import DatabaseUnavailable, InvalidOption, NotMigrated, PQError, UnsupportedConnection


class Statement:
    """One schema-qualified statement with one parameter: JSON text in, rows of one JSON text column out.

    ``name`` says what it does, for logs and errors. ``before`` and ``after`` are the text on both sides of the
    parameter; the text may hold any character, a schema may be named ``100%: "a"``.
    """

    __slots__ = ("__weakref__", "after", "before", "name")

    def __init__(self, name: str, *, before: str, after: str) -> None:
        self.name = name
        self.before = before
        self.after = after

    def render(self, marker: str, escape: Callable[[str], str] = str) -> str:
        """Return the text with ``marker`` where the parameter goes; ``escape`` is applied to the rest."""
        return f"{escape(self.before)}{marker}{escape(self.after)}"

    def __repr__(self) -> str:
        return f"Statement({self.name!r})"


class Executor(Protocol):
    """Runs statements on one sync connection, in whatever transaction that has."""

    def execute(self, statement: Statement, parameters: str) -> list[str]:
        """Run the statement and return its rows; raises the driver's own errors."""
        ...

    def in_transaction(self) -> bool:
        """Return whether what is executed now waits for a commit that somebody else makes."""
        ...


class AsyncExecutor(Protocol):
    """Runs statements on one async connection, in whatever transaction that has."""

    async def execute(self, statement: Statement, parameters: str) -> list[str]:
        """Run the statement and return its rows; raises the driver's own errors."""
        ...

    def in_transaction(self) -> bool:
        """Return whether what is executed now waits for a commit that somebody else makes."""
        ...


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


def is_async(executor: Executor | AsyncExecutor) -> TypeGuard[AsyncExecutor]:
    """Tell which of the two it is."""
    return inspect.iscoroutinefunction(executor.execute)


_ADAPTERS = {
    "sqlalchemy": "pq_adapters.sqlalchemy",
    "sqlmodel": "pq_adapters.sqlalchemy",
    "django": "pq_adapters.django",
}
"""Top-level module of a connection's type -> the module whose ``executor_for(connection)`` knows it."""

FindExecutor = Callable[[object], "Executor | AsyncExecutor | None"]


def find_executor(connection: object, *, plugins: FindExecutor | None = None) -> Executor | AsyncExecutor:
    """Return the executor of a connection or session; raise ``UnsupportedConnection`` when nobody knows it.

    ``plugins``: the ``pq_executor`` hooks; they are asked first.
    """
    if plugins is not None and (found := plugins(connection)) is not None:
        return found
    if isinstance(connection, psycopg.Connection):
        return PsycopgExecutor(connection)
    if isinstance(connection, psycopg.AsyncConnection):
        return AsyncPsycopgExecutor(connection)
    for module in _origins(type(connection)):
        if adapter := _ADAPTERS.get(module):
            executor = importlib.import_module(adapter).executor_for(connection)
            if executor is not None:
                return cast("Executor | AsyncExecutor", executor)
    _unsupported(connection)


def _origins(kind: type) -> Iterable[str]:
    """Yield the top-level modules of the type and its bases: applications subclass their sessions."""
    return dict.fromkeys(base.__module__.partition(".")[0] for base in kind.__mro__)


def _unsupported(connection: object) -> NoReturn:
    kind = type(connection)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(connection, psycopg.Cursor | psycopg.AsyncCursor):
        raise UnsupportedConnection(
            f"using() needs the connection, not its cursor: pass cursor.connection (got {name})"
        )
    if kind.__module__.partition(".")[0] == "psycopg_pool":
        raise UnsupportedConnection(
            f"using() needs a connection, not a pool: 'with pool.connection() as connection' (got {name})"
        )
    raise UnsupportedConnection(
        f"using() got a {name}; it takes a psycopg connection, a SQLAlchemy session or connection, a Django "
        "connection, or what a plugin's pq_executor hook knows"
    )


_UNDEFINED = frozenset({"42P01", "42883", "3F000", "42703"})
_GONE = frozenset({"57P01", "57P02", "57P03"})


def translate(error: BaseException, schema: str) -> PQError | None:
    """Return pq's error for a driver's, or ``None`` when it should stay what it is.

    Raise it ``from`` the driver's error. Drivers and their wrappers (SQLAlchemy's ``orig``, Django's
    ``__cause__``) are told apart by SQLSTATE alone.
    """
    state = _sqlstate(error)
    message = str(getattr(error, "orig", None) or error).partition("\n")[0]
    if state in _UNDEFINED:
        flag = "" if schema == "public" else f" --schema {shlex.quote(schema)}"
        return NotMigrated(f"schema {schema!r} lacks tables that this pq needs ({message}): run `pq migrate{flag}`")
    if state is not None and (state.startswith("08") or state in _GONE):
        return DatabaseUnavailable(f"the connection to the database is gone: {message}")
    if state == "22023":
        return InvalidOption(message.removeprefix("pq_enqueue: "))
    if state is None and isinstance(error, psycopg.OperationalError):
        return DatabaseUnavailable(f"the connection to the database is gone: {message}")
    return None


def is_undefined(error: BaseException) -> bool:
    """Tell whether a driver's error says that a table, function or column is not what the statement expects."""
    return _sqlstate(error) in _UNDEFINED


def _sqlstate(error: BaseException) -> str | None:
    seen: BaseException | None = error
    for _ in range(4):
        if seen is None:
            return None
        for attribute in ("sqlstate", "pgcode"):
            if isinstance(state := getattr(seen, attribute, None), str):
                return state
        seen = getattr(seen, "orig", None) or seen.__cause__
    return None
