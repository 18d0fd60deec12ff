"""What a task prints stands in its row while it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pq_core import PQ, TaskRecord
from tests.integration import worker_tasks as tasks
from tests.integration.worker_process import PATIENCE, eventually, running


@pytest.mark.parametrize("tasks_per_child", [1, 100], ids=["process-per-task", "reused-processes"])
def test_output_is_seen_while_a_task_runs(database: str, tmp_path: Path, tasks_per_child: int) -> None:
    gate, after = tmp_path / "gate", tmp_path / "after"
    with PQ(database, tasks=[tasks.__name__]) as pq:

        def row(task_id: int) -> TaskRecord:
            record = pq.get_task(task_id)
            assert record
            return record

        with running(database, tmp_path, concurrency=3, tasks_per_child=tasks_per_child):
            long = pq.enqueue(tasks.prints_and_waits.call("x" * 5000 + "said", str(gate)))
            hidden = pq.enqueue(tasks.whispers_and_waits.call("s3cret", str(gate)))
            told = pq.enqueue(tasks.progresses.call([0.25, 0.5], "half", 0.1))
            eventually(lambda: (row(long).output or "").endswith("said\n"))
            assert len(row(long).output or "") == 4000
            pq.wait(told, timeout=PATIENCE)
            assert (row(told).progress, row(told).progress_message) == (0.5, "half")
            assert (row(hidden).status, row(hidden).output) == ("running", None)
            assert row(long).progress is None

            gate.touch()
            pq.wait(long, timeout=PATIENCE)
            assert (row(long).output or "").endswith("said\nthe end\n")
            assert len(row(long).output or "") > 5000

            # The next one in the same process: what the last one printed is not its own.
            silent = pq.enqueue(tasks.prints_and_waits.call("", str(after)))
            eventually(lambda: row(silent).output == "\n")
            after.touch()
            pq.wait(silent, timeout=PATIENCE)
            assert row(silent).output == "\nthe end\n"
