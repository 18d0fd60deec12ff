"""Tasks that waited in a worker's inbox when it stopped: no attempts of theirs, in no count and in no percentile."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from pq_core import PQ, Outcome, TaskStatus
from tests.integration import worker_tasks as tasks
from tests.integration.worker_process import PATIENCE, eventually, running

WAITING = 60


@pytest.mark.parametrize("per_child", [1, 1000], ids=["a process per task", "reused"])
def test_what_was_not_begun_leaves_no_trace(
    database: str, connection: psycopg.Connection, tmp_path: Path, per_child: int
) -> None:
    path = tmp_path / "started"
    with PQ(database, tasks=[tasks.__name__]) as pq:
        with running(database, tmp_path, concurrency=1, tasks_per_child=per_child, drain_timeout=0.5) as worker:
            for task_id in pq.enqueue_many(tasks.add.call(1) for _ in range(30)):
                pq.wait(task_id, timeout=PATIENCE)  # so that the worker knows them as short, and fetches ahead
            with pq.session() as own:  # in one commit, so that the worker claims them together
                long = pq.using(own).enqueue(tasks.starts.options(priority=100).call(str(path)))
                behind = pq.using(own).enqueue_many(tasks.add.call(n) for n in range(WAITING))
            eventually(path.exists)
            eventually(lambda: pq.counts()[TaskStatus.RUNNING] > 1 or pq.counts()[TaskStatus.PENDING] == WAITING)
            assert worker.stop() == 0
            said = worker.text

        assert {one.outcome for task_id in behind for one in pq.attempts(task_id)} == set()
        assert [one.outcome for one in pq.attempts(long)] == [Outcome.INTERRUPTED]
        counted = connection.execute(
            "SELECT sum(count)::int FROM pq_statistics WHERE outcome = 'interrupted'"
        ).fetchone()
        assert counted == (1,)
        states = connection.execute(
            "SELECT DISTINCT status, outcome, attempts, error FROM pq_tasks WHERE id = ANY (%s)", (list(behind),)
        )
        assert states.fetchall() == [("pending", None, 0, None)]
        assert said.count("that had not begun are put back") == 1
        assert said.count("ended as interrupted") == 1
