"""Children that attack their worker: each ends with a clear outcome, the worker goes on, and nothing leaks."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pq_core import PQ, Call, Outcome, TaskRecord
from tests.integration import hostile_tasks as tasks
from tests.integration.worker_process import (
    PATIENCE,
    WorkerProcess,
    alive,
    children_of,
    cloned,
    descendants_of,
    eventually,
    memory_of,
    processes_of,
    running,
)


@dataclass
class Bench:
    pq: PQ
    worker: WorkerProcess
    pid: int

    def run(self, call: Call[Any]) -> TaskRecord:
        task_id = self.pq.enqueue(call)

        def look() -> TaskRecord | None:
            record = self.pq.get_task(task_id)
            assert record is not None
            return record if record.status.finished else None

        return eventually(look, within=2 * PATIENCE)  # type: ignore[return-value]


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.fixture(scope="module", params=[1, 3], ids=["process-per-task", "reused-processes"])
def bench(
    request: pytest.FixtureRequest, server: str, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("hostile")
    options: dict[str, Any] = {"app": f"{tasks.__name__}:create_pq", "concurrency": 2, "grace": 1}
    with cloned(server, template) as dsn, PQ(dsn, tasks=[tasks.__name__]) as pq:
        with running(dsn, folder, tasks_per_child=request.param, **options) as worker:
            (pid,) = worker.started()
            yield Bench(pq, worker, pid)
            assert worker.workers == [pid], worker.text[-3000:]
            assert worker.stop() == 0, worker.text[-3000:]


@pytest.fixture(autouse=True)
def nothing_leaks(bench: Bench) -> Iterator[None]:
    """Whatever a test does: the same worker works on, with as many descriptors, no zombie, no more memory."""
    assert bench.run(tasks.add.call(1, 2)).result == 3
    eventually(lambda: len(processes_of(bench.pid)) <= 2)
    before, memory = descriptors(bench.pid), memory_of(bench.pid)
    yield
    for _ in range(4):  # whatever a reused child had left is used up
        assert bench.run(tasks.add.call(20, 22)).result == 42
    assert bench.worker.workers == [bench.pid], bench.worker.text[-3000:]
    eventually(lambda: all(alive(one) for one in descendants_of(bench.pid)), what="zombies of the worker")
    eventually(lambda: all(alive(child) for child in children_of(bench.worker.keeper)), what="zombies of the keeper")
    # Two children at most, with a socket and what their places keep for the next.
    eventually(lambda: descriptors(bench.pid) <= before + 8, what=f"{descriptors(bench.pid)}, {before} before")
    assert memory_of(bench.pid) < memory + 32 * 2**20


@pytest.mark.parametrize("kind", ["garbage", "one frame"])
def test_a_gigabyte_of_garbage(bench: Bench, kind: str) -> None:
    record = bench.run(tasks.writes_a_gigabyte.call(kind))
    assert record.outcome is Outcome.CRASHED
    assert "broke the channel to its worker" in str(record.error)


def test_a_flood_of_frames(bench: Bench) -> None:
    record = bench.run(tasks.writes_a_gigabyte.call("frames"))
    assert record.outcome is Outcome.SUCCEEDED, record.error
    assert record.progress == 0.5


def test_500_grandchildren_die_with_their_task(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "pids"
    assert bench.run(tasks.forks.call(500, str(path), session=False)).result == "forked"
    pids = [int(line) for line in path.read_text().split()]
    assert len(pids) == 500
    eventually(lambda: not any(map(alive, pids)))


def test_grandchildren_in_sessions_of_their_own_hold_nothing_up_and_leave_no_zombies(
    bench: Bench, tmp_path: Path
) -> None:
    """What leaves its group is not ended with the task: the keeper adopts and reaps it."""
    path = tmp_path / "pids"
    assert bench.run(tasks.forks.call(500, str(path), session=True)).result == "forked"
    pids = [int(line) for line in path.read_text().split()]
    try:
        assert len(pids) == 500
        assert bench.run(tasks.add.call(1, 1)).result == 2
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), what="zombies")


def test_it_fills_its_output(bench: Bench) -> None:
    record = bench.run(tasks.fills_its_output.call(50))
    assert record.result == "printed"
    assert str(record.output).endswith("the end\n")
    assert len(str(record.output)) < 20_000


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGINT])
def test_it_kills_its_own_group(bench: Bench, number: int) -> None:
    record = bench.run(tasks.kills_its_group.options(timeout=3).call(int(number)))
    if number == signal.SIGTERM:  # no note of the worker's: nobody asked it to stop, and it goes on to its timeout
        assert record.outcome is Outcome.TIMED_OUT, record.error
    elif number == signal.SIGINT:
        assert record.outcome in (Outcome.CRASHED, Outcome.RAISED), record.error
    else:
        assert record.outcome is Outcome.CRASHED, record.error
        assert signal.Signals(number).name in str(record.error)


def test_it_blocks_all_signals(bench: Bench) -> None:
    record = bench.run(tasks.blocks_all_signals.call())
    assert record.outcome is Outcome.TIMED_OUT
    assert "was killed" in str(record.error)


def test_it_moves_away(bench: Bench, tmp_path: Path) -> None:
    assert bench.run(tasks.moves_away.call(str(tmp_path))).result == str(tmp_path)
    assert os.readlink(f"/proc/{bench.pid}/cwd") != str(tmp_path)


def test_it_becomes_another_program(bench: Bench) -> None:
    record = bench.run(tasks.execs.call())
    assert record.outcome is Outcome.CRASHED
    assert "without reporting a result" in str(record.error)


def test_it_closes_every_descriptor(bench: Bench) -> None:
    record = bench.run(tasks.closes_every_descriptor.call())
    assert record.outcome is Outcome.CRASHED
    assert "channel to its worker was closed" in str(record.error)


def test_it_opens_all_descriptors(bench: Bench) -> None:
    record = bench.run(tasks.opens_all_descriptors.call())
    assert record.status.finished
