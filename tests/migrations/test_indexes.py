"""Indexes that a revision builds without blocking writers."""

from __future__ import annotations

import threading

import psycopg
import pytest

from pq_core.migrations.runner import build_index_on

DEFINITION = "UNIQUE INDEX CONCURRENTLY {name} ON {schema}.pq_tasks (name)"


def valid(connection: psycopg.Connection) -> bool | None:
    row = connection.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('pq_new')").fetchone()
    return None if row is None else bool(row[0])


def test_index_is_built_once(connection: psycopg.Connection) -> None:
    assert build_index_on(connection, "public", "pq_new", DEFINITION) is True
    assert build_index_on(connection, "public", "pq_new", DEFINITION) is False
    assert valid(connection) is True


def test_invalid_index_is_built_anew(connection: psycopg.Connection) -> None:
    connection.execute("""SELECT pq_enqueue('[{"name": "a"}, {"name": "a"}]')""")
    connection.execute("SET lock_timeout = '1234ms'")
    with pytest.raises(psycopg.errors.UniqueViolation):
        build_index_on(connection, "public", "pq_new", DEFINITION)
    assert valid(connection) is False
    connection.execute("DELETE FROM pq_tasks")

    assert build_index_on(connection, "public", "pq_new", DEFINITION) is True

    assert valid(connection) is True
    assert connection.execute("SHOW lock_timeout").fetchone() == ("1234ms",)


def test_build_outlives_a_long_transaction(database: str, connection: psycopg.Connection) -> None:
    connection.execute("SET lock_timeout = '50ms'")
    with psycopg.connect(database) as other:
        other.execute('SELECT pq_enqueue(\'{"name": "a"}\')')
        done = threading.Timer(0.5, other.commit)
        done.start()

        assert build_index_on(connection, "public", "pq_new", DEFINITION) is True

        done.join()
    assert valid(connection) is True
