"""The demo's application, as a worker loads it: its tasks and their ``PQ``.

Three of them misbehave on purpose. The database is that of PQ_DATABASE_URL; what webhooks may call, and the secret that
signs them, comes from PQ_WEBHOOK_… variables.
"""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

from pq_adapters.cli.demo import library
from pq_core import PQ, TaskGroup, current_attempt

SCHEMA = "pq_demo"
MEMORY_LIMIT = 96 * 2**20
TURN = 0.2
"""Seconds that one turn of a tenant takes."""
TURNS_RATE = "10/s"

jobs = TaskGroup(prefix="demo")
pq = PQ(schema=SCHEMA, app="pq demo", tasks=["pq_adapters.webhook"])
pq.include(jobs)


@jobs.task(name="measure", timeout=60)
def measure(run: int, path: str) -> dict[str, int]:
    """Count what a file holds, and write the row in one transaction with the completion of this task."""
    found = library.measure(Path(path))
    counts = {"lines": found.lines, "functions": found.functions, "classes": found.classes}
    with pq.session() as connection:
        connection.execute(
            f"INSERT INTO {SCHEMA}.demo_files (run, path, lines, functions, classes) VALUES (%s, %s, %s, %s, %s)",
            (run, path, *counts.values()),
        )
        current_attempt().complete(connection, result=counts)
    return counts


@jobs.task(name="turn", rate=TURNS_RATE, timeout=60)
def turn(run: int, tenant: str, number: int) -> None:
    """Take a moment, and note from when to when."""
    began = time.monotonic_ns()
    time.sleep(TURN)
    ended = time.monotonic_ns()
    with pq.session() as connection:
        connection.execute(
            f"INSERT INTO {SCHEMA}.demo_turns (run, tenant, number, began, ended) VALUES (%s, %s, %s, %s, %s)",
            (run, tenant, number, began, ended),
        )
        current_attempt().complete(connection)


@jobs.task(name="segfault")
def segfault() -> None:
    """Read from address 0."""
    print("about to read from address 0", flush=True)
    ctypes.string_at(0)


@jobs.task(name="memory_hog", memory_limit=MEMORY_LIMIT)
def memory_hog() -> None:
    """Take memory until there is no more."""
    taken = []
    while True:
        taken.append(bytearray(2**20))


@jobs.task(name="endless_loop", timeout=1.5)
def endless_loop() -> None:
    """Never end by itself."""
    while True:
        pass
