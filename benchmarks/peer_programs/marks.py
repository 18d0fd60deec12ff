"""What the programs of ``failures`` share: a log that no queue writes. Runs in the peers' environment: no pq here."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

CRASHING = "crash"
"""The key of the task whose process dies of it, each time."""
CONCURRENCY = 4
"""Tasks at once, in each of the systems."""


@contextmanager
def marked(key: str) -> Iterator[None]:
    """Write one line when the block begins and one when it ends: key, which, pid, nanoseconds."""
    _mark(key, "begin")
    if key == CRASHING:
        os.kill(os.getpid(), signal.SIGSEGV)
    yield
    _mark(key, "end")


def step(key: str, seconds: float) -> None:
    """Take a while."""
    with marked(key):
        time.sleep(seconds)


def _mark(key: str, which: str) -> None:
    line = f"{key} {which} {os.getpid()} {time.monotonic_ns()}\n".encode()
    descriptor = os.open(os.environ["PQ_BENCH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, line)  # one call: lines of other processes can't come in between
    finally:
        os.close(descriptor)


def main(**commands: Callable[..., None]) -> None:
    """Run the command that the command line names, with its words."""
    commands[sys.argv[1]](*sys.argv[2:])
