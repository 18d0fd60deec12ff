"""Whether a migration of the application, by Alembic, is under way: then pq's own belongs to it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import psycopg

from pq_core import database
from pq_core.errors import DatabaseNotConfigured, InvalidOption

if TYPE_CHECKING:
    from pq_core.types import DSN

_WHICH = "SELECT pg_catalog.current_database(), pg_catalog.pg_postmaster_start_time()"


def connection_of_migration(dsn: DSN | None) -> Any:
    """Return the SQLAlchemy connection of the Alembic migration that calls this, None where pq needs its own.

    It is used if it is psycopg 3's, in a transaction, and leads to the database of ``dsn``. Raises InvalidOption where
    the migration only writes SQL.
    """
    context = _context()
    if context is None:
        return None
    if context.as_sql:
        raise InvalidOption(
            "this migration writes SQL and has no database: run_db_migrations() can't tell what is there. Let the "
            "revision execute what `pq migrate --sql --since N` prints"
        )
    connection = context.connection
    driver = getattr(getattr(connection, "connection", None), "driver_connection", None)
    if not isinstance(driver, psycopg.Connection) or driver.autocommit or not connection.in_transaction():
        return None
    try:
        own = database.connect(database.find_dsn(dsn), application_name="pq migrate")
    except DatabaseNotConfigured:
        return connection
    with own:
        same = driver.execute(_WHICH).fetchone() == own.execute(_WHICH).fetchone()
    return connection if same else None


def _context() -> Any:
    """Return Alembic's current MigrationContext: of a revision, or of an env.py that has configured one."""
    for name in ("alembic.op", "alembic.context"):
        proxy = getattr(sys.modules.get(name), "_proxy", None)
        if proxy is not None:
            found = getattr(proxy, "migration_context", None) or getattr(proxy, "_migration_context", None)
            if found is not None:
                return found
    return None
