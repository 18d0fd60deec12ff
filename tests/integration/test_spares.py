"""Processes forked ahead: a task that comes finds one waiting, and each still has one of its own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pq_core import PQ
from pq_core.types import Outcome, TaskStatus
from pq_core.worker.inbox import TASK_LIMIT
from tests.integration import worker_tasks as tasks
from tests.integration.worker_process import WorkerProcess, alive, eventually, processes_of, running


@pytest.fixture
def pq(database: str) -> Iterator[PQ]:
    with PQ(database, tasks=[tasks.__name__]) as pq:
        yield pq


def waiting(worker: WorkerProcess, count: int) -> set[int]:
    """Wait until there are so many processes below the only worker, and return them."""
    (pid,) = worker.workers
    eventually(lambda: len(processes_of(pid)) == count, what=f"{count} children")
    return set(processes_of(pid))


def test_task_runs_in_a_process_that_was_there_before_it(pq: PQ, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, concurrency=3) as worker:
        spares = waiting(worker, 3)
        one, other = (pq.wait(pq.enqueue(tasks.own_pid.call()), timeout=20) for _ in range(2))
        assert {one, other} <= spares
        assert one != other
        waiting(worker, 3)  # used ones are made good


def test_each_task_has_a_process_of_its_own_under_load(pq: PQ, database: str, tmp_path: Path) -> None:
    ids = pq.enqueue_many(tasks.own_pid.call() for _ in range(60))
    for concurrency in (1, 4):
        with running(database, tmp_path, concurrency=concurrency):
            pids = [pq.wait(one, timeout=30) for one in ids]
        assert len(set(pids)) == 60
        ids = pq.enqueue_many(tasks.own_pid.call() for _ in range(60))


@pytest.mark.parametrize("where", ["task", "worker"])
def test_memory_limit_holds_in_a_spare(pq: PQ, database: str, tmp_path: Path, where: str) -> None:
    limit = 64 * 2**20
    options = {"memory_limit": limit} if where == "worker" else {}
    with running(database, tmp_path, concurrency=2, **options) as worker:
        spares = waiting(worker, 2)
        takes = tasks.takes.options(memory_limit=limit) if where == "task" else tasks.takes
        id_ = pq.enqueue(takes.call(200 * 2**20))
        eventually(lambda: (record := pq.get_task(id_)) and record.status is TaskStatus.FAILED)
        record = pq.get_task(id_)
        assert record is not None
        assert record.outcome is Outcome.OUT_OF_MEMORY
        assert pq.wait(pq.enqueue(tasks.takes.call(1024)), timeout=20) == 1024
        assert waiting(worker, 2) != spares


def test_task_too_large_for_an_inbox_runs(pq: PQ, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, concurrency=2) as worker:
        spares = waiting(worker, 2)
        id_ = pq.enqueue(tasks.returns_text.call("x" * 2 * TASK_LIMIT, 0))
        assert pq.wait(id_, timeout=20) == ""
        assert waiting(worker, 2) == spares, "it was forked for"


def test_task_given_to_a_process_that_does_not_take_it_runs_elsewhere_uncounted(
    pq: PQ, database: str, tmp_path: Path
) -> None:
    with running(database, tmp_path, concurrency=2, spares=1) as worker:
        (spare,) = waiting(worker, 1)
        os.kill(spare, signal.SIGSTOP)
        id_ = pq.enqueue(tasks.own_pid.call())
        assert pq.wait(id_, timeout=20) != spare
        record = pq.get_task(id_)
        assert record is not None
        assert (record.attempts, pq.attempts(id_)) == (1, [])
        eventually(lambda: not alive(spare))
        assert worker.stop() == 0


def test_spare_that_dies_costs_nothing_but_a_pause(pq: PQ, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, concurrency=2) as worker:
        for spare in waiting(worker, 2):
            os.kill(spare, signal.SIGKILL)
        eventually(lambda: "no process is forked ahead for 10 s: one died while it waited" in worker.text)
        waiting(worker, 0)
        (pid,) = worker.workers
        id_ = pq.enqueue(tasks.where_am_i.call())
        pq.wait(id_, timeout=20)
        record = pq.get_task(id_)
        assert record is not None
        assert record.attempts == 1
        assert worker.workers == [pid]
        assert worker.stop() == 0


def test_spares_leave_with_their_worker(pq: PQ, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, concurrency=2) as worker:
        spares = waiting(worker, 2)
        assert worker.stop() == 0
        assert not any(alive(spare) for spare in spares)
    with running(database, tmp_path, concurrency=2) as worker:
        spares = waiting(worker, 2)
        os.kill(worker.workers[0], signal.SIGKILL)
        eventually(lambda: not any(alive(spare) for spare in spares))


def test_a_worker_that_rests_gets_new_spares(pq: PQ, database: str, tmp_path: Path) -> None:
    """Its image is looked after in between, which needs no child that shares it."""
    with running(database, tmp_path, concurrency=2) as worker:
        waiting(worker, 2)
        pids = {pq.wait(pq.enqueue(tasks.own_pid.call()), timeout=20) for _ in range(40)}
        assert len(pids) == 40
        (pid,) = worker.workers
        eventually(lambda: len(left := processes_of(pid)) == 2 and all(alive(one) for one in left))


@pytest.mark.parametrize("options", [{"spares": 0}, {"tasks_per_child": 5}], ids=str)
def test_no_process_waits_where_none_is_wanted(pq: PQ, database: str, tmp_path: Path, options: dict[str, int]) -> None:
    with running(database, tmp_path, concurrency=2, **options) as worker:
        (pid,) = worker.workers
        assert pq.wait(pq.enqueue(tasks.add.call(1, 2)), timeout=20) == 3
        eventually(lambda: len(processes_of(pid)) == ("tasks_per_child" in options))


def test_many_spares_stay_while_nothing_happens(pq: PQ, database: str, tmp_path: Path) -> None:
    """To have forked them is no reason to look after the image, for which they would have to leave."""
    with running(database, tmp_path, concurrency=2, spares=24, poll_interval=0.1) as worker:
        spares = waiting(worker, 24)
        eventually(lambda: pq.wait(pq.enqueue(tasks.own_pid.call()), timeout=20) in spares)
        time.sleep(1.5)
        assert len(spares & waiting(worker, 24)) == 23
