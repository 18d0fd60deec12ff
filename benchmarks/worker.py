"""A worker as users start one, ``pq worker``, and what it used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 600.0
"""Seconds after which a worker that does not get on ends the benchmark."""


@dataclass(slots=True)
class Used:
    """What a worker and all its children used from start to end. ``cpu``: seconds; ``faults``: minor page faults."""

    wall: float = 0.0
    cpu: float = 0.0
    faults: int = 0


class Worker:
    """One ``pq worker`` with all below it."""

    def __init__(self, dsn: str, *options: str, environment: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "pq_core", "worker", "benchmarks.tasks:pq", *options]
        variables = {**os.environ, "PQ_DATABASE_URL": dsn, "PYTHONPATH": str(ROOT), **(environment or {})}
        self.used = Used()
        self._asked = False
        self._since = time.perf_counter()
        # A file, not a pipe: nobody reads what it logs while it runs.
        with tempfile.TemporaryFile("w+b") as log:
            self._log = os.dup(log.fileno())
            self._process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=log, stderr=log)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def workers(self) -> list[int]:
        """The pids of the worker processes."""
        return children_of(self.pid)

    def wait(self) -> Used:
        """Wait for its end; raises RuntimeError with its last words if it failed."""
        _, status, usage = os.wait4(self.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.used = Used(
            wall=time.perf_counter() - self._since,
            cpu=usage.ru_utime + usage.ru_stime,
            faults=usage.ru_minflt,
        )
        with os.fdopen(self._log, "rb") as log:
            log.seek(0)
            said = log.read().decode(errors="replace")
        if self._process.returncode:
            raise RuntimeError(f"the worker ended with {self._process.returncode}:\n{said[-2000:]}")
        return self.used

    def ask_to_stop(self) -> None:
        """Ask it to end; ``stop`` waits for that."""
        if self._process.returncode is None and not self._asked:
            self._asked = True
            os.kill(self.pid, signal.SIGTERM)  # not through Popen, which may take its exit status away from ``wait``

    def stop(self) -> Used:
        """Ask it to end, and wait."""
        if self._process.returncode is None:
            self.ask_to_stop()
            return self.wait()
        return self.used


def drained(dsn: str, *options: str, environment: Mapping[str, str] | None = None) -> Used:
    """Run a worker until nothing is due."""
    return Worker(dsn, *options, "--until-empty", environment=environment).wait()


@contextmanager
def running(dsn: str, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[Worker]:
    """Run a worker during the block, from when it holds its lease."""
    worker = Worker(dsn, *options, environment=environment)
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            until = time.monotonic() + 60
            while connection.execute("SELECT count(*) FROM pq_workers").fetchone() == (0,):
                if time.monotonic() > until:
                    raise RuntimeError("the worker did not start within a minute")
                time.sleep(0.02)
        yield worker
    finally:
        worker.stop()


def rate_of(dsn: str, *, skip: float = 0.0) -> float:
    """Return completed tasks per second, by the database's clock, without the first share ``skip`` of them."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(
            "WITH ended AS (SELECT completed_at, row_number() OVER (ORDER BY completed_at) AS n,"
            " count(*) OVER () AS all_ FROM pq_tasks WHERE status = 'completed' AND name <> 'old')"
            " SELECT count(*) - 1, extract(epoch FROM max(completed_at) - min(completed_at)) FROM ended"
            " WHERE n > %s * all_",
            (skip,),
        ).fetchone()
    assert row is not None
    count, seconds = row
    return float(count) / float(seconds) if seconds else 0.0


def children_of(pid: int) -> list[int]:
    """Return the pids of the processes that ``pid`` is the parent of."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def processes_of(worker: int) -> list[int]:
    """Return the processes that a worker of pq has for its tasks: its fork server is their parent."""
    return [found for server in children_of(worker) for found in children_of(server)]
