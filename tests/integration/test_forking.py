"""Children that are forked one right after another: what each keeps, and what becomes of those without room."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from pq_core import PQ
from pq_core.types import Outcome, TaskStatus
from tests.integration import worker_tasks as tasks
from tests.integration.worker_process import children_of, eventually, processes_of, running, until_empty


@pytest.fixture
def pq(database: str) -> Iterator[PQ]:
    with PQ(database, tasks=[tasks.__name__]) as pq:
        yield pq


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc/self/fd")
@pytest.mark.parametrize("tasks_per_child", [1, 10])
def test_children_forked_together_hold_nothing_of_each_other(
    pq: PQ, database: str, tmp_path: Path, tasks_per_child: int
) -> None:
    options = {"tasks_per_child": tasks_per_child, "spares": 0}
    alone = pq.enqueue(tasks.open_sockets.call(0.0))
    until_empty(database, tmp_path, concurrency=1, **options)
    ids = pq.enqueue_many(tasks.open_sockets.call(0.5) for _ in range(4))
    until_empty(database, tmp_path, concurrency=4, **options)
    expected = pq.wait(alone, timeout=5)
    assert expected
    assert [pq.wait(one, timeout=5) for one in ids] == [expected] * 4


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="sets the limit of another process")
@pytest.mark.parametrize("whose", ["worker", "fork server"])
def test_what_there_is_no_descriptor_for_goes_back_and_the_rest_runs(
    pq: PQ, database: str, tmp_path: Path, whose: str
) -> None:
    with running(database, tmp_path, concurrency=6, spares=0) as worker:
        (pid,) = worker.workers
        pq.wait(pq.enqueue(tasks.nap.call(0.0)), timeout=20)
        eventually(lambda: not processes_of(pid))
        limited = pid if whose == "worker" else children_of(pid)[0]
        used = len(os.listdir(f"/proc/{limited}/fd"))
        resource.prlimit(limited, resource.RLIMIT_NOFILE, (used + 6, used + 6))  # three and more for a child
        ids = pq.enqueue_many(tasks.nap.call(0.2) for _ in range(6))
        for id_ in ids:
            assert pq.wait(id_, timeout=30) == "rested"
        eventually(lambda: "can't be started" in worker.text)
        assert pid in worker.workers
    for id_ in ids:
        record = pq.get_task(id_)
        assert record is not None
        assert (record.status, record.attempts) == (TaskStatus.COMPLETED, 1), record
        assert {one.outcome for one in pq.attempts(id_)} <= {Outcome.INTERRUPTED, Outcome.SUCCEEDED}
