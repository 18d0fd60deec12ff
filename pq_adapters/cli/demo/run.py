"""The demo from its first transaction to the end of its worker."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pq_adapters.cli.demo import limits, tables, tasks
from pq_adapters.cli.demo.screen import Screen
from pq_adapters.cli.launch import worker_command
from pq_adapters.cli.task_text import last_line
from pq_core.types import TaskStatus
from pq_core.worker.options import WorkerOptions

if TYPE_CHECKING:
    from pq_core.client import PQ
    from pq_core.tasks import Call

APP = "pq_adapters.cli.demo.tasks:pq"
STALLED = 60.0
"""Seconds without any progress after which the worker is given up."""
_LOOK = 0.2
_STOP = 10.0

MISBEHAVING = {"demo.segfault": "crashed", "demo.memory_hog": "out_of_memory", "demo.endless_loop": "timed_out"}
"""How the three that misbehave are to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Enqueued:
    """What was enqueued for one run, and the seconds it took."""

    run: int
    tasks: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Worked:
    """What the worker did. ``seconds``: from its start to its end. ``trouble``: why it did not end well."""

    seconds: float
    trouble: str | None
    log: Path


def enqueue(pq: PQ, files: Sequence[Path], calling: limits.Calling | None) -> Enqueued:
    """Enqueue a task per file, those that misbehave and those under limits, in one transaction with the run's row."""
    start = time.perf_counter()
    with pq.session() as connection:
        run = tables.add_run(connection, pq.schema, files=len(files))
        calls: list[Call[object]] = [tasks.measure.call(run, str(path)) for path in files]
        # Among the others, so that one sees these go on.
        place = len(calls) // 4
        calls[place:place] = [tasks.segfault.call(), tasks.memory_hog.call(), tasks.endless_loop.call()]
        limited = limits.calls(run, calling)
        pq.using(connection).enqueue_many([*limited, *calls])
    return Enqueued(run=run, tasks=len(calls) + len(limited), seconds=time.perf_counter() - start)


def work(pq: PQ, screen: Screen, *, total: int, concurrency: int) -> Worked:
    """Run a worker until everything has ended, and show how it goes."""
    options = WorkerOptions(concurrency=concurrency, drain_timeout=2.0, queues=("default", limits.QUEUE))
    start = time.perf_counter()
    command = worker_command(APP, options)
    with tempfile.NamedTemporaryFile(prefix="pq-demo-", suffix=".log", delete=False) as log:
        try:
            with _running(command, log.fileno()) as process, screen:
                trouble = _watch(pq, process, screen, total=total)
        except BaseException:
            Path(log.name).unlink()
            raise
    if trouble is None and process.returncode:
        trouble = f"the worker ended with status {process.returncode}"
    return Worked(seconds=time.perf_counter() - start, trouble=trouble, log=Path(log.name))


@contextmanager
def _running(command: list[str], log: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def dashboard(wanted: bool) -> Iterator[subprocess.Popen[bytes] | None]:
    """Serve the dashboard in a process of its own for the block; it says on the terminal where it is."""
    if not wanted:
        yield None
        return
    command = [sys.executable, "-m", "pq_core", "dashboard", APP, "--title", "pq demo"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=os.environ)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_end(process: subprocess.Popen[bytes]) -> None:
    """Wait until the process ends, or somebody presses Ctrl-C."""
    with suppress(KeyboardInterrupt):
        process.wait()


def _watch(pq: PQ, process: subprocess.Popen[bytes], screen: Screen, *, total: int) -> str | None:
    """Show what is done, and have the worker end when all is; return what is wrong with it, if anything."""
    seen: set[int] = set()
    done, moved = -1, time.monotonic()
    asked = False
    while True:
        ended = _ended(process)
        counts = pq.counts()
        now = sum(count for status, count in counts.items() if status.finished)
        if counts[TaskStatus.FAILED] > len(seen):
            for task in pq.list_failed(limit=10):
                if task.id not in seen:
                    seen.add(task.id)
                    screen.say(f"  task {task.id}, {task.name}, failed: {last_line(task.error)}; the worker goes on")
        screen.show(now)
        if now != done:
            done, moved = now, time.monotonic()
        if ended:
            return None if done == total else f"the worker ended with {total - done} tasks left"
        if done == total and not asked:
            asked = True  # once: another signal would meet a process that is about to end, and has no handler left
            process.terminate()  # it would wait for more, as a worker does
        if time.monotonic() - moved > STALLED:
            return f"the worker has done nothing for {STALLED:.0f} s"


def _ended(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_LOOK)
    except subprocess.TimeoutExpired:
        return False
    return True
