"""The application that the measured workers run: ``benchmarks.tasks:pq``, on the database of ``PQ_DATABASE_URL``.

``PQ_BENCH_BALLAST``: MiB of live objects that it holds, as an application with models, caches and code has them.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from pq_core import PQ

_READ_SEED = 7919


def _ballast(mebibytes: int) -> list[dict[str, Any]]:
    """Return about so many MiB of objects that refer to each other: many small ones, as Python programs have."""
    count = mebibytes * 2**20 // 456  # bytes of each, roughly: a dict of three, two strings, a float, a list
    return [{"id": n, "text": f"row number {n:012d}", "more": [n + 0.5, str(n)]} for n in range(count)]


BALLAST = _ballast(int(os.environ.get("PQ_BENCH_BALLAST", "0")))

pq = PQ(app="benchmarks")


@pq.task(name="noop")
def noop(*args: Any, **kwargs: Any) -> None:
    """Do nothing."""


@pq.task(name="clock")
def clock() -> int:
    """Return when its first line ran: nanoseconds of the clock that all processes of a machine share."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


@pq.task(name="read")
def read(count: int, seed: int = 0) -> int:
    """Read some of the heap, as a task that uses its application's objects does: reference counts are written."""
    total = 0
    for n in range(min(count, len(BALLAST))):
        row = BALLAST[(seed + n * _READ_SEED) % len(BALLAST)]
        total += len(row["text"]) + len(row["more"])
    return total


@pq.task(name="nap")
def nap(seconds: float) -> None:
    """Sleep."""
    time.sleep(seconds)


@pq.task(name="clock_to")
def clock_to(place: str) -> None:
    """Note in a file when this line ran."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    Path(f"{place}.part").write_text(str(now))
    Path(f"{place}.part").rename(place)
