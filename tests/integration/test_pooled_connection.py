"""The worker's connection behind a pooler: sessions on which others have prepared, or nobody has."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from pq_core.database import start_connection
from pq_core.worker.connection import Connection, Query, Results, State, StatementError

NOTIFY = Query("pq_notify", "SELECT pg_notify('here', $1::text)")
ANSWER = Query("pq_answer", "SELECT $1::integer + 1")
FAILS = Query("pq_fails", "SELECT 1 / $1::integer")


@contextmanager
def connected(
    dsn: str, *, setup: str = "SELECT 1", on_notify: Callable[[str, str, bool], None] | None = None
) -> Iterator[Connection]:
    connection = Connection(
        lambda: start_connection(dsn),
        setup=setup,
        on_ready=lambda: None,
        on_broken=lambda reason: None,
        on_notify=on_notify,
    )
    try:
        pump(connection)
        yield connection
    finally:
        connection.close()


def pump(connection: Connection) -> None:
    until = time.monotonic() + 30
    while connection.state is not State.IDLE:
        assert connection.state is not State.BROKEN
        assert time.monotonic() < until
        with selectors.DefaultSelector() as selector:
            selector.register(connection.fileno, connection.events)
            selector.select(0.1)
        connection.pump()


def ask(connection: Connection, query: Query, *parameters: bytes) -> list[tuple[Results | None, StatementError | None]]:
    answers: list[tuple[Results | None, StatementError | None]] = []
    connection.send([(query, parameters)], lambda results, error: answers.append((results, error)))
    pump(connection)
    return answers


def test_session_on_which_another_has_prepared(database: str) -> None:
    with connected(database, setup=f"PREPARE {ANSWER.prepared} AS SELECT 13") as connection:
        assert ask(connection, ANSWER, b"1") == [([[[b"2"]]], None)]
        assert ask(connection, ANSWER, b"2") == [([[[b"3"]]], None)]


def test_session_that_is_not_the_one_that_prepared(database: str) -> None:
    with connected(database) as connection:
        assert ask(connection, ANSWER, b"1") == [([[[b"2"]]], None)]
        ask(connection, Query("pq_forget", "DEALLOCATE ALL"))
        assert ask(connection, ANSWER, b"2") == [([[[b"3"]]], None)]


def test_other_schemas_and_versions_prepare_under_other_names() -> None:
    one, other = Query("pq_report", "UPDATE a.pq_tasks"), Query("pq_report", "UPDATE b.pq_tasks")

    assert one.prepared != other.prepared
    assert one.prepared == Query("pq_report", "UPDATE a.pq_tasks").prepared
    assert len(one.prepared) < 64


def test_what_a_session_hears_within_its_own_transactions_is_told_from_what_comes_by_itself(database: str) -> None:
    """A pooler in transaction mode passes on the former, where the server's session happens to be one that listens."""
    heard: list[tuple[str, str, bool]] = []
    setup = "LISTEN here; SELECT pg_notify('here', 'at the start')"
    with connected(database, setup=setup, on_notify=lambda *note: heard.append(note)) as connection:
        ask(connection, NOTIFY, b"alone")
        connection.send([(ANSWER, [b"1"]), (NOTIFY, [b"among others"]), (ANSWER, [b"2"])], lambda results, error: None)
        pump(connection)
        with psycopg.connect(database, autocommit=True) as other:
            other.execute("NOTIFY here, 'from another'")
        with selectors.DefaultSelector() as selector:
            selector.register(connection.fileno, connection.events)
            assert selector.select(30)
        connection.pump()

    assert heard == [
        ("here", "at the start", False),
        ("here", "alone", False),
        ("here", "among others", False),
        ("here", "from another", True),
    ]


def test_other_errors_are_told_once(database: str) -> None:
    with connected(database) as connection:
        ((results, error),) = ask(connection, FAILS, b"0")

        assert results is None
        assert error is not None
        assert error.sqlstate == "22012"
        assert ask(connection, ANSWER, b"1") == [([[[b"2"]]], None)]
