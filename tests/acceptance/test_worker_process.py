"""The keeper and its workers as processes of their own: real signals, real kills, a real restart of Postgres."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import psycopg
import pytest

from pq_core import PQ, Outcome, Task, TaskStatus
from tests.integration import worker_tasks as tasks
from tests.integration.worker_process import (
    PATIENCE,
    WorkerProcess,
    alive,
    children_of,
    descendants_of,
    eventually,
    memory_of,
    processes_of,
)
from tests.integration.worker_process import running as running_with_spares

PENDING, RUNNING, COMPLETED = TaskStatus.PENDING, TaskStatus.RUNNING, TaskStatus.COMPLETED

running = partial(running_with_spares, spares=0)  # a process below the worker is one that runs a task: see wait_running


@pytest.fixture
def pq(database: str) -> Iterator[PQ]:
    with PQ(database, tasks=[tasks.__name__]) as pq:
        yield pq


def wait_running(pq: PQ, worker: WorkerProcess, *task_ids: int) -> None:
    """Wait until each has a process: one that is only claimed yet goes back to the others when its worker stops."""
    for task_id in task_ids:
        eventually(lambda: (r := pq.get_task(task_id)) and r.status is RUNNING)  # noqa: B023
    eventually(lambda: sum(len(processes_of(pid)) for pid in worker.workers) >= len(task_ids))


def statuses(pq: PQ, *task_ids: int) -> set[TaskStatus]:
    return {record.status for task_id in task_ids if (record := pq.get_task(task_id)) is not None}


# --- orderly stops


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_signal_drains(pq: PQ, database: str, tmp_path: Path, number: int) -> None:
    with running(database, tmp_path) as worker:
        short = [pq.enqueue(tasks.nap.call(1.0)) for _ in range(3)]
        wait_running(pq, worker, *short)
        worker.signal(number)
        eventually(lambda: "draining: " in worker.text)
        late = pq.enqueue(tasks.add.call(1))

        assert worker.wait() == 0
        assert statuses(pq, *short) == {COMPLETED}
        assert statuses(pq, late) == {PENDING}
        assert pq.workers() == []


def test_drain_timeout_interrupts_and_puts_back_at_once(pq: PQ, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, drain_timeout=0.5) as worker:
        calls = [tasks.nap.call(60), tasks.holds_the_gil.options(timeout=600).call()]
        task_ids = [pq.enqueue(call) for call in calls]
        wait_running(pq, worker, *task_ids)
        assert worker.stop() == 0

        for task_id in task_ids:
            record = pq.get_task(task_id)
            assert record is not None
            assert (record.status, record.outcome, record.attempts) == (PENDING, Outcome.INTERRUPTED, 0)
            assert record.run_at <= record.created_at + timedelta(seconds=PATIENCE)
        assert pq.workers() == []


def test_second_signal_stops_now(pq: PQ, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, drain_timeout=600) as worker:
        task_id = pq.enqueue(tasks.nap.call(600))
        wait_running(pq, worker, task_id)
        worker.signal(signal.SIGTERM)
        eventually(lambda: "draining: 1" in worker.text)
        time.sleep(0.3)
        assert statuses(pq, task_id) == {RUNNING}
        worker.signal(signal.SIGTERM)

        assert worker.wait() == 0
        assert statuses(pq, task_id) == {PENDING}


def test_service_manager_that_signals_every_process_drains(pq: PQ, database: str, tmp_path: Path) -> None:
    """systemd sends SIGTERM to keeper, workers and children alike: that is one request, not two."""
    with running(database, tmp_path) as worker:
        task_id = pq.enqueue(tasks.nap.call(2.0))
        wait_running(pq, worker, task_id)
        for pid in [worker.keeper, *descendants_of(worker.keeper)]:
            worker.signal(signal.SIGTERM, pid)

        assert worker.wait() == 0
        assert statuses(pq, task_id) == {COMPLETED}


def test_task_that_may_not_start_twice_fails_when_interrupted(pq: PQ, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, drain_timeout=0) as worker:
        task_id = pq.enqueue(tasks.nap.options(on_lost="fail").call(60))
        wait_running(pq, worker, task_id)
        assert worker.stop() == 0

        record = pq.get_task(task_id)
        assert record is not None
        assert (record.status, record.outcome) == (TaskStatus.FAILED, Outcome.INTERRUPTED)


def test_signal_before_the_worker_is_up_ends_it_well(database: str, tmp_path: Path) -> None:
    for delay in (0.0, 0.1, 0.25, 0.4):
        worker = WorkerProcess(database, tmp_path / f"early-{delay}.log")
        try:
            time.sleep(0.15 + delay)
            worker.signal(signal.SIGTERM)
            # Before Python has set up the keeper's handlers, the signal ends it as it ends any process.
            assert worker.wait() in (0, -signal.SIGTERM), worker.text
        finally:
            worker.kill()


def test_hangup_starts_new_code_while_the_old_drains(pq: PQ, database: str, tmp_path: Path) -> None:
    source = tmp_path / "changing.py"
    text = (
        "import time\n"
        "from pathlib import Path\n"
        "from pq_core import PQ\n"
        "pq = PQ()\n"
        "@pq.task(name='which')\n"
        "def which(path, pause=0.0):\n"
        "    time.sleep(pause)\n"
        "    Path(path).write_text('{0}')\n"
    )
    source.write_text(text.format("old"))
    with running(database, tmp_path, app="changing:pq", path=tmp_path) as worker:
        (old,) = worker.workers
        with psycopg.connect(database, autocommit=True) as connection:
            arguments = "jsonb_build_array(%s::text, %s::float8)"
            call = f"SELECT id FROM pq_enqueue(jsonb_build_object('name', 'which', 'args', {arguments}))"
            (slow,) = connection.execute(call, (str(tmp_path / "slow"), 8.0)).fetchone() or (0,)
            wait_running(pq, worker, slow)
            source.write_text(text.format("entirely new"))
            worker.signal(signal.SIGHUP)
            worker.started(2)
            eventually(lambda: "draining: 1 task(s) run" in worker.text)
            assert old in worker.workers, "the old one has not ended its task"
            connection.execute(call, (str(tmp_path / "fast"), 0.0))
            eventually(lambda: (tmp_path / "fast").exists() and (tmp_path / "fast").read_text() == "entirely new")
            assert not (tmp_path / "slow").exists()
        eventually(lambda: (tmp_path / "slow").exists() and (tmp_path / "slow").read_text() == "old")
        eventually(lambda: old not in worker.workers)
        assert len(worker.workers) == 1
        assert worker.stop() == 0


# --- sudden ends


def test_killed_worker_is_replaced_and_its_tasks_come_back_at_once(pq: PQ, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, lease=600) as worker:
        path = tmp_path / "pids"
        task_id = pq.enqueue(tasks.nap.call(1.5, str(path)))
        eventually(path.exists)
        (old,) = worker.workers
        worker.signal(signal.SIGKILL, old)

        # Long before the lease would have ended.
        assert pq.wait(task_id, timeout=PATIENCE) == "rested"
        first, second = path.read_text().split()
        assert first != second
        record = pq.get_task(task_id)
        assert record is not None
        assert (record.attempts, record.losses) == (1, 1)
        assert pq.attempts(task_id)[0].outcome is Outcome.LOST
        assert worker.stop() == 0


def test_killed_worker_takes_children_and_grandchildren_along(pq: PQ, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path) as worker:
        pq.enqueue(tasks.hangs_with_grandchildren.options(timeout=600).call(str(tmp_path / "pids"), True))
        eventually((tmp_path / "pids").exists)
        (old,) = worker.workers
        family = eventually(lambda: len(found := descendants_of(old)) >= 2 and found)
        assert family
        worker.signal(signal.SIGKILL, old)

        eventually(lambda: not any(alive(pid) for pid in family))


def test_killed_keeper_leaves_nothing_running(pq: PQ, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, processes=2, drain_timeout=1) as worker:
        short, long = pq.enqueue(tasks.nap.call(0.7)), pq.enqueue(tasks.nap.call(60))
        wait_running(pq, worker, short, long)
        family = descendants_of(worker.keeper)
        worker.signal(signal.SIGKILL)

        eventually(lambda: not any(alive(pid) for pid in family))
        assert statuses(pq, short) == {COMPLETED}
        assert statuses(pq, long) == {PENDING}
        assert pq.workers() == []


def test_stopped_worker_is_ended_when_its_lease_is_over(pq: PQ, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, lease=3) as worker:
        path = tmp_path / "pids"
        task_id = pq.enqueue(tasks.nap.call(8, str(path)))
        eventually(path.exists)
        (old,) = worker.workers
        family = [old, *descendants_of(old)]
        worker.signal(signal.SIGSTOP, old)

        eventually(lambda: not any(alive(pid) for pid in family))
        eventually(lambda: len(path.read_text().split()) == 2)
        assert "has not renewed its lease" in worker.text
        record = pq.get_task(task_id)
        assert record is not None
        assert (record.status, record.losses) == (RUNNING, 1)


def test_worker_whose_fork_server_is_killed_is_replaced_and_its_tasks_run_again(
    pq: PQ, database: str, tmp_path: Path
) -> None:
    with running(database, tmp_path) as worker:
        path = tmp_path / "pids"
        task_id = pq.enqueue(tasks.nap.call(4, str(path)))
        eventually(path.exists)
        (old,) = worker.workers
        (server,) = children_of(old)
        family = descendants_of(old)
        worker.signal(signal.SIGKILL, server)

        eventually(lambda: not any(alive(pid) for pid in (old, *family)), within=5)
        eventually(lambda: len(path.read_text().split()) == 2, within=10)
        assert "the process that forks this worker's children is gone" in worker.text
        assert "Traceback" not in worker.text
        record = pq.get_task(task_id)
        assert record is not None
        assert (record.status, record.losses, record.attempts) == (RUNNING, 1, 1), worker.text
        assert pq.wait(task_id, timeout=20) == "rested"


@pytest.mark.parametrize("what", ["fork", "ask"])
def test_worker_whose_fork_server_hangs_is_replaced(pq: PQ, database: str, tmp_path: Path, what: str) -> None:
    """It notices when it wants a process of it, and asks from time to time where it does not."""
    with running(database, tmp_path, concurrency=2, lease=9) as worker:
        path = tmp_path / "pids"
        first = pq.enqueue(tasks.nap.call(60, str(path)))
        eventually(path.exists)
        (old,) = worker.workers
        (server,) = children_of(old)
        family = descendants_of(old)
        worker.signal(signal.SIGSTOP, server)
        other = pq.enqueue(tasks.add.call(1, 2)) if what == "fork" else None
        pq.cancel(first)

        eventually(lambda: not any(alive(pid) for pid in (old, *family)))
        assert "no answer for 3 s" in worker.text
        if other is not None:
            assert pq.wait(other, timeout=20) == 3
        eventually(lambda: statuses(pq, first) == {TaskStatus.CANCELLED})


def test_nothing_is_lost_when_workers_are_killed_again_and_again(pq: PQ, database: str, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    pq.enqueue_many(tasks.note.call(str(path), str(number)) for number in range(300))
    with running(database, tmp_path, processes=2, concurrency=2, lease=3) as worker:
        for _ in range(3):
            eventually(lambda: len(worker.workers) == 2)
            time.sleep(0.4)
            worker.signal(signal.SIGKILL, worker.workers[0])
        eventually(lambda: pq.pending_count() == 0 and not pq.list_tasks(status="running"), within=60)
        assert worker.stop() == 0

    assert statuses(pq, *range(1, 301)) == {COMPLETED}
    assert set(path.read_text().split()) == {str(number) for number in range(300)}


@pytest.mark.long
@pytest.mark.parametrize("task", [tasks.kills_its_worker, tasks.kills_its_parent], ids=["worker", "fork server"])
def test_task_that_kills_its_worker_fails_as_suspect(
    pq: PQ, database: str, tmp_path: Path, task: Task[[], None]
) -> None:
    task_id = pq.enqueue(task.call())
    beside = [pq.enqueue(tasks.nap.call(0.3)) for _ in range(3)]
    with running(database, tmp_path, lease=3):
        eventually(lambda: statuses(pq, task_id) == {TaskStatus.FAILED}, within=60)
        for other in beside:
            assert pq.wait(other, timeout=PATIENCE) == "rested"

    record = pq.get_task(task_id)
    assert record is not None
    assert record.outcome is Outcome.LOST
    assert "suspect" in (record.error or "")
    assert record.losses == 5


# --- the database goes away


def backends(connection: psycopg.Connection, pattern: str) -> list[int]:
    rows = connection.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE %s", (pattern,)
    ).fetchall()
    return [pid for (pid,) in rows]


@pytest.mark.parametrize("purpose", ["pq work%", "pq watch%", "pq w%"])
def test_lost_connection_is_opened_again(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection, purpose: str
) -> None:
    with running(database, tmp_path, poll_interval=60) as worker:
        (pid,) = worker.workers
        long = pq.enqueue(tasks.nap.call(2))
        wait_running(pq, worker, long)
        for _ in range(3):
            before = eventually(lambda: backends(connection, purpose))
            for backend in before:
                connection.execute("SELECT pg_terminate_backend(%s)", (backend,))
            # Woken by a notification: the poll interval is far longer than the test's patience.
            assert pq.wait(pq.enqueue(tasks.add.call(1, 1)), timeout=PATIENCE) == 2
            eventually(lambda: len(set(backends(connection, purpose)) - set(before)) == len(before))  # noqa: B023
        assert pq.wait(long, timeout=PATIENCE) == "rested"
        assert worker.workers == [pid]
        assert worker.stop() == 0


def test_worker_survives_a_restart_of_postgres(tmp_path: Path) -> None:
    from pq_core import embedded
    from pq_core.schema import migrate

    place = tmp_path / "server"
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.name.startswith("pytest-"):
            parent.chmod(0o755)
    dsn = embedded.start(place, durable=False)
    try:
        migrate(dsn, "public")
        with PQ(dsn, tasks=[tasks.__name__]) as pq, running(dsn, tmp_path, lease=20) as worker:
            (pid,) = worker.workers
            task_id = pq.enqueue(tasks.nap.call(3))
            wait_running(pq, worker, task_id)
            pq.close()
            embedded.stop(place)
            eventually(lambda: "connection is lost" in worker.text)
            time.sleep(1)
            assert embedded.start(place, durable=False) == dsn

            assert pq.wait(task_id, timeout=PATIENCE) == "rested"
            assert pq.wait(pq.enqueue(tasks.add.call(1, 1)), timeout=PATIENCE) == 2
            record = pq.get_task(task_id)
            assert record is not None
            assert (record.attempts, record.losses) == (1, 0), "the task ran on, and was recorded afterwards"
            assert worker.workers == [pid]
            assert worker.stop() == 0
    finally:
        embedded.stop(place)


def test_worker_without_a_database_waits_for_it(database: str, tmp_path: Path) -> None:
    from psycopg.conninfo import make_conninfo

    worker = WorkerProcess(make_conninfo(database, host="127.0.0.1", port="1"), tmp_path / "log")
    try:
        eventually(lambda: worker.text.count("connection is lost") >= 2)
        assert worker.process.poll() is None
        assert worker.stop() == 0
    finally:
        worker.kill()


# --- a mistake of the user


@pytest.mark.parametrize(
    ("app", "environment", "words"),
    [
        ("no.such.module:pq", {}, "no module"),
        ("tests.integration.worker_tasks:nothing", {}, "has no nothing"),
        ("tests.integration.worker_tasks:jobs", {}, "not a PQ"),
        ("tests.integration.worker_tasks:create_pq", {"PQ_DATABASE_URL": ""}, "PQ_DATABASE_URL"),
        (
            "tests.integration.worker_tasks:create_pq",
            {"PQ_DATABASE_URL": "mysql://root@localhost/x"},
            "PQ_DATABASE_URL",
        ),
    ],
)
def test_mistake_is_one_line_and_not_restarted(
    database: str, tmp_path: Path, app: str, environment: dict[str, str], words: str
) -> None:
    worker = WorkerProcess(database, tmp_path / "log", app=app, environment=environment)
    try:
        assert worker.wait() == 2
    finally:
        worker.kill()
    assert words in worker.text
    assert "Traceback" not in worker.text


def test_database_without_tables_is_one_line(empty_database: str, tmp_path: Path) -> None:
    worker = WorkerProcess(empty_database, tmp_path / "log")
    try:
        assert worker.wait() == 2
    finally:
        worker.kill()
    assert "pq migrate" in worker.text
    assert "Traceback" not in worker.text


# --- what it costs


def asked_in_six_seconds(connection: psycopg.Connection) -> tuple[int, int]:
    """Count the looks for work, and all that workers' sessions begin, from what they do every 0.05 s."""

    def began() -> set[tuple[int, datetime, bool]]:
        rows = connection.execute(
            "SELECT pid, query_start, query LIKE 'SELECT EXISTS (%' FROM pg_stat_activity"
            " WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return set(rows.fetchall())

    before, found, until = began(), set(), time.monotonic() + 6
    while time.monotonic() < until:
        found |= began()
        time.sleep(0.05)
    return sum(look for _, _, look in found - before), len(found - before)


def test_idle_worker_asks_once_per_poll_interval(database: str, tmp_path: Path, connection: psycopg.Connection) -> None:
    with running(database, tmp_path, poll_interval=1.0, lease=30):
        time.sleep(2)
        looks, asked = asked_in_six_seconds(connection)  # within the first ten seconds
        assert 4 <= looks <= 7
        assert asked <= looks + 4, "heartbeats, and who looks after the tables"


def test_idle_worker_asks_once_in_five_poll_intervals_after_ten_seconds(
    database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    with running(database, tmp_path, poll_interval=0.5, lease=30):
        time.sleep(13)
        looks, asked = asked_in_six_seconds(connection)
        assert 2 <= looks <= 4
        assert asked <= looks + 4


def test_worker_that_has_been_idle_for_long_can_be_woken_all_the_same(
    database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    with running(database, tmp_path, poll_interval=10 * PATIENCE, lease=30):  # no look finds it in time
        time.sleep(12)
        connection.execute("""SELECT pq_enqueue('{"name": "w.own_pid"}')""")
        eventually(lambda: connection.execute("SELECT status FROM pq_tasks").fetchone() == ("completed",))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_of_keeper_and_worker(pq: PQ, database: str, tmp_path: Path) -> None:
    source = tmp_path / "small.py"
    source.write_text("from pq_core import PQ\npq = PQ()\n@pq.task(name='small')\ndef small(): pass\n")
    with running(database, tmp_path, app="small:pq", path=tmp_path) as worker:
        (pid,) = worker.workers
        for _ in range(20):
            with psycopg.connect(database, autocommit=True) as connection:
                connection.execute("""SELECT pq_enqueue('{"name": "small"}')""")
        eventually(lambda: pq.pending_count() == 0)
        assert memory_of(pid) < 45 * 2**20
        assert memory_of(worker.keeper) < 15 * 2**20


# --- threads before the fork


THREADED = (
    "import threading, time\n"
    "from pq_core import PQ\n"
    "pq = PQ()\n"
    "threading.Thread(target=time.sleep, args=(600,), name='metrics-pusher', daemon=True).start()\n"
    "@pq.task(name='small')\n"
    "def small(): return 5\n"
)


def test_threads_are_named(pq: PQ, database: str, tmp_path: Path) -> None:
    (tmp_path / "threaded.py").write_text(THREADED)
    with running(database, tmp_path, app="threaded:pq", path=tmp_path) as worker:
        assert "metrics-pusher" in worker.text
        with psycopg.connect(database, autocommit=True) as connection:
            row = connection.execute("""SELECT id FROM pq_enqueue('{"name": "small"}')""").fetchone()
        assert row is not None
        assert pq.wait(row[0], timeout=PATIENCE) == 5


def test_threads_are_fatal_when_strict(database: str, tmp_path: Path) -> None:
    (tmp_path / "threaded.py").write_text(THREADED)
    worker = WorkerProcess(database, tmp_path / "log", app="threaded:pq", path=tmp_path, strict=True)
    try:
        assert worker.wait() == 2
    finally:
        worker.kill()
    assert "metrics-pusher" in worker.text
    assert "Traceback" not in worker.text


def test_check_reports_the_image(database: str, tmp_path: Path) -> None:
    (tmp_path / "threaded.py").write_text(THREADED)
    for strict, status in ((False, 0), (True, 1)):
        worker = WorkerProcess(
            database, tmp_path / f"log-{strict}", app="threaded:pq", path=tmp_path, check=True, strict=strict
        )
        try:
            assert worker.wait() == status
        finally:
            worker.kill()
        for words in ("small", "metrics-pusher", "connected sockets", "MiB resident", "one fork"):
            assert words in worker.text


def test_descriptors_do_not_pile_up(pq: PQ, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, concurrency=4) as worker:
        (pid,) = worker.workers
        descriptors: list[int] = []
        for _ in range(2):
            for task_id in pq.enqueue_many([tasks.add.call(1), tasks.segfault.call()] * 20):
                eventually(lambda: statuses(pq, task_id) <= {COMPLETED, TaskStatus.FAILED})  # noqa: B023
            descriptors.append(sum(len(os.listdir(f"/proc/{one}/fd")) for one in (pid, *children_of(pid))))
        assert descriptors[1] <= descriptors[0]
        assert processes_of(pid) == []
