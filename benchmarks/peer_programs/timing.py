"""What the programs share: timing, and reading when rows were finished. Runs in the peers' environment: no pq here."""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

DSN, URL = os.environ["PQ_BENCH_DSN"], os.environ["PQ_BENCH_URL"]
COUNT, SAMPLES = int(sys.argv[1]), int(sys.argv[2])
PLACE = Path(os.environ.get("TMPDIR", "/tmp")) / f"pq-bench-{os.getpid()}"
"""Where a task notes the time: opened by tasks in other processes, too."""


def note_time(place: str) -> None:
    """Note when this line ran: what the task of the latency's samples does."""
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    Path(f"{place}.part").write_text(str(now))
    Path(f"{place}.part").rename(place)


def sample(enqueue: Callable[[str], object]) -> float:
    """Return the milliseconds from when ``enqueue`` returns to the first line of the task."""
    time.sleep(random.uniform(0.03, 0.09))
    PLACE.unlink(missing_ok=True)
    enqueue(str(PLACE))
    committed = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    until = time.monotonic() + 30
    while time.monotonic() < until:
        time.sleep(0.02)
        with contextlib.suppress(FileNotFoundError):
            return (int(PLACE.read_text()) - committed) / 1e6
    raise RuntimeError("the task did not run within 30 s")


def rate(count: int, work: Callable[[], object]) -> float:
    """Return so many per second."""
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def finish(figures: dict[str, float], samples: list[float]) -> None:
    """Print the line that ``benchmarks.peers`` reads."""
    PLACE.unlink(missing_ok=True)
    if samples:
        ordered = sorted(samples)
        figures["latency p50"] = statistics.median(ordered)
        figures["latency p99"] = ordered[min(int(0.99 * len(ordered)), len(ordered) - 1)]
    print(json.dumps(figures))
