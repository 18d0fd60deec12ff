"""Running one statement in somebody's transaction: what an executor is, how it is found, what a driver's errors mean.

An executor never begins, commits or rolls back. It takes the connection as it is: autocommit or not, inside
nested transactions, in a pipeline, with any row or cursor factory. No driver is loaded here: who has a connection
has loaded its own.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn, Protocol, TypeGuard, cast

from pq_core.errors import DatabaseUnavailable, InvalidOption, NotMigrated, PQError, UnsupportedConnection
from pq_core.sqlstates import READ_ONLY, ends_connection, sqlstate_of


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


def is_async(executor: Executor | AsyncExecutor) -> TypeGuard[AsyncExecutor]:
    """Tell which of the two it is."""
    return inspect.iscoroutinefunction(executor.execute)


_ADAPTERS = {
    "psycopg": "pq_core.psycopg_executor",
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
    # As isinstance() sees it: tracers wrap connections in proxies that pass for them.
    for module in _origins(connection.__class__):
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
    if kind.__module__.partition(".")[0] == "psycopg_pool":
        raise UnsupportedConnection(
            f"using() needs a connection, not a pool: 'with pool.connection() as connection' (got {name})"
        )
    raise UnsupportedConnection(
        f"using() got a {name}; it takes a psycopg connection, a SQLAlchemy session or connection, a Django "
        "connection, or what a plugin's pq_executor hook knows"
    )


_UNDEFINED = frozenset({"42P01", "42883", "3F000", "42703"})


def translate(error: BaseException, schema: str) -> PQError | None:
    """Return pq's error for a driver's, or ``None`` when it should stay what it is.

    Raise it ``from`` the driver's error. Drivers and their wrappers (SQLAlchemy's ``orig``, Django's
    ``__cause__``) are told apart by SQLSTATE alone.
    """
    state = sqlstate_of(error)
    message = str(getattr(error, "orig", None) or error).partition("\n")[0]
    if state in _UNDEFINED:
        import shlex

        flag = "" if schema == "public" else f" --schema {shlex.quote(schema)}"
        return NotMigrated(f"schema {schema!r} lacks tables that this pq needs ({message}): run `pq migrate{flag}`")
    if state == READ_ONLY:
        return DatabaseUnavailable(
            f"this connection takes no writes (its server is a standby or set to read only, or its transaction is): "
            f"{message}"
        )
    if ends_connection(state):
        return DatabaseUnavailable(f"the connection to the database is gone: {message}")
    if state == "22023":
        return InvalidOption(message.removeprefix("pq_enqueue: "))
    if state is None and _is_operational(error):
        return DatabaseUnavailable(f"the connection to the database is gone: {message}")
    return None


def _is_operational(error: BaseException) -> bool:
    """Tell whether it is psycopg's OperationalError; nobody has raised one while that is not loaded."""
    psycopg = sys.modules.get("psycopg")
    return psycopg is not None and isinstance(error, psycopg.OperationalError)


def is_undefined(error: BaseException) -> bool:
    """Tell whether a driver's error says that a table, function or column is not what the statement expects."""
    return sqlstate_of(error) in _UNDEFINED
