"""Whether this code may use the tables that it meets: what a client asks on each new connection of its own.

A client goes on while a deploy migrates under it, until the schema says that its code is too old. Tables that are
missing, or that the role may not read, are left to the statement that needs them.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from pq_core.schema import check_revision


def examine(connection: psycopg.Connection[Any], schema: str) -> None:
    """Raise SchemaIncompatible or NotMigrated if the schema says so. For connections in autocommit mode."""
    cursor = connection.cursor(row_factory=tuple_row)
    try:
        if cursor.execute(_READABLE, (_table_name(schema),)).fetchone() != (True,):
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
        await cursor.execute(_READABLE, (_table_name(schema),))
        if await cursor.fetchone() != (True,):
            return
        await cursor.execute(_revision(schema))
        row = await cursor.fetchone()
    except _UNTOLD:
        return
    if row is not None:
        check_revision(*row, schema=schema)


_READABLE = "SELECT pg_catalog.has_table_privilege(pg_catalog.to_regclass(%s), 'SELECT')"
_UNTOLD = (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn)
"""No right to the schema itself, or somebody drops the tables this very moment."""


def _table_name(schema: str) -> str:
    return sql.Identifier(schema, "pq_schema").as_string(None)


def _revision(schema: str) -> sql.Composed:
    return sql.SQL("SELECT revision, oldest_code FROM {}").format(sql.Identifier(schema, "pq_schema"))
