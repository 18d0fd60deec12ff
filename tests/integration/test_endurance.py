"""Many tasks through one worker: nothing grows. And a kernel that runs out of memory."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pq_core import PQ, Outcome
from tests.integration import hostile_tasks as hostile
from tests.integration.worker_process import (
    alive,
    children_of,
    descendants_of,
    eventually,
    memory_of,
    processes_of,
    running,
)

APP = f"{hostile.__name__}:create_pq"


def numbers(pid: int) -> tuple[int, int]:
    """Return the open descriptors of a worker and its fork server, and their zombies."""
    open_ = sum(len(os.listdir(f"/proc/{one}/fd")) for one in (pid, *children_of(pid)))
    return open_, sum(not alive(one) for one in descendants_of(pid))


@pytest.mark.parametrize(
    ("count", "tasks_per_child"),
    [(2000, 50), pytest.param(50_000, 1, marks=[pytest.mark.long, pytest.mark.timeout(1800)])],
)
def test_nothing_grows(database: str, tmp_path: Path, count: int, tasks_per_child: int) -> None:
    options: dict[str, Any] = {"app": APP, "concurrency": 4}

    def pass_through(pq: PQ, many: int) -> None:
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(
                "SELECT count(*) FROM pq_enqueue((SELECT jsonb_agg(jsonb_build_object('name', 'h.add', 'args',"
                " jsonb_build_array(n, 1))) FROM generate_series(1, %s) n))",
                (many,),
            )
            left = "SELECT count(*) FROM pq_tasks WHERE status IN ('pending', 'running')"
            eventually(lambda: connection.execute(left).fetchone() == (0,), within=1500, every=0.5)
            done = connection.execute("SELECT count(*) FROM pq_tasks WHERE status = 'completed'").fetchone()
            assert done is not None
            assert done[0] >= many

    with PQ(database, tasks=[hostile.__name__]) as pq:
        with running(database, tmp_path, tasks_per_child=tasks_per_child, **options) as worker:
            (pid,) = worker.workers
            pass_through(pq, max(500, count // 20))  # until caches and pools are as full as they get
            eventually(lambda: len(processes_of(pid)) <= 4)  # spares, or reused ones
            before, memory = numbers(pid), memory_of(pid)
            pass_through(pq, count)
            eventually(lambda: numbers(pid)[1] == 0)
            assert numbers(pid)[0] <= before[0] + 16  # three for each of four children, which may just be replaced
            assert memory_of(pid) - memory < 2 * 2**20
            assert worker.workers == [pid]


GROUPS = {"/sys/fs/cgroup": "memory.max", "/sys/fs/cgroup/memory": "memory.limit_in_bytes"}
"""Where cgroups of version 2 and 1 are, and the file with their limit."""


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """Make a memory cgroup of 300 MB; skip where this machine has none that can be written."""
    group = next(filter(limited, (Path(parent) / f"pq-test-{os.getpid()}" for parent in GROUPS)), None)
    if group is None:
        pytest.skip("no memory cgroup can be written here")
    try:
        yield group
    finally:
        eventually(lambda: emptied(group), within=60, what=f"{group} is empty")
        group.rmdir()


def emptied(group: Path) -> bool:
    """End what is in the group; tell whether nothing was."""
    pids = (group / "cgroup.procs").read_text().split()
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(int(pid), signal.SIGKILL)
    return not pids


def limited(group: Path) -> bool:
    """Make the group and give it its limit; False where the machine does not let us."""
    try:
        group.mkdir()
    except OSError:
        return False
    limit = group / GROUPS[str(group.parent)]
    try:
        # Where it is no cgroup but an ordinary folder, the kernel has put no file into it.
        with limit.open("r+") as file:
            file.write(str(300 * 2**20))
    except OSError:
        group.rmdir()
        return False
    for swap in ("memory.swap.max", "memory.swappiness"):
        with contextlib.suppress(OSError):
            (group / swap).write_text("0")
    return True


def test_the_kernel_kills_for_lack_of_memory_and_the_worker_lives(
    database: str, tmp_path: Path, memory_group: Path
) -> None:
    with PQ(database, tasks=[hostile.__name__]) as pq, running(database, tmp_path, app=APP, spares=0) as worker:
        (pid,) = worker.workers
        for member in (worker.keeper, pid, *children_of(pid)):
            (memory_group / "cgroup.procs").write_text(str(member))
        task_id = pq.enqueue(hostile.eats.call(2 * 2**30))

        def finished() -> bool:
            record = pq.get_task(task_id)
            return record is not None and record.status.finished

        eventually(finished, within=60)
        record = pq.get_task(task_id)
        assert record is not None
        assert record.outcome is Outcome.OUT_OF_MEMORY, record.error
        assert "killed by the kernel" in str(record.error)
        after = pq.enqueue(hostile.add.call(1, 1))
        assert pq.wait(after, timeout=30) == 2
        assert worker.workers == [pid]
