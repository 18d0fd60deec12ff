"""Whether this code may use the tables that it meets: what a client asks on each new connection of its own.

A client goes on while a deploy migrates under it, until the schema says that its code is too old. Tables that are
missing, or that the role may not read, are left to the statement that needs them.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from pq_core.roles import role
from pq_core.schema import check_revision
from pq_core.types import Role


def examine(connection: psycopg.Connection[Any], schema: str) -> None:
    """Raise SchemaIncompatible or NotMigrated if the schema says so. For connections in autocommit mode."""
    cursor = connection.cursor(row_factory=tuple_row)
    try:
        if not _first(cursor.execute(_question(), (_table_name(schema),)).fetchone()):
            return
        row = cursor.execute(_revision(schema)).fetchone()
    except _UNTOLD:
        return
    if row is not None:
        check_revision(*row, schema=schema)


async def aexamine(connection: psycopg.AsyncConnection[Any], schema: str) -> None:
    """``examine`` for asynchronous callers."""
    cursor = connection.cursor(row_factory=tuple_row)
    try:
        await cursor.execute(_question(), (_table_name(schema),))
        if not _first(await cursor.fetchone()):
            return
        await cursor.execute(_revision(schema))
        row = await cursor.fetchone()
    except _UNTOLD:
        return
    if row is not None:
        check_revision(*row, schema=schema)


_READABLE = "SELECT pg_catalog.has_table_privilege(pg_catalog.to_regclass(%s), 'SELECT')"
_WATCHFUL = """, CASE WHEN pg_catalog.current_setting('client_connection_check_interval', true) = '0'
    AND pg_catalog.version() ~ 'linux|darwin'
    THEN pg_catalog.set_config('client_connection_check_interval', '1s', false) END"""
"""Has the server look every second whether its client is still there: a child may be killed while a statement runs,
which would go on, keep its locks and commit. Off by default, and an error on systems that can't tell. Set like this
since a parameter at the start of a session is refused by poolers; in the statement that is sent anyway."""
_UNTOLD = (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn)
"""No right to the schema itself, or somebody drops the tables this very moment."""


def _question() -> str:
    return _READABLE + _WATCHFUL if role() is Role.CHILD else _READABLE


def _first(row: tuple[Any, ...] | None) -> bool:
    return row is not None and row[0] is True


def _table_name(schema: str) -> str:
    return sql.Identifier(schema, "pq_schema").as_string(None)


def _revision(schema: str) -> sql.Composed:
    return sql.SQL("SELECT revision, oldest_code FROM {}").format(sql.Identifier(schema, "pq_schema"))
