"""pq_enqueue as people meet it without Python: from psql, from triggers, as another role, many at once."""

from __future__ import annotations

import json
import random
import shutil
import string
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

Rows = list[tuple[Any, ...]]


def enqueue(connection: psycopg.Connection, tasks: Any) -> Rows:
    return connection.execute("SELECT * FROM pq_enqueue(%s::text::jsonb)", (json.dumps(tasks),)).fetchall()


def count(connection: psycopg.Connection, where: str = "true") -> int:
    row = connection.execute(f"SELECT count(*) FROM pq_tasks WHERE {where}").fetchone()
    assert row is not None
    return int(row[0])


def run_together(*bodies: Callable[[], None]) -> None:
    errors: list[BaseException] = []

    def guarded(body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors, errors


@pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not installed")
def test_psql_enqueues(database: str, connection: psycopg.Connection) -> None:
    query = """SELECT id, duplicate FROM pq_enqueue('{"name": "mail", "args": [7], "run_in": 60}')"""

    done = subprocess.run(["psql", database, "-Atqc", query], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "1|f"
    row = connection.execute(
        "SELECT name, payload, status, due, run_at - created_at = interval '60 s' FROM pq_tasks"
    ).fetchone()
    assert row == ("mail", {"args": [7], "kwargs": {}}, "pending", False, True)


def test_trigger_enqueues_in_the_transaction_that_fires_it(connection: psycopg.Connection) -> None:
    connection.execute("""
        CREATE TABLE orders (id int PRIMARY KEY);
        CREATE FUNCTION order_placed() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pq_enqueue(jsonb_build_object('name', 'receipt', 'args', jsonb_build_array(NEW.id)));
            RETURN NULL;
        END $$;
        CREATE TRIGGER order_placed AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION order_placed();
    """)

    with connection.transaction():
        connection.execute("INSERT INTO orders SELECT generate_series(1, 3)")
        raise psycopg.Rollback
    assert count(connection) == 0

    connection.execute("INSERT INTO orders SELECT generate_series(1, 3)")
    rows = connection.execute("SELECT payload -> 'args' -> 0 FROM pq_tasks ORDER BY id").fetchall()
    assert rows == [(1,), (2,), (3,)]


def test_every_option_reaches_its_column(connection: psycopg.Connection) -> None:
    enqueue(connection, {
        "name": "n", "kwargs": {"a": 1}, "queue": "q", "priority": -5, "run_at": "2031-01-02T03:04:05+01:00",
        "client_id": "c", "unique": "unfinished", "max_attempts": 3, "timeout": 1.5, "memory_limit": 2**40, "grace": 2,
        "result_limit": 10, "on_lost": "fail", "max_starts": 4, "backoff": {"base": 1}, "on_failure": {"name": "sorry"},
        "headers": {"a": "b"}, "version": 2, "schedule_id": 9, "tick_at": "2031-01-01T00:00:00Z",
    })  # fmt: skip

    row = connection.execute("""
        SELECT name, payload, queue, priority, run_at = '2031-01-02T02:04:05Z', due, client_id, client_id_unique,
            max_attempts, max_runtime_seconds, options, on_lost, on_failure, headers, version, schedule_id,
            tick_at = '2031-01-01T00:00:00Z', attempts, fence
        FROM pq_tasks
    """).fetchone()
    assert row == (
        "n", {"args": [], "kwargs": {"a": 1}}, "q", -5, True, False, "c", "unfinished", 3, 1.5,
        {"memory_limit": 2**40, "grace": 2, "result_limit": 10, "backoff": {"base": 1}, "max_starts": 4}, "fail",
        {"name": "sorry"},
        {"a": "b"}, 2, 9, True, 0, 0,
    )  # fmt: skip


@pytest.mark.parametrize(
    "moment",
    ["2031-01-02T03:04Z", "2031-01-02 03:04:05.678+00", "2031-01-02T03:04:05-03:30", "2031-01-02T03:04:05+0100"],
)
def test_points_in_time_as_postgres_and_python_write_them(connection: psycopg.Connection, moment: str) -> None:
    enqueue(connection, {"name": "a", "run_at": moment})

    assert count(connection, f"run_at = '{moment}'") == 1


def test_null_is_unsaid(connection: psycopg.Connection) -> None:
    names = ("args", "kwargs", "queue", "priority", "run_at", "run_in", "client_id", "unique", "max_attempts",
             "timeout", "memory_limit", "backoff", "on_failure", "headers", "version", "schedule_id", "tick_at",
             "on_lost", "on_duplicate")  # fmt: skip
    enqueue(connection, [{"name": "a", **dict.fromkeys(names)}, {"name": "a"}])

    rows = connection.execute("SELECT to_jsonb(t) - 'id' FROM pq_tasks t").fetchall()
    assert rows[0] == rows[1]
    assert rows[0][0]["options"] is rows[0][0]["headers"] is rows[0][0]["on_failure"] is None


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (7, "each task must be a JSON object, got number"),
        (None, "each task must be a JSON object, got null"),
        ({}, 'a task needs a "name"'),
        ({"name": ""}, 'a task needs a "name"'),
        ({"name": "a", "args": {}}, '"args" must be a JSON array'),
        ({"name": "a", "kwargs": []}, '"kwargs" must be a JSON object'),
        ({"name": "a", "unique": "x"}, '"unique" must be retained or unfinished'),
        ({"name": "a", "on_lost": "x"}, '"on_lost" must be retry or fail'),
        ({"name": "a", "on_duplicate": "x"}, '"on_duplicate" must be return, replace or raise'),
        ({"name": "a", "on_duplicate": "replace"}, 'on_duplicate = replace needs a "client_id"'),
        ({"name": ["a"]}, '"name" must be text'),
        ({"name": "a", "queue": ""}, '"queue" must be text that is not empty'),
        ({"name": "a", "queue": 7}, '"queue" must be text that is not empty'),
        ({"name": "a", "client_id": {"a": 1}}, '"client_id" must be text that is not empty'),
        ({"name": "a", "max_attempts": 0}, '"max_attempts" must be at least 1'),
        ({"name": "a", "timeout": -5}, '"timeout" must be above 0'),
        ({"name": "a", "max_runtime_seconds": 0}, '"max_runtime_seconds" must be above 0'),
        ({"name": "a", "memory_limit": 0}, '"memory_limit" must be above 0'),
        ({"name": "a", "grace": -1}, '"grace" must not be negative'),
        ({"name": "a", "result_limit": -1}, '"result_limit" must not be negative'),
        ({"name": "a", "max_starts": -1}, '"max_starts" must not be negative'),
        *[
            (
                {"name": "a", "run_at": at},
                '"run_at" must be a date and a time with an offset, like 2030-01-31T08:00:00+01:00',
            )
            for at in ("tomorrow", "2031-01-02", "2031-01-02T03:04:05", "infinity")
        ],
        *[
            ({"name": "a", **long}, '"name", "queue" and "client_id" have 255 characters at most')
            for long in ({"name": "x" * 256}, {"queue": "x" * 256}, {"client_id": "x" * 256})
        ],
        ({"name": "a", "colour": 1}, 'unknown option "colour"'),
        ({"name": "a", "on_failure": {"args": []}}, 'on_failure: a task needs a "name"'),
        ({"name": "a", "on_failure": {"name": "b", "on_failure": {"nam": 1}}}, 'on_failure: a task needs a "name"'),
    ],
)
@pytest.mark.parametrize("batch", [False, True])
def test_what_makes_no_sense_is_refused_whole(
    connection: psycopg.Connection, task: Any, message: str, batch: bool
) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue) as caught:
        enqueue(connection, [{"name": "good"}, task] if batch else task)

    assert caught.value.diag.message_primary == f"pq_enqueue: {message}"
    assert count(connection) == 0


def test_value_of_a_wrong_type_for_a_later_failure_is_refused_now(connection: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        enqueue(connection, {"name": "a", "on_failure": {"name": "b", "priority": "soon"}})


def test_duplicates_are_told_in_place(connection: psycopg.Connection) -> None:
    enqueue(connection, {"name": "old", "client_id": "b"})

    rows = enqueue(connection, [
        {"name": "n", "client_id": "a"}, {"name": "n", "client_id": "b"}, {"name": "n"},
        {"name": "n", "client_id": "a"},
    ])  # fmt: skip

    assert [row[1] for row in rows] == [False, True, False, True]
    assert rows[1][0] == 1
    assert rows[3][0] == rows[0][0]
    assert count(connection) == 3


def test_raise_keeps_a_batch_out_and_is_no_error(connection: psycopg.Connection) -> None:
    enqueue(connection, {"name": "old", "client_id": "b"})

    rows = enqueue(connection, [
        {"name": "n"}, {"name": "n", "client_id": "b", "on_duplicate": "raise"}, {"name": "n", "client_id": "c"},
    ])  # fmt: skip

    assert rows == [(None, False), (1, True), (None, False)]
    assert count(connection) == 1


def test_second_tick_of_a_schedule_is_a_duplicate(connection: psycopg.Connection) -> None:
    tick = {"name": "n", "schedule_id": 4, "tick_at": "2031-01-01T00:00:00Z"}

    first, second = enqueue(connection, tick), enqueue(connection, tick)

    assert first == [(1, False)]
    assert second == [(1, True)]


def test_unfinished_client_id_is_free_after_the_end(connection: psycopg.Connection) -> None:
    spec = {"name": "n", "client_id": "a", "unique": "unfinished"}
    [(first, _)] = enqueue(connection, spec)
    assert enqueue(connection, spec) == [(first, True)]

    connection.execute("UPDATE pq_tasks SET status = 'failed', completed_at = now()")

    [(second, duplicate)] = enqueue(connection, spec)
    assert second != first
    assert not duplicate


def test_two_transactions_with_one_client_id_make_one_task(database: str, connection: psycopg.Connection) -> None:
    with psycopg.connect(database) as first:
        [(task_id, _)] = enqueue(first, {"name": "n", "client_id": "a"})
        seen: Rows = []

        def second() -> None:
            with psycopg.connect(database, autocommit=True) as other:
                seen.extend(enqueue(other, {"name": "n", "client_id": "a"}))

        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        first.commit()
        thread.join(10)
    assert seen == [(task_id, True)]
    assert count(connection) == 1


def test_loser_inserts_when_the_winner_rolls_back(database: str) -> None:
    with psycopg.connect(database) as first:
        enqueue(first, {"name": "n", "client_id": "a"})
        seen: Rows = []

        def second() -> None:
            with psycopg.connect(database, autocommit=True) as other:
                seen.extend(enqueue(other, {"name": "n", "client_id": "a"}))

        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        first.rollback()
        thread.join(10)
    assert [row[1] for row in seen] == [False]


def test_repeatable_read_gets_a_serialization_failure_instead_of_a_hidden_duplicate(database: str) -> None:
    with psycopg.connect(database) as reader, psycopg.connect(database, autocommit=True) as writer:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("SELECT 1 FROM pq_tasks")
        enqueue(writer, {"name": "n", "client_id": "a"})

        with pytest.raises(psycopg.errors.SerializationFailure):
            enqueue(reader, {"name": "n", "client_id": "a"})


def test_batches_that_share_keys_in_opposite_orders_do_not_deadlock(
    database: str, connection: psycopg.Connection
) -> None:
    names = [f"k{i}" for i in range(50)]

    def repeat(ordered: list[str]) -> Callable[[], None]:
        def body() -> None:
            with psycopg.connect(database, autocommit=True) as own:
                for turn in range(30):
                    mode = {"on_duplicate": "replace"} if turn % 2 else {}
                    enqueue(own, [{"name": "n", "client_id": f"{turn // 2}{n}", **mode} for n in ordered])

        return body

    run_together(repeat(names), repeat(names[::-1]))

    assert count(connection) == 15 * 50


def test_racing_with_deletion_always_yields_a_task(database: str, connection: psycopg.Connection) -> None:
    stop = threading.Event()

    def delete() -> None:
        with psycopg.connect(database, autocommit=True) as own:
            while not stop.is_set():
                own.execute("DELETE FROM pq_tasks WHERE client_id = 'a'")

    def fill(mode: str) -> Callable[[], None]:
        def body() -> None:
            with psycopg.connect(database, autocommit=True) as own:
                for _ in range(300):
                    [(task_id, _)] = enqueue(own, {"name": "n", "client_id": "a", "on_duplicate": mode})
                    assert task_id is not None
            stop.set()

        return body

    run_together(delete, fill("replace"), fill("return"))


def test_caller_needs_execute_and_nothing_else(connection: psycopg.Connection) -> None:
    role = "pq_test_enqueuer"
    with connection.transaction():
        connection.execute(f"CREATE ROLE {role}")
        connection.execute(f"SET LOCAL ROLE {role}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
            enqueue(connection, {"name": "n"})
        connection.execute("RESET ROLE")
        connection.execute(f"GRANT EXECUTE ON FUNCTION pq_enqueue(jsonb) TO {role}")
        connection.execute(f"SET LOCAL ROLE {role}")

        assert enqueue(connection, [{"name": "n", "client_id": "x"}, {"name": "n", "client_id": "x"}])
        with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
            connection.execute("SELECT 1 FROM pq_tasks")
        raise psycopg.Rollback


def test_moved_search_path_does_not_matter(connection: psycopg.Connection) -> None:
    connection.execute("CREATE SCHEMA mine; CREATE TABLE mine.pq_tasks (id int); SET search_path = mine")

    connection.execute('SELECT * FROM public.pq_enqueue(\'{"name": "n", "client_id": "c"}\')')

    assert connection.execute("SELECT count(*) FROM public.pq_tasks").fetchall() == [(1,)]


def test_only_sleeping_workers_are_woken(database: str, connection: psycopg.Connection) -> None:
    connection.execute("""
        INSERT INTO pq_workers (expires_at, lease, pid, concurrency, sleeping, name, host, pq_version, queues)
        SELECT now() + interval '1 h', '30 s', 1, 1, sleeping, 'w', 'h', '0', ARRAY[queue]
        FROM (VALUES ('asleep', true), ('awake', false)) v(queue, sleeping)
    """)
    with psycopg.connect(database, autocommit=True) as listener:
        listener.execute("DO $$ BEGIN EXECUTE 'LISTEN ' || pq_channel('wake'); END $$")

        enqueue(connection, {"name": "n", "queue": "awake"})
        enqueue(connection, {"name": "n", "queue": "asleep"})
        enqueue(connection, [{"name": "n", "queue": q} for q in ("awake", "asleep", "other", "asleep")])

        heard = [notify.payload for notify in listener.notifies(timeout=0.5)]
    assert heard == ["asleep", "asleep"]


def test_on_failure_that_could_not_be_enqueued_then_is_refused_now(connection: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.DatetimeFieldOverflow):
        enqueue(connection, {"name": "a", "on_failure": {"name": "b", "run_in": 1e18}})


def test_version_that_could_not_end_a_run_is_not_parked(connection: psycopg.Connection) -> None:
    enqueue(connection, {"name": "a", "client_id": "c"})
    connection.execute("UPDATE pq_tasks SET status = 'running', worker_id = 1")
    # Random text, since an index entry is compressed: 300 characters of it fit, thousands don't.
    long = "".join(random.Random(7).choices(string.ascii_letters, k=5000))

    for bad in ({"queue": long}, {"priority": 40_000}, {"run_in": 1e18}, {"version": 2**31}):
        with pytest.raises(psycopg.DataError):
            enqueue(connection, {"name": "a", "client_id": "c", "on_duplicate": "replace", **bad})

    connection.execute("UPDATE pq_tasks SET status = 'completed'")
    assert connection.execute("SELECT status, parked FROM pq_tasks").fetchall() == [("completed", None)]


@pytest.mark.parametrize(
    "task",
    [
        {"name": "t", "args": [1, "a", None], "kwargs": {"b": [2]}},
        {"name": "t", "args": [], "kwargs": {}, "queue": "mail", "priority": 75, "max_attempts": 3, "timeout": 1.5},
        {"name": "t", "args": [], "kwargs": {}, "headers": {"a": "b"}, "version": 4},
        {"name": "t", "args": [], "kwargs": {}, "headers": {}, "priority": "7", "max_attempts": "2", "timeout": "3"},
        {"name": "t", "args": [], "kwargs": {}, "priority": None, "max_attempts": None, "timeout": None},
        {"name": "t", "args": [], "kwargs": {}, "queue": None, "headers": None, "version": None},
        {"name": "t", "args": None, "kwargs": None},
        {"name": "t"},
        {"name": "t", "args": [], "kwargs": {}, "grace": 2, "backoff": {"base": 1}},
        {"name": "x" * 255, "args": [], "kwargs": {}, "queue": "ü" * 255},
    ],
    ids=lambda task: repr(task)[:60],
)
def test_a_single_task_is_stored_as_one_of_an_array(connection: psycopg.Connection, task: dict[str, Any]) -> None:
    for given in (task, [task]):
        connection.execute("SELECT * FROM pq_enqueue(%s)", (Jsonb(given),))
    found = connection.execute(
        "SELECT to_jsonb(t) - '{id,run_at,created_at}'::text[], t.run_at = t.created_at FROM pq_tasks t ORDER BY t.id"
    ).fetchall()
    assert len(found) == 2
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "task",
    [
        {"name": "x" * 256, "args": [], "kwargs": {}},
        {"name": "t", "args": [], "kwargs": {}, "queue": "x" * 256},
        {"name": "t", "args": [], "kwargs": {}, "queue": ""},
        {"name": "t", "args": [], "kwargs": {}, "max_attempts": 0},
        {"name": "t", "args": [], "kwargs": {}, "timeout": 0},
        {"name": "t", "args": {}, "kwargs": {}},
        {"name": "t", "args": [], "kwargs": []},
        {"name": "", "args": [], "kwargs": {}},
        {"name": 7, "args": [], "kwargs": {}},
        {"name": "t", "args": [], "kwargs": {}, "headers": []},
        {"name": "t", "args": [], "kwargs": {}, "queues": "a"},
        {"name": "t", "args": [], "kwargs": {}, "priority": 40_000},
        {"name": "t", "args": [], "kwargs": {}, "max_attempts": 1.5},
    ],
    ids=lambda task: repr(task)[:60],
)
def test_a_single_task_is_refused_as_one_of_an_array(connection: psycopg.Connection, task: dict[str, Any]) -> None:
    said = []
    for given in (task, [task]):
        with pytest.raises(psycopg.Error) as refused:
            connection.execute("SELECT * FROM pq_enqueue(%s)", (Jsonb(given),))
        said.append((refused.value.sqlstate, str(refused.value).partition("\n")[0]))
    assert said[0] == said[1]
    assert connection.execute("SELECT count(*) FROM pq_tasks").fetchone() == (0,)
