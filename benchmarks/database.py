"""A Postgres for one run of the benchmarks: its own, as it comes out of the box, or a database on the one you name."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

STOCK = {"wal_level": "replica", "max_wal_senders": "10", "max_connections": "300"}
"""The embedded server's own settings spare what an application's development doesn't need; a real one has them."""


@contextmanager
def a_server(dsn: str | None) -> Iterator[str]:
    """Yield the DSN of a server: ``dsn``, or one started in a folder of its own that ends with the block."""
    if dsn is not None:
        yield dsn
        return
    from pq_core import embedded

    folder = Path(tempfile.mkdtemp(prefix="pq-bench-"))
    folder.chmod(0o755)  # Postgres refuses to run as root: whoever it runs as must get at its data
    try:
        yield embedded.start(folder / "server", settings=STOCK)
    finally:
        with contextlib.suppress(Exception):
            embedded.stop(folder / "server")
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def a_database(server: str, *, tables: bool = True) -> Iterator[str]:
    """Yield the DSN of a database of its own on the server, with pq's tables, dropped after the block."""
    name = f"pq_bench_{secrets.token_hex(6)}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
    dsn = make_conninfo(server, dbname=name)
    try:
        if tables:
            from pq_core.schema import migrate

            migrate(dsn, "public")
        yield dsn
    finally:
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def vacuum(dsn: str) -> None:
    """Leave nothing to autovacuum that one round would pay for another."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE) pq_tasks")
        connection.execute("CHECKPOINT")
