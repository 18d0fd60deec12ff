"""Worker processes for tests: the keeper by ``python -m pq_core.worker``, as ``pq worker`` execs it."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
TASKS = "tests.integration.worker_tasks"
PATIENCE = 30.0
"""Seconds that a test waits for what takes far less: the machine may be busy."""


def eventually(look: Callable[[], T], *, within: float = PATIENCE, every: float = 0.02, what: str = "") -> T:
    """Return the first true result of ``look``."""
    until = time.monotonic() + within
    while not (found := look()):
        if time.monotonic() > until:
            raise AssertionError(f"did not come true within {within:g} s: {what or look!r}; last: {found!r}")
        time.sleep(every)
    return found


def alive(pid: int) -> bool:
    """Say whether the process runs; one that waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def _leads_group(pid: int) -> bool:
    try:
        return os.getpgid(pid) == pid
    except ProcessLookupError:
        return False


def children_of(pid: int) -> list[int]:
    """Return the pids of the processes that ``pid`` is the parent of."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def processes_of(worker: int) -> list[int]:
    """Return the pids of the processes that a worker has for its tasks: its fork server is their parent."""
    return [found for child in children_of(worker) for found in children_of(child)]


def descendants_of(pid: int) -> list[int]:
    """Return the pids of all processes below ``pid``."""
    return [found for child in children_of(pid) for found in (child, *descendants_of(child))]


def memory_of(pid: int) -> int:
    """Return the resident bytes of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no memory of {pid}")


class WorkerProcess:
    """A keeper with its workers. Everything below it is ended when the test is over."""

    def __init__(
        self,
        dsn: str,
        log: Path,
        *,
        app: str = f"{TASKS}:create_pq",
        processes: int = 1,
        check: bool = False,
        environment: dict[str, str] | None = None,
        path: Path | None = None,
        **options: Any,
    ) -> None:
        spec = {
            "app": app,
            "factory": app.endswith("create_pq"),
            "processes": processes,
            "check": check,
            "options": {"concurrency": 4, "lease": 30, "poll_interval": 1, **options},
        }
        self.log = log
        folders = [str(path or ""), str(ROOT)]
        variables = {
            **{name: value for name, value in os.environ.items() if not name.startswith("COV")},
            "PQ_DATABASE_URL": dsn,
            "PYTHONPATH": os.pathsep.join(folder for folder in folders if folder),
            "PYTHONUNBUFFERED": "1",
            **(environment or {}),
        }
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pq_core.worker", json.dumps(spec)],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                cwd=path or ROOT,
                env=variables,
            )
        self.keeper = self.process.pid
        self._seen: set[int] = set()

    @property
    def text(self) -> str:
        """What keeper, workers and tasks have printed."""
        return self.log.read_text(errors="replace")

    @property
    def workers(self) -> list[int]:
        """The pids of the worker processes."""
        found = children_of(self.keeper)
        self._seen.update(found)
        # Workers lead a process group; orphans that the keeper adopted do not, and are about to be reaped.
        return [pid for pid in found if alive(pid) and _leads_group(pid)]

    def started(self, count: int = 1) -> list[int]:
        """Wait until ``count`` workers have a lease, and return the pids of the worker processes."""
        eventually(lambda: self._lives() >= count or self.process.poll() is not None, what=f"{count} start(s)")
        assert self.process.poll() is None, self.text
        return self.workers

    def _lives(self) -> int:
        return sum("started: queues" in line for line in self.text.splitlines())

    def signal(self, number: int, pid: int | None = None) -> None:
        """Send a signal to the keeper, or to ``pid``."""
        self._seen.update(descendants_of(self.keeper))
        os.kill(pid or self.keeper, number)

    def wait(self, within: float = PATIENCE) -> int:
        """Wait for the end and return the exit status."""
        return self.process.wait(within)

    def stop(self) -> int:
        """Have it drain, and return the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """End everything that is left, now."""
        self._seen.update(descendants_of(self.keeper))
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pid in self._seen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextmanager
def running(dsn: str, folder: Path, **options: Any) -> Iterator[WorkerProcess]:
    """Start a keeper with workers that have got their leases; end it with the block."""
    worker = WorkerProcess(dsn, folder / f"worker-{secrets.token_hex(4)}.log", **options)
    try:
        worker.started(options.get("processes", 1))
        yield worker
    finally:
        worker.kill()


def until_empty(dsn: str, folder: Path, **options: Any) -> WorkerProcess:
    """Run a worker until nothing is due; it must end well."""
    worker = WorkerProcess(dsn, folder / f"worker-{secrets.token_hex(4)}.log", until_empty=True, **options)
    try:
        status = worker.wait(60)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"the worker does not end:\n{worker.text}") from None
    finally:
        worker.kill()
    assert status == 0, worker.text
    return worker


@contextmanager
def cloned(server: str, template: str) -> Iterator[str]:
    """Make a database from the template, for fixtures that outlive one test."""
    name = f"pq_test_{secrets.token_hex(8)}"
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
    try:
        yield make_conninfo(server, dbname=name)
    finally:
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
