"""The only module that forks. A fork here leaves one thread, no buffered output and blocked signals behind."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import signal
import sys
from collections.abc import Callable, Sequence
from time import monotonic
from typing import NoReturn

_HANDLED = frozenset(
    (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2)
)
"""What a worker or keeper may have handlers for. Masks are set by ``_signal``: ``signal`` turns each of a mask into an
enum member and back, which took 10 µs a fork and wrote to pages that the child shares."""


def fork(body: Callable[[], NoReturn]) -> int:
    """Run ``body`` in a new process and return its pid. Raises OSError when the system has no room for one.

    Signals are blocked across the fork: the child unblocks them once its own handlers stand, so that no handler
    of the parent ever runs in it. ``body`` must not return.
    """
    forked, error = fork_all((body,))
    if error is not None:
        raise error
    return forked[0][0]


def fork_all(bodies: Sequence[Callable[[], NoReturn]]) -> tuple[list[tuple[int, float]], OSError | None]:
    """Run each of ``bodies`` in a new process, as ``fork`` does; return pids, and why there are fewer than bodies.

    With each pid when it was forked, of the monotonic clock: a row takes its time.

    One fork right after another: of what the parent writes between two forks the kernel copies every page.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                continue  # nobody reads it any more, or it is closed: what it holds is lost, the work is not
    forked: list[tuple[int, float]] = []
    before = _signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    try:
        for body in bodies:
            pid = os.fork()
            if pid == 0:
                try:
                    body()
                finally:
                    os._exit(70)
            forked.append((pid, monotonic()))
    except OSError as error:
        return forked, error
    finally:
        _signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return forked, None


class Exit:
    """How a child ended, with what it used."""

    __slots__ = ("cpu_system", "cpu_user", "max_rss", "pid", "status")

    def __init__(self, pid: int, status: int, cpu_user: float, cpu_system: float, max_rss: int) -> None:
        self.pid = pid
        self.status = status
        self.cpu_user = cpu_user
        self.cpu_system = cpu_system
        self.max_rss = max_rss

    @property
    def signal(self) -> int | None:
        """The signal that ended it, None if it exited."""
        return os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else None

    @property
    def exit_code(self) -> int | None:
        """Its exit status, None if a signal ended it."""
        return os.WEXITSTATUS(self.status) if os.WIFEXITED(self.status) else None


RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def ended(pid: int) -> bool:
    """Say whether the child has ended, leaving it to be reaped: its pid can't be given to another yet."""
    if not hasattr(os, "waitid"):
        return True
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def reap(pid: int, *, block: bool = False) -> Exit | None:
    """Collect a child that has ended; None when it has not."""
    done, status, usage = os.wait4(pid, 0 if block else os.WNOHANG)
    if done == 0:
        return None
    return Exit(pid, status, usage.ru_utime, usage.ru_stime, usage.ru_maxrss * RSS_UNIT)
