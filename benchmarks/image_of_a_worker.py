"""The image that forks children: bare, and for tasks, in turns. Run by ``benchmarks.fork``; a line of JSON a round.

    python -m benchmarks.image_of_a_worker TASKS CONCURRENCY ROUNDS

It imports what a fork server has in memory and nothing else. Whatever needs the database is done in a process of its
own: enqueueing, and the workers, whose fork servers have this image.
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
from pq_core.worker import guards, image, rehearsing
from pq_core.worker import host as host  # what a worker has loaded before it forks its fork server off
from pq_core.worker.forking import fork

STATEMENT = """
SELECT extract(epoch FROM max(completed_at) - min(started_at)), count(*) FROM {} WHERE status = 'completed'
"""
"""Seconds from the first start to the last end: without the start of the worker."""


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


def apart(work: Callable[[], object]) -> object:
    """Do something in a process of its own; return what it returned, which is JSON."""
    reading, writing = os.pipe()

    def body() -> NoReturn:
        os.write(writing, json.dumps(work()).encode())
        os._exit(0)

    pid = fork(body)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        found = answer.read()
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("it failed")
    return json.loads(found)


def measured(work: Callable[[], object]) -> tuple[float, float, float]:
    """Return seconds, CPU seconds and page faults, children included."""
    before = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    after = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(a.ru_utime + a.ru_stime - b.ru_utime - b.ru_stime for a, b in zip(after, before, strict=True))
    faults = sum(a.ru_minflt - b.ru_minflt for a, b in zip(after, before, strict=True))
    return seconds, cpu, faults


def enqueue(times: int) -> None:
    """Make room for a round, and enqueue its tasks."""
    pq.clear_all()
    pq.enqueue_many(noop.call() for _ in range(times))


def taken(times: int) -> float:
    """Return the seconds that the tasks of a round took together."""
    with pq.session() as connection:
        row = connection.execute(STATEMENT.format(f'"{pq.schema}".pq_tasks')).fetchone()
    if row is None or row[1] != times:
        raise RuntimeError(f"not all tasks completed: {pq.counts()[TaskStatus.COMPLETED]} of {times}")
    return float(row[0])


def main() -> int:
    """Measure; print."""
    times, concurrency, rounds = (int(word) for word in sys.argv[1:4])

    def drain() -> None:
        apart(lambda: pq.run_worker(until_empty=True, concurrency=concurrency, immortal=True))

    pq.registry.prepare()
    rehearsing.rehearse()
    image.settle(immortal=True)
    image.collapse()
    apart(lambda: enqueue(1))
    _, start_cpu, start_faults = measured(drain)  # of which each round has a share that is no task's
    for _ in range(rounds):
        seconds, fork_cpu, fork_faults = measured(lambda: bare(times, concurrency))
        apart(lambda: enqueue(times))
        _, cpu, faults = measured(drain)
        found = {
            "bare": times / seconds,
            "bare_cpu": fork_cpu / times,
            "bare_faults": fork_faults / times,
            "tasks": times / float(str(apart(lambda: taken(times)))),
            "tasks_cpu": (cpu - start_cpu) / times,
            "tasks_faults": (faults - start_faults) / times,
            "resident": (guards.status_bytes("VmRSS") or 0) / 2**20,
        }
        print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
