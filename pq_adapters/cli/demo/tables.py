"""The demo's own tables, in a schema of its own beside pq's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg import sql

from pq_adapters.cli.demo.library import Measured
from pq_adapters.cli.mistakes import Mistake
from pq_core.database import connect
from pq_core.dsn import find_dsn

if TYPE_CHECKING:
    from pq_core.client import PQ

MARK: LiteralString = "made by `pq demo`, dropped by its next run"
_LOCK = 0x70712064656D6F
_TABLES: LiteralString = """
    CREATE TABLE {schema}.demo_runs (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        started_at timestamptz NOT NULL DEFAULT now(),
        files integer NOT NULL
    );
    CREATE TABLE {schema}.demo_files (
        run bigint NOT NULL REFERENCES {schema}.demo_runs,
        path text NOT NULL,
        lines integer NOT NULL,
        functions integer NOT NULL,
        classes integer NOT NULL,
        PRIMARY KEY (run, path)
    );
    CREATE TABLE {schema}.demo_turns (
        run bigint NOT NULL REFERENCES {schema}.demo_runs,
        tenant text NOT NULL,
        number integer NOT NULL,
        began bigint NOT NULL,
        ended bigint NOT NULL,
        PRIMARY KEY (run, tenant, number)
    );
"""

Connection = psycopg.Connection[Any]


@contextmanager
def prepared(pq: PQ, *, keep: bool) -> Iterator[Connection]:
    """Make the schema with pq's tables and the demo's, and drop it at the end unless ``keep``.

    Yields a connection that holds the demo's lock. Raises Mistake when another demo runs in this database, or when
    the schema is somebody else's.
    """
    with connect(find_dsn(pq.dsn), application_name="pq demo") as connection:
        if not _value(connection, "SELECT pg_try_advisory_lock(%s)", _LOCK):
            raise Mistake("another pq demo runs in this database; wait for its end, or give --dsn")
        drop(connection, pq.schema)
        name = sql.Identifier(pq.schema)
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(name))
        connection.execute(sql.SQL("COMMENT ON SCHEMA {} IS {}").format(name, sql.Literal(MARK)))
        pq.run_db_migrations()
        connection.execute(sql.SQL(_TABLES).format(schema=name))
        try:
            yield connection
        finally:
            if not keep:
                drop(connection, pq.schema)


def drop(connection: Connection, schema: str) -> None:
    """Drop the schema if an earlier demo made it. Raises Mistake if somebody else did."""
    exists = _value(connection, "SELECT count(*) FROM pg_namespace WHERE nspname = %s", schema)
    mark = _value(
        connection,
        "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = %s",
        schema,
    )
    if exists and mark != MARK:
        raise Mistake(f'the database has a schema "{schema}" that no pq demo made; give --dsn of another database')
    if exists:
        connection.execute("SET client_min_messages = warning")
        connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))


def add_run(connection: Connection, schema: str, *, files: int) -> int:
    """Write the run's row, and return its id."""
    query = sql.SQL("INSERT INTO {}.demo_runs (files) VALUES ({}) RETURNING id")
    return int(_value(connection, query.format(sql.Identifier(schema), sql.Literal(files))))


def read(connection: Connection, schema: str, run: int) -> dict[str, Measured]:
    """Return what the tasks have written, by path."""
    query = sql.SQL("SELECT path, lines, functions, classes FROM {}.demo_files WHERE run = {}")
    rows = connection.execute(query.format(sql.Identifier(schema), sql.Literal(run)))
    return {path: Measured(*counts) for path, *counts in rows}


def turns(connection: Connection, schema: str, run: int) -> list[tuple[str, int, int, int]]:
    """Return the turns of tenants: tenant, number, begin and end in nanoseconds."""
    query = sql.SQL("SELECT tenant, number, began, ended FROM {}.demo_turns WHERE run = {}")
    return connection.execute(query.format(sql.Identifier(schema), sql.Literal(run))).fetchall()


def starts(connection: Connection, schema: str, name: str) -> list[float]:
    """Return when attempts of the tasks of a name began, in seconds since 1970: the last ones and those before."""
    query = sql.SQL(
        "SELECT extract(epoch FROM s.at)::float8 FROM (SELECT started_at AS at FROM {schema}.pq_tasks"
        " WHERE name = {name} UNION SELECT a.started_at FROM {schema}.pq_attempts a"
        " JOIN {schema}.pq_tasks t ON t.id = a.task_id WHERE t.name = {name}) s ORDER BY 1"
    )
    found = connection.execute(query.format(schema=sql.Identifier(schema), name=sql.Literal(name)))
    return [at for (at,) in found if at is not None]


def runs(connection: Connection, schema: str) -> list[tuple[int, int]]:
    """Return the runs that are there: id and number of files."""
    rows = connection.execute(sql.SQL("SELECT id, files FROM {}.demo_runs").format(sql.Identifier(schema)))
    return [(run, files) for run, files in rows]


def _value(connection: Connection, query: LiteralString | sql.Composed, *parameters: object) -> Any:
    row = connection.execute(query, parameters or None).fetchone()
    return None if row is None else row[0]
