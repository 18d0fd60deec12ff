"""Children for several tasks: fed ahead, one after another; or many coroutines at the same time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from pq_core import PQ
from pq_core.types import Outcome, TaskStatus
from tests.integration import worker_tasks as tasks
from tests.integration.worker_process import PATIENCE, alive, eventually, processes_of, running

QUICK = 200


@pytest.fixture
def pq(database: str) -> Iterator[PQ]:
    with PQ(database, tasks=[tasks.__name__]) as pq:
        yield pq


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


@pytest.mark.parametrize("tasks_per_child", [1, 1000], ids=["process-per-task", "reused"])
def test_short_tasks_are_claimed_ahead_and_long_ones_are_not(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection, tasks_per_child: int
) -> None:
    ids = pq.enqueue_many(tasks.add.call(i) for i in range(QUICK))
    with running(database, tmp_path, concurrency=2, tasks_per_child=tasks_per_child):
        eventually(lambda: pq.counts()[TaskStatus.COMPLETED] == QUICK)
        naps = pq.enqueue_many(tasks.nap.call(60) for _ in range(10))
        eventually(lambda: pq.counts()[TaskStatus.RUNNING] == 2)
        time.sleep(1.5)

        assert pq.counts()[TaskStatus.RUNNING] == 2, "what waits for a long task goes back to those who are free"
        for nap in naps:
            pq.cancel(nap)
        eventually(lambda: pq.counts()[TaskStatus.CANCELLED] == 10)
    assert all(pq.get_task(one).attempts == 1 for one in ids[:20])  # type: ignore[union-attr]


def test_what_waits_in_a_child_that_dies_runs_elsewhere_uncounted(pq: PQ, database: str, tmp_path: Path) -> None:
    """The task in the middle ends its process with others behind it in the same inbox."""
    with running(database, tmp_path, concurrency=1, tasks_per_child=1000):
        for one in pq.enqueue_many(tasks.add.call(i) for i in range(50)):
            pq.wait(one, timeout=30)
        ids = pq.enqueue_many(
            [
                *(tasks.add.call(i) for i in range(40)),
                tasks.crashes.call("kill"),
                *(tasks.add.call(i) for i in range(40)),
            ]
        )
        eventually(lambda: pq.counts()[TaskStatus.COMPLETED] == 130)
        eventually(lambda: pq.counts()[TaskStatus.FAILED] == 1)  # after its second attempt, behind all of them

    died = pq.get_task(ids[40])
    assert died is not None
    assert (died.status, died.outcome) == (TaskStatus.FAILED, Outcome.CRASHED)
    for one in (*ids[:40], *ids[41:]):
        record = pq.get_task(one)
        assert record is not None
        assert record.attempts == 1


def test_child_that_dies_with_a_full_inbox_while_another_process_holds_its_socket(
    pq: PQ, database: str, tmp_path: Path
) -> None:
    """Its end of the socket never closes, and the worker was reading it at its own pace."""
    path = tmp_path / "heir"
    with running(database, tmp_path, concurrency=1, tasks_per_child=1000) as worker:
        (pid,) = worker.workers
        for one in pq.enqueue_many(tasks.dies_with_an_heir.call(None) for _ in range(50)):
            pq.wait(one, timeout=30)
        behind = pq.enqueue_many(
            [
                *(tasks.dies_with_an_heir.call(None) for _ in range(20)),
                tasks.dies_with_an_heir.call(str(path)),
                *(tasks.dies_with_an_heir.call(None) for _ in range(40)),
            ]
        )
        eventually(lambda: pq.counts()[TaskStatus.COMPLETED] == 110)
        eventually(lambda: pq.counts()[TaskStatus.FAILED] == 1)

        assert pid in worker.workers, worker.text
        eventually(lambda: not alive(int(path.read_text())), what="the heir ends with the child that left it")
    assert [pq.get_task(one).attempts for one in behind] == [1] * 61  # type: ignore[union-attr]


def test_child_that_takes_nothing_from_its_inbox_is_replaced(pq: PQ, database: str, tmp_path: Path) -> None:
    """With so much to do that whatever is taken back from it could be given to it again."""
    with running(database, tmp_path, concurrency=1, tasks_per_child=1000) as worker:
        (pid,) = worker.workers
        for one in pq.enqueue_many(tasks.add.call(i) for i in range(50)):
            pq.wait(one, timeout=30)
        (deaf,) = processes_of(pid)
        os.kill(deaf, signal.SIGSTOP)
        ids = pq.enqueue_many(tasks.add.call(i) for i in range(QUICK))

        assert [pq.wait(one, timeout=PATIENCE) for one in ids] == list(range(QUICK))
        eventually(lambda: not alive(deaf))
    assert all(pq.get_task(one).attempts == 1 for one in ids)  # type: ignore[union-attr]


def test_child_that_received_a_task_and_never_gets_to_begin_it_is_replaced(
    pq: PQ, database: str, tmp_path: Path
) -> None:
    """A thread that an earlier task left behind doesn't let go of the interpreter."""
    with running(database, tmp_path, concurrency=1, tasks_per_child=1000) as worker:
        (pid,) = worker.workers
        pq.wait(pq.enqueue(tasks.leaves_a_thread_that_holds_the_interpreter.call(0.3)), timeout=30)
        (stuck,) = processes_of(pid)
        time.sleep(0.6)
        id_ = pq.enqueue(tasks.add.call(1))
        assert pq.wait(id_, timeout=PATIENCE) == 1
        assert not alive(stuck)
    assert pq.get_task(id_).attempts == 1  # type: ignore[union-attr]


def test_cancelled_while_it_waits_in_an_inbox(pq: PQ, database: str, tmp_path: Path) -> None:
    path = tmp_path / "order"
    with running(database, tmp_path, concurrency=1, tasks_per_child=1000, lease=3):
        for one in pq.enqueue_many(tasks.note.call(str(path), "warm") for _ in range(30)):
            pq.wait(one, timeout=30)
        first = pq.enqueue(tasks.nap.call(0.4))
        waiting = pq.enqueue_many(tasks.note.call(str(path), "late") for _ in range(5))
        assert pq.cancel(waiting[2])
        pq.wait(first, timeout=30)
        eventually(lambda: pq.counts()[TaskStatus.PENDING] + pq.counts()[TaskStatus.RUNNING] == 0)

    assert lines(path).count("late") == 4
    assert pq.get_task(waiting[2]).status is TaskStatus.CANCELLED  # type: ignore[union-attr]


def test_coroutines_wait_at_the_same_time_in_one_process(pq: PQ, database: str, tmp_path: Path) -> None:
    path = tmp_path / "pids"
    with running(database, tmp_path, concurrency=1, async_concurrency=200):
        long = pq.enqueue_many(tasks.async_naps.call(300, str(path)) for _ in range(100))
        eventually(lambda: len(lines(path)) == 100, what="all have begun, and none is over")
        for one in long:
            pq.cancel(one)
        ids = pq.enqueue_many(tasks.async_naps.call(0.1, str(path)) for _ in range(10))
        eventually(lambda: pq.counts()[TaskStatus.COMPLETED] == 10)
        eventually(lambda: pq.counts()[TaskStatus.CANCELLED] == 100)

    assert len(set(lines(path))) == 1
    assert [pq.get_task(one).result for one in ids] == ids, "each has its own attempt"  # type: ignore[union-attr]


def test_coroutine_over_its_time_leaves_its_neighbours_alone(pq: PQ, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, async_concurrency=10):
        slow = pq.enqueue(tasks.async_naps.options(timeout=0.5).call(30))
        beside = pq.enqueue(tasks.async_naps.call(1.5))
        eventually(lambda: pq.get_task(slow).outcome is Outcome.TIMED_OUT)  # type: ignore[union-attr]
        assert pq.wait(beside, timeout=30) == beside

    assert pq.attempts(beside) == []


def test_cancelled_coroutine_ends_and_its_neighbours_go_on(pq: PQ, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, async_concurrency=10):
        one = pq.enqueue(tasks.async_naps.call(30))
        beside = pq.enqueue(tasks.async_naps.call(2))
        eventually(lambda: pq.counts()[TaskStatus.RUNNING] == 2)
        pq.cancel(one, reason="not wanted")
        eventually(lambda: pq.get_task(one).status is TaskStatus.CANCELLED)  # type: ignore[union-attr]
        assert pq.wait(beside, timeout=30) == beside

    assert "not wanted" in (pq.get_task(one).error or "")  # type: ignore[union-attr]


def test_crash_in_company_is_found_by_running_each_alone(pq: PQ, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, async_concurrency=10):
        bad = pq.enqueue(tasks.async_dies.call(0.5))
        beside = pq.enqueue_many(tasks.async_naps.call(1) for _ in range(3))
        for one in beside:
            assert pq.wait(one, timeout=30) == one
        eventually(lambda: pq.get_task(bad).outcome is Outcome.CRASHED)  # type: ignore[union-attr]

    assert {attempt.outcome for attempt in pq.attempts(beside[0])} <= {Outcome.INTERRUPTED, Outcome.SUCCEEDED}
    assert all(pq.get_task(one).attempts == 1 for one in beside)  # type: ignore[union-attr]


def test_coroutine_that_blocks_the_loop_is_killed_and_its_neighbours_run_again(
    pq: PQ, database: str, tmp_path: Path
) -> None:
    with running(database, tmp_path, async_concurrency=10, grace=0.5):
        beside = pq.enqueue(tasks.async_naps.call(2))
        stuck = pq.enqueue(tasks.async_blocks.options(timeout=0.5).call(60))
        eventually(lambda: pq.get_task(stuck).outcome is Outcome.TIMED_OUT)  # type: ignore[union-attr]
        assert pq.wait(beside, timeout=30) == beside

    record = pq.get_task(beside)
    assert record is not None
    assert record.attempts == 1


def test_drain_interrupts_coroutines_and_puts_them_back(pq: PQ, database: str, tmp_path: Path) -> None:
    path = tmp_path / "pids"
    with running(database, tmp_path, async_concurrency=10, drain_timeout=0.2) as worker:
        one = pq.enqueue(tasks.async_naps.call(60, str(path)))
        pid = int(eventually(lambda: lines(path))[-1])
        os.kill(worker.keeper, signal.SIGTERM)
        eventually(lambda: not alive(pid))
        eventually(lambda: pq.get_task(one).status is TaskStatus.PENDING)  # type: ignore[union-attr]

    assert pq.get_task(one).attempts == 0  # type: ignore[union-attr]


def test_children_of_coroutines_are_replaced_while_long_ones_go_on(pq: PQ, database: str, tmp_path: Path) -> None:
    """With more tasks than one child may run, and one that outlives its child's share."""
    path = tmp_path / "pids"
    with running(database, tmp_path, concurrency=1, tasks_per_child=10, async_concurrency=5):
        long = pq.enqueue(tasks.async_naps.call(300, str(path)))
        eventually(lambda: lines(path))
        ids = pq.enqueue_many(tasks.async_naps.call(0.05, str(path)) for _ in range(40))
        eventually(lambda: pq.counts()[TaskStatus.COMPLETED] == 40)
        assert pq.get_task(long).status is TaskStatus.RUNNING  # type: ignore[union-attr]
        pq.cancel(long)
        eventually(lambda: pq.get_task(long).status is TaskStatus.CANCELLED)  # type: ignore[union-attr]

    assert len(set(lines(path))) >= 4
    assert [pq.get_task(one).result for one in ids] == ids  # type: ignore[union-attr]
    assert pq.attempts(long)[-1].error is None or "was killed" not in (pq.attempts(long)[-1].error or "")


def test_full_child_of_coroutines_does_not_overfill_the_processes(pq: PQ, database: str, tmp_path: Path) -> None:
    path = tmp_path / "pids"
    with running(database, tmp_path, concurrency=2, async_concurrency=2, spares=0) as worker:
        blocking = pq.enqueue_many(tasks.nap.call(300) for _ in range(2))
        eventually(lambda: pq.counts()[TaskStatus.RUNNING] == 2)
        many = pq.enqueue_many(tasks.async_naps.call(300, str(path)) for _ in range(8))
        eventually(lambda: len(lines(path)) == 2)
        time.sleep(1)

        assert len(lines(path)) == 2, "two in the shared child, and no process is free for another"
        assert len(processes_of(worker.workers[0])) == 3
        for one in (*blocking, *many):
            pq.cancel(one)
        eventually(lambda: pq.counts()[TaskStatus.CANCELLED] == 10)
