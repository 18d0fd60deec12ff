"""What of pq most tasks don't need is not in the image, until a task did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from pq_core import PQ
from tests.integration.worker_process import children_of, eventually, running

APP = """
import sys
from pq_core import PQ, TaskGroup

group = TaskGroup()

@group.task(name="next")
def following() -> bool:
    return "psycopg" in sys.modules

@group.task(name="enqueues")
def enqueues() -> list[bool]:
    loaded = "psycopg" in sys.modules
    pq.enqueue(following)
    return [loaded, "psycopg" in sys.modules]

@group.task(name="enqueues_async")
async def enqueues_async() -> list[bool]:
    loaded = "psycopg" in sys.modules
    await pq.aenqueue(following)
    return [loaded, "psycopg" in sys.modules]

pq = PQ()
pq.registry.include(group)
"""


@pytest.mark.parametrize(
    "options",
    [{"spares": 0}, {"spares": 2}, {"tasks_per_child": 3}, {"async_concurrency": 10, "tasks_per_child": 2}],
    ids=str,
)
def test_the_driver_is_loaded_for_all_when_one_child_had_to_load_it(
    database: str, connection: psycopg.Connection, tmp_path: Path, options: dict[str, Any]
) -> None:
    (tmp_path / "quiet.py").write_text(APP)
    name = "enqueues_async" if "async_concurrency" in options else "enqueues"
    with (
        PQ(database) as pq,
        running(database, tmp_path, app="quiet:pq", path=tmp_path, concurrency=1, **options) as worker,
    ):
        (pid,) = worker.workers
        (server,) = children_of(pid)

        def ran(name: str) -> Any:
            row = connection.execute("SELECT id FROM pq_enqueue(%s)", [Jsonb({"name": name})]).fetchone()
            assert row is not None
            return pq.wait(row[0], timeout=20)

        assert ran("next") is False
        assert ran(name) == [False, True]
        eventually(lambda: ran(name) == [True, True], every=0.1)
        assert (worker.workers, children_of(pid)) == ([pid], [server])
        assert "Traceback" not in worker.text
