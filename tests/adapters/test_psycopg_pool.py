"""Pools that were opened at import work in tasks, whose processes are forked from the one that opened them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pq_core import PQ
from tests.adapters import psycopg_pool_tasks as tasks
from tests.integration.worker_process import until_empty

APP = f"{tasks.__name__}:create_pq"


@pytest.mark.parametrize("tasks_per_child", [1, 3])
def test_pool_of_the_image_is_new_in_each_process(database: str, tmp_path: Path, tasks_per_child: int) -> None:
    with PQ(database, tasks=[tasks.__name__]) as pq:
        first = [pq.enqueue(tasks.use_at_once.call(name)) for name in ("named", "null")]
        named = [pq.enqueue(tasks.use.call("named")) for _ in range(2)]
        null = pq.enqueue(tasks.use.call("null"))
        closed = pq.enqueue(tasks.use.call("closed"))
        loop = pq.enqueue(tasks.use_async.call())

        worker = until_empty(database, tmp_path, app=APP, tasks_per_child=tasks_per_child, concurrency=1)

        assert [pq.wait(task_id) for task_id in first] == [4, 4], worker.text
        for task_id in named:
            found = pq.wait(task_id)
            assert (found["new"], found["name"], found["size"]) == (True, "named", 2)
            if tasks_per_child == 1:
                assert found["configured"]
                assert found["threads before"] == 1, "a pool that a task does not use is not opened"
        assert pq.wait(null)["new"]
        assert pq.wait(closed)["new"]
        assert pq.wait(loop) == 7
        assert "still ran" not in worker.text
