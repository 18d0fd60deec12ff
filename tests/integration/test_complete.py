"""``current_attempt().complete(connection)``: a task's own writes and its completion are one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from pq_core import PQ, Outcome, TaskFailed, TaskRecord, TaskStatus
from pq_core.executor import find_executor
from pq_core.store import Store
from tests.integration import worker_tasks as tasks
from tests.integration.worker_process import PATIENCE, WorkerProcess, eventually, running

COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED


@pytest.fixture
def pq(database: str, connection: psycopg.Connection) -> Iterator[PQ]:
    connection.execute("CREATE TABLE effects (task bigint, fence bigint)")
    with PQ(database, tasks=[tasks.__name__]) as pq:
        yield pq


@pytest.fixture
def worker(database: str, pq: PQ, tmp_path: Path) -> Iterator[WorkerProcess]:
    with running(database, tmp_path, lease=3, poll_interval=0.2, grace=1) as worker:
        yield worker


def ended(pq: PQ, task_id: int) -> TaskRecord:
    try:
        pq.wait(task_id, timeout=PATIENCE)
    except TaskFailed:
        pass
    record = pq.get_task(task_id)
    assert record is not None
    return record


def effects(connection: psycopg.Connection) -> list[int]:
    """The fences of the attempts whose writes are visible."""
    return [fence for (fence,) in connection.execute("SELECT fence FROM effects ORDER BY fence").fetchall()]


@pytest.mark.parametrize("how", ["kill", "raise", "return"])
def test_after_the_commit_nothing_undoes_it(
    pq: PQ, worker: WorkerProcess, connection: psycopg.Connection, how: str
) -> None:
    record = ended(pq, pq.enqueue(tasks.completes.call(f"after {how}")))

    assert (record.status, record.outcome, record.result) == (COMPLETED, Outcome.SUCCEEDED, {"by": "complete"})
    assert (record.attempts, record.error) == (1, None)
    assert effects(connection) == [1]
    # The worker's later word changed nothing, and added what it measured.
    record = eventually(lambda: (r := pq.get_task(record.id)) and r.ledger and r)  # type: ignore[assignment]
    assert (record.status, record.outcome, record.fence) == (COMPLETED, Outcome.SUCCEEDED, 1)


def test_timeout_after_the_commit_changes_nothing(
    pq: PQ, worker: WorkerProcess, connection: psycopg.Connection
) -> None:
    task_id = pq.enqueue(tasks.completes.call("after hang"), timeout=1)

    record = eventually(lambda: (r := pq.get_task(task_id)) and r.ledger and r)
    assert record
    assert (record.status, record.outcome, record.result) == (COMPLETED, Outcome.SUCCEEDED, {"by": "complete"})
    assert record.ledger
    assert record.ledger["wall"] >= 1
    assert effects(connection) == [1]
    assert "changes nothing" in worker.text


@pytest.mark.parametrize("when", ["before kill", "within kill", "before raise", "within raise"])
def test_before_the_commit_nothing_is_visible_and_it_runs_again(
    pq: PQ, worker: WorkerProcess, connection: psycopg.Connection, when: str
) -> None:
    record = ended(pq, pq.enqueue(tasks.completes.call(when)))

    assert (record.status, record.outcome, record.result) == (COMPLETED, Outcome.SUCCEEDED, {"by": "complete"})
    assert effects(connection) == [2], "of the first attempt nothing is left"
    first = pq.attempts(record.id)[0]
    assert first.outcome is (Outcome.CRASHED if "kill" in when else Outcome.RAISED)


def test_before_the_commit_and_without_attempts_left_it_fails(
    pq: PQ, worker: WorkerProcess, connection: psycopg.Connection
) -> None:
    record = ended(pq, pq.enqueue(tasks.completes.call("within kill"), max_attempts=1))

    assert (record.status, record.outcome) == (FAILED, Outcome.CRASHED)
    assert effects(connection) == []


def test_acomplete(pq: PQ, worker: WorkerProcess, connection: psycopg.Connection) -> None:
    record = ended(pq, pq.enqueue(tasks.acompletes.call()))

    assert (record.status, record.result) == (COMPLETED, "async")
    assert effects(connection) == [1]


def test_second_completion_is_lost(pq: PQ, worker: WorkerProcess) -> None:
    record = ended(pq, pq.enqueue(tasks.completes_twice.call()))

    assert (record.status, record.outcome) == (FAILED, Outcome.RAISED)
    assert "AttemptLost" in (record.error or "")


def test_attempt_that_lost_its_fence_rolls_back(
    pq: PQ, worker: WorkerProcess, connection: psycopg.Connection, tmp_path: Path
) -> None:
    told = tmp_path / "go"
    task_id = pq.enqueue(tasks.completes_when_told.call(str(told)))
    eventually(Path(f"{told}.started").exists)
    # As a rescuer does it whose clock ran ahead; the heartbeat that would notice may come later than the attempt's end.
    connection.execute("UPDATE pq_tasks SET fence = fence + 1, worker_id = 4711 WHERE id = %s", (task_id,))
    told.touch()

    eventually(lambda: f"task {task_id}" in worker.text and "taken away" in worker.text)
    row = connection.execute("SELECT status, fence, result FROM pq_tasks WHERE id = %s", (task_id,)).fetchone()
    assert effects(connection) == []
    assert row is not None
    assert row[0] in ("running", "pending", "completed")


def test_task_taken_away_is_ended(
    pq: PQ, worker: WorkerProcess, connection: psycopg.Connection, tmp_path: Path
) -> None:
    from tests.integration.worker_process import alive

    told = tmp_path / "never"
    task_id = pq.enqueue(tasks.completes_when_told.call(str(told)))
    eventually(Path(f"{told}.started").exists)
    pid = int(eventually(Path(f"{told}.started").read_text))
    connection.execute("UPDATE pq_tasks SET fence = fence + 1, worker_id = 4711 WHERE id = %s", (task_id,))

    eventually(lambda: not alive(pid))


def test_version_parked_before_the_completion_runs_next(
    pq: PQ, worker: WorkerProcess, connection: psycopg.Connection, tmp_path: Path
) -> None:
    told = tmp_path / "go"
    task_id = pq.enqueue(tasks.completes_when_told.call(str(told)), client_id="parked")
    eventually(Path(f"{told}.started").exists)
    pq.upsert(tasks.add.call(1, 1), client_id="parked")
    told.touch()

    record = eventually(lambda: (r := pq.get_task(task_id)) and r.status is COMPLETED and r.name == "w.add" and r)
    assert record
    assert record.result == 2
    assert effects(connection) == [1]
    outcomes = [attempt.outcome for attempt in pq.attempts(task_id)]
    assert outcomes == [Outcome.SUCCEEDED, Outcome.SUCCEEDED]


def test_cancel_after_the_completion_comes_too_late(
    pq: PQ, worker: WorkerProcess, connection: psycopg.Connection
) -> None:
    record = ended(pq, pq.enqueue(tasks.completes.call("after return")))

    assert not pq.cancel(record.id)
    assert ended(pq, record.id).status is COMPLETED


@pytest.mark.parametrize(
    ("queue", "wait", "told"),
    [("default", 0, ["default"]), ("other", 0, []), ("default", 2, ["default"]), ("default", 60, [])],
)
def test_parked_version_that_takes_the_place_of_a_completed_one_wakes_workers_that_sleep(
    pq: PQ, database: str, connection: psycopg.Connection, queue: str, wait: int, told: list[str]
) -> None:
    """Beside the worker that ran the task, which hears of it when the process of the attempt has ended."""
    task_id = pq.enqueue(tasks.add.call(1), client_id="parked")
    claimed = datetime.now(UTC)
    connection.execute(
        "UPDATE pq_tasks SET status = 'running', worker_id = 7, attempts = 1, fence = 1, started_at = %s", (claimed,)
    )
    again = tasks.add.options(queue=queue, run_at=datetime.now(UTC) + timedelta(seconds=wait))
    pq.upsert(again.call(2), client_id="parked")
    connection.execute(
        "INSERT INTO pq_workers (id, name, expires_at, lease, pid, concurrency, host, pq_version, queues, sleeping)"
        " VALUES (8, 'w', now() + interval '1 h', '1 h', 1, 9, 'here', '1', '{default}', true)"
    )
    request = Store("public").complete(task_id, fence=1, started_at=claimed, worker_id=7, result=None)
    with psycopg.connect(database, autocommit=True) as listening:
        channel = listening.execute("SELECT pq_channel('wake')").fetchone()
        assert channel is not None
        listening.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel[0])))

        with psycopg.connect(database) as own:
            rows = find_executor(own).execute(request.statement, request.parameters)
            assert request.parse(rows)  # type: ignore[arg-type]
        connection.execute("SELECT pg_notify(%s, 'the last')", (channel[0],))
        assert [note.payload for note in listening.notifies(timeout=10, stop_after=len(told) + 1)] == [
            *told,
            "the last",
        ]
    assert pq.get_task(task_id).status is TaskStatus.PENDING  # type: ignore[union-attr]
