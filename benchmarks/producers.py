"""Many clients that enqueue one task per transaction, beside real workers: notified, never notified, or not there."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import psycopg
from psycopg import sql

from benchmarks.tasks import noop
from benchmarks.worker import Worker, running
from pq_core import PQ

NOBODY = "nobody to notify"
NEVER_TOLD = "a worker that nobody notifies"
TOLD = "a worker"
SEVERAL_NEVER_TOLD = "four workers that nobody notifies"
SEVERAL = "four workers"
EVERY_COMMIT = "every commit notifies"

LISTENERS = {NOBODY: 0, NEVER_TOLD: 1, TOLD: 1, SEVERAL_NEVER_TOLD: 4, SEVERAL: 4, EVERY_COMMIT: 0}
"""The worker processes of each variant. Where nobody notifies them, their mark as asleep is taken away by a trigger as
soon as it is set: they work the same, and the clients find nobody to notify. Where every commit notifies, there is a
mark that nobody takes away, so that each transaction queues up at the lock that NOTIFY holds until its commit."""

WORKER = ("--tasks-per-child", "1000", "--concurrency", "2", "--prune-share", "0", "--poll-interval", "0.05")

NEVER_ASLEEP = """
    CREATE OR REPLACE FUNCTION bench_awake() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN NEW.sleeping := false; RETURN NEW; END';
    CREATE OR REPLACE TRIGGER bench_awake BEFORE INSERT OR UPDATE ON pq_workers
        FOR EACH ROW EXECUTE FUNCTION bench_awake();
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Enqueued:
    """What the clients did together. ``rate``: tasks/s. ``notified``: notifications for each task.

    ``worked``: tasks/s that workers completed meanwhile.
    """

    rate: float
    notified: float
    worked: float


def enqueued_by_clients(dsn: str, clients: int, seconds: float, variant: str) -> Enqueued:
    """Let the clients enqueue for so long beside what ``variant`` names."""
    never_told = variant in (NEVER_TOLD, SEVERAL_NEVER_TOLD)
    with psycopg.connect(dsn, autocommit=True) as ear, contextlib.ExitStack() as beside:
        ear.execute(f"LISTEN {_channel(ear)}")
        if never_told:
            ear.execute(NEVER_ASLEEP)
            beside.callback(ear.execute, "DROP TRIGGER bench_awake ON pq_workers")
        if variant == EVERY_COMMIT:
            _mark(ear)
        if LISTENERS[variant]:
            workers: Worker = beside.enter_context(running(dsn, *WORKER, "--processes", str(LISTENERS[variant])))
            _settled(ear, workers, LISTENERS[variant], marked=not never_told)
            _overhear(ear)
        count, longest = _count_of_clients(dsn, clients, seconds)
        worked = ear.execute("SELECT count(*) FROM pq_tasks WHERE status = 'completed'").fetchone()
        heard = sum(1 for _ in ear.notifies(timeout=0.2))
    assert worked is not None
    return Enqueued(rate=count / longest, notified=heard / max(count, 1), worked=worked[0] / longest)


def _settled(connection: psycopg.Connection[tuple[object, ...]], worker: Worker, count: int, *, marked: bool) -> None:
    """Wait until all of them have their lease, and have fallen asleep."""
    awake = f"SELECT count(*) FILTER (WHERE sleeping = {marked}) FROM pq_workers"
    until = time.monotonic() + 60
    while connection.execute(awake).fetchone() != (count,):
        if time.monotonic() > until:
            raise RuntimeError(f"the workers below {worker.pid} did not start within a minute")
        time.sleep(0.05)
    time.sleep(0.5)


def _count_of_clients(dsn: str, clients: int, seconds: float) -> tuple[int, float]:
    """Return how many tasks the clients enqueued, and the seconds that the slowest one took."""
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
    return done, longest


def _enqueue_for(dsn: str, seconds: float, writing: int) -> None:
    pq = PQ(dsn)
    pq.include(noop.group)
    pq.enqueue(noop.call(0))
    count, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        pq.enqueue(noop.call(count))
        count += 1
    os.write(writing, f"{count} {spent}".encode())


def _channel(connection: psycopg.Connection[tuple[object, ...]]) -> str:
    row = connection.execute("SELECT pq_channel('wake')").fetchone()
    assert row is not None
    return str(row[0])


def _overhear(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Listen where each worker is woken by itself."""
    for (channel,) in connection.execute("SELECT wake_channel FROM pq_workers").fetchall():
        connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(str(channel))))


def _mark(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """Let there be a worker that sleeps for ever."""
    connection.execute(
        "INSERT INTO pq_workers (expires_at, lease, pid, concurrency, sleeping, name, host, pq_version, queues)"
        " VALUES (now() + interval '1 hour', '30 s', 0, 1, true, 'benchmark', 'here', '0', '{default}')"
    )


def _run(body: Callable[[], None]) -> NoReturn:
    try:
        body()
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)
    os._exit(0)
