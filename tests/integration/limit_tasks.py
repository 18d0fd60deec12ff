"""Tasks that note when they begin and end, for the tests of limits."""

from __future__ import annotations

import os
import time
from pathlib import Path

from pq_core import PQ, RateLimited, TaskGroup, current_attempt

jobs = TaskGroup(prefix="l")


def create_pq() -> PQ:
    """The application of these tests' workers."""
    return PQ(tasks=[__name__], app="limits")


def write(path: str, line: str) -> None:
    """Append a line in one write, as processes side by side may."""
    with Path(path).open("ab", buffering=0) as file:
        file.write(line.encode() + b"\n")


def span(path: str, label: str, seconds: float) -> None:
    """Note the begin and the end of a span."""
    write(path, f"{time.monotonic_ns()} begin {label}")
    time.sleep(seconds)
    write(path, f"{time.monotonic_ns()} end {label}")


@jobs.task
def work(path: str, label: str, seconds: float = 0.0) -> None:
    span(path, label, seconds)


@jobs.task(concurrency=2)
def narrow(path: str, label: str, seconds: float = 0.0) -> None:
    span(path, label, seconds)


@jobs.task(rate="20/s")
def paced(path: str, label: str) -> None:
    write(path, f"{time.monotonic_ns()} begin {label}")


@jobs.task(rate="40/s")
def brisk(path: str, label: str) -> None:
    write(path, f"{time.monotonic_ns()} begin {label}")


@jobs.task
def limited_by_service(path: str, label: str, after: float) -> None:
    write(path, f"{time.monotonic_ns()} begin {label}")
    if current_attempt().fence == 1:
        raise RateLimited(after)


@jobs.task(max_attempts=3)
def flaky(path: str, label: str) -> None:
    write(path, f"{time.monotonic_ns()} begin {label}")
    if current_attempt().number < 2:
        raise ValueError("not yet")


@jobs.task
def hold(path: str, label: str) -> None:
    """Run until a file of that name is there."""
    write(path, f"{time.monotonic_ns()} begin {label} {os.getpid()}")
    while not Path(f"{path}.go").exists():
        time.sleep(0.02)
    write(path, f"{time.monotonic_ns()} end {label}")
