"""A worker's image that forks: bare, and for tasks, in turns. Run by ``benchmarks.fork``; a line of JSON a round.

    python -m benchmarks.image_of_a_worker TASKS CONCURRENCY ROUNDS

It imports what a worker imports and nothing else.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from benchmarks.tasks import noop, pq
from pq_core.types import TaskStatus
from pq_core.worker import guards, image
from pq_core.worker.forking import fork


def bare(times: int, outstanding: int) -> None:
    """Fork children that end at once, with at most ``outstanding`` alive."""

    def body() -> NoReturn:
        os._exit(0)

    alive = 0
    for _ in range(times):
        if alive == outstanding:
            os.wait()
            alive -= 1
        fork(body)
        alive += 1
    while alive:
        os.wait()
        alive -= 1


def measured(work: Callable[[], None], times: int) -> tuple[float, float, float]:
    """Return rate, CPU seconds and page faults each, children included."""
    before = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    after = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(a.ru_utime + a.ru_stime - b.ru_utime - b.ru_stime for a, b in zip(after, before, strict=True))
    faults = sum(a.ru_minflt - b.ru_minflt for a, b in zip(after, before, strict=True))
    return times / seconds, cpu / times, faults / times


def main() -> int:
    """Measure; print."""
    times, concurrency, rounds = (int(word) for word in sys.argv[1:4])

    def drain() -> None:
        pq.run_worker(until_empty=True, concurrency=concurrency, immortal=True)

    before = pq.counts()[TaskStatus.COMPLETED]
    pq.close()
    image.settle(immortal=True)
    pq.enqueue_many(noop.call() for _ in range(100))
    drain()  # statements, pages, imports
    for _ in range(rounds):
        forks, fork_cpu, fork_faults = measured(lambda: bare(times, concurrency), times)
        pq.enqueue_many(noop.call() for _ in range(times))
        tasks, cpu, faults = measured(drain, times)
        found = {"bare": forks, "bare_cpu": fork_cpu, "bare_faults": fork_faults, "tasks": tasks, "tasks_cpu": cpu}
        resident = (guards.status_bytes("VmRSS") or 0) / 2**20
        print(json.dumps({**found, "tasks_faults": faults, "resident": resident}), flush=True)
    counts = pq.counts()
    if counts[TaskStatus.COMPLETED] != before + 100 + rounds * times:
        raise RuntimeError(f"not all tasks completed: {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
