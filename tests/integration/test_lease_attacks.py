"""Leases under attack: processes that are stopped, a database out of reach, answers that are lost, tasks that kill."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pq_core import PQ, Outcome, TaskRecord, TaskStatus
from tests.chaos.proxy import Mode, Proxy
from tests.chaos.server import Server
from tests.integration import worker_tasks as tasks
from tests.integration.worker_process import PATIENCE, WorkerProcess, alive, eventually, running

PENDING, RUNNING, COMPLETED, FAILED = (
    TaskStatus.PENDING,
    TaskStatus.RUNNING,
    TaskStatus.COMPLETED,
    TaskStatus.FAILED,
)


@pytest.fixture
def pq(database: str) -> Iterator[PQ]:
    with PQ(database, tasks=[tasks.__name__]) as pq:
        yield pq


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a server of the module's own, reached by TCP, which tests may stop."""
    folder = tmp_path_factory.mktemp("postgres")
    for parent in (folder, *folder.parents):
        if parent.stat().st_mode & 0o777 == 0o700:
            parent.chmod(0o755)
    server = Server(folder).create().start()
    try:
        yield server
    finally:
        server.stop("immediate")


@pytest.fixture
def own(postgres: Server) -> str:
    """Return the DSN of a migrated database on the module's own server."""
    from pq_core.schema import migrate

    postgres.execute("DROP DATABASE IF EXISTS attacked WITH (FORCE)")
    postgres.execute("CREATE DATABASE attacked")
    dsn = make_conninfo(postgres.dsn, dbname="attacked")
    migrate(dsn, "public")
    return dsn


@pytest.fixture
def proxy(postgres: Server) -> Iterator[Proxy]:
    proxy = Proxy(postgres.port)
    try:
        yield proxy
    finally:
        proxy.close()


def through(proxy: Proxy, dsn: str) -> str:
    return make_conninfo(dsn, port=proxy.port)


def record_of(pq: PQ, task_id: int) -> TaskRecord:
    record = pq.get_task(task_id)
    assert record is not None
    return record


def wait_for(pq: PQ, task_id: int, status: TaskStatus) -> TaskRecord:
    eventually(lambda: record_of(pq, task_id).status is status, what=f"task {task_id} {status}")
    return record_of(pq, task_id)


def outcomes(pq: PQ, task_id: int) -> list[Outcome]:
    return [attempt.outcome for attempt in pq.attempts(task_id)]


def dead_worker(connection: psycopg.Connection, task_id: int, **columns: object) -> None:
    """Leave a task running under the lease of a worker that is long dead."""
    (worker,) = connection.execute(
        "INSERT INTO pq_workers (expires_at, continuous_since, lease, pid, concurrency, name, host, pq_version, queues)"
        " VALUES (now() - interval '1 hour', now(), '1 s', 1, 1, 'dead', 'gone', '0', '{default}') RETURNING id"
    ).fetchone() or (0,)
    values = {"worker_id": worker, "status": "running", **columns}
    connection.execute(
        f"UPDATE pq_tasks SET {', '.join(f'{name} = %({name})s' for name in values)}, fence = fence + 1,"
        " attempts = attempts + 1, started_at = now() WHERE id = %(id)s",
        {**values, "id": task_id},
    )


# --- poison


def test_third_loss_while_alone_is_the_task_s_fault(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    poison = pq.enqueue(tasks.add.call(1), on_failure=tasks.reports_failure.call("poison"))
    second = pq.enqueue(tasks.add.call(1, 1))
    beside = pq.enqueue(tasks.add.call(2, 2))
    dead_worker(connection, poison, alone=True, losses=4, lone_losses=2)
    dead_worker(connection, second, alone=True, losses=3, lone_losses=1)
    dead_worker(connection, beside, alone=False, losses=9, lone_losses=2)

    with running(database, tmp_path, lease=3):
        record = wait_for(pq, poison, FAILED)
        assert pq.wait(second, timeout=PATIENCE) == 2
        assert pq.wait(beside, timeout=PATIENCE) == 4, "lost beside others: nobody knows whose fault it was"
        eventually(lambda: f"poison: {poison}" in [one.result for one in pq.list_completed()])

    assert record.outcome is Outcome.LOST
    assert "suspect of killing its workers" in (record.error or "")
    assert (record.losses, record_of(pq, second).losses, record_of(pq, beside).losses) == (5, 4, 10)


def test_place_of_a_schedule_outlives_the_worker_that_had_it(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    """One run at a time: while the first one's worker is dead there is no second, afterwards there is."""
    path = tmp_path / "ticks"
    schedule = pq.schedule(
        tasks.note.call(str(path), "tick"), run_every=timedelta(seconds=1), max_concurrent=1, catch_up="all"
    )
    with running(database, tmp_path, lease=3):
        first = eventually(lambda: pq.list_tasks(status="completed"))[-1]
    # It ran, and died before it could say so; the schedule's other ticks wait for the place.
    connection.execute("DELETE FROM pq_tasks WHERE schedule_id = %s AND id <> %s", (schedule, first.id))
    connection.execute("UPDATE pq_tasks SET completed_at = NULL WHERE id = %s", (first.id,))
    dead_worker(connection, first.id)

    with running(database, tmp_path, lease=3):
        assert wait_for(pq, first.id, COMPLETED).losses == 1
        eventually(lambda: len(pq.list_tasks(status="completed")) > 2)
    for one in connection.execute("SELECT tick_at, count(*) FROM pq_tasks GROUP BY tick_at").fetchall():
        assert one[1] == 1


# --- those that live


def test_long_task_is_never_taken_from_a_worker_that_lives(pq: PQ, database: str, tmp_path: Path) -> None:
    """Three leases long, with another worker that has nothing better to do than to look for dead ones."""
    path = tmp_path / "pids"
    with running(database, tmp_path, lease=3), running(database, tmp_path, lease=3):
        task_id = pq.enqueue(tasks.nap.call(10, str(path)))
        assert pq.wait(task_id, timeout=PATIENCE) == "rested"
    assert len(path.read_text().split()) == 1
    assert (record_of(pq, task_id).attempts, record_of(pq, task_id).losses, record_of(pq, task_id).fence) == (1, 0, 1)


@contextmanager
def holding_still(worker: WorkerProcess, *pids: int) -> Iterator[None]:
    """Stop processes for as long as the block takes."""
    for pid in pids:
        worker.signal(signal.SIGSTOP, pid)
    try:
        yield
    finally:
        for pid in pids:
            if alive(pid):
                worker.signal(signal.SIGCONT, pid)


def test_stopped_worker_is_gone_before_another_starts_its_task(pq: PQ, database: str, tmp_path: Path) -> None:
    """The second attempt holds no lock that the first one, which still lived, would hold."""
    path = tmp_path / "lock"
    with running(database, tmp_path, lease=3) as stalled:
        task_id = pq.enqueue(tasks.locks.call(str(path), 60))
        eventually(path.exists)
        (worker,) = stalled.workers
        with running(database, tmp_path, lease=3), holding_still(stalled, worker):
            eventually(lambda: record_of(pq, task_id).fence == 2)
            eventually(lambda: len(path.read_text().split()) == 2)
            assert path.read_text().split() == ["1:alone", "2:alone"]
            assert not alive(worker), "its keeper has ended it"


def test_worker_whose_keeper_is_stopped_too_finds_its_lease_gone(pq: PQ, database: str, tmp_path: Path) -> None:
    path = tmp_path / "pids"
    with running(database, tmp_path, lease=3) as stalled:
        task_id = pq.enqueue(tasks.nap.call(20, str(path)))
        child = int(eventually(lambda: path.exists() and path.read_text()))
        (worker,) = stalled.workers
        (old,) = pq.workers()
        with holding_still(stalled, stalled.keeper):
            with running(database, tmp_path, lease=3, queues=["default", "other"]):
                with holding_still(stalled, worker):
                    eventually(lambda: record_of(pq, task_id).fence == 2)
                    assert alive(child), "nobody was there to end it"
                eventually(lambda: not alive(child))
                stalled.started(2)
                assert stalled.workers == [worker], "the same process, in another life"
                assert old.id not in [one.id for one in pq.workers()]
                # It has recorded nothing over its successor, whose attempt goes on.
                assert (record_of(pq, task_id).status, record_of(pq, task_id).fence) == (RUNNING, 2)
                assert outcomes(pq, task_id) == [Outcome.LOST]
                assert pq.wait(task_id, timeout=PATIENCE) == "rested"
        assert "lost its lease" in stalled.text
        assert "has not renewed its lease" not in stalled.text


def test_tasks_of_a_machine_that_is_gone_come_back(pq: PQ, database: str, tmp_path: Path) -> None:
    """Keeper and worker killed at once: nobody names the dead, only the end of the lease tells."""
    path = tmp_path / "pids"
    with running(database, tmp_path, lease=3) as gone, running(database, tmp_path, lease=3, queues=["other"]):
        task_id = pq.enqueue(tasks.nap.call(1.5, str(path)))
        eventually(path.exists)
        (worker,) = gone.workers
        for pid in (gone.keeper, worker):
            gone.signal(signal.SIGKILL, pid)
        record = wait_for(pq, task_id, PENDING)
    assert (record.outcome, record.losses, record.attempts) == (Outcome.LOST, 1, 0)


# --- a database out of reach


def test_nobody_is_blamed_for_an_outage_longer_than_the_lease(postgres: Server, own: str, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with PQ(own, tasks=[tasks.__name__]) as pq, running(own, tmp_path, lease=3, processes=2, concurrency=2) as worker:
        task_ids = [pq.enqueue(tasks.locks.call(f"{path}{number}", 600)) for number in range(2)]
        careful = pq.enqueue(tasks.nap.options(on_lost="fail").call(600))
        for task_id in (*task_ids, careful):
            wait_for(pq, task_id, RUNNING)
        pids = worker.workers
        for _ in range(3):
            fences = {task_id: record_of(pq, task_id).fence for task_id in task_ids}
            pq.close()
            postgres.stop("immediate")
            time.sleep(4.5)
            postgres.start()
            eventually(lambda: all(record_of(pq, one).fence > fences[one] for one in task_ids))  # noqa: B023

        assert worker.workers == pids
        for number, task_id in enumerate(task_ids):
            record = record_of(pq, task_id)
            assert (record.losses, record.attempts) == (0, 1), "it killed nobody"
            assert outcomes(pq, task_id) == [Outcome.LOST] * 3
            starts = eventually(lambda: (s := Path(f"{path}{number}").read_text().split()) and len(s) == 4 and s)  # noqa: B023
            assert [start.partition(":")[2] for start in starts] == ["alone"] * 4
        # It was ended by its own worker, and must not start twice.
        assert (record_of(pq, careful).status, record_of(pq, careful).outcome) == (FAILED, Outcome.LOST)


def test_stall_of_a_worker_is_held_against_its_tasks(pq: PQ, database: str, tmp_path: Path) -> None:
    """A task that brings its machine to a halt must not come back for ever as if the database had been away."""
    with running(database, tmp_path, lease=3) as stalled:
        task_id = pq.enqueue(tasks.nap.call(600))
        wait_for(pq, task_id, RUNNING)
        (worker,) = stalled.workers
        with holding_still(stalled, stalled.keeper):
            with holding_still(stalled, worker):
                time.sleep(5)
            eventually(lambda: record_of(pq, task_id).fence == 2)
            assert record_of(pq, task_id).losses == 1


@pytest.mark.parametrize("mode", [Mode.CUT, Mode.HALF_OPEN])
def test_worker_out_of_reach_ends_its_children_with_its_lease(
    own: str, proxy: Proxy, tmp_path: Path, mode: Mode
) -> None:
    path = tmp_path / "pids"
    with PQ(own, tasks=[tasks.__name__]) as pq, running(through(proxy, own), tmp_path, lease=4) as worker:
        task_id = pq.enqueue(tasks.nap.call(30, str(path)))
        child = int(eventually(lambda: path.exists() and path.read_text()))
        before = worker.workers
        proxy.set(mode)
        eventually(lambda: "lost its lease" in worker.text or not alive(child))
        # Its lease ended before its child did: that is the order of things.
        eventually(lambda: not alive(child))
        assert "lost its lease" in worker.text
        time.sleep(3)
        proxy.set(Mode.PASS)
        worker.started(2)
        eventually(lambda: record_of(pq, task_id).fence == 2)
        assert worker.workers == before
        assert record_of(pq, task_id).losses == 0


def test_results_of_an_outage_within_the_lease_are_kept(own: str, proxy: Proxy, tmp_path: Path) -> None:
    with PQ(own, tasks=[tasks.__name__]) as pq, running(through(proxy, own), tmp_path, lease=60) as worker:
        path = tmp_path / "pids"
        task_ids = [pq.enqueue(tasks.nap.call(1, str(path))) for _ in range(3)]
        eventually(lambda: path.exists() and len(path.read_text().split()) == 3)
        children = [int(pid) for pid in path.read_text().split()]
        proxy.set(Mode.CUT)
        eventually(lambda: not any(alive(child) for child in children))
        time.sleep(2)
        assert {record_of(pq, task_id).status for task_id in task_ids} == {RUNNING}
        proxy.set(Mode.PASS)
        for task_id in task_ids:
            assert pq.wait(task_id, timeout=PATIENCE) == "rested"
            assert (record_of(pq, task_id).attempts, record_of(pq, task_id).fence) == (1, 1)
        assert worker.text.count("next try in") > 2, "with pauses, not at once again and again"


def test_server_that_falls_silent_is_left_for_the_one_that_answers(
    postgres: Server, own: str, proxy: Proxy, tmp_path: Path
) -> None:
    """Two hosts in the DSN; the first accepts connections and says nothing, as a machine without power does not."""
    port = conninfo_to_dict(own)["port"]
    dsn = make_conninfo(own, host="127.0.0.1,127.0.0.1", port=f"{proxy.port},{port}", target_session_attrs="read-write")
    with PQ(own, tasks=[tasks.__name__]) as pq, running(dsn, tmp_path, lease=30) as worker:
        assert pq.wait(pq.enqueue(tasks.add.call(1, 1)), timeout=PATIENCE) == 2
        proxy.set(Mode.HALF_OPEN)
        assert pq.wait(pq.enqueue(tasks.add.call(2, 2)), timeout=2 * PATIENCE) == 4
        assert len(worker.workers) == 1


# --- the lost acknowledgement


@contextmanager
def unanswered(proxy: Proxy, statement: bytes) -> Iterator[None]:
    """Let a statement of the worker arrive, and its answer not; cut the connection at the end of the block."""
    proxy.trigger = statement
    yield
    proxy.trigger = None
    proxy.cut()


def test_claim_whose_answer_never_arrived_is_not_left_running(own: str, proxy: Proxy, tmp_path: Path) -> None:
    with PQ(own, tasks=[tasks.__name__]) as pq, running(through(proxy, own), tmp_path, lease=12) as worker:
        (lease,) = pq.workers()
        with unanswered(proxy, b"pq_claim"):
            # Not even this one stays behind: it never started.
            task_id = pq.enqueue(tasks.add.options(on_lost="fail").call(1, 1))
            wait_for(pq, task_id, RUNNING)

        assert pq.wait(task_id, timeout=2 * PATIENCE) == 2
        assert outcomes(pq, task_id) == [Outcome.SUCCEEDED]
        assert (record_of(pq, task_id).attempts, record_of(pq, task_id).fence) == (1, 2)
        assert [one.id for one in pq.workers()] == [lease.id], "under the same lease"
        assert worker.text.count("started: queues") == 1


@pytest.mark.parametrize("fails", [False, True])
def test_end_whose_acknowledgement_never_arrived_is_told_once(
    own: str, proxy: Proxy, tmp_path: Path, fails: bool
) -> None:
    with PQ(own, tasks=[tasks.__name__]) as pq, running(through(proxy, own), tmp_path, lease=60) as worker:
        call = tasks.sleeps_and_raises.call(0.5, str(tmp_path / "pids")) if fails else tasks.nap.call(0.5)
        with unanswered(proxy, b"pq_report"):
            task_id = pq.enqueue(call, on_failure=tasks.reports_failure.call("once"))
            wait_for(pq, task_id, FAILED if fails else COMPLETED)

        # What comes after it shows that it was settled: reports go in order.
        assert pq.wait(pq.enqueue(tasks.add.call(1, 1)), timeout=2 * PATIENCE) == 2
        record = record_of(pq, task_id)
        assert (record.attempts, record.losses, record.fence) == (1, 0, 1)
        assert outcomes(pq, task_id) == ([Outcome.RAISED] if fails else [])
        eventually(lambda: not pq.list_tasks(status="pending") and not pq.list_tasks(status="running"))
        told = [one.result for one in pq.list_completed() if one.result == f"once: {task_id}"]
        assert len(told) == fails
        assert "taken away" not in worker.text
        assert worker.text.count("attempt 1 of 1 raised") == fails
        assert worker.stop() == 0
