"""A child ends as Python ends: what its task has left to be done is done, and nothing of it goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from pq_core import PQ, Outcome, TaskFailed, TaskStatus
from tests.integration import ending_tasks as tasks
from tests.integration.worker_process import PATIENCE, WorkerProcess, alive, eventually, running

APP = f"{tasks.__name__}:create_pq"
SHARED = Path("/dev/shm")


@pytest.fixture
def pq(database: str) -> Iterator[PQ]:
    with PQ(database, tasks=[tasks.__name__]) as pq:
        yield pq


@pytest.fixture(params=[1, 100], ids=["a process per task", "reused"])
def worker(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[WorkerProcess]:
    environment = {"PQ_TEST_FOLDER": str(tmp_path)}
    options = {"app": APP, "concurrency": 2, "grace": 1, "tasks_per_child": request.param, "environment": environment}
    with running(database, tmp_path, **options) as worker:
        yield worker


@pytest.fixture
def plain_worker(database: str, tmp_path: Path) -> Iterator[WorkerProcess]:
    environment = {"PQ_TEST_FOLDER": str(tmp_path)}
    with running(database, tmp_path, app=APP, concurrency=2, grace=1, environment=environment) as worker:
        yield worker


GROWTH = [(1, True), (300, False), (50, True), (100, True), (1, True)]
"""MiB, and whether the task keeps them."""
LEFT = [tasks.thread, tasks.pool, tasks.process_pool, tasks.process]


def test_work_that_is_left_is_done_first(pq: PQ, worker: WorkerProcess, tmp_path: Path) -> None:
    paths = [tmp_path / str(n) for n, _ in enumerate(LEFT)]
    ids = pq.enqueue_many(task.call(str(path)) for task, path in zip(LEFT, paths, strict=True))
    for task_id, path in zip(ids, paths, strict=True):
        pq.wait(task_id, timeout=PATIENCE)
        assert path.exists(), "before the task counts as completed"


def test_sigterm_reaches_a_process_that_has_just_been_forked(pq: PQ, worker: WorkerProcess) -> None:
    assert pq.wait(pq.enqueue(tasks.terminate_at_once.call(20)), timeout=PATIENCE) == [-signal.SIGTERM] * 21


def test_exit_functions_and_handlers(pq: PQ, plain_worker: WorkerProcess, tmp_path: Path) -> None:
    for task in (tasks.memory_handler, tasks.exit_function):
        path = tmp_path / task.name
        pq.wait(pq.enqueue(task.call(str(path))), timeout=PATIENCE)
        assert path.read_text()

    folder = Path(pq.wait(pq.enqueue(tasks.child_folder.call()), timeout=PATIENCE))
    assert not folder.exists()
    of_the_image = Path(pq.wait(pq.enqueue(tasks.image_folder.call()), timeout=PATIENCE))
    assert of_the_image.exists()
    assert not (tmp_path / "image-atexit").exists(), "what the worker registered is not the child's"


def test_exit_functions_of_reused_children_run_at_their_end(pq: PQ, database: str, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("handler", "exit")]
    options = {"app": APP, "tasks_per_child": 100, "environment": {"PQ_TEST_FOLDER": str(tmp_path)}}
    with running(database, tmp_path, **options) as worker:
        for task, path in zip((tasks.memory_handler, tasks.exit_function), paths, strict=True):
            pq.wait(pq.enqueue(task.call(str(path))), timeout=PATIENCE)
        assert worker.stop() == 0
    assert all(path.read_text() for path in paths)


def test_thread_that_takes_longer_than_the_task_may(pq: PQ, worker: WorkerProcess, tmp_path: Path) -> None:
    path = tmp_path / "never"
    task_id = pq.enqueue(tasks.thread.options(timeout=0.5).call(str(path), 600))
    with pytest.raises(TaskFailed):
        pq.wait(task_id, timeout=PATIENCE)

    record = pq.get_task(task_id)
    assert record is not None
    assert record.outcome is Outcome.TIMED_OUT
    assert "its function had ended; still running: thread 'writer'" in (record.error or "")
    assert not path.exists()


def test_what_the_function_raised_stays_in_the_error(pq: PQ, worker: WorkerProcess, tmp_path: Path) -> None:
    """Also where it was stopped: in the function, or in what that had left to do."""
    left = pq.enqueue(tasks.raises_and_leaves.options(timeout=0.5).call(str(tmp_path / "never"), 600))
    stopped = pq.enqueue(tasks.hangs_with_an_exit_function.options(timeout=0.5).call(str(tmp_path / "flushed")))
    for task_id, words in ((left, "LookupError: no such letter"), (stopped, ", in hangs_with_an_exit_function")):
        with pytest.raises(TaskFailed):
            pq.wait(task_id, timeout=PATIENCE)
        record = pq.get_task(task_id)
        assert record is not None
        assert record.outcome is Outcome.TIMED_OUT
        assert words in (record.error or "")
    assert worker.stop() == 0
    assert (tmp_path / "flushed").exists(), "within its grace"


def test_daemon_threads_of_reused_children_are_named(pq: PQ, database: str, tmp_path: Path) -> None:
    options = {"app": APP, "tasks_per_child": 100, "environment": {"PQ_TEST_FOLDER": str(tmp_path)}}
    with running(database, tmp_path, **options) as worker:
        task_id = pq.enqueue(tasks.thread.call(str(tmp_path / "late"), 600, daemon=True))
        first = pq.wait(task_id, timeout=PATIENCE)
        assert pq.wait(pq.enqueue(tasks.thread.call(str(tmp_path / "soon"), 0)), timeout=PATIENCE) == first
        eventually(lambda: f"task {task_id} ended and left daemon thread 'writer'" in worker.text)
        assert worker.text.count("daemon thread") == 1
    record = pq.get_task(task_id)
    assert record is not None
    assert record.ledger is not None
    assert record.ledger["left"] == ["daemon thread 'writer'"]


@pytest.mark.skipif(not SHARED.exists(), reason="shared memory has no folder here")
def test_shared_memory_is_removed_however_the_task_ends(pq: PQ, worker: WorkerProcess, tmp_path: Path) -> None:
    for then in ("return", "crash", "hang"):
        path = tmp_path / then
        task_id = pq.enqueue(tasks.segment.options(timeout=None if then != "hang" else 1).call(str(path), then))
        eventually(lambda: (found := pq.get_task(task_id)) is not None and found.status.finished)  # noqa: B023
        name = path.read_text()
        eventually(lambda: not (SHARED / name).exists(), what=f"{then}: the segment is removed")  # noqa: B023


def test_child_that_has_grown_takes_no_other_task(pq: PQ, database: str, tmp_path: Path) -> None:
    options = {"app": APP, "concurrency": 1, "tasks_per_child": 1000, "max_child_memory": 128 << 20}
    with running(database, tmp_path, **options):
        pids = [pq.wait(pq.enqueue(tasks.grows.call(mib, keeps)), timeout=PATIENCE) for mib, keeps in GROWTH]
        assert [one == other for one, other in pairwise(pids)] == [True, True, True, False]
        strict = [pq.wait(pq.enqueue(tasks.grows_less.call(40)), timeout=PATIENCE) for _ in range(2)]
        assert strict[0] != strict[1], "what the function's own code says is nearer than what the worker says"


def test_process_that_the_task_forked_reports_nothing(pq: PQ, worker: WorkerProcess) -> None:
    expected = {"return": 0, "raise": 1, "exit": 3}
    for how, status in expected.items():
        assert pq.wait(pq.enqueue(tasks.forks.call(how)), timeout=PATIENCE) == status
    assert pq.wait(pq.enqueue(tasks.forks_in_a_coroutine.call()), timeout=PATIENCE) == 4
    assert worker.text.count("RuntimeError: in the fork") == 1


def test_standard_input_is_empty(pq: PQ, worker: WorkerProcess) -> None:
    assert pq.wait(pq.enqueue(tasks.read_stdin.call()), timeout=PATIENCE) == ""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs the process table")
def test_sessions_of_their_own_end_with_the_task(pq: PQ, worker: WorkerProcess, tmp_path: Path) -> None:
    for then in ("return", "crash"):
        path = tmp_path / then
        task_id = pq.enqueue(tasks.session.call(str(path), then))
        eventually(lambda: (found := pq.get_task(task_id)) is not None and found.status.finished)  # noqa: B023
        pid = int(path.read_text())
        eventually(lambda: not alive(pid))  # noqa: B023
        eventually(lambda: f"process {pid} (sleep)" in worker.text)  # noqa: B023


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs the process table")
def test_detached_sessions_go_on(pq: PQ, worker: WorkerProcess, tmp_path: Path) -> None:
    pids = []
    try:
        for then in ("return", "crash"):
            path = tmp_path / then
            task_id = pq.enqueue(tasks.detached_session.call(str(path), then))
            record = eventually(lambda: (found := pq.get_task(task_id)) and found.status.finished and found)  # noqa: B023
            assert record.status is (TaskStatus.COMPLETED if then == "return" else TaskStatus.FAILED)
            pids.append(int(path.read_text()))
        pq.enqueue(tasks.session.call(str(tmp_path / "other"), "crash"))
        eventually(lambda: "(sleep)" in worker.text)
        assert all(alive(pid) for pid in pids)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)


def test_connection_of_before_the_fork_is_told_as_such(pq: PQ, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, app=APP, environment={"PQ_TEST_INHERITED": database}):
        with pytest.raises(TaskFailed) as caught:
            pq.wait(pq.enqueue(tasks.uses_inherited.call()), timeout=PATIENCE)
        assert "opened before the fork" in str(caught.value.error)


def test_end_work_that_fails_changes_nothing_of_what_was_done(pq: PQ, worker: WorkerProcess) -> None:
    assert pq.wait(pq.enqueue(tasks.handler_that_fails_at_its_end.call()), timeout=PATIENCE) == 1
    assert worker.stop() == 0
    assert "RuntimeError: nobody listens" in worker.text
    assert "outside its task" not in worker.text


def test_pool_of_a_fork_server_leaves_nothing(pq: PQ, worker: WorkerProcess, tmp_path: Path) -> None:
    assert pq.wait(pq.enqueue(tasks.fork_server_pool.call(str(tmp_path / "done"))), timeout=PATIENCE) == 1
    assert worker.stop() == 0
    assert "ended and left" not in worker.text
