"""Tasks that use pools of psycopg_pool, opened at import: for the tests of the plugin that renews them."""

from __future__ import annotations

import os
import threading
from typing import Any

from psycopg import Connection
from psycopg_pool import AsyncConnectionPool, ConnectionPool, NullConnectionPool

from pq_core import PQ, Role, TaskGroup, role

jobs = TaskGroup(prefix="pool")
configured: list[int] = []


def configure(connection: Connection[Any]) -> None:
    configured.append(connection.info.backend_pid)


class Named(ConnectionPool[Any]):
    """A subclass with arguments of its own."""

    def __init__(self, dsn: str) -> None:
        super().__init__(dsn, min_size=1, max_size=2, name="named", open=True, configure=configure, timeout=20)


pools: dict[str, Any] = {}
backends: dict[str, int] = {}
if role() is Role.WORKER:
    dsn = os.environ["PQ_DATABASE_URL"]
    pools["named"] = Named(dsn)
    pools["null"] = NullConnectionPool(dsn, open=True, timeout=20)
    pools["closed"] = ConnectionPool(dsn, min_size=1, open=False)
    pools["async"] = AsyncConnectionPool(dsn, min_size=1, open=False)
    for name in ("named", "null"):
        with pools[name].connection() as connection:
            backends[name] = connection.info.backend_pid


def create_pq() -> PQ:
    """The application; the database comes from PQ_DATABASE_URL."""
    return PQ(tasks=[__name__])


@jobs.task
def use(name: str) -> dict[str, Any]:
    """Say which server processes answered in turn, and what the pool was made with."""
    pool = pools[name]
    before = threading.active_count()
    configured.clear()
    pool.open()
    found = []
    for _ in range(2):
        with pool.connection() as connection:
            found.append(connection.execute("SELECT pg_backend_pid()").fetchone()[0])
    return {
        "new": backends.get(name) not in found, "name": pool.name, "configured": set(found) <= set(configured),
        "threads before": before, "size": pool.max_size,
    }  # fmt: skip


@jobs.task
def use_at_once(name: str) -> int:
    """Use it by threads that all want the first connection, without opening it."""
    seen: list[int] = []

    def ask() -> None:
        with pools[name].connection() as connection:
            seen.append(connection.execute("SELECT 1").fetchone()[0])

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(seen)


@jobs.task
async def use_async() -> int:
    """Use the async pool, which a program opens where its loop runs."""
    async with AsyncConnectionPool(os.environ["PQ_DATABASE_URL"], open=False) as pool, pool.connection() as connection:
        cursor = await connection.execute("SELECT 7")
        row = await cursor.fetchone()
        assert row is not None
        return int(row[0])
