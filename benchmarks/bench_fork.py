"""One process per task against a bare fork+exit+wait of the same image, at the same concurrency, in one run.

    python benchmarks/bench_fork.py [--tasks N] [--concurrency N] [--runs N] [--dsn DSN]

Without --dsn it uses PQ_DATABASE_URL, else the embedded server. Prints the machine, medians and the ratio.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pq_core import PQ
from pq_core.dsn import find_dsn
from pq_core.types import TaskStatus
from pq_core.worker import guards, image
from pq_core.worker.forking import fork

SCHEMA = "pq_benchmark"


def noop() -> None:
    """Do nothing."""


def bare(times: int, outstanding: int) -> float:
    """Return forks per second of this process, with at most ``outstanding`` alive."""

    def body() -> NoReturn:
        os._exit(0)

    alive = 0
    start = time.perf_counter()
    for _ in range(times):
        if alive == outstanding:
            os.wait()
            alive -= 1
        fork(body)
        alive += 1
    while alive:
        os.wait()
        alive -= 1
    return times / (time.perf_counter() - start)


def drain(pq: PQ, times: int, concurrency: int) -> float:
    """Return no-op tasks per second of one worker in this process, one process per task."""
    pq.enqueue_many(pq_noop.call() for _ in range(times))
    start = time.perf_counter()
    pq.run_worker(until_empty=True, concurrency=concurrency)
    return times / (time.perf_counter() - start)


def elsewhere(dsn: str, method: str) -> None:
    """Call a method of the PQ in a process of its own: Alembic would double the image that is measured."""
    program = f"from pq_core import PQ; PQ({dsn!r}, schema={SCHEMA!r}).{method}()"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).resolve().parent.parent)


def main() -> int:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--dsn", default=os.environ.get("PQ_DATABASE_URL", "embedded:"))
    given = parser.parse_args()
    pq = PQ(given.dsn, schema=SCHEMA)
    global pq_noop
    pq_noop = pq.task(name="noop")(noop)
    elsewhere(find_dsn(given.dsn), "drop_tables")
    elsewhere(find_dsn(given.dsn), "create_tables")
    image.settle()
    drain(pq, 100, given.concurrency)  # warm up: statements, pages, imports
    forks, tasks = [], []
    for _ in range(given.runs):
        forks.append(bare(given.tasks, given.concurrency))
        tasks.append(drain(pq, given.tasks, given.concurrency))
    counts = pq.counts()
    left = counts[TaskStatus.PENDING] + counts[TaskStatus.RUNNING] + counts[TaskStatus.FAILED]
    elsewhere(find_dsn(given.dsn), "drop_tables")
    print(f"machine: {platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"image: {(guards.status_bytes('VmRSS') or 0) / 2**20:.0f} MiB resident; {given.concurrency} at once")
    print(f"bare fork+exit+wait: {statistics.median(forks):7.0f}/s  (from {min(forks):.0f} to {max(forks):.0f})")
    print(f"no-op tasks:         {statistics.median(tasks):7.0f}/s  (from {min(tasks):.0f} to {max(tasks):.0f})")
    ratios = [task / bare_ for task, bare_ in zip(tasks, forks, strict=True)]
    print(f"ratio: {statistics.median(ratios):.2f}, medians of {given.runs} runs of {given.tasks}; left over: {left}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
