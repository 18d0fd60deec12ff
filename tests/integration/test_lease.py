"""A worker's right to its tasks: lost, taken over, compared with the database; and reports that meet obstacles."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from pq_core import PQ, Outcome, TaskRecord, TaskStatus, WorkerStartError
from pq_core.worker.claiming import Statements
from pq_core.worker.keeper import LEFT_BEHIND
from tests.integration import worker_tasks as tasks
from tests.integration.worker_process import PATIENCE, WorkerProcess, alive, eventually, running, until_empty

PENDING, RUNNING, COMPLETED = TaskStatus.PENDING, TaskStatus.RUNNING, TaskStatus.COMPLETED


@pytest.fixture
def pq(database: str) -> Iterator[PQ]:
    with PQ(database, tasks=[tasks.__name__]) as pq:
        yield pq


def record_of(pq: PQ, task_id: int) -> TaskRecord:
    record = pq.get_task(task_id)
    assert record is not None
    return record


def wait_for(pq: PQ, task_id: int, status: TaskStatus) -> TaskRecord:
    eventually(lambda: record_of(pq, task_id).status is status, what=f"task {task_id} {status}")
    return record_of(pq, task_id)


def dead_worker(connection: psycopg.Connection) -> int:
    """Leave the lease of a worker that is long dead."""
    row = connection.execute(
        "INSERT INTO pq_workers (expires_at, continuous_since, lease, pid, concurrency, name, host, pq_version, queues)"
        " VALUES (now() - interval '1 hour', now(), '1 s', 1, 1, 'dead', 'gone', '0', '{default}') RETURNING id"
    ).fetchone()
    assert row is not None
    return int(row[0])


def left_running(connection: psycopg.Connection, task_id: int, worker: int) -> None:
    connection.execute(
        "UPDATE pq_tasks SET status = 'running', worker_id = %s, fence = fence + 1, attempts = attempts + 1,"
        " started_at = now() WHERE id = %s",
        (worker, task_id),
    )


def test_tasks_of_a_dead_worker_are_taken_over(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    worker = dead_worker(connection)
    retried = pq.enqueue(tasks.add.call(1, 1))
    failed = pq.enqueue(tasks.add.call(1), on_lost="fail", on_failure=tasks.reports_failure.call("lost"))
    cancelled = pq.enqueue(tasks.add.call(1))
    replaced = pq.enqueue(tasks.nap.call(60), client_id="replaced")
    for task_id in (retried, failed, cancelled, replaced):
        left_running(connection, task_id, worker)
    connection.execute("UPDATE pq_tasks SET cancel_requested_at = now() WHERE id = %s", (cancelled,))
    pq.upsert(tasks.add.call(2, 2), client_id="replaced")

    with running(database, tmp_path, lease=3):
        assert pq.wait(retried, timeout=PATIENCE) == 2
        assert pq.wait(replaced, timeout=PATIENCE) == 4
        eventually(lambda: f"lost: {failed}" in [record.result for record in pq.list_completed()])
        assert worker not in [record.id for record in pq.workers()]

    assert (record_of(pq, retried).attempts, record_of(pq, retried).losses) == (1, 1)
    assert (record_of(pq, failed).status, record_of(pq, failed).outcome) == (TaskStatus.FAILED, Outcome.LOST)
    assert "on_lost" in (record_of(pq, failed).error or "")
    assert record_of(pq, cancelled).status is TaskStatus.CANCELLED
    assert record_of(pq, replaced).losses == 0, "the version that was parked has lost nothing yet"


def test_lease_that_was_renewed_for_the_last_time_is_looked_at_when_it_ends(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    ends = "UPDATE pq_workers SET expires_at = now() + %s * interval '1 s' WHERE id = %s"
    beaten = "SELECT heartbeat_at FROM pq_workers WHERE id = %s AND heartbeat_at > started_at"
    # The rescuer's heartbeats are further apart than any test waits, but for the one that it is asked for.
    with running(database, tmp_path, lease=3600):
        (rescuer,) = pq.workers()
        first = eventually(lambda: connection.execute(beaten, (rescuer.id,)).fetchone())
        worker = dead_worker(connection)
        task_id = pq.enqueue(tasks.add.options(run_in=timedelta(hours=1)).call(1, 1))
        left_running(connection, task_id, worker)
        connection.execute(ends, (2, worker))
        connection.execute("SELECT pg_notify(pq_channel('wake'), %s)", (f"!cancel {rescuer.id}",))
        eventually(lambda: connection.execute(beaten, (rescuer.id,)).fetchone() != first)

        # The look that this heartbeat has planned finds that it was renewed, for the last time.
        connection.execute(ends, (4, worker))
        wait_for(pq, task_id, COMPLETED)


def test_short_lived_worker_takes_over_what_a_killed_one_left(pq: PQ, database: str, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with running(database, tmp_path, lease=3) as killed:
        task_id = pq.enqueue(tasks.nap.call(60, str(path)), client_id="replaced")
        eventually(path.exists)
        worker = killed.workers[0]
        killed.signal(signal.SIGKILL)
        killed.signal(signal.SIGKILL, worker)
    pq.upsert(tasks.add.call(2, 2), client_id="replaced")  # what it runs when it is taken over

    worker_log = until_empty(database, tmp_path, lease=3).text

    assert record_of(pq, task_id).result == 4, worker_log
    assert "nothing is due; staying up to" in worker_log


def test_run_worker_once_takes_over_a_dead_workers_task(pq: PQ, connection: psycopg.Connection) -> None:
    task_id = pq.enqueue(tasks.add.call(1, 1))
    left_running(connection, task_id, dead_worker(connection))

    assert pq.run_worker_once(lease=3) is True
    assert pq.run_worker_once(lease=3) is False
    assert record_of(pq, task_id).result == 2


def test_short_lived_worker_says_by_its_status_what_it_had_to_leave(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    task_id, other = pq.enqueue(tasks.add.call(1, 1)), pq.enqueue(tasks.add.call(2, 2))
    dead = dead_worker(connection)
    connection.execute("UPDATE pq_workers SET lease = '1 h'")
    left_running(connection, task_id, dead)

    worker = WorkerProcess(database, tmp_path / "log", until_empty=True, processes=2)
    try:
        assert worker.wait() == LEFT_BEHIND
    finally:
        worker.kill()

    assert f"1 of worker {dead} (dead)" in worker.text
    assert "another starts" not in worker.text
    assert (record_of(pq, task_id).status, record_of(pq, other).result) == (RUNNING, 4)


@pytest.mark.parametrize(
    ("ended", "seen", "taken"), [("now() - '1 min'", "now() - '6 s'", True), ("now() - '5 s'", "now() - '6 s'", False),
                                 ("pg_postmaster_start_time() - '9 s'", "pg_postmaster_start_time() - '1 s'", False)],
    ids=["long seen", "renewed since", "seen before a restart"],
)  # fmt: skip
def test_what_short_lived_workers_have_seen_adds_up(
    pq: PQ, connection: psycopg.Connection, ended: str, seen: str, taken: bool
) -> None:
    dead = dead_worker(connection)
    left_running(connection, pq.enqueue(tasks.add.call(1, 1)), dead)
    connection.execute("UPDATE pq_workers SET lease = '5 s'")
    assert not rescued_by_a_new_worker(connection), "it has not watched for as long as that lease"
    row = connection.execute("SELECT expired_seen_at > expires_at FROM pq_workers").fetchone()
    assert row == (True,), "the next one knows"

    # Once the server has been up for longer than that.
    connection.execute("SELECT pg_sleep(extract(epoch FROM pg_postmaster_start_time() + '7 s' - now()))")
    connection.execute(f"UPDATE pq_workers SET expires_at = {ended}::interval, expired_seen_at = {seen}::interval")
    assert rescued_by_a_new_worker(connection) == taken


def rescued_by_a_new_worker(connection: psycopg.Connection, known_dead: int = 0) -> bool:
    """Have a worker that has only just begun look for the dead, and leave."""
    row = connection.execute(
        "INSERT INTO pq_workers (expires_at, lease, pid, concurrency, name, host, pq_version, queues)"
        " VALUES (now() + interval '1 min', '1 min', 1, 1, 'short', 'here', '0', '{default}') RETURNING id"
    ).fetchone()
    assert row is not None
    rescue = Statements("public")["rescue"].text.encode()
    known = connection.execute(
        "SELECT coalesce(array_agg(id), '{}')::text, coalesce(array_agg(started_at), '{}')::text"
        " FROM pq_workers WHERE id = %s",
        (known_dead,),
    ).fetchone()
    assert known is not None
    dead, began = (str(one).encode() for one in known)
    result = connection.pgconn.exec_params(rescue, [str(row[0]).encode(), dead, b"f", b"{}", began, b"{}"])
    connection.execute("DELETE FROM pq_workers WHERE id = %s", row)
    return result.get_value(0, 0) == b"1"


def ended(connection: psycopg.Connection, worker: int, task_id: int, **says: object) -> None:
    """Record the end of a run as its worker does."""
    row = connection.execute("SELECT fence, started_at::text FROM pq_tasks WHERE id = %s", (task_id,)).fetchone()
    assert row is not None
    end = {
        "id": task_id,
        "fence": row[0],
        "started_at": row[1],
        "status": "pending",
        "outcome": "interrupted",
        "counted": False,
        **says,
    }
    report = Statements("public")["report"].text.encode()
    result = connection.pgconn.exec_params(report, [str(worker).encode(), json.dumps([end]).encode()])
    assert result.get_value(0, 3) == b"recorded", result.error_message


def test_starts_are_bounded_whether_they_count_or_not(pq: PQ, connection: psycopg.Connection) -> None:
    task_id = pq.enqueue(tasks.add.options(max_starts=4, max_attempts=9, on_failure=tasks.add.call(0)).call(1))
    worker = dead_worker(connection)
    for says in (
        {"begun": True},
        {"begun": False},  # it waited in its worker's inbox: that was no start
        {"outcome": "raised", "counted": True, "error": "no"},
        {"outcome": "snoozed"},
    ):
        left_running(connection, task_id, worker)
        ended(connection, worker, task_id, **says)
        assert record_of(pq, task_id).status is PENDING
    left_running(connection, task_id, worker)
    assert rescued_by_a_new_worker(connection, known_dead=worker)
    assert record_of(pq, task_id).status is PENDING, "three so far"
    worker = dead_worker(connection)
    left_running(connection, task_id, worker)
    ended(connection, worker, task_id, begun=True, error="interrupted")

    record = record_of(pq, task_id)
    assert (record.status, record.outcome, record.attempts) == (TaskStatus.FAILED, Outcome.INTERRUPTED, 1)
    assert record.error == "interrupted\nstarted 4 times: max_starts allows no other start"
    assert pq.pending_count() == 1, "on_failure"

    # Tried anew it has not started yet; what is lost then counts, as nobody can tell whether it had begun.
    pq.retry(task_id)
    for _ in range(4):
        worker = dead_worker(connection)
        left_running(connection, task_id, worker)
        assert record_of(pq, task_id).status is RUNNING
        assert rescued_by_a_new_worker(connection, known_dead=worker)
    record = record_of(pq, task_id)
    assert (record.status, record.outcome) == (TaskStatus.FAILED, Outcome.LOST)
    assert "started 4 times: max_starts allows no other start" in (record.error or "")


def test_worker_warns_of_a_task_that_starts_and_starts(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    path = tmp_path / "pids"
    task_id = pq.enqueue(tasks.nap.call(60, str(path)))
    connection.execute("UPDATE pq_tasks SET uncounted_starts = 4, uncounted_in_a_row = 4")
    with running(database, tmp_path, drain_timeout=0) as worker:
        eventually(path.exists)
        assert worker.stop() == 0
    assert f"task {task_id} ({tasks.nap.name}) has started 5 times in a row" in worker.text


def test_worker_that_lost_its_lease_ends_its_children_and_begins_anew(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    path = tmp_path / "pids"
    with running(database, tmp_path, lease=3) as worker:
        task_id = pq.enqueue(tasks.nap.call(9, str(path)))
        pid = int(eventually(lambda: path.exists() and path.read_text()))
        before = worker.workers
        connection.execute("DELETE FROM pq_workers")

        eventually(lambda: not alive(pid))
        worker.started(2)
        assert worker.workers == before, "the process goes on under a new lease"
        eventually(lambda: len(path.read_text().split()) == 2)
        assert record_of(pq, task_id).losses == 1


def test_claim_whose_answer_was_lost_is_put_back(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    with running(database, tmp_path, lease=3):
        (worker,) = pq.workers()
        task_id = pq.enqueue(tasks.add.options(run_in=timedelta(hours=1), on_lost="fail").call(1, 1))
        left_running(connection, task_id, worker.id)

        # It never started: so not even on_lost="fail" keeps it from running.
        record = wait_for(pq, task_id, COMPLETED)
    assert [attempt.outcome for attempt in pq.attempts(task_id)] == [Outcome.SUCCEEDED]
    assert record.attempts == 1


def test_end_whose_row_is_locked_is_recorded_later(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    with running(database, tmp_path):
        locked = pq.enqueue(tasks.nap.call(0.5))
        wait_for(pq, locked, RUNNING)
        with psycopg.connect(database) as holder:
            holder.execute("SELECT FROM pq_tasks WHERE id = %s FOR UPDATE", (locked,))
            time.sleep(1)
            # The others do not wait behind it.
            for _ in range(3):
                assert pq.wait(pq.enqueue(tasks.add.call(1, 1)), timeout=PATIENCE) == 2
            assert record_of(pq, locked).status is RUNNING
        assert pq.wait(locked, timeout=PATIENCE) == "rested"


def test_end_that_the_database_refuses_is_recorded_without_its_data(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    connection.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF NEW.result = '13' THEN RAISE 'no such number'; END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER refuse BEFORE UPDATE ON pq_tasks FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    refused, *others = pq.enqueue_many([tasks.add.call(number, 0) for number in (13, 1, 2, 3)])

    until_empty(database, tmp_path)

    assert record_of(pq, refused).status is TaskStatus.FAILED
    assert "no such number" in (record_of(pq, refused).error or "")
    assert [record_of(pq, task_id).result for task_id in others] == [1, 2, 3]


def test_claim_that_fails_undoes_no_end(pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection) -> None:
    with running(database, tmp_path, poll_interval=0.2) as worker:
        path = tmp_path / "started"
        task_id = pq.enqueue(tasks.starts.call(str(path)))
        eventually(path.exists)
        connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE 'not this one' USING ERRCODE = '22003'; END $$;"
            "CREATE TRIGGER refuse BEFORE UPDATE ON pq_tasks FOR EACH ROW WHEN (NEW.status = 'running')"
            " EXECUTE FUNCTION refuse()"
        )
        refused = pq.enqueue(tasks.add.call(1, 1))
        eventually(lambda: worker.text.count("not this one") >= 2)
        Path(f"{path}.go").touch()

        assert wait_for(pq, task_id, COMPLETED).result == 1
        connection.execute("DROP TRIGGER refuse ON pq_tasks")
        assert pq.wait(refused, timeout=PATIENCE) == 2
        assert "is recorded without its data" not in worker.text


def test_end_that_meets_what_is_missing_for_a_while_is_kept(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    connection.execute(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF NEW.result = '13' THEN INSERT INTO noted VALUES (NEW.id); END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER note BEFORE UPDATE ON pq_tasks FOR EACH ROW EXECUTE FUNCTION note()"
    )
    with running(database, tmp_path, poll_interval=0.2) as worker:
        kept = pq.enqueue(tasks.add.call(13, 0))
        eventually(lambda: worker.text.count("a turn failed") >= 3)
        # Nor do the others wait for it.
        assert pq.wait(pq.enqueue(tasks.add.call(1, 1)), timeout=PATIENCE) == 2
        assert record_of(pq, kept).status is RUNNING
        connection.execute("CREATE TABLE noted (id bigint)")

        assert pq.wait(kept, timeout=PATIENCE) == 13
    assert connection.execute("SELECT id FROM noted").fetchall() == [(kept,)]


def test_worker_that_drains_and_can_not_pass_on_tries_with_a_pause(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    with running(database, tmp_path, poll_interval=0.2) as worker:
        path = tmp_path / "started"
        task_id = pq.enqueue(tasks.starts.call(str(path)))
        eventually(path.exists)
        eventually(lambda: connection.execute("SELECT id FROM pq_workers WHERE sleeping").fetchone())
        connection.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'stay asleep'; END $$;"
            "CREATE TRIGGER refuse BEFORE UPDATE ON pq_workers FOR EACH ROW"
            " WHEN (OLD.sleeping AND NOT NEW.sleeping) EXECUTE FUNCTION refuse()"
        )
        worker.signal(signal.SIGTERM)
        eventually(lambda: "stay asleep" in worker.text)
        time.sleep(2)

        assert worker.text.count("stay asleep") < 20
        Path(f"{path}.go").touch()
        wait_for(pq, task_id, COMPLETED)
        connection.execute("DROP TRIGGER refuse ON pq_workers")


def test_turn_that_fails_again_and_again_is_not_repeated_without_a_pause(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    with running(database, tmp_path, poll_interval=0.2) as worker:
        connection.execute("ALTER TABLE pq_tasks RENAME TO hidden")
        time.sleep(3)
        connection.execute("ALTER TABLE hidden RENAME TO pq_tasks")

        assert 1 <= worker.text.count("a turn failed") < 20
        assert pq.wait(pq.enqueue(tasks.add.call(1, 1)), timeout=PATIENCE) == 2


def test_database_can_ask_a_worker_to_drain(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    with running(database, tmp_path, lease=3) as worker:
        task_id = pq.enqueue(tasks.nap.call(2))
        wait_for(pq, task_id, RUNNING)
        connection.execute("UPDATE pq_workers SET drain_requested = true")

        assert worker.wait() == 0
    assert record_of(pq, task_id).status is COMPLETED


@pytest.mark.parametrize("draining", [False, True], ids=["while it works", "while it drains"])
def test_stopped_worker_interrupts_what_it_runs_and_is_not_replaced(
    pq: PQ, database: str, tmp_path: Path, draining: bool
) -> None:
    with running(database, tmp_path, lease=600, drain_timeout=600, concurrency=1) as worker:
        task_ids = [pq.enqueue(tasks.nap.call(600)) for _ in range(2)]
        wait_for(pq, task_ids[0], RUNNING)
        [known] = pq.workers()
        if draining:
            assert pq.drain_worker(known.id)
            eventually(lambda: "draining" in worker.text)

        assert pq.stop_worker(known.id)

        assert worker.wait() == 0
        assert worker.text.count("started: queues") == 1
    records = [record_of(pq, task_id) for task_id in task_ids]
    assert [(one.status, one.attempts, one.worker_id) for one in records] == [(TaskStatus.PENDING, 0, None)] * 2
    [attempt] = pq.attempts(task_ids[0])
    assert (attempt.outcome, attempt.worker_id) == (Outcome.INTERRUPTED, known.id)
    assert pq.workers() == []
    assert not pq.stop_worker(known.id)


def test_worker_outside_the_main_thread_is_refused(pq: PQ) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            pq.run_worker(until_empty=True)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

    (error,) = errors
    assert isinstance(error, WorkerStartError)
    assert "main thread" in str(error)


def test_worker_in_this_process_is_stopped_by_a_second_signal(pq: PQ, database: str, tmp_path: Path) -> None:
    import subprocess
    import sys

    from tests.integration.worker_process import ROOT

    program = (
        "from tests.integration import worker_tasks as t; from pq_core import PQ\n"
        f"PQ({database!r}, tasks=[t.__name__]).run_worker(concurrency=2, drain_timeout=600)\n"
    )
    task_id = pq.enqueue(tasks.nap.call(600, str(tmp_path / "began")))
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    try:
        eventually((tmp_path / "began").exists)
        process.send_signal(signal.SIGTERM)
        eventually(lambda: pq.workers() and not pq.list_tasks(status="pending"))
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
    assert record_of(pq, task_id).status is PENDING
