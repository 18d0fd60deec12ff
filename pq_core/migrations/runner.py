"""Alembic without an alembic.ini: upgrade over an open connection, or write the same as a script.

Revisions call ``run_file``, ``build_index`` and ``drop_index``. SQL files are formatted by ``psycopg.sql`` with
{schema} (quoted name), {schema_text} (the name as a literal) and {tasks_text} (the qualified name of pq_tasks as a
literal), and sent by the driver as they are: ``:`` and ``%`` mean nothing in them, braces are doubled.
"""

from __future__ import annotations

import io
import itertools
import random
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
import sqlalchemy
from alembic import command, op
from alembic.config import Config
from alembic.util import CommandError
from psycopg import sql
from psycopg.rows import tuple_row

from pq_core.errors import DatabaseUnavailable, InvalidOption

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext

_HERE = Path(__file__).parent
_VERSIONS = _HERE / "versions"

# Alembic hands the current migration to revisions through module globals.
_one_at_a_time = threading.Lock()


def upgrade(
    connection: psycopg.Connection[Any], schema: str, revision: str, *, version_table: str, deadline: float
) -> None:
    """Apply the missing revisions up to ``revision``; gives the connection back in autocommit mode.

    A revision that doesn't get its locks within the session's ``lock_timeout`` is rolled back and tried again
    until ``deadline`` (monotonic clock): whoever queues behind it can go on in between.
    """
    config = _config(schema, version_table)
    connection.autocommit = False
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: connection,
        poolclass=sqlalchemy.pool.StaticPool,
        use_native_hstore=False,
    )
    with _one_at_a_time, engine.connect() as wrapped:
        config.attributes["connection"] = wrapped

        def once() -> None:
            try:
                command.upgrade(config, revision)
                wrapped.commit()
            except CommandError as error:
                wrapped.rollback()
                raise InvalidOption(f"revision={revision!r}: {error}") from error
            except (psycopg.OperationalError, sqlalchemy.exc.DBAPIError):
                wrapped.rollback()
                raise

        patiently(once, schema, deadline=deadline)
    connection.autocommit = True


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


def script(schema: str, revision: str, *, version_table: str, since: str | None = None) -> str:
    """Return the SQL of every revision after ``since`` up to ``revision``, with Alembic's own bookkeeping.

    Without ``since`` from an empty database on, in one transaction. With it, indexes are built outside of one:
    psql sends each statement by itself, as that needs.
    """
    output = io.StringIO()
    config = _config(schema, version_table, output_buffer=output)
    config.attributes["empty"] = since is None
    if since is None and schema != "public":
        create = sql.SQL("CREATE SCHEMA IF NOT EXISTS {};").format(sql.Identifier(schema))
        config.attributes["create_schema"] = create.as_string(None)
    with _one_at_a_time:
        try:
            command.upgrade(config, revision if since is None else f"{since}:{revision}", sql=True)
        except CommandError as error:
            raise InvalidOption(f"revision={revision!r}: {error}") from error
    return output.getvalue()


def run_file(name: str) -> None:
    """Run a SQL file of versions/ in the revision's transaction."""
    context = op.get_context()
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
    context = op.get_context()
    schema = context.opts["pq_schema"]
    if context.as_sql and context.opts["pq_empty"]:
        # Of a script that made the tables in the same transaction: there is nobody to block, and no way out of it.
        plain = definition.replace(" CONCURRENTLY", "", 1)
        context.impl.static_output(_create_index(schema, name, plain).as_string(None) + ";")
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
    context = op.get_context()
    index = sql.Identifier(context.opts["pq_schema"], name)
    if context.as_sql and context.opts["pq_empty"]:
        context.impl.static_output(sql.SQL("DROP INDEX IF EXISTS {};").format(index).as_string(None))
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


def function_names() -> set[str]:
    """Return the names of all functions that any revision creates."""
    pattern = re.compile(r"CREATE(?: OR REPLACE)? FUNCTION \{schema\}\.(\w+)")
    return {name for path in _VERSIONS.glob("*.sql") for name in pattern.findall(path.read_text(encoding="utf-8"))}


def _config(schema: str, version_table: str, *, output_buffer: io.StringIO | None = None) -> Config:
    config = Config(output_buffer=output_buffer) if output_buffer else Config()
    # Config interpolates %, and the installation's path may hold one.
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["schema"] = schema
    config.attributes["version_table"] = version_table
    return config


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
