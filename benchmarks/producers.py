"""Many clients that enqueue one task per transaction, beside a worker that sleeps, wakes, or isn't there."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import psycopg

from benchmarks.tasks import noop
from pq_core import PQ

SLEEPERS = ("nobody to notify", "a worker that wakes", "every commit notifies")
"""Without any worker; with one that marks itself awake when it is notified, and asleep when it finds nothing; with a
mark that nobody takes away, so that each transaction queues up at the lock that NOTIFY takes until its commit."""


def rate_of_clients(dsn: str, clients: int, seconds: float, sleeper: str) -> float:
    """Return the tasks per second that the clients enqueue together."""
    worker: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if sleeper == "a worker that wakes":
        worker = _forked(lambda: _wake_and_sleep(dsn))
    elif sleeper == "every commit notifies":
        worker = _forked(lambda: _listen(dsn))
    with worker:
        if worker is not None and sleeper != SLEEPERS[0]:
            time.sleep(0.3)
        pipes = []
        for _ in range(clients):
            reading, writing = os.pipe()
            if os.fork() == 0:
                os.close(reading)
                _run(lambda: _enqueue_for(dsn, seconds, writing))  # noqa: B023
            os.close(writing)
            pipes.append(reading)
        done, longest = 0, 0.0
        for reading in pipes:
            with os.fdopen(reading) as pipe:
                count, spent = pipe.read().split()
                done, longest = done + int(count), max(longest, float(spent))
            os.wait()
    return done / longest


def _enqueue_for(dsn: str, seconds: float, writing: int) -> None:
    pq = PQ(dsn)
    pq.include(noop.group)
    pq.enqueue(noop.call(0))
    count, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        pq.enqueue(noop.call(count))
        count += 1
    os.write(writing, f"{count} {spent}".encode())


def _mark(connection: psycopg.Connection[tuple[object, ...]]) -> str:
    connection.execute(
        "INSERT INTO pq_workers (expires_at, lease, pid, concurrency, sleeping, name, host, pq_version, queues)"
        " VALUES (now() + interval '1 hour', '30 s', 0, 1, true, 'benchmark', 'here', '0', '{default}')"
    )
    row = connection.execute("SELECT pq_channel('wake')").fetchone()
    assert row is not None
    connection.execute(f"LISTEN {row[0]}")
    return str(row[0])


def _listen(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        _mark(connection)
        for _ in connection.notifies():
            pass


def _wake_and_sleep(dsn: str) -> None:
    """Do what a worker does about the mark, with as much work between as one batch is; the tasks stay."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        _mark(connection)
        while True:
            for _ in connection.notifies(timeout=1, stop_after=1):
                connection.execute("UPDATE pq_workers SET sleeping = false")
                time.sleep(0.02)  # tasks that run
                connection.execute("UPDATE pq_workers SET sleeping = true")


@contextmanager
def _forked(body: Callable[[], None]) -> Iterator[None]:
    pid = os.fork()
    if pid == 0:
        _run(body)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _run(body: Callable[[], None]) -> NoReturn:
    try:
        body()
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)
    os._exit(0)
