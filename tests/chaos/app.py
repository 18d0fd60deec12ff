"""The application that the workers of the chaos suite run. Its tasks keep their own log; see ``record``."""

from __future__ import annotations

import fcntl
import os
import select
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from pq_core import PQ, Backoff, TaskGroup, current_attempt
from tests.chaos import record

jobs = TaskGroup(prefix="chaos")

EFFECTS = "CHAOS_EFFECTS_DSN"
"""The variable with the DSN by which tasks write their effects."""
SOON = Backoff(base=0.2, factor=1.5, max=1.0)
TRIES = 50
"""A child that is killed has failed an attempt: enough of them for any run."""
STEP = 0.01


def create_pq() -> PQ:
    """Return the application of the workers; the database comes from PQ_DATABASE_URL."""
    return PQ(tasks=[__name__], app="chaos")


@contextmanager
def watched(key: str) -> Iterator[Watch]:
    """Write down that this attempt lives, and whether another one of the same task does."""
    watch = Watch(key)
    try:
        yield watch
    finally:
        watch.close()


class Watch:
    """One attempt's entry in the log, and its byte of the lock file."""

    def __init__(self, key: str) -> None:
        attempt = current_attempt()
        self._known = {"task": attempt.id, "fence": attempt.fence, "attempt": attempt.number, "key": key}
        # Another task of the same id, of a history that was lost, is another one.
        self._byte = zlib.crc32(f"{attempt.id} {key}".encode())
        self._lock = os.open(Path(os.environ[record.FOLDER]) / record.LIVE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        self.note("start")
        self._alone = self._take()
        if not self._alone:
            self.note("overlap")

    def note(self, what: str, extra: object = "-") -> None:
        """Write down what happened."""
        record.note(what, extra=extra, **self._known)  # type: ignore[arg-type]

    def pause(self, seconds: float) -> None:
        """Take so long, and look meanwhile how long the other attempt lives on, if there is one."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if not self._alone and self._take():
                self._alone = True
                self.note("parted")
            # Not time.sleep: libfaketime 0.9.10 has that fail (EINVAL) where it leaves the monotonic clock alone.
            select.select((), (), (), min(STEP, left))

    def _take(self) -> bool:
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._byte)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go: this attempt does nothing more."""
        os.close(self._lock)


@jobs.task(max_attempts=TRIES, backoff=SOON)
def plain(key: str, pause: float = 0.0) -> str:
    """Leave a line in the log: an effect that may come twice."""
    with watched(key) as watch:
        watch.pause(pause)
        watch.note("end")
    return key


@jobs.task(max_attempts=1, on_lost="fail")
def once(key: str, pause: float = 0.0) -> None:
    """Never start twice."""
    with watched(key) as watch:
        watch.pause(pause)
        watch.note("end")


@jobs.task(max_attempts=1000, backoff=SOON, timeout=15)
def effect(key: str, pause: float = 0.0, linger: float = 0.0) -> None:
    """Write into the database and complete in the same transaction: exactly once. Then go on for ``linger`` seconds."""
    with watched(key) as watch:
        watch.pause(pause)
        attempt = current_attempt()
        with psycopg.connect(os.environ[EFFECTS], connect_timeout=5, prepare_threshold=None) as connection:
            connection.execute(
                "INSERT INTO chaos_effects (key, task, fence, pid) VALUES (%s, %s, %s, %s)",
                (key, attempt.id, attempt.fence, os.getpid()),
            )
            attempt.complete(connection)
        watch.note("end")
        watch.pause(linger)


@jobs.task(max_attempts=TRIES, backoff=SOON)
def flaky(key: str) -> None:
    """Fail at the first counted attempt, succeed at the second."""
    with watched(key) as watch:
        if current_attempt().number < 2:
            raise RuntimeError("the first attempt fails")
        watch.note("end")


@jobs.task(max_attempts=2, backoff=SOON)
def doomed(key: str) -> None:
    """Fail for good, after two attempts; has a consequence, ``mourn``."""
    with watched(key):
        raise RuntimeError("this always fails")


@jobs.task(max_attempts=TRIES, backoff=SOON)
def mourn(key: str) -> None:
    """Follow a failure: once, in the transaction that made it final."""
    with watched(key) as watch:
        watch.note("end")


@jobs.task(max_attempts=TRIES, backoff=SOON)
def version(key: str, number: int, pause: float = 0.0) -> int:
    """One version of a debounced task; the latest must run."""
    with watched(key) as watch:
        watch.pause(pause)
        watch.note("end", number)
    return number


@jobs.task(max_attempts=TRIES, backoff=SOON)
def tick(key: str) -> None:
    """One tick of a schedule."""
    with watched(key) as watch:
        watch.note("end")


@jobs.task
def probe() -> None:
    """Nothing: for measuring how fast tasks go through."""
