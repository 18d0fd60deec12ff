"""The methods that create, upgrade and drop pq's tables."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pq_core.types import DSN


class TableMethods:
    """What a ``PQ`` can do with its tables: by ``listen_dsn``, since the lock of a migration is a session's."""

    schema: str

    @property
    def listen_dsn(self) -> DSN | None:
        raise NotImplementedError

    def run_db_migrations(self, *, using: Any = None) -> None:
        """Bring the schema's tables to this version of pq: create them or upgrade them.

        ``using``: a SQLAlchemy connection with psycopg 3, in whose open transaction it is done. Inside a migration of
        the application by Alembic that is the migration's own, unless it is of another driver or database.
        """
        from pq_core.schema import migrate, migrate_within

        if using is None and ("alembic.op" in sys.modules or "alembic.context" in sys.modules):
            from pq_core.migrations.outer import connection_of_migration

            using = connection_of_migration(self.listen_dsn)
        if using is None:
            migrate(self.listen_dsn, self.schema)
        else:
            migrate_within(using, self.schema)

    async def arun_db_migrations(self) -> None:
        """Do what ``run_db_migrations`` does, in a thread."""
        await _in_thread(self.run_db_migrations)

    def create_tables(self) -> None:
        """Do what ``run_db_migrations`` does; python-pq's name."""
        self.run_db_migrations()

    async def acreate_tables(self) -> None:
        """Do what ``create_tables`` does, in a thread."""
        await _in_thread(self.create_tables)

    def drop_tables(self) -> None:
        """Drop pq's tables and everything in them."""
        from pq_core.schema import drop

        drop(self.listen_dsn, self.schema)

    async def adrop_tables(self) -> None:
        """Do what ``drop_tables`` does, in a thread."""
        await _in_thread(self.drop_tables)


async def _in_thread(function: Callable[[], object]) -> None:
    import asyncio  # whoever awaits has loaded it; who only creates a PQ need not

    await asyncio.to_thread(function)
