"""Running what is due: in this process, or by a real worker in a process of its own."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Iterable
from typing import Any, BinaryIO, NoReturn

import pytest

from pq_core.client import PQ
from pq_core.overriding import override_of
from pq_core.sealing import Seals
from pq_core.types import AttemptOutcome, ClaimedTask, EndedAttempt, Outcome
from pq_core.worker import guards
from pq_core.worker.forking import Exit, fork, reap
from pq_core.worker.host import foreign_sockets

PATIENCE = 60.0
"""Seconds that a worker gets for everything that is due."""


def is_framework_bound(pq: PQ) -> bool:
    """Tell whether the PQ has no connections of its own but those of a framework, and so its test database."""
    return type(pq)._run is not PQ._run


def refuse_the_real_database(pq: PQ, what: str) -> None:
    """Fail the test if the PQ leads where the application's own settings lead."""
    __tracebackhide__ = True
    if override_of(pq) is None and not is_framework_bound(pq):
        pytest.fail(
            f"{what} the database of the application's own settings: ask for the fixture pq_override, use "
            "pq.override(…), or give using=",
            pytrace=False,
        )


class RunInline:
    """The fixture ``run_inline``."""

    def __init__(self, pq: PQ) -> None:
        self._pq = pq

    def __call__(
        self, *, using: object = None, limit: int | None = None, queues: Iterable[str] | None = None
    ) -> list[EndedAttempt]:
        """Run what is due in this process, as ``pq.run_inline`` does."""
        __tracebackhide__ = True
        if using is None:
            refuse_the_real_database(self._pq, "run_inline() would run the tasks of")
        return self._pq.run_inline(using=using, limit=limit, queues=queues)


class RunWorker:
    """The fixture ``pq_worker``. ``known_threads``: those of the test run itself."""

    def __init__(self, pq: PQ, *, known_threads: frozenset[int]) -> None:
        self._pq = pq
        self._known_threads = known_threads

    def __call__(self, *, strict: bool = False, timeout: float = PATIENCE, **options: Any) -> list[EndedAttempt]:
        """Run a worker in a forked process until nothing is due; return the attempts in the order in which they ended.

        It sees what has been committed. ``strict``: fail the test if threads run, or connections are open, that a
        child would inherit. ``timeout``: seconds for all of it. ``options``: those of ``run_worker``; one task at a
        time by default.
        """
        __tracebackhide__ = True
        if strict:
            self._check()
        with tempfile.TemporaryFile() as notes:
            pid = self._start(notes, {"concurrency": 1, **options})
            try:
                end = _wait(pid, timeout)
            except BaseException:
                _kill(pid)
                raise
            if end is None:
                _kill(pid)
                pytest.fail(f"the worker did not end within {timeout:g} s", pytrace=False)
            notes.seek(0)
            ended, problem = _read(notes, self._pq.registry.seals)
        if problem is not None or end.status != 0:
            words = problem or f"exit status {end.exit_code}, signal {end.signal}"
            pytest.fail(f"the worker failed: {words}", pytrace=False)
        return ended

    def _start(self, notes: BinaryIO, options: dict[str, Any]) -> int:
        parent = os.getpid()

        def body() -> NoReturn:
            status = 1
            try:
                _become_worker(parent)
                self._pq.plugins.register(_Notes(notes))
                self._pq.run_worker(until_empty=True, **options)
                status = 0
            except BaseException:
                pickle.dump(traceback.format_exc(), notes)
            finally:
                notes.flush()
                os._exit(status)

        with warnings.catch_warnings():
            # Of other threads: those of a test runner are idle, and for the others there is strict=.
            warnings.simplefilter("ignore", DeprecationWarning)
            return fork(body)

    def _check(self) -> None:
        __tracebackhide__ = True
        if (override := override_of(self._pq)) is not None:
            for pool in override.made.values():
                if hasattr(pool, "close"):
                    pool.close()
        threads = [
            thread.name
            for thread in threading.enumerate()
            if thread is not threading.current_thread() and thread.ident not in self._known_threads
        ]
        sockets = [f"descriptor {fd}" for fd in foreign_sockets()]
        if threads or sockets:
            pytest.fail(
                f"at the fork there are threads: {', '.join(threads) or 'none'}; "
                f"open connections: {', '.join(sockets) or 'none'}",
                pytrace=False,
            )


class _Notes:
    """A plugin that writes down how attempts ended."""

    def __init__(self, notes: BinaryIO) -> None:
        self._notes = notes

    def pq_post_task(self, task: ClaimedTask, outcome: AttemptOutcome) -> None:
        """Write one down; the children inherit nothing that is not yet written."""
        pickle.dump((task.id, task.name, task.number, outcome), self._notes)
        self._notes.flush()


def _become_worker(parent: int) -> None:
    guards.die_with_parent(parent)
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    logging.raiseExceptions = False


def _wait(pid: int, timeout: float) -> Exit | None:
    until = time.monotonic() + timeout
    while (end := reap(pid)) is None:
        if time.monotonic() > until:
            return None
        time.sleep(0.005)
    return end


def _kill(pid: int) -> None:
    guards.kill_group(pid, signal.SIGKILL)
    reap(pid, block=True)


def _read(notes: BinaryIO, seals: Seals) -> tuple[list[EndedAttempt], str | None]:
    ended: list[EndedAttempt] = []
    while True:
        try:
            note = pickle.load(notes)
        except EOFError:
            return ended, None
        if isinstance(note, str):
            return ended, note
        ended.append(_ended(seals, *note))


def _ended(seals: Seals, id_: int, name: str, number: int, outcome: AttemptOutcome) -> EndedAttempt:
    succeeded = outcome.outcome is Outcome.SUCCEEDED
    return EndedAttempt(
        id=id_,
        name=name,
        number=number,
        outcome=outcome.outcome,
        status=outcome.status,
        retry_in=outcome.retry_in,
        result=seals.open_result(outcome.result, task_id=id_) if succeeded else None,
        error=outcome.error,
        exception_type=outcome.exception_type,
        output=outcome.output,
        wall=outcome.wall,
    )
