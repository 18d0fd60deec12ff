"""The connections that a ``PQ`` opens for itself, and its requests on them: loaded, with the driver, at first use.

What is imported before a worker forks has no need of it, and the driver would be a third of the image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import psycopg

from pq_core.bound import reraise
from pq_core.compatibility import aexamine, examine
from pq_core.database import AsyncConnectionPool, ConnectionPool
from pq_core.executor import is_undefined
from pq_core.psycopg_executor import AsyncPooledExecutor, PooledExecutor

if TYPE_CHECKING:
    from pq_core.store import Request
    from pq_core.types import DSN

T = TypeVar("T")


class ClientPool(ConnectionPool):
    """A pool whose connections were found to fit this code, and what runs requests on them."""

    def __init__(self, dsn: DSN | None, *, app: str, schema: str) -> None:
        super().__init__(dsn, application_name=_name(app), examine=lambda connection: examine(connection, schema))
        self._schema = schema

    def run(self, request: Request[T]) -> T:
        """Run the request in a transaction of its own. Raises pq's errors."""
        with self.connection() as connection:
            executor = PooledExecutor(connection)
            try:
                rows = executor.execute(request.statement, request.parameters)
            except psycopg.errors.UniqueViolation:
                # Somebody took the client_id between the statement's look and its write: look again.
                rows = executor.execute(request.statement, request.parameters)
            except Exception as error:
                if is_undefined(error):
                    # The tables may have changed since the connection was opened.
                    examine(connection, self._schema)
                reraise(error, self._schema)
        return request.parse(rows)


class AsyncClientPool(AsyncConnectionPool):
    """The async twin of ``ClientPool``."""

    def __init__(self, dsn: DSN | None, *, app: str, schema: str) -> None:
        super().__init__(dsn, application_name=_name(app), examine=lambda connection: aexamine(connection, schema))
        self._schema = schema

    async def run(self, request: Request[T]) -> T:
        """Run the request in a transaction of its own. Raises pq's errors."""
        async with self.connection() as connection:
            executor = AsyncPooledExecutor(connection)
            try:
                rows = await executor.execute(request.statement, request.parameters)
            except psycopg.errors.UniqueViolation:
                rows = await executor.execute(request.statement, request.parameters)
            except Exception as error:
                if is_undefined(error):
                    await aexamine(connection, self._schema)
                reraise(error, self._schema)
        return request.parse(rows)


def _name(app: str) -> str:
    return f"pq {app}".strip()
