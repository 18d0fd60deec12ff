"""Statements on Django's connection, inside whatever ``atomic()`` is open there."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.connection import ConnectionProxy

from pq_core.errors import UnsupportedConnection
from pq_core.executor import Statement


class DjangoExecutor:
    """The executor of ``connections[alias]``, with psycopg and with psycopg2.

    Goes through Django's own cursor: the raw connection would bypass its error handling, and an ``atomic()`` block
    would not know that it must roll back.
    """

    __slots__ = ("_connection",)

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def execute(self, statement: Statement, parameters: str) -> list[str]:
        """Run the statement; raises Django's database errors, with the driver's as their cause."""
        with self._connection.cursor() as cursor:
            cursor.execute(_query(statement), [parameters])
            return [row[0] for row in cursor.fetchall()]

    def in_transaction(self) -> bool:
        """Return whether an ``atomic()`` block is open, or autocommit is off."""
        return bool(self._connection.in_atomic_block) or not self._connection.get_autocommit()


@lru_cache(maxsize=1024)
def _query(statement: Statement) -> str:
    return statement.render("%s", lambda text: text.replace("%", "%%"))


def executor_for(connection: Any) -> DjangoExecutor | None:
    """Return an executor for a database wrapper or its proxy; None for what is neither.

    Raises UnsupportedConnection for a database that is not Postgres.
    """
    if not isinstance(connection, (BaseDatabaseWrapper, ConnectionProxy)):
        return None
    vendor = getattr(connection, "vendor", None)
    if vendor != "postgresql":
        alias = getattr(connection, "alias", "?")
        raise UnsupportedConnection(
            f"using() got Django's connection {alias!r} to {vendor}; pq's tables are in Postgres"
        )
    return DjangoExecutor(connection)
