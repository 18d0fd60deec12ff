"""Alembic without an alembic.ini: upgrade over an open connection, or write the same as a script.

Revisions call ``run_file``, ``build_index`` and ``drop_index``. SQL files are formatted by ``psycopg.sql`` with
{schema} (quoted name), {schema_text} (the name as a literal) and {tasks_text} (the qualified name of pq_tasks as a
literal), and sent by the driver as they are: ``:`` and ``%`` mean nothing in them, braces are doubled.

Alembic's ``MigrationContext`` is used by itself. Its commands would take over the modules ``alembic.context`` and
``alembic.op``, which belong to the application whose own migration may call this.
"""

from __future__ import annotations

import io
import itertools
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import sqlalchemy
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from psycopg import sql
from psycopg.rows import tuple_row

from pq_core.errors import DatabaseUnavailable, InvalidOption, SchemaIncompatible

_HERE = Path(__file__).parent
_VERSIONS = _HERE / "versions"
_migrating: ContextVar[MigrationContext] = ContextVar("_migrating")
"""The migration whose revisions run."""

BUILT_AT_ONCE = 100_000
"""Tasks up to which an index is built inside a transaction, where writers have to wait for it."""


def upgrade(
    connection: psycopg.Connection[Any], schema: str, revision: str, *, version_table: str, deadline: float
) -> None:
    """Apply the missing revisions up to ``revision``; gives the connection back in autocommit mode.

    A revision that doesn't get its locks within the session's ``lock_timeout`` is rolled back and tried again
    until ``deadline`` (monotonic clock): whoever queues behind it can go on in between.
    """
    connection.autocommit = False
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: connection,
        poolclass=sqlalchemy.pool.StaticPool,
        use_native_hstore=False,
    )
    with engine.connect() as wrapped:

        def once() -> None:
            try:
                # A transaction for each revision: a retry after a lock timeout goes on where the last one stopped.
                opts = _options(schema, version_table, revision, transaction_per_migration=True)
                _migrate(MigrationContext.configure(wrapped, opts=opts), revision)
                wrapped.commit()
            except InvalidOption:
                wrapped.rollback()
                raise
            except (psycopg.OperationalError, sqlalchemy.exc.DBAPIError):
                wrapped.rollback()
                raise

        patiently(once, schema, deadline=deadline)
    connection.autocommit = True


def upgrade_within(connection: sqlalchemy.Connection, schema: str, revision: str, *, version_table: str) -> None:
    """Apply the missing revisions in the transaction that is open on the connection; commits nothing.

    Raises SchemaIncompatible where a revision builds an index on more than ``BUILT_AT_ONCE`` tasks.
    """
    opts = _options(schema, version_table, revision, pq_within=True)
    _migrate(MigrationContext.configure(connection, opts=opts), revision)


def _options(schema: str, version_table: str, revision: str, **more: Any) -> dict[str, Any]:
    script = ScriptDirectory(str(_HERE))

    def missing(heads: Any, _: MigrationContext) -> Any:
        return script._upgrade_revs(revision, heads)  # as Alembic's own command does

    return {
        "fn": missing,
        "script": script,
        "version_table": version_table,
        "version_table_schema": sqlalchemy.quoted_name(schema, quote=True),
        "pq_schema": schema,
        "pq_empty": False,
        "pq_within": False,
        **more,
    }


def _migrate(context: MigrationContext, revision: str) -> None:
    with _as_current(context):
        try:
            with context.begin_transaction():
                if "pq_create_schema" in context.opts:
                    context.impl.static_output(context.opts["pq_create_schema"])
                context.run_migrations()
        except CommandError as error:
            raise InvalidOption(f"revision={revision!r}: {error}") from error


@contextmanager
def _as_current(context: MigrationContext) -> Iterator[None]:
    token = _migrating.set(context)
    try:
        yield
    finally:
        _migrating.reset(token)


def patiently(work: Callable[[], object], schema: str, *, deadline: float) -> None:
    """Do it again until it gets its locks; what fails has taken back what it did. Raises after ``deadline``."""
    while True:
        try:
            work()
            return
        except (psycopg.OperationalError, sqlalchemy.exc.DBAPIError) as error:
            if not _retryable(error):
                raise
            if time.monotonic() > deadline:
                raise DatabaseUnavailable(
                    f'the migration of schema "{schema}" did not get its locks in time: '
                    "look for long transactions in pg_stat_activity"
                ) from error
        time.sleep(0.2 + random.random() * 0.8)


def script(schema: str, revision: str, *, version_table: str, since: str | None = None, within: bool = False) -> str:
    """Return the SQL of every revision after ``since`` up to ``revision``, with Alembic's own bookkeeping.

    Without ``since`` from an empty database on, in one transaction. With it, indexes are built outside of one:
    psql sends each statement by itself, as that needs. ``within``: for a transaction that is open; it neither begins
    nor commits one, and builds indexes inside it.
    """
    output = io.StringIO()
    more: dict[str, Any] = {"as_sql": True, "output_buffer": output, "pq_empty": since is None, "pq_within": within}
    if since is None and schema != "public":
        create = sql.SQL("CREATE SCHEMA IF NOT EXISTS {};").format(sql.Identifier(schema))
        more["pq_create_schema"] = create.as_string(None)
    if since is not None:
        more["starting_rev"] = since
    if within:
        more["transactional_ddl"] = False  # no BEGIN, no COMMIT
    opts = _options(schema, version_table, revision, **more)
    # "named": with other parameter styles, SQLAlchemy doubles the % in a schema's name.
    context = MigrationContext.configure(dialect_name="postgresql", dialect_opts={"paramstyle": "named"}, opts=opts)
    _migrate(context, revision)
    return output.getvalue()


def run_file(name: str) -> None:
    """Run a SQL file of versions/ in the revision's transaction."""
    context = _migrating.get()
    statements = render(name, context.opts["pq_schema"])
    if context.as_sql:
        context.impl.static_output(statements.as_string(None))
    else:
        _driver_connection(context).execute(statements)


def build_index(name: str, definition: LiteralString) -> None:
    """Create an index without blocking writers, outside the revision's transaction; a broken one is built anew.

    ``definition``: what follows CREATE INDEX CONCURRENTLY, with {name} and {schema}:
    ``"INDEX CONCURRENTLY {name} ON {schema}.pq_tasks (…)"`` or the same with UNIQUE in front. Put it first in its
    revision, before what sets pq_schema's row: what ran before it is committed by it, and would be there already when
    an interrupted migration is repeated.
    """
    context = _migrating.get()
    schema = context.opts["pq_schema"]
    if context.opts["pq_empty"] or context.opts["pq_within"]:
        # Of a script that made the tables in the same transaction: there is nobody to block. In another's transaction
        # there is no way out of it.
        plain = _create_index(schema, name, definition.replace(" CONCURRENTLY", "", 1))
        if context.as_sql:
            context.impl.static_output(plain.as_string(None) + ";")
        else:
            _refuse_long_build(_driver_connection(context), schema)
            _driver_connection(context).execute(plain)
        return
    with context.autocommit_block():
        if context.as_sql:
            context.impl.static_output(_create_index(schema, name, definition).as_string(None) + ";")
        else:
            build_index_on(_driver_connection(context), schema, name, definition)


def drop_index(name: str) -> None:
    """Drop an index without blocking anybody, outside the revision's transaction; none of that name is no error.

    What ran before it is committed by it, as with ``build_index``.
    """
    context = _migrating.get()
    index = sql.Identifier(context.opts["pq_schema"], name)
    if context.opts["pq_empty"] or context.opts["pq_within"]:
        plain = sql.SQL("DROP INDEX IF EXISTS {}").format(index)
        if context.as_sql:
            context.impl.static_output(plain.as_string(None) + ";")
        else:
            _driver_connection(context).execute(plain)
        return
    statement = sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(index)
    with context.autocommit_block():
        if context.as_sql:
            context.impl.static_output(statement.as_string(None) + ";")
        else:
            _patiently(_driver_connection(context), statement)


def build_index_on(connection: psycopg.Connection[Any], schema: str, name: str, definition: LiteralString) -> bool:
    """Build the index on a connection in autocommit mode unless a valid one is there; return whether it was built.

    A build that was interrupted leaves an invalid index behind, which every write has to keep up and no query uses.
    """
    row = (
        connection.cursor(row_factory=tuple_row)
        .execute(
            "SELECT i.indisvalid FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid"
            " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s",
            (schema, name),
        )
        .fetchone()
    )
    if row is not None and row[0]:
        return False
    drop = [sql.SQL("DROP INDEX CONCURRENTLY {}").format(sql.Identifier(schema, name))] if row is not None else []
    _patiently(connection, *drop, _create_index(schema, name, definition))
    return True


def render(name: str, schema: str, *, change: Callable[[str], str] = str) -> sql.Composed:
    """Return a SQL file of versions/ with the schema's name in its places. ``change``: done to its text before."""
    lines = (_VERSIONS / name).read_text(encoding="utf-8").splitlines(keepends=True)
    # The head of the file explains the placeholders; a name with a newline must not end that comment.
    text = "".join(itertools.dropwhile(lambda line: line.startswith("--"), lines))
    text = change(text)
    # Function bodies name the schema: its name must not hold what ends them.
    tag = "pq"
    while f"${tag}" in schema:
        tag += "_"
    text = text.replace("$pq$", f"${tag}$")
    tasks = sql.Identifier(schema, "pq_tasks").as_string(None)
    return sql.SQL(text).format(
        schema=sql.Identifier(schema), schema_text=sql.Literal(schema), tasks_text=sql.Literal(tasks)
    )


@cache
def function_names() -> frozenset[str]:
    """Return the names of all functions that any revision creates."""
    return _names_in_files(r"CREATE(?: OR REPLACE)? FUNCTION \{schema\}\.(\w+)")


@cache
def trigger_names() -> frozenset[str]:
    """Return the names of all triggers that any revision creates."""
    return _names_in_files(r"CREATE(?: OR REPLACE)?(?: CONSTRAINT)? TRIGGER (\w+)")


def _names_in_files(pattern: str) -> frozenset[str]:
    texts = [path.read_text(encoding="utf-8") for path in _VERSIONS.glob("*.sql")]
    return frozenset(name for text in texts for name in re.findall(pattern, text))


def _refuse_long_build(connection: psycopg.Connection[Any], schema: str) -> None:
    query = sql.SQL("SELECT count(*) FROM (SELECT FROM {} LIMIT {}) t").format(
        sql.Identifier(schema, "pq_tasks"), sql.Literal(BUILT_AT_ONCE + 1)
    )
    row = connection.cursor(row_factory=tuple_row).execute(query).fetchone()
    if row is not None and row[0] > BUILT_AT_ONCE:
        raise SchemaIncompatible(
            f'schema "{schema}" has more than {BUILT_AT_ONCE:,} tasks, and this revision of pq builds an index: '
            "all who write would wait for it inside this transaction. Run `pq migrate` before: it builds it beside them"
        )


def _create_index(schema: str, name: str, definition: LiteralString) -> sql.Composed:
    return sql.SQL("CREATE ") + sql.SQL(definition).format(name=sql.Identifier(name), schema=sql.Identifier(schema))


def _patiently(connection: psycopg.Connection[Any], *statements: sql.Composed) -> None:
    """Run what waits for every transaction that is older than itself, while nobody queues behind it."""
    lock_timeout = _setting(connection, "lock_timeout")
    connection.execute("SET lock_timeout = 0")
    try:
        for statement in statements:
            connection.execute(statement)
    finally:
        if not connection.broken:
            connection.execute("SELECT pg_catalog.set_config('lock_timeout', %s, false)", (lock_timeout,))


def _driver_connection(context: MigrationContext) -> psycopg.Connection[Any]:
    assert context.connection is not None
    connection = context.connection.connection.driver_connection
    assert isinstance(connection, psycopg.Connection)
    return connection


def _setting(connection: psycopg.Connection[Any], name: LiteralString) -> str:
    row = connection.cursor(row_factory=tuple_row).execute(sql.SQL("SHOW {}").format(sql.Identifier(name))).fetchone()
    assert row is not None
    return str(row[0])


def _retryable(error: Exception) -> bool:
    cause = error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) else error
    return isinstance(cause, (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected))
