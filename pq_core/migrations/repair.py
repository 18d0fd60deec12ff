"""Databases that were made while revision 2 was still edited: what its last form has and theirs lacks.

The text is that of revision 2 itself, with each statement made repeatable, so that there is one place to read it. Run
before whatever revisions are missing: revision 3 needs a constraint that the early forms did not have.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, LiteralString

from psycopg import sql
from psycopg.rows import tuple_row

from pq_core.migrations import runner

if TYPE_CHECKING:
    import psycopg

EDITED = range(2, 5)
"""The revisions at which such a database may stand: the fifth lacks nothing."""

_REPEATABLE = (
    (r"^CREATE TABLE (?!IF)", "CREATE TABLE IF NOT EXISTS "),
    (r"^CREATE INDEX (?!IF)", "CREATE INDEX IF NOT EXISTS "),
    (r"^CREATE FUNCTION ", "CREATE OR REPLACE FUNCTION "),
    (r"^CREATE TRIGGER ", "CREATE OR REPLACE TRIGGER "),
    (r"\bADD COLUMN (?!IF)", "ADD COLUMN IF NOT EXISTS "),
    # What it is now may be there already; where it is not, something narrower may stand in its place.
    (
        r"^(ALTER TABLE \{schema\}\.pq_tasks) ADD CONSTRAINT pq_tasks_possible",
        r"\1 DROP CONSTRAINT IF EXISTS pq_tasks_countable, DROP CONSTRAINT IF EXISTS pq_tasks_possible,"
        r" ADD CONSTRAINT pq_tasks_possible",
    ),
    (r"^UPDATE \{schema\}\.pq_schema SET revision = 2;$", ""),
)
_HELD: LiteralString = (
    "INDEX CONCURRENTLY {name} ON {schema}.pq_tasks (queue, lane, (-priority::integer), run_at, id)"
    " WHERE status = 'blocked' AND lane IS NOT NULL"
)


def repair(connection: psycopg.Connection[Any], schema: str) -> bool:
    """Bring what an early form of revision 2 made to its last form; return whether there was something to do.

    On a connection in autocommit mode; one that ends half-way has done nothing that a second try would meet. Raises
    LockNotAvailable where the session's ``lock_timeout`` is over.
    """
    if not is_early(connection, schema):
        return False
    with connection.transaction():
        connection.execute(runner.render("0002_lanes.sql", schema, change=_repeatable))
    runner.build_index_on(connection, schema, "pq_tasks_held", _HELD)
    # Last of all: an early form is known by what this lacks.
    with connection.transaction():
        connection.execute(runner.render("0002_operations.sql", schema, change=_repeatable))
    return True


def is_early(connection: psycopg.Connection[Any], schema: str) -> bool:
    """Tell whether revision 2 was applied in a form before its last, which brought this function."""
    name = sql.Identifier(schema, "pq_lane").as_string(connection)
    row = (
        connection.cursor(row_factory=tuple_row)
        .execute("SELECT pg_catalog.to_regprocedure(%s || '(text, jsonb)') IS NULL", (name,))
        .fetchone()
    )
    return row == (True,)


def _repeatable(text: str) -> str:
    for pattern, replacement in _REPEATABLE:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text
