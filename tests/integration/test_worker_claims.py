"""What a worker takes, in which order, what it leaves, and when it ends by itself."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pq_core import PQ, Outcome, TaskStatus
from pq_core.worker.claiming import Statements
from tests.integration import worker_tasks as tasks
from tests.integration.worker_process import PATIENCE, eventually, running, until_empty

PENDING, COMPLETED, FAILED = TaskStatus.PENDING, TaskStatus.COMPLETED, TaskStatus.FAILED


@pytest.fixture
def pq(database: str) -> Iterator[PQ]:
    with PQ(database, tasks=[tasks.__name__]) as pq:
        yield pq


def status_of(pq: PQ, task_id: int) -> TaskStatus:
    record = pq.get_task(task_id)
    assert record is not None
    return record.status


def enqueue_raw(connection: psycopg.Connection, **task: Any) -> int:
    """Enqueue past the client, as other code or an older version would."""
    from psycopg.types.json import Jsonb

    row = connection.execute("SELECT id FROM pq_enqueue(%s)", (Jsonb(task),)).fetchone()
    assert row is not None
    return int(row[0])


def test_higher_priority_first_then_the_earlier(pq: PQ, database: str, tmp_path: Path) -> None:
    path = str(tmp_path / "order")
    given = [
        (0, "batch"),
        (50, "first"),
        (100, "critical"),
        (50, "second"),
        (-100, "below"),
        (75, "high"),
        (101, "top"),
    ]
    for priority, line in given:
        pq.enqueue(tasks.note.call(path, line), priority=priority)

    until_empty(database, tmp_path, concurrency=1)

    assert Path(path).read_text().split() == ["top", "critical", "high", "first", "second", "batch", "below"]


@pytest.mark.parametrize("queues", [["default"], ["default", "side", "other"]], ids=["one queue", "many queues"])
def test_worker_takes_only_the_bands_it_is_given(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection, queues: list[str]
) -> None:
    ids = {
        priority: pq.enqueue(tasks.add.call(priority), priority=priority)
        for priority in (100, 75, 50, 25, 0, 24, 49, 99)
    }

    until_empty(database, tmp_path, priorities=["critical", "low"], queues=queues, poll_interval=0.2)

    done = {priority for priority, task_id in ids.items() if status_of(pq, task_id) is COMPLETED}
    assert done == {100, 25, 49}


def test_bands_beside_each_other_with_work_between_them_are_idle(pq: PQ, database: str, tmp_path: Path) -> None:
    """What a worker does not take must not keep it awake."""
    pq.enqueue(tasks.add.call(1), priority=50)

    with running(database, tmp_path, priorities=["critical", "low"], poll_interval=0.5):
        assert transactions_in(database, 3.0) < 20


def transactions_in(dsn: str, seconds: float) -> int:
    """Return how many transactions the database counted, other than ours, after ``seconds`` of watching."""
    with psycopg.connect(dsn, autocommit=True) as connection:

        def count() -> int:
            connection.execute("SELECT pg_stat_clear_snapshot()")
            row = connection.execute(
                "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
            ).fetchone()
            assert row is not None
            return int(row[0])

        time.sleep(1.5)  # backends report what they did at most once a second
        before = count()
        time.sleep(seconds)
        return count() - before - 2


def test_worker_serves_its_queues_alone(pq: PQ, database: str, tmp_path: Path) -> None:
    here, there = pq.enqueue(tasks.add.call(1)), pq.enqueue(tasks.in_side_queue.call())

    until_empty(database, tmp_path, queues=["side"])

    assert (status_of(pq, here), status_of(pq, there)) == (PENDING, COMPLETED)


def test_worker_serves_the_queues_of_its_tasks_by_itself(pq: PQ, database: str, tmp_path: Path) -> None:
    ids = [
        pq.enqueue(tasks.add.call(1)),
        pq.enqueue(tasks.in_side_queue.call()),
        pq.enqueue(tasks.add.options(queue="elsewhere").call(1)),
    ]

    until_empty(database, tmp_path)

    assert [status_of(pq, task_id) for task_id in ids] == [COMPLETED, COMPLETED, PENDING]


def test_paused_queue_is_left_alone(pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection) -> None:
    connection.execute("INSERT INTO pq_queues (name, paused_at) VALUES ('side', now())")
    paused, other = pq.enqueue(tasks.in_side_queue.call()), pq.enqueue(tasks.add.call(1))

    until_empty(database, tmp_path)
    assert (status_of(pq, paused), status_of(pq, other)) == (PENDING, COMPLETED)

    connection.execute("UPDATE pq_queues SET paused_at = NULL")
    until_empty(database, tmp_path)
    assert status_of(pq, paused) is COMPLETED


# --- what this code can't run


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"name": "w.nonexistent"}, "w.nonexistent"),
        ({"name": "os:system", "args": ["true"]}, "os:system"),
        ({"name": "w.add", "args": [1], "version": 7}, "version 7"),
        ({"name": "w.add", "kwargs": {"a": 1, "c": 2}}, "w.add"),
        ({"name": "w.add"}, "w.add"),
    ],
    ids=["unknown", "not allowed", "newer", "too much", "too little"],
)
def test_unroutable_task_is_released_then_fails(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection, task: dict[str, Any], words: str
) -> None:
    task_id = enqueue_raw(connection, on_failure={"name": "w.reports_failure", "args": ["it"]}, **task)

    until_empty(database, tmp_path, release_delay=3600)
    record = pq.get_task(task_id)
    assert record is not None
    assert (record.status, record.outcome, record.attempts) == (PENDING, Outcome.RELEASED, 0)
    assert words in (record.error or "")
    assert pq.list_completed() == []

    connection.execute("UPDATE pq_tasks SET run_at = now(), due = true WHERE id = %s", (task_id,))
    until_empty(database, tmp_path, unroutable_after=0.01)
    record = pq.get_task(task_id)
    assert record is not None
    assert (record.status, record.outcome) == (FAILED, Outcome.RELEASED)
    assert "unroutable" in (record.error or "")
    assert [r.result for r in pq.list_completed()] == [f"it: {task_id}"]


def test_clock_of_the_unroutable_runs_on_over_several_workers(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    task_id = enqueue_raw(connection, name="w.nonexistent")

    with running(database, tmp_path, release_delay=0.1, unroutable_after=1.0, poll_interval=0.2):
        eventually(lambda: status_of(pq, task_id) is FAILED)

    attempts = pq.attempts(task_id)
    assert len(attempts) > 2
    assert {attempt.outcome for attempt in attempts} == {Outcome.RELEASED}


def test_arguments_of_an_older_version_are_upgraded(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    old = enqueue_raw(connection, name="w.second_version", args=[1], version=1)
    new = pq.enqueue(tasks.second_version.call(1, 2))

    until_empty(database, tmp_path)

    assert [pq.wait(task_id, timeout=5) for task_id in (old, new)] == [11, 3]


def test_arguments_that_cannot_be_read_fail_without_another_try(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    task_id = enqueue_raw(connection, name="w.add", args=[{"$pq": "datetime", "v": "nonsense"}], max_attempts=5)

    until_empty(database, tmp_path)

    record = pq.get_task(task_id)
    assert record is not None
    assert record.status in (FAILED, COMPLETED)
    assert record.attempts == 1


# --- time


def test_delayed_tasks_run_on_time(pq: PQ, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, poll_interval=60):
        ids = [pq.enqueue(tasks.add.options(run_in=timedelta(seconds=delay)).call(0)) for delay in (1.5, 0.5, 1.0)]
        for task_id in ids:
            pq.wait(task_id, timeout=20)

    for task_id in ids:
        record = pq.get_task(task_id)
        assert record is not None
        assert record.started_at is not None
        # Far below the poll interval: it woke for it.
        assert timedelta(0) <= record.started_at - record.run_at < timedelta(seconds=10)


def test_delayed_task_does_not_hold_up_what_comes_later(pq: PQ, database: str, tmp_path: Path) -> None:
    """A worker that woke for a due time and took as many as it could goes on looking."""
    with running(database, tmp_path, poll_interval=60, concurrency=2):
        ids = [pq.enqueue(tasks.nap.options(run_in=timedelta(seconds=0.3)).call(0.3)) for _ in range(7)]
        for task_id in ids:
            pq.wait(task_id, timeout=20)


def test_idle_worker_is_woken_by_an_enqueue(pq: PQ, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, poll_interval=3600):
        for _ in range(3):
            time.sleep(0.5)
            assert pq.wait(pq.enqueue(tasks.add.call(1, 1)), timeout=20) == 2


def test_enqueue_in_a_transaction_that_commits_late_is_found(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    with running(database, tmp_path, poll_interval=1):
        with psycopg.connect(database) as transaction:
            task_id = pq.using(transaction).enqueue(tasks.add.call(1, 1))
            time.sleep(1.5)
        assert pq.wait(task_id, timeout=20) == 2


# --- ends of the worker


def test_until_empty_leaves_the_future_and_what_others_run(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    with running(database, tmp_path, queues=["side"]):
        running_elsewhere = pq.enqueue(tasks.nap.options(queue="side").call(60))
        eventually(lambda: status_of(pq, running_elsewhere) is TaskStatus.RUNNING)
        future = pq.enqueue(tasks.add.options(run_in=timedelta(hours=1)).call(1))
        due = [pq.enqueue(tasks.nap.call(0.2)) for _ in range(9)]

        until_empty(database, tmp_path, concurrency=2)

        assert {status_of(pq, task_id) for task_id in due} == {COMPLETED}
        assert status_of(pq, future) is PENDING
        assert status_of(pq, running_elsewhere) is TaskStatus.RUNNING


def test_until_empty_runs_what_its_own_tasks_leave_due(pq: PQ, database: str, tmp_path: Path) -> None:
    retried, snoozed = pq.enqueue(tasks.retries.call(2)), pq.enqueue(tasks.snoozes.call(3, 0.0))
    failed = pq.enqueue(tasks.boom.call("x"), on_failure=tasks.reports_failure.call("followed"))

    until_empty(database, tmp_path)

    assert [status_of(pq, task_id) for task_id in (retried, snoozed, failed)] == [COMPLETED, COMPLETED, FAILED]
    assert f"followed: {failed}" in [record.result for record in pq.list_completed()]


def test_until_empty_on_an_empty_database_ends(database: str, tmp_path: Path) -> None:
    until_empty(database, tmp_path)


def test_until_empty_waits_for_a_task_that_somebody_holds(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    task_id = pq.enqueue(tasks.add.call(1))
    with psycopg.connect(database) as holder:
        holder.execute("SELECT FROM pq_tasks WHERE id = %s FOR UPDATE", (task_id,))
        with running(database, tmp_path, until_empty=True, poll_interval=0.5) as worker:
            # It neither ends nor asks again and again without a pause.
            assert transactions_in(database, 3.0) < 60
            assert worker.process.poll() is None
            holder.rollback()
            assert worker.wait() == 0
    assert status_of(pq, task_id) is COMPLETED


def test_locked_task_that_becomes_due_does_not_keep_a_worker_busy(pq: PQ, database: str, tmp_path: Path) -> None:
    task_id = pq.enqueue(tasks.add.options(run_in=timedelta(seconds=0.5)).call(1))
    with psycopg.connect(database) as holder:
        holder.execute("SELECT FROM pq_tasks WHERE id = %s FOR UPDATE", (task_id,))
        with running(database, tmp_path, poll_interval=0.5):
            time.sleep(0.5)
            assert transactions_in(database, 3.0) < 60
            holder.rollback()
            pq.wait(task_id, timeout=20)


def test_run_worker_once_runs_one_task(pq: PQ, capfd: pytest.CaptureFixture[str]) -> None:
    pq.enqueue(tasks.add.call(1, 1))
    second = pq.enqueue(tasks.add.call(2, 2))

    assert pq.run_worker_once() is True
    assert pq.pending_count() == 1
    assert pq.run_worker_once() is True
    assert pq.run_worker_once() is False
    assert pq.wait(second, timeout=1) == 4
    assert pq.workers() == []


def test_run_worker_in_this_process_leaves_it_as_it_was(pq: PQ) -> None:
    import signal
    import sys

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)]
    streams = (sys.stdout, sys.stderr)
    task_id = pq.enqueue(tasks.add.call(1, 1))

    pq.run_worker(until_empty=True, concurrency=2)

    assert pq.wait(task_id, timeout=1) == 2
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)] == before
    assert (sys.stdout, sys.stderr) == streams


# --- suspects


def test_task_lost_twice_runs_alone(pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection) -> None:
    path = str(tmp_path / "order")
    suspect = pq.enqueue(tasks.note.call(path, "suspect", 0.5))
    connection.execute("UPDATE pq_tasks SET losses = 2 WHERE id = %s", (suspect,))
    others = [pq.enqueue(tasks.nap.call(0.1)) for _ in range(8)]

    with running(database, tmp_path, lease=3, poll_interval=0.2):
        for task_id in (suspect, *others):
            pq.wait(task_id, timeout=30)

    record = pq.get_task(suspect)
    assert record is not None
    for task_id in others:
        other = pq.get_task(task_id)
        assert other is not None
        assert other.completed_at is not None
        assert other.started_at is not None
        assert record.completed_at is not None
        assert record.started_at is not None
        # The clocks of claims and reports: one turn may hold the end of one and the claim of the next.
        assert other.completed_at <= record.started_at or other.started_at >= record.completed_at - timedelta(
            seconds=0.1
        )


def test_until_empty_runs_suspects_too(pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection) -> None:
    suspect = pq.enqueue(tasks.add.call(1))
    connection.execute("UPDATE pq_tasks SET losses = 2")

    until_empty(database, tmp_path)

    assert status_of(pq, suspect) is COMPLETED


def test_suspect_that_this_code_cannot_run_holds_up_nobody(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    enqueue_raw(connection, name="w.nonexistent")
    connection.execute("UPDATE pq_tasks SET losses = 2")

    with running(database, tmp_path, lease=3, poll_interval=0.2, release_delay=0.1):
        until = time.monotonic() + 3
        while time.monotonic() < until:
            assert pq.wait(pq.enqueue(tasks.add.call(1, 1)), timeout=20) == 2


def test_suspect_in_a_paused_queue_holds_up_nobody(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    connection.execute("INSERT INTO pq_queues (name, paused_at) VALUES ('side', now())")
    pq.enqueue(tasks.in_side_queue.call())
    connection.execute("UPDATE pq_tasks SET losses = 2")
    long = pq.enqueue(tasks.nap.call(5))

    with running(database, tmp_path, lease=3, poll_interval=0.2):
        eventually(lambda: status_of(pq, long) is TaskStatus.RUNNING)
        time.sleep(1.5)
        task_id = pq.enqueue(tasks.add.call(1, 1))
        pq.wait(task_id, timeout=20)
        assert status_of(pq, long) is TaskStatus.RUNNING, "the long task was waited for"


# --- upsert


@pytest.mark.long
def test_racing_upserts_run_one_at_a_time_and_lose_no_last_version_long(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    race_upserts(pq, database, tmp_path, connection, times=1000)


def test_racing_upserts_run_one_at_a_time_and_lose_no_last_version(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    race_upserts(pq, database, tmp_path, connection, times=150)


def race_upserts(pq: PQ, database: str, folder: Path, connection: psycopg.Connection, *, times: int) -> None:
    connection.execute(
        "CREATE TABLE versions (n bigserial, at timestamptz DEFAULT clock_timestamp(),"
        " writer int, number int, alone bool)"
    )
    import subprocess
    import sys

    from tests.integration.worker_process import ROOT

    program = (
        "import sys; from pq_core import PQ; from tests.integration import worker_tasks as t\n"
        f"pq = PQ({database!r}, tasks=[t.__name__])\n"
        f"for number in range({times}): pq.upsert(t.exclusive.call(int(sys.argv[1]), number), client_id='debounced')\n"
    )
    with running(database, folder, concurrency=4):
        writers = [subprocess.Popen([sys.executable, "-c", program, str(writer)], cwd=ROOT) for writer in (1, 2)]
        assert [writer.wait(100) for writer in writers] == [0, 0]
        (record,) = pq.list_tasks()
        eventually(lambda: (r := pq.get_task(record.id)) and r.status is COMPLETED and r, within=60)

    last = connection.execute("SELECT payload -> 'args' FROM pq_tasks").fetchone()
    ran = connection.execute("SELECT writer, number, alone FROM versions ORDER BY n").fetchall()
    assert last is not None
    assert len(ran) > 1
    assert all(alone for _, _, alone in ran)
    assert list(ran[-1][:2]) == last[0], "the version that was stored last is the one that ran last"
    assert last[0][1] == times - 1
    for writer in (1, 2):
        numbers = [number for found, number, _ in ran if found == writer]
        assert numbers == sorted(numbers)


def test_what_a_worker_puts_back_wakes_one_that_sleeps(
    pq: PQ, database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    path = str(tmp_path / "naps")
    # By polling alone the other one would come in an hour.
    options = {"poll_interval": 3600.0, "concurrency": 1, "lease": 600}
    with running(database, tmp_path, drain_timeout=2.0, **options) as first:
        interrupted = pq.enqueue(tasks.nap.call(600.0, path))
        eventually(lambda: Path(path).exists())
        with running(database, tmp_path, **options):
            asleep = "SELECT sleeping FROM pq_workers ORDER BY id DESC LIMIT 1"
            eventually(lambda: connection.execute(asleep).fetchone() == (True,))
            assert first.stop() == 0
            eventually(lambda: pq.get_task(interrupted).status is TaskStatus.RUNNING)
            assert [attempt.outcome for attempt in pq.attempts(interrupted)] == [Outcome.INTERRUPTED]


def test_nothing_is_slept_over_where_several_workers_are_woken_for_each_task(
    pq: PQ, database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    unfinished = "SELECT count(*) FROM pq_tasks WHERE status <> 'completed'"
    # By polling alone a worker would come in an hour.
    options = {"poll_interval": 3600.0, "concurrency": 1, "tasks_per_child": 1000, "lease": 600}
    with running(database, tmp_path, processes=3, **options):
        for burst in range(8):
            with ThreadPoolExecutor(4) as clients:
                list(clients.map(lambda n: pq.enqueue(tasks.add.call(n)), range(100)))
            # Now while some doze, now while all sleep.
            eventually(lambda: connection.execute(unfinished).fetchone() == (0,), what="an empty queue")
            time.sleep(burst * 0.02)
        # And none of them has become deaf: each takes one of three.
        for name in "abc":
            pq.enqueue(tasks.nap.call(600.0, str(tmp_path / name)))
        eventually(lambda: all((tmp_path / name).exists() for name in "abc"), what="three tasks at a time")


@pytest.mark.parametrize("per_child", [1, 10])
def test_task_from_sql_gets_the_options_that_its_code_declares(
    pq: PQ, database: str, connection: psycopg.Connection, tmp_path: Path, per_child: int
) -> None:
    plain = [enqueue_raw(connection, name="w.sleeps_too_long") for _ in range(2)]
    given = enqueue_raw(connection, name="w.sleeps_too_long", timeout=0.8)
    again = enqueue_raw(connection, name="w.slow_to_retry", max_attempts=2)
    hungry = enqueue_raw(connection, name="w.hog", args=[2**30])
    deadline = enqueue_raw(connection, name="w.tells_its_deadline")

    until_empty(database, tmp_path, tasks_per_child=per_child, concurrency=1)

    for one in plain:
        assert "timed out after 0.3 s" in (pq.get_task(one).error or "")
    assert "timed out after 0.8 s" in (pq.get_task(given).error or "")
    row = connection.execute("SELECT run_at > now() + interval '1 hour' FROM pq_tasks WHERE id = %s", (again,))
    assert row.fetchone() == (True,)
    assert pq.get_task(hungry).outcome is Outcome.OUT_OF_MEMORY
    assert pq.get_task(deadline).result == "within a minute"


def test_declared_options_hold_for_tasks_that_are_run_inline(pq: PQ, connection: psycopg.Connection) -> None:
    again = enqueue_raw(connection, name="w.slow_to_retry", max_attempts=2)

    pq.run_inline()

    row = connection.execute("SELECT run_at > now() + interval '1 hour' FROM pq_tasks WHERE id = %s", (again,))
    assert row.fetchone() == (True,)


def test_goodbye_of_a_worker_wakes_one_that_sleeps(pq: PQ, database: str, connection: psycopg.Connection) -> None:
    pq.enqueue_many(tasks.add.call(n) for n in range(3))
    connection.execute(
        "INSERT INTO pq_workers (id, name, expires_at, lease, pid, concurrency, host, pq_version, queues, sleeping)"
        " SELECT n, 'w', now() + interval '1 h', '1 h', 1, 9, 'here', '1', '{default}', n = 8"
        " FROM generate_series(7, 8) n"
    )
    connection.execute("UPDATE pq_tasks SET status = 'running', worker_id = 7, attempts = 1")
    began = "(SELECT started_at FROM pq_workers WHERE id = 7)"
    given = {"$1": "7", "$2": began, "$3": "'[]'", "$4": "NULL"}
    text = Statements("public")["deregister"].text
    goodbye = re.sub(r"\$\d", lambda found: given[found[0]], text).encode()
    with psycopg.connect(database, autocommit=True) as listening:
        channel = listening.execute("SELECT pq_channel('wake')").fetchone()
        assert channel is not None
        listening.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel[0])))

        assert connection.execute(goodbye).fetchone() == (3, 1)
        assert [note.payload for note in listening.notifies(timeout=10, stop_after=1)] == ["default"]
        # Nobody sleeps: nobody is told.
        connection.execute("UPDATE pq_workers SET sleeping = false, id = 15 - id")
        connection.execute("UPDATE pq_tasks SET status = 'running', worker_id = 7, attempts = 1")
        assert connection.execute(goodbye).fetchone() == (3, 0)


def test_goodbye_of_a_worker_tells_who_waits_for_a_cancelled_task(
    pq: PQ, database: str, connection: psycopg.Connection
) -> None:
    noted, older, other = pq.enqueue_many(tasks.add.call(n) for n in range(3))
    connection.execute(
        "INSERT INTO pq_workers (id, name, expires_at, lease, pid, concurrency, host, pq_version, queues, sleeping)"
        " VALUES (7, 'w', now() + interval '1 h', '1 h', 1, 9, 'here', '1', '{default}', false)"
    )
    connection.execute(
        "UPDATE pq_tasks SET status = 'running', worker_id = 7, attempts = 1, notify_finished = id = %s,"
        " cancel_requested_at = CASE WHEN id <> %s THEN now() END",
        (older, other),
    )
    connection.execute("INSERT INTO pq_waits VALUES (%s), (%s)", (noted, other))
    began = "(SELECT started_at FROM pq_workers WHERE id = 7)"
    given = {"$1": "7", "$2": began, "$3": "'[]'", "$4": "NULL"}
    goodbye = re.sub(r"\$\d", lambda found: given[found[0]], Statements("public")["deregister"].text).encode()
    with psycopg.connect(database, autocommit=True) as listening:
        channel = listening.execute("SELECT pq_channel('done')").fetchone()
        assert channel is not None
        listening.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel[0])))

        connection.execute(goodbye)

        heard = {note.payload for note in listening.notifies(timeout=10, stop_after=2)}
    assert heard == {str(noted), str(older)}
    assert connection.execute("SELECT task_id FROM pq_waits").fetchall() == [(other,)]


@pytest.mark.parametrize(("delay", "told"), [(0.0, 1), (2.0, 1), (60.0, 0)])
def test_attempt_to_be_repeated_soon_wakes_one_that_sleeps(
    pq: PQ, connection: psycopg.Connection, delay: float, told: int
) -> None:
    """It may look too late by itself, and the worker that reports may be full by then; what is far off it will see."""
    task_id = pq.enqueue(tasks.add.call(1))
    connection.execute(
        "INSERT INTO pq_workers (id, name, expires_at, lease, pid, concurrency, host, pq_version, queues, sleeping)"
        " SELECT n, 'w', now() + interval '1 h', '1 h', 1, 9, 'here', '1', '{default}', n = 8"
        " FROM generate_series(7, 8) n"
    )
    claimed = datetime.now(UTC)
    connection.execute(
        "UPDATE pq_tasks SET status = 'running', worker_id = 7, attempts = 1, fence = 1, started_at = %s", (claimed,)
    )
    claim = {"id": task_id, "fence": 1, "started_at": claimed.isoformat()}
    end = {**claim, "status": "pending", "outcome": "raised", "counted": True, "delay": delay}
    report = Statements("public")["report"].text.replace("$1", "7").replace("$2", f"'{json.dumps([end])}'")
    row = connection.execute(report.encode()).fetchone()
    assert row is not None
    assert (row[2], row[3], row[8]) == ("pending", "recorded", told)


def test_task_that_is_moved_to_the_near_future_wakes_one_that_sleeps(
    pq: PQ, database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    """It would look by itself when the task was due before."""
    task_id = pq.enqueue(tasks.add.options(run_in=timedelta(hours=1)).call(1, 1))
    with running(database, tmp_path, poll_interval=3600.0, lease=600):
        eventually(lambda: connection.execute("SELECT sleeping FROM pq_workers").fetchone() == (True,))
        time.sleep(0.5)  # its second looks are over
        assert pq.reschedule(task_id, run_in=timedelta(seconds=1))
        assert pq.wait(task_id, timeout=PATIENCE) == 2


@pytest.mark.parametrize("queues", [["default"], ["default", "side"]], ids=["one queue", "many queues"])
@pytest.mark.parametrize("ageing", [None, 600.0], ids=["strict", "ageing"])
def test_low_priority_that_has_waited_starts_beside_higher_ones_with_ageing_only(
    pq: PQ, database: str, tmp_path: Path, queues: list[str], ageing: float | None
) -> None:
    path = str(tmp_path / "order")
    higher = [tasks.note.options(priority=75).call(path, "high") for _ in range(60)]
    due = datetime.now(UTC) - timedelta(seconds=1800)
    pq.enqueue_many([*higher, tasks.note.options(priority=25, run_at=due).call(path, "low")])

    until_empty(database, tmp_path, concurrency=1, tasks_per_child=1, ageing=ageing, queues=queues)

    place = Path(path).read_text().split().index("low")
    assert place == 60 if ageing is None else place < 60


def test_each_stretch_of_waiting_counts_one_band(pq: PQ, connection: psycopg.Connection) -> None:
    def waiting(priority: int, seconds: float, **options: Any) -> int:
        due = datetime.now(UTC) - timedelta(seconds=seconds)
        return pq.enqueue(tasks.add.options(priority=priority, run_at=due, **options).call(1))

    connection.execute(
        "INSERT INTO pq_workers (id, name, started_at, expires_at, lease, pid, concurrency, host, pq_version, queues)"
        " VALUES (7, 'w', '2026-03-01', now() + interval '1 h', '1 h', 1, 9, 'here', '1', '{default}')"
    )
    pq.pause_queue("paused")
    waiting(50, 3600, queue="paused")
    waiting(40, 3600, queue="another")
    waiting(10, 3600)  # no band of this worker's
    order = [
        waiting(110, 30),  # above what waiting can bring
        waiting(25, 3 * 100 + 1),  # counts 100, and waits for longer than the next
        waiting(75, 1 * 100 + 1),  # 100
        waiting(100, 30),
        waiting(50, 1 * 100 + 1, queue="side"),  # 75
        waiting(25, 1 * 100 + 1),  # 50
        waiting(50, 30),
    ]
    claim = Statements("public")["claim_aged"].text.replace("$8", "NULL")
    values = ["7", "'{default,side,paused}'", "'{20}'", "'{32767}'", "1", "100"]
    for place, value in enumerate(values, start=1):
        claim = claim.replace(f"${place}", f"({value})")
    # Under another lease that has its id, from before the database went back, nothing.
    assert connection.execute(claim.replace("$7", "('2026-02-01')").encode()).fetchall() == []
    claim = claim.replace("$7", "('2026-03-01')")

    claimed = [row[0] for _ in range(8) for row in connection.execute(claim.encode()).fetchall()]

    assert claimed == order
