"""A database that lost a part of its history: a standby promoted too early, a restore, commits that a crash took."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from pq_core import PQ, Outcome, TaskRecord, TaskStatus
from pq_core.schema import migrate
from tests.chaos.server import Server
from tests.integration import worker_tasks as tasks
from tests.integration.worker_process import PATIENCE, WorkerProcess, alive, eventually, running

COMPLETED, FAILED, RUNNING = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.RUNNING


@pytest.fixture
def pq(database: str, connection: psycopg.Connection) -> Iterator[PQ]:
    connection.execute("CREATE TABLE effects (task bigint, fence bigint)")
    with PQ(database, tasks=[tasks.__name__]) as pq:
        yield pq


@pytest.fixture
def worker(database: str, pq: PQ, tmp_path: Path) -> Iterator[WorkerProcess]:
    with running(database, tmp_path, lease=3, poll_interval=0.2, grace=1) as worker:
        yield worker


def record_of(pq: PQ, task_id: int) -> TaskRecord:
    record = pq.get_task(task_id)
    assert record is not None
    return record


def wait_for(pq: PQ, task_id: int, status: TaskStatus) -> TaskRecord:
    eventually(lambda: record_of(pq, task_id).status is status, what=f"task {task_id} {status}")
    return record_of(pq, task_id)


def begun(path: Path) -> list[int]:
    """The processes in which a task ``starts`` has begun."""
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def tell(connection: psycopg.Connection, *, system: str, timeline: int | None) -> None:
    """Have the server say that it writes this history."""
    connection.execute(
        sql.SQL(
            "CREATE OR REPLACE FUNCTION pq_history(OUT system text, OUT timeline bigint) LANGUAGE sql"
            " AS $$ SELECT {}::text, {}::bigint $$"
        ).format(sql.Literal(system), sql.Literal(timeline))
    )


def history(connection: psycopg.Connection) -> tuple[str, int]:
    row = connection.execute("SELECT system, timeline FROM pq_history()").fetchone()
    assert row is not None
    return row[0], row[1]


def disconnect(connection: psycopg.Connection) -> None:
    """Break every other connection to the database."""
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


# --- real servers


@contextmanager
def lagging_pair(folder: Path) -> Iterator[tuple[Server, Server]]:
    """Run a primary with pq's tables, and an asynchronous standby."""
    primary = Server(folder / "primary").create().start()
    standby = None
    try:
        migrate(primary.dsn, "public")
        primary.execute("CREATE TABLE effects (task bigint, fence bigint)")
        standby = primary.copy_to(folder / "standby")
        yield primary, standby
    finally:
        primary.stop("immediate")
        if standby is not None:
            standby.stop("immediate")


def cut(primary: Server, standby: Server) -> None:
    """Let the standby have all that there is, and nothing more."""
    (at,) = primary.execute("SELECT pg_current_wal_flush_lsn()")[0]
    eventually(lambda: standby.execute("SELECT pg_last_wal_replay_lsn() >= %s", (at,))[0][0])
    standby.set("primary_conninfo", "")
    eventually(lambda: not standby.execute("SELECT FROM pg_stat_wal_receiver"))


def until_id(pq: PQ, task_id: int) -> None:
    """Use ids up, for a queue that nobody serves, until ``task_id`` is the next."""
    while pq.enqueue(tasks.add.options(queue="nobody").call(0)) < task_id - 1:
        pass


def test_standby_that_lags_is_promoted(tmp_path: Path) -> None:
    with lagging_pair(tmp_path) as (primary, standby):
        both = (
            f"host=127.0.0.1,127.0.0.1 port={primary.port},{standby.port} user=postgres dbname=postgres"
            " target_session_attrs=read-write connect_timeout=5"
        )
        with (
            PQ(both, tasks=[tasks.__name__]) as pq,
            running(both, tmp_path, lease=30, poll_interval=0.2, concurrency=8, queues=("default",)) as worker,
        ):
            paths = {name: tmp_path / name for name in ("retried", "once", "completes", "lost")}
            retried = pq.enqueue(tasks.starts.call(str(paths["retried"])))
            once = pq.enqueue(tasks.starts.call(str(paths["once"])), on_lost="fail")
            completes = pq.enqueue(tasks.completes_when_told.call(str(paths["completes"]), lingers=True))
            eventually(lambda: all(record_of(pq, id_).status is RUNNING for id_ in (retried, once, completes)))
            eventually(lambda: begun(paths["once"]) and begun(paths["retried"]))
            cut(primary, standby)

            # What nobody will have heard of: a task that ends, one that completes itself, tasks whose ids come again.
            Path(f"{paths['once']}.go").touch()
            wait_for(pq, once, COMPLETED)
            paths["completes"].touch()
            wait_for(pq, completes, COMPLETED)
            until_id(pq, completes + 60)
            lost = [pq.enqueue(tasks.starts.call(str(paths["lost"]))) for _ in range(2)]
            eventually(lambda: len(begun(paths["lost"])) == 2)

            primary.stop("immediate")
            standby.execute("SELECT pg_promote()")
            until_id(pq, lost[0])
            again = [pq.enqueue(tasks.add.call(1000, n)) for n in range(2)]
            assert again == lost, "the sequence gives their ids again"

            assert [pq.wait(task_id, timeout=PATIENCE) for task_id in again] == [1000, 1001]
            assert all(record_of(pq, task_id).attempts == 1 for task_id in again)
            eventually(lambda: not any(alive(pid) for pid in begun(paths["lost"])))
            # It ran to its end, which is lost: it does not start again.
            failed = wait_for(pq, once, FAILED)
            assert (failed.outcome, len(begun(paths["once"]))) == (Outcome.LOST, 1)
            assert "lost a part of its history" in (failed.error or "")
            assert "on_lost" in (failed.error or "")
            # Its commit is lost: it runs again, and then there is one.
            Path(f"{paths['completes']}.end").touch()
            again_completed = wait_for(pq, completes, COMPLETED)
            assert (again_completed.fence, again_completed.attempts, again_completed.losses) == (2, 1, 0)
            assert standby.execute("SELECT task, fence FROM effects") == [(completes, 2)]
            # What ran goes on from its beginning, uncounted.
            Path(f"{paths['retried']}.go").touch()
            assert wait_for(pq, retried, COMPLETED).result == 2
            assert record_of(pq, retried).attempts == 1
            assert worker.text.count("lost its lease: the database went from timeline 1 of") == 1, worker.text
            assert "to timeline 2 of system" in worker.text


def test_restore_of_a_snapshot_under_a_worker_that_runs(tmp_path: Path) -> None:
    """As of a volume: the same system, the same timeline, an earlier time."""
    server = Server(tmp_path / "server").create().start()
    try:
        migrate(server.dsn, "public")
        with (
            PQ(server.dsn, tasks=[tasks.__name__]) as pq,
            running(server.dsn, tmp_path, lease=30, poll_interval=0.2, queues=("default",)) as worker,
        ):
            kept, gone = tmp_path / "kept", tmp_path / "gone"
            task_id = pq.enqueue(tasks.starts.call(str(kept)), on_lost="fail")
            eventually(lambda: begun(kept))
            renewed = server.execute("SELECT heartbeat_at FROM pq_workers")[0][0]
            with server.saving(tmp_path / "snapshot"):
                pass
            until_id(pq, task_id + 60)
            lost = pq.enqueue(tasks.starts.call(str(gone)))
            eventually(lambda: begun(gone))
            with psycopg.connect(server.dsn, autocommit=True) as connection:
                disconnect(connection)  # a new connection renews at once
            eventually(lambda: server.execute("SELECT heartbeat_at FROM pq_workers")[0][0] > renewed)
            server.stop("immediate")
            server.restore(tmp_path / "snapshot")
            server.start()

            until_id(pq, lost)
            assert pq.enqueue(tasks.add.call(40, 2)) == lost, "the sequence gives its id again"
            assert pq.wait(lost, timeout=PATIENCE) == 42
            failed = wait_for(pq, task_id, FAILED)
            assert "lost a part of its history" in (failed.error or "")
            eventually(lambda: not any(alive(pid) for pid in (*begun(kept), *begun(gone))))
            assert (len(begun(kept)), len(begun(gone))) == (1, 1)
            assert "went back to a time before" in worker.text
    finally:
        server.stop("immediate")


# --- one server that says it


def test_history_is_told_where_it_may_be(database: str, connection: psycopg.Connection, pq: PQ) -> None:
    system, timeline = history(connection)
    assert system == str(connection.execute("SELECT system_identifier FROM pg_control_system()").fetchone()[0])  # type: ignore[index]
    assert timeline >= 1


def test_server_that_was_left_behind_is_left(
    pq: PQ, worker: WorkerProcess, connection: psycopg.Connection, tmp_path: Path
) -> None:
    path = tmp_path / "started"
    task_id = pq.enqueue(tasks.starts.call(str(path)))
    eventually(lambda: begun(path))
    system, timeline = history(connection)
    tell(connection, system=system, timeline=timeline - 1)
    disconnect(connection)
    eventually(lambda: "writes an older history than" in worker.text)
    waiting = pq.enqueue(tasks.add.call(1, 1))
    assert record_of(pq, waiting).status is TaskStatus.PENDING
    tell(connection, system=system, timeline=timeline)

    assert pq.wait(waiting, timeout=PATIENCE) == 2
    Path(f"{path}.go").touch()
    assert pq.wait(task_id, timeout=PATIENCE) == 1
    assert "children are ended" not in worker.text


def test_older_history_is_taken_when_it_is_all_that_there_is(
    pq: PQ, worker: WorkerProcess, connection: psycopg.Connection, tmp_path: Path
) -> None:
    """As after the restore of a snapshot from before the last failover."""
    path = tmp_path / "started"
    task_id = pq.enqueue(tasks.starts.call(str(path)))
    eventually(lambda: begun(path))
    system, timeline = history(connection)
    tell(connection, system=system, timeline=timeline - 1)
    disconnect(connection)
    eventually(lambda: "writes an older history than" in worker.text)
    Path(f"{path}.go").touch()

    assert pq.wait(pq.enqueue(tasks.add.call(1, 1)), timeout=PATIENCE) == 2
    assert pq.wait(task_id, timeout=PATIENCE) == len(begun(path))
    assert worker.text.count("no other has answered since") == 1
    assert worker.text.count("the work connection is back") <= 1, "a server that is left at once has not served"


def test_newer_history_ends_what_runs_once(
    pq: PQ, worker: WorkerProcess, connection: psycopg.Connection, tmp_path: Path
) -> None:
    """Also where no connection was lost, as behind a pooler: with the next heartbeat."""
    path = tmp_path / "started"
    task_id = pq.enqueue(tasks.starts.call(str(path)))
    (pid,) = eventually(lambda: begun(path))
    system, timeline = history(connection)
    tell(connection, system=system, timeline=timeline + 1)

    eventually(lambda: len(begun(path)) == 2)
    assert not alive(pid)
    Path(f"{path}.go").touch()
    assert pq.wait(task_id, timeout=PATIENCE) == 2
    record = record_of(pq, task_id)
    assert (record.attempts, record.losses, record.fence) == (1, 0, 2)
    assert worker.text.count("children are ended") == 1


def test_newer_history_while_the_worker_drains(
    pq: PQ, database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    """What is ended because of it does not wait for a lease that nobody holds any more."""
    paths = {name: tmp_path / name for name in ("retry", "fail")}
    with running(database, tmp_path, lease=600, concurrency=2) as worker:
        ids = {name: pq.enqueue(tasks.starts.call(str(path)), on_lost=name) for name, path in paths.items()}
        eventually(lambda: all(begun(path) for path in paths.values()))
        system, timeline = history(connection)
        worker.signal(signal.SIGTERM)
        eventually(lambda: "draining" in worker.text)
        tell(connection, system=system, timeline=timeline + 1)
        disconnect(connection)
        assert worker.wait() == 0

    back, failed = record_of(pq, ids["retry"]), record_of(pq, ids["fail"])
    assert (back.status, back.losses, back.attempts) == (TaskStatus.PENDING, 0, 0)
    assert (failed.status, failed.outcome) == (FAILED, Outcome.LOST)
    assert "lost a part of its history" in (failed.error or "")
    assert not pq.workers()


def test_lease_of_another_under_the_same_id_is_not_renewed(
    pq: PQ, worker: WorkerProcess, connection: psycopg.Connection
) -> None:
    (before,) = pq.workers()
    connection.execute("UPDATE pq_workers SET started_at = started_at + interval '1 microsecond'")
    eventually(lambda: "another worker has removed it" in worker.text)
    task_id = pq.enqueue(tasks.add.call(1, 1))

    assert pq.wait(task_id, timeout=PATIENCE) == 2
    assert record_of(pq, task_id).worker_id != before.id
    assert before.id in [one.id for one in pq.workers()], "the other's lease is the other's"


def test_claim_of_what_still_runs_here_is_not_started(
    pq: PQ, worker: WorkerProcess, connection: psycopg.Connection, tmp_path: Path
) -> None:
    path = tmp_path / "started"
    task_id = pq.enqueue(tasks.starts.call(str(path)))
    (pid,) = eventually(lambda: begun(path))
    # As another task would come under the same id: it gets the same fence.
    connection.execute(
        "UPDATE pq_tasks SET status = 'pending', fence = 0, attempts = 0, worker_id = NULL WHERE id = %s", (task_id,)
    )
    pq.enqueue(tasks.add.call(1))

    eventually(lambda: len(begun(path)) == 2)
    assert "was claimed anew while it still runs here" in worker.text
    eventually(lambda: not alive(pid))
    Path(f"{path}.go").touch()
    assert pq.wait(task_id, timeout=PATIENCE) == 2
    assert record_of(pq, task_id).attempts == 1


# --- commits that are gone, on the same timeline


def forget_the_end(connection: psycopg.Connection, task_id: int, before: TaskRecord) -> None:
    """Make a row what it was while it ran, as a crash does with ``synchronous_commit = off``."""
    connection.execute(
        "UPDATE pq_tasks SET status = 'running', outcome = NULL, completed_at = NULL, result = NULL, worker_id = %s"
        " WHERE id = %s",
        (before.worker_id, task_id),
    )


@pytest.mark.parametrize("on_lost", ["fail", "retry"])
def test_end_that_is_lost_is_remembered(
    pq: PQ, worker: WorkerProcess, connection: psycopg.Connection, tmp_path: Path, on_lost: str
) -> None:
    path = tmp_path / "started"
    task_id = pq.enqueue(tasks.starts.call(str(path)), on_lost=on_lost)  # type: ignore[call-overload]
    eventually(lambda: begun(path))
    before = record_of(pq, task_id)
    Path(f"{path}.go").touch()
    assert pq.wait(task_id, timeout=PATIENCE) == 1
    forget_the_end(connection, task_id, before)

    if on_lost == "fail":
        record = wait_for(pq, task_id, FAILED)
        assert (record.outcome, len(begun(path))) == (Outcome.LOST, 1)
        assert "lost how it ended" in (record.error or "")
    else:
        assert wait_for(pq, task_id, COMPLETED).result == 2


@pytest.mark.parametrize("on_lost", ["fail", "retry"])
def test_end_that_can_not_be_recorded_is_remembered(
    pq: PQ, worker: WorkerProcess, connection: psycopg.Connection, tmp_path: Path, on_lost: str
) -> None:
    path = tmp_path / "started"
    connection.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused'; END $$;"
        "CREATE TRIGGER refuse BEFORE UPDATE ON pq_tasks FOR EACH ROW"
        " WHEN (NEW.status IN ('completed', 'failed')) EXECUTE FUNCTION refuse()"
    )
    task_id = pq.enqueue(tasks.starts.call(str(path)), on_lost=on_lost)  # type: ignore[call-overload]
    eventually(lambda: begun(path))
    Path(f"{path}.go").touch()
    eventually(lambda: worker.text.count("can't be recorded") >= 2)
    connection.execute("DROP TRIGGER refuse ON pq_tasks")

    if on_lost == "fail":
        record = wait_for(pq, task_id, FAILED)
        assert (record.outcome, len(begun(path))) == (Outcome.LOST, 1)
        assert "can't record how it ended" in (record.error or "")
    else:
        wait_for(pq, task_id, COMPLETED)
        (counted,) = connection.execute("SELECT uncounted_starts FROM pq_tasks").fetchall()
        assert counted[0] >= 1, "what has started counts for max_starts"


def test_end_that_is_lost_when_the_worker_leaves(
    pq: PQ, database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    path = tmp_path / "started"
    with running(database, tmp_path, lease=60) as worker:
        task_id = pq.enqueue(
            tasks.starts.call(str(path)), on_lost="fail", on_failure=tasks.add.options(queue="nobody").call(1)
        )
        eventually(lambda: begun(path))
        before = record_of(pq, task_id)
        Path(f"{path}.go").touch()
        assert pq.wait(task_id, timeout=PATIENCE) == 1
        forget_the_end(connection, task_id, before)
        assert worker.stop() == 0

    record = record_of(pq, task_id)
    assert (record.status, record.outcome) == (FAILED, Outcome.LOST)
    assert "how it ended is not recorded" in (record.error or "")
    assert connection.execute("SELECT count(*) FROM pq_tasks WHERE queue = 'nobody'").fetchone() == (1,)


def test_commit_of_a_completion_that_is_lost(
    pq: PQ, worker: WorkerProcess, connection: psycopg.Connection, tmp_path: Path
) -> None:
    path = tmp_path / "told"
    task_id = pq.enqueue(tasks.completes_when_told.call(str(path), lingers=True))
    before = wait_for(pq, task_id, RUNNING)
    path.touch()
    eventually(Path(f"{path}.completed").exists)
    with connection.transaction():
        connection.execute("DELETE FROM effects")
        forget_the_end(connection, task_id, before)
    disconnect(connection)
    eventually(lambda: "the work connection is back" in worker.text and "the watch connection is back" in worker.text)
    Path(f"{path}.end").touch()

    record = wait_for(pq, task_id, COMPLETED)
    assert (record.fence, record.attempts) == (2, 1)
    assert connection.execute("SELECT fence FROM effects").fetchall() == [(2,)]
    assert [one.outcome for one in pq.attempts(task_id)] == [Outcome.LOST]
    starts = "SELECT uncounted_starts FROM pq_tasks WHERE id = %s"
    assert connection.execute(starts, (task_id,)).fetchone() == (1,)


def test_completion_that_a_failover_behind_a_pooler_took(
    pq: PQ, database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    """No connection of the worker breaks: it asks which history this is before it judges the end."""
    path = tmp_path / "told"
    with running(database, tmp_path, lease=600, poll_interval=0.2) as worker:
        task_id = pq.enqueue(tasks.completes_when_told.call(str(path), lingers=True))
        before = wait_for(pq, task_id, RUNNING)
        path.touch()
        eventually(Path(f"{path}.completed").exists)
        system, timeline = history(connection)
        with connection.transaction():
            connection.execute("DELETE FROM effects")
            forget_the_end(connection, task_id, before)
            tell(connection, system=system, timeline=timeline + 1)
        Path(f"{path}.end").touch()

        record = wait_for(pq, task_id, COMPLETED)
        assert (record.fence, record.attempts, record.losses) == (2, 1, 0)
        assert "children are ended" in worker.text
    assert connection.execute("SELECT fence FROM effects").fetchall() == [(2,)]


def test_completion_that_was_never_committed_counts(pq: PQ, worker: WorkerProcess) -> None:
    task_id = pq.enqueue(tasks.completes_without_commit.call(), max_attempts=2)

    record = wait_for(pq, task_id, FAILED)
    assert (record.outcome, record.attempts) == (Outcome.RAISED, 2)
    assert "no transaction that did so is committed" in (record.error or "")
