"""A stopped task's statement ends with it at the server: no lock is kept, nothing takes effect later."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pq_core import PQ, Outcome, TaskRecord, TaskStatus, TaskTimeout
from pq_core.types import ClaimedTask
from pq_core.worker import statements
from pq_core.worker.shared import Place, StopReason
from pq_core.worker.stopping import Stopper
from tests.extras import needs
from tests.integration import statement_tasks as tasks
from tests.integration.worker_process import PATIENCE, WorkerProcess, alive, cloned, eventually, processes_of, running

PACKAGES = {
    "pool": ("psycopg_pool",),
    "psycopg2": ("psycopg2",),
    "sqlalchemy-psycopg": ("sqlalchemy",),
    "sqlalchemy-psycopg2": ("sqlalchemy", "psycopg2"),
    "django": ("django",),
    "asyncpg": ("asyncpg",),
    "sqlalchemy-psycopg-async": ("sqlalchemy", "greenlet"),
    "sqlalchemy-asyncpg": ("sqlalchemy", "greenlet", "asyncpg"),
}
KINDS = [pytest.param(kind, marks=needs(*PACKAGES.get(kind, ()))) for kind in (*tasks.SYNC, *tasks.ASYNC)]
DRIVERS = [
    pytest.param(kind, marks=needs(*PACKAGES.get(kind, ())))
    for kind in ("psycopg", "thread", "psycopg2", "psycopg-async", "asyncpg")
]
"""What is left of a transaction is up to them."""
ASYNC_KINDS = [pytest.param(kind, marks=needs(*PACKAGES.get(kind, ()))) for kind in tasks.ASYNC]


@dataclass
class Bench:
    pq: PQ
    worker: WorkerProcess
    connection: psycopg.Connection[Any]
    rows: int = 0

    def new_row(self) -> int:
        self.rows += 1
        self.connection.execute("INSERT INTO hot VALUES (%s, 0)", (self.rows,))
        return self.rows

    def value(self, row: int) -> int:
        found = self.connection.execute("SELECT n FROM hot WHERE id = %s", (row,)).fetchone()
        assert found is not None
        return int(found[0])

    def waiting(self) -> list[int]:
        """Return the server processes that wait for what the test holds."""
        found = self.connection.execute(
            "SELECT l.pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
            " WHERE l.locktype = 'advisory' AND NOT l.granted AND d.datname = current_database()"
        )
        return [pid for (pid,) in found]

    def ended(self, task_id: int) -> TaskRecord:
        def look() -> TaskRecord | None:
            record = self.pq.get_task(task_id)
            assert record is not None
            return record if record.status.finished else None

        return eventually(look)  # type: ignore[return-value]

    @contextmanager
    def gate(self) -> Iterator[None]:
        """Have statements of tasks wait."""
        self.connection.execute("SELECT pg_advisory_lock(1)")
        try:
            yield
        finally:
            self.connection.execute("SELECT pg_advisory_unlock_all()")


@contextmanager
def bench_of(server: str, template: str, folder: Path, **options: Any) -> Iterator[Bench]:
    options = {"app": f"{tasks.__name__}:create_pq", "concurrency": 2, **options}
    with cloned(server, template) as dsn, PQ(dsn, tasks=[tasks.__name__]) as pq:
        with psycopg.connect(dsn, autocommit=True) as connection, running(dsn, folder, **options) as worker:
            connection.execute("CREATE TABLE hot (id int PRIMARY KEY, n int NOT NULL)")
            yield Bench(pq, worker, connection)


@pytest.fixture(scope="module")
def bench(server: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench_of(server, template, tmp_path_factory.mktemp("statements")) as bench:
        yield bench


@pytest.fixture
def claimed() -> ClaimedTask:
    values = {field.name: None for field in dataclasses.fields(ClaimedTask)}
    return ClaimedTask(**{**values, "id": 7, "fence": 3, "options": {"grace": 0.1}})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def crowded(server: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    options: dict[str, Any] = {"async_concurrency": 8, "environment": {tasks.LAZY: "1"}}
    with bench_of(server, template, tmp_path_factory.mktemp("crowded"), **options) as bench:
        yield bench


def call_of(kind: str, row: int, **more: Any) -> Any:
    return (tasks.waits if kind in tasks.SYNC else tasks.awaits).call(kind, row, **more)


def no_effect_after_cancelled(bench: Bench, kind: str) -> None:
    row = bench.new_row()
    with bench.gate():
        task_id = bench.pq.enqueue(call_of(kind, row, effect=True))
        eventually(bench.waiting, within=2 * PATIENCE)  # the task loads the libraries

        bench.pq.cancel(task_id, reason="not wanted")
        record = bench.ended(task_id)

        assert record.status is TaskStatus.CANCELLED
        assert "not wanted" in str(record.error) or kind in tasks.ASYNC, record.error  # it was not killed
        assert bench.waiting() == []
    assert bench.value(row) == 0


def lock_is_gone_before_the_next_attempt(bench: Bench, kind: str) -> None:
    row = bench.new_row()
    with bench.gate():
        task_id = bench.pq.enqueue(call_of(kind, row), timeout=1.5)

        record = bench.ended(task_id)

    assert record.status is TaskStatus.COMPLETED, record.error
    assert bench.pq.attempts(task_id)[0].outcome is Outcome.TIMED_OUT
    assert bench.value(row) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_cancelled_task_has_no_effect_afterwards(bench: Bench, kind: str) -> None:
    no_effect_after_cancelled(bench, kind)


@pytest.mark.parametrize("kind", DRIVERS)
def test_timed_out_attempt_keeps_no_lock_from_the_next(bench: Bench, kind: str) -> None:
    lock_is_gone_before_the_next_attempt(bench, kind)


@pytest.mark.parametrize("kind", ASYNC_KINDS)
def test_statements_of_coroutines_that_share_a_process_end_with_them(crowded: Bench, kind: str) -> None:
    no_effect_after_cancelled(crowded, kind)


@needs("psycopg2")
def test_driver_that_the_task_itself_loads_is_watched(crowded: Bench) -> None:
    no_effect_after_cancelled(crowded, "psycopg2")


def test_stopped_task_can_use_its_connection_to_clean_up(bench: Bench) -> None:
    """Only what is under way when the stop comes is cancelled, and the driver knows that it is over."""
    row = bench.new_row()
    with bench.gate():
        task_id = bench.pq.enqueue(tasks.cleans_up.call(row))
        eventually(bench.waiting)

        bench.pq.cancel(task_id)

        record = bench.ended(task_id)
        assert record.status is TaskStatus.CANCELLED
    assert bench.value(row) == 1, record.error


def test_server_notices_that_a_killed_child_is_gone(bench: Bench) -> None:
    with bench.gate():
        bench.pq.enqueue(tasks.holds_on.call(), grace=60)
        eventually(bench.waiting)
        (worker,) = bench.worker.workers
        for child in processes_of(worker):
            os.kill(child, 9)

        eventually(lambda: bench.waiting() == [])

        assert alive(worker)


def test_stop_is_raised_within_a_short_grace_though_a_statement_does_not_end(bench: Bench) -> None:
    task_id = bench.pq.enqueue(tasks.cannot_cancel.call(), timeout=0.3, grace=1)

    record = bench.ended(task_id)

    assert "another thread is still cancelling statements" in str(record.error)


def test_statement_begun_after_the_stop_is_left_to_the_task(bench: Bench, claimed: ClaimedTask) -> None:
    """The watching thread was told of the stop, and had to wait; the handler has stopped the task meanwhile."""
    place = Place(tail=0)
    stopper = Stopper(place, claimed)
    stopper.arm(claimed)
    place.stop(claimed.id, claimed.fence, StopReason.TIMEOUT)
    assert stopper.is_told()
    with psycopg.connect(bench.pq.dsn) as connection, ThreadPoolExecutor(2) as threads:
        with bench.gate():
            with statements._one_at_a_time:
                watcher = threads.submit(
                    statements.cancel, drivers=("psycopg",), still=stopper.is_told, patience=PATIENCE
                )
                with pytest.raises(TaskTimeout):
                    stopper(signal.SIGTERM, None)
                next_one = threads.submit(connection.execute, tasks.WAIT)
                eventually(bench.waiting)
            assert watcher.result(PATIENCE) == []
        next_one.result(PATIENCE)  # not cancelled
    place.close()
