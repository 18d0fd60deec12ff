"""Why somebody still waits: said with the time-out, and in the log of a task that waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from pq_core import PQ, WaitTimeout
from tests.integration import worker_tasks as tasks
from tests.integration.worker_process import PATIENCE, eventually, running


@pytest.fixture
def pq(database: str) -> Iterator[PQ]:
    with PQ(database, tasks=[tasks.__name__]) as pq:
        yield pq


def test_time_out_says_what_stands_in_the_way(
    pq: PQ, database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    """From no worker at all to one that runs it."""

    def why(task_id: int) -> str:
        with pytest.raises(WaitTimeout) as caught:
            pq.wait(task_id, timeout=0)
        assert caught.value.reason in str(caught.value)
        return str(caught.value.reason)

    elsewhere = pq.enqueue(tasks.add.options(queue="elsewhere").call(1))
    assert why(elsewhere) == "no worker is alive: pq worker APP"
    row = connection.execute("""SELECT id FROM pq_enqueue('{"name": "w.unknown"}')""").fetchone()
    assert row is not None
    unknown = int(row[0])
    with running(database, tmp_path, queues=("default", "paused")):
        assert "no live worker serves the queue 'elsewhere'" in why(elsewhere)
        eventually(lambda: "knows w.unknown in version 1" in why(unknown))
        pq.pause_queue("paused")
        assert "is paused: pq queues resume paused" in why(pq.enqueue(tasks.add.options(queue="paused").call(1)))
        later = pq.enqueue(tasks.add.options(run_in=timedelta(hours=1)).call(1))
        assert "it is due in 3.6e+03 s" in why(later)
        path = tmp_path / "started"
        runs = pq.enqueue(tasks.starts.call(str(path)))
        eventually(path.exists)
        assert why(runs) == "it runs"
        assert asyncio.run(areason(pq, runs)) == "it runs"
        Path(f"{path}.go").touch()


async def areason(pq: PQ, task_id: int) -> str | None:
    try:
        await pq.await_(task_id, timeout=0)
    except WaitTimeout as error:
        return error.reason
    finally:
        await pq.aclose()
    return None


def test_task_that_waits_for_another_is_warned_of_once(pq: PQ, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, concurrency=2, tasks_per_child=10) as worker:
        for _ in range(2):
            assert pq.wait(pq.enqueue(tasks.waits_for_another.call()), timeout=PATIENCE) == 3
        assert worker.text.count("a task waits for another one") == 1


@pytest.mark.parametrize("name", ["delay", "apply_async", "s"])
def test_names_of_other_libraries_lead_here(name: str) -> None:
    with pytest.raises(AttributeError, match=r"write add\.(enqueue|options|call)\("):
        getattr(tasks.add, name)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        tasks.add.nonsense  # type: ignore[attr-defined]  # noqa: B018
