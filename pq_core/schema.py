"""The tables of pq in a schema of somebody's database: create and upgrade, describe as SQL, check, drop.

Alembic and SQLAlchemy are imported when something has to be migrated, never at import: a client and a worker only
check.
"""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString

from psycopg import sql
from psycopg.rows import tuple_row

from pq_core import citus, database
from pq_core.errors import DatabaseUnavailable, NotMigrated, SchemaDamaged, SchemaIncompatible, UnsupportedConnection
from pq_core.sql_names import check_schema_name

if TYPE_CHECKING:
    import psycopg

    from pq_core.types import DSN

CODE_REVISION = 5
"""The revision of the schema that this code was written for: the number of the latest migration."""

VERSION_TABLE = "pq_alembic_version"
"""Alembic's table, with one row: the latest revision applied."""

TABLES = (
    "pq_tasks",
    "pq_periodic",
    "pq_workers",
    "pq_queues",
    "pq_attempts",
    "pq_statistics",
    "pq_schema",
    "pq_keys",
    "pq_audit",
    "pq_chores",
    "pq_statistics_hours",
    "pq_limits",
    "pq_waits",
)
"""Every table that the migrations create, besides Alembic's."""
FILLED_TABLES = tuple(table for table in TABLES if table != "pq_schema")
"""Those that are empty after a migration."""

_MIGRATION_WAIT = 600.0
_POLL_INTERVAL = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationResult:
    """What a migration found and did. ``before`` is None where there were no tables of pq.

    ``newer``: the schema is of a newer pq that this code can work with; nothing was changed. ``notes``: what else there
    is to say.
    """

    schema: str
    before: int | None
    after: int
    newer: bool = False
    notes: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """True if revisions were applied."""
        return self.before != self.after


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What a schema holds: ``revision`` and ``oldest_code`` of our tables, or the names that aren't ours."""

    exists: bool
    revision: int | None = None
    oldest_code: int | None = None
    foreign: tuple[str, ...] = ()
    python_pq: bool = False


def migrate(
    dsn: DSN | None = None, schema: str = "public", *, revision: str = "head", wait: float = _MIGRATION_WAIT
) -> MigrationResult:
    """Bring the schema up to ``revision``; creates the schema if it is missing.

    Give it a direct connection: behind a pooler in transaction mode the lock that keeps two migrations apart is
    worth nothing. ``wait``: seconds to wait for another migration and for locks that the application holds.
    Raises SchemaIncompatible if the schema holds tables of others or is too new, DatabaseUnavailable after ``wait``.
    """
    check_schema_name(schema)
    deadline = time.monotonic() + wait
    with _locked(dsn, schema, deadline=deadline) as connection:
        notes = citus.keep_local(connection)
        found = _inspect(connection, schema)
        _refuse_foreign(found, schema)
        if found.revision is not None and found.revision > CODE_REVISION:
            check_revision(found.revision, found.oldest_code, schema=schema)
            return MigrationResult(schema=schema, before=found.revision, after=found.revision, newer=True, notes=notes)
        _refuse_mismatch(connection, found, schema)
        if found.revision == CODE_REVISION and revision == "head":
            check_whole(connection, schema)
            return MigrationResult(schema=schema, before=CODE_REVISION, after=CODE_REVISION, notes=notes)
        if not found.exists:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        from pq_core.migrations import repair, runner

        if found.revision in repair.EDITED:
            runner.patiently(lambda: repair.repair(connection, schema), schema, deadline=deadline)
        runner.upgrade(connection, schema, revision, version_table=VERSION_TABLE, deadline=deadline)
        after = _inspect(connection, schema).revision or 0
        return MigrationResult(schema=schema, before=found.revision, after=after, notes=notes)


def migrate_within(
    connection: Any, schema: str = "public", *, revision: str = "head", wait: float = _MIGRATION_WAIT
) -> MigrationResult:
    """Bring the schema up in the transaction that is open on a SQLAlchemy connection with psycopg 3; commits nothing.

    For a migration of the application: pq's tables are there, or not, with all else that it does. ``wait``: seconds to
    wait for another migration. Raises UnsupportedConnection for other drivers and without a transaction,
    SchemaIncompatible as ``migrate`` does, and where an index would be built on so many tasks that writers had to wait.
    """
    check_schema_name(schema)
    driver = _driver_in_transaction(connection)
    deadline = time.monotonic() + wait
    while not _scalar(driver, "SELECT pg_catalog.pg_try_advisory_xact_lock(%s)", _lock_key(schema)):
        if time.monotonic() > deadline:
            raise DatabaseUnavailable(f'another migration of schema "{schema}" has not ended in time')
        time.sleep(_POLL_INTERVAL)
    found = _inspect(driver, schema)
    _refuse_foreign(found, schema)
    if found.revision is not None and found.revision > CODE_REVISION:
        check_revision(found.revision, found.oldest_code, schema=schema)
        return MigrationResult(schema=schema, before=found.revision, after=found.revision, newer=True)
    _refuse_mismatch(driver, found, schema)
    if found.revision == CODE_REVISION and revision == "head":
        return MigrationResult(schema=schema, before=CODE_REVISION, after=CODE_REVISION)
    from pq_core.migrations import repair, runner

    if found.revision in repair.EDITED and repair.is_early(driver, schema):
        raise SchemaIncompatible(f'schema "{schema}" was made by an early revision 2: run `pq migrate` before this')
    timeout = _scalar(driver, "SELECT current_setting('statement_timeout')")
    driver.execute("SELECT set_config('statement_timeout', '0', true)")
    notes = citus.keep_local(driver)
    if not found.exists:
        driver.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    runner.upgrade_within(connection, schema, revision, version_table=VERSION_TABLE)
    driver.execute("SELECT set_config('statement_timeout', %s, true)", (timeout,))
    after = _inspect(driver, schema).revision or 0
    return MigrationResult(schema=schema, before=found.revision, after=after, notes=notes)


def _driver_in_transaction(connection: Any) -> psycopg.Connection[Any]:
    import psycopg

    driver = getattr(getattr(connection, "connection", None), "driver_connection", None)
    if not isinstance(driver, psycopg.Connection):
        raise UnsupportedConnection(
            f"got {connection!r}: give a SQLAlchemy connection with psycopg 3, as op.get_bind() of a migration; for "
            "other drivers `pq migrate --sql --since N` prints what a revision can hold"
        )
    if driver.autocommit or not connection.in_transaction():
        raise UnsupportedConnection("there is no transaction on this connection: pq.run_db_migrations() opens its own")
    return driver


def build_citus_fence(dsn: DSN | None = None, schema: str = "public", *, wait: float = _MIGRATION_WAIT) -> bool:
    """Put the fence on pq_tasks that Citus's two-phase commit needs; False where there is no Citus."""
    from pq_core import citus

    check_schema_name(schema)
    with _locked(dsn, schema, deadline=time.monotonic() + wait) as connection:
        check(connection, schema)
        if citus.version(connection) is None:
            return False
        connection.execute(sql.SQL(citus.fence_sql(schema)))
        return True


def migration_sql(
    schema: str = "public", *, revision: str = "head", since: str | None = None, within: bool = False
) -> str:
    """Return what ``migrate`` would run on a database without tables of pq, as one script for psql.

    ``since``: on a database that stands at this revision instead. ``within``: for a transaction that is open already:
    it neither begins nor commits one, and writers wait while it builds an index.
    """
    check_schema_name(schema)
    from pq_core.migrations import runner

    return runner.script(schema, revision, since=since, within=within, version_table=VERSION_TABLE)


def drop(dsn: DSN | None = None, schema: str = "public", *, wait: float = _MIGRATION_WAIT) -> bool:
    """Drop pq's tables and functions, with every task in them; return whether there were any.

    The schema itself stays. Raises SchemaIncompatible for tables of others and for those of a newer pq.
    """
    check_schema_name(schema)
    with _locked(dsn, schema, deadline=time.monotonic() + wait) as connection:
        found = _inspect(connection, schema)
        _refuse_foreign(found, schema)
        if found.revision is not None and found.revision > CODE_REVISION:
            raise SchemaIncompatible(
                f'schema "{schema}" is at revision {found.revision}, newer than this pq ({CODE_REVISION}): '
                "drop it with the pq that made it"
            )
        with connection.transaction():
            # Never CASCADE: a view of somebody's own must stop this. Some functions take a table's rows, so they go
            # before the tables; triggers go with their tables, and their functions after them.
            for signature in _own_functions(connection, schema, triggers=False):
                connection.execute(sql.SQL("DROP FUNCTION {}").format(sql.SQL(signature)))
            for table in (*TABLES, VERSION_TABLE, citus.FENCE):
                connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(schema, table)))
            for signature in _own_functions(connection, schema, triggers=True):
                connection.execute(sql.SQL("DROP FUNCTION {}").format(sql.SQL(signature)))
            fence = sql.Identifier(schema, citus.FENCE)
            connection.execute(sql.SQL("DROP FUNCTION IF EXISTS {}()").format(fence))
        return found.revision is not None


def check(connection: psycopg.Connection[Any], schema: str = "public") -> None:
    """Raise NotMigrated or SchemaIncompatible unless this code can work with the schema.

    Only reads, and what is missing is no error to the database: a transaction that is open on the connection stays
    usable.
    """
    found = _inspect(connection, schema)
    _refuse_foreign(found, schema)
    check_revision(found.revision, found.oldest_code, schema=schema)


def check_whole(connection: psycopg.Connection[Any], schema: str = "public") -> None:
    """Raise SchemaDamaged if columns, functions or triggers are missing that this code needs. Only reads the catalog.

    For a schema that ``check`` has nothing against: one may say that it is up to date and lack what it should hold.
    """
    from pq_core import needed

    if lacking := needed.missing(connection, schema):
        raise SchemaDamaged(needed.words(schema, lacking))


def check_revision(found_revision: int | None, oldest_code: int | None, *, schema: str = "public") -> None:
    """Raise unless this code works with a schema whose ``pq_schema`` row holds these two numbers.

    ``found_revision``: None if there is no such table or row. ``oldest_code``: the oldest revision whose code can
    work with the schema, so that old workers go on while a deploy migrates. Raises NotMigrated if tables are
    missing or too old, SchemaIncompatible if this code is too old for them.
    """
    flag = "" if schema == "public" else f" --schema {shlex.quote(schema)}"
    if found_revision is None:
        raise NotMigrated(f'schema "{schema}" has no tables of pq: run `pq migrate{flag}`')
    if found_revision < CODE_REVISION:
        raise NotMigrated(
            f'schema "{schema}" is at revision {found_revision}, this code needs {CODE_REVISION}: '
            f"run `pq migrate{flag}`"
        )
    if oldest_code is not None and oldest_code > CODE_REVISION:
        raise SchemaIncompatible(
            f'schema "{schema}" is at revision {found_revision} and needs code of revision {oldest_code} at least, '
            f"this is {CODE_REVISION}: install a newer pq-toolkit"
        )


@contextmanager
def _locked(dsn: DSN | None, schema: str, *, deadline: float) -> Iterator[psycopg.Connection[Any]]:
    """Open a connection of its own that holds the schema's migration lock; both end with the block."""
    connection = database.connect(database.find_dsn(dsn), application_name="pq migrate", autocommit=True)
    with closing(connection):
        # Timeouts that a role or a database sets for requests would end an index build half-way.
        connection.execute("SET statement_timeout = 0")
        connection.execute("SET idle_in_transaction_session_timeout = 0")
        # Locks on tables are waited for in short rounds (the runner repeats them): a DDL statement that waits
        # makes everybody queue behind it.
        connection.execute("SET lock_timeout = '2s'")
        # Polled, not waited for: a session that waits in pg_advisory_lock() holds a snapshot, for which a
        # CREATE INDEX CONCURRENTLY of the session that has the lock would wait in turn, for ever.
        key = _lock_key(schema)
        while not _scalar(connection, "SELECT pg_catalog.pg_try_advisory_lock(%s)", key):
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(f'another migration of schema "{schema}" has not ended in time')
            time.sleep(_POLL_INTERVAL)
        yield connection


def _lock_key(schema: str) -> int:
    """Return the advisory lock's key; Postgres keeps the keys of each database apart by itself."""
    digest = hashlib.blake2b(f"pq migrate {schema}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _scalar(connection: psycopg.Connection[Any], query: LiteralString | sql.Composed, *parameters: object) -> Any:
    row = connection.cursor(row_factory=tuple_row).execute(query, parameters or None).fetchone()
    return None if row is None else row[0]


def _inspect(connection: psycopg.Connection[Any], schema: str) -> _Found:
    """Look at what the schema holds, by catalog queries that can't fail."""
    names = (*TABLES, VERSION_TABLE)
    cursor = connection.cursor(row_factory=tuple_row)
    row = cursor.execute(
        "SELECT n.oid, array_remove(array_agg(c.relname::text ORDER BY c.relname), NULL)"
        " FROM pg_catalog.pg_namespace n LEFT JOIN pg_catalog.pg_class c"
        " ON c.relnamespace = n.oid AND c.relkind IN ('r', 'v', 'm', 'f', 'p') AND c.relname = ANY (%s)"
        " WHERE n.nspname = %s GROUP BY n.oid",
        (list(names), schema),
    ).fetchone()
    if row is None:
        return _Found(exists=False)
    namespace, present = row
    columns = {
        (table, column): kind
        for table, column, kind in cursor.execute(
            "SELECT c.relname::text, a.attname::text, a.atttypid::regtype::text FROM pg_catalog.pg_attribute a"
            " JOIN pg_catalog.pg_class c ON c.oid = a.attrelid"
            " WHERE c.relnamespace = %s AND c.relname IN ('pq_tasks', 'pq_schema') AND a.attnum > 0"
            " AND NOT a.attisdropped",
            (namespace,),
        )
    }
    if ("pq_tasks", "fence") in columns and ("pq_schema", "oldest_code") in columns:
        query = sql.SQL("SELECT revision, oldest_code FROM {}").format(sql.Identifier(schema, "pq_schema"))
        revision, oldest_code = cursor.execute(query).fetchone() or (None, None)
        return _Found(exists=True, revision=revision, oldest_code=oldest_code)
    # Alembic creates its table before the first revision runs: empty, it is what an interrupted migration left.
    if present == [VERSION_TABLE] and _version(connection, schema) is None:
        return _Found(exists=True)
    python_pq = ("pq_tasks", "payload") in columns and ("pq_tasks", "fence") not in columns
    return _Found(exists=True, foreign=tuple(present), python_pq=python_pq)


def _version(connection: psycopg.Connection[Any], schema: str) -> str | None:
    table = sql.Identifier(schema, VERSION_TABLE)
    if _scalar(connection, "SELECT pg_catalog.to_regclass(%s)", table.as_string(connection)) is None:
        return None
    version = _scalar(connection, sql.SQL("SELECT version_num FROM {}").format(table))
    return None if version is None else str(version)


def _refuse_mismatch(connection: psycopg.Connection[Any], found: _Found, schema: str) -> None:
    """Refuse to guess what to run when the tables and Alembic's row disagree about the revision."""
    if found.revision is None:
        return
    version = _version(connection, schema)
    if version != f"{found.revision:04}":
        raise SchemaIncompatible(
            f'schema "{schema}": pq_schema says revision {found.revision:04}, {VERSION_TABLE} says {version}; '
            f"somebody changed one of them: set {VERSION_TABLE}.version_num to what the tables are"
        )


def _refuse_foreign(found: _Found, schema: str) -> None:
    if not found.foreign:
        return
    owner = "python-pq's tables" if found.python_pq else "tables that another program made"
    raise SchemaIncompatible(
        f'schema "{schema}" already holds {owner} ({", ".join(found.foreign)}), which pq leaves alone: '
        'give pq a schema of its own, PQ(schema="jobs") and `pq migrate --schema jobs`'
    )


def _own_functions(connection: psycopg.Connection[Any], schema: str, *, triggers: bool) -> list[Any]:
    """Return the signatures of the functions that the migrations created, each quoted: for triggers, or the others."""
    from pq_core.migrations import runner

    rows = connection.cursor(row_factory=tuple_row).execute(
        "SELECT format('%%I.%%I(%%s)', n.nspname, p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid))"
        " FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace"
        " WHERE n.nspname = %s AND p.proname = ANY (%s) AND (p.prorettype = 'pg_catalog.trigger'::regtype) = %s",
        (schema, sorted(runner.function_names()), triggers),
    )
    return [row[0] for row in rows]
