"""The demo's application, as a worker loads it: four tasks and their ``PQ``.

Three of the four misbehave on purpose. The database is that of PQ_DATABASE_URL.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

from pq_adapters.cli.demo import library
from pq_core import PQ, TaskGroup, current_attempt

SCHEMA = "pq_demo"
MEMORY_LIMIT = 96 * 2**20

jobs = TaskGroup(prefix="demo")
pq = PQ(schema=SCHEMA, app="pq demo")
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
