"""The module that forks, by ``os.fork`` or by what is given instead.

A fork here leaves one thread, no buffered output and blocked signals behind.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import monotonic
from typing import NoReturn

from pq_core.worker.guards import RSS_UNIT

_FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP)
_BLOCKED = frozenset(int(one) for one in signal.valid_signals()) - frozenset(_FAULTS)
"""What must not come between a fork and the child's first steps: all but what a process does to itself. Masks are set
by ``_signal``: ``signal`` turns each of a mask into an enum member and back, which took 10 µs a fork and wrote to pages
that the child shares."""


def fork(body: Callable[[], NoReturn]) -> int:
    """Run ``body`` in a new process and return its pid. Raises OSError when the system has no room for one.

    Signals are blocked across the fork: the child unblocks them once its own handlers stand, so that no handler
    of the parent ever runs in it. ``body`` must not return.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                continue  # nobody reads it any more, or it is closed: what it holds is lost, the work is not
    forked, error = fork_all((body,))
    if error is not None:
        raise error
    return forked[0][0]


def fork_all(
    bodies: Sequence[Callable[[], NoReturn]], os_fork: Callable[[], int] | None = None
) -> tuple[list[tuple[int, float]], OSError | None]:
    """Run each of ``bodies`` in a new process, as ``fork`` does; return pids, and why there are fewer than bodies.

    With each pid when it was forked, of the monotonic clock: a row takes its time. ``os_fork``: in the stead of that.

    One fork right after another: of what the parent writes between two forks the kernel copies every page. What it has
    printed it must have flushed: each child would print it again.
    """
    forked: list[tuple[int, float]] = []
    os_fork = os_fork or os.fork  # as it is now: gevent puts another there
    before = _signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    try:
        for body in bodies:
            pid = os_fork()
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


def reap_all(pids: Iterable[int], last: Callable[[int, bool], None]) -> list[Exit]:
    """Collect the children that have ended; ``pids``: all that this process has.

    ``last``: gets each pid before it is given back, while nobody else can have it, and whether its status is 0.
    """
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        found = [exit_ for pid in list(pids) if (exit_ := reap(pid)) is not None]
        for exit_ in found:
            last(exit_.pid, exit_.status == 0)
        return found
    found = []
    for pid, orderly in _ended():
        last(pid, orderly)
        if (exit_ := reap(pid)) is not None:
            found.append(exit_)
    return found


def _ended() -> Iterator[tuple[int, bool]]:
    """Yield the children that have ended and wait to be reaped, and whether each did with the status 0.

    Each is to be reaped before the next is asked for.
    """
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None:
            return
        yield found.si_pid, found.si_code == os.CLD_EXITED and found.si_status == 0


def reap(pid: int, *, block: bool = False) -> Exit | None:
    """Collect a child that has ended; None when it has not."""
    done, status, usage = os.wait4(pid, 0 if block else os.WNOHANG)
    if done == 0:
        return None
    return Exit(pid, status, usage.ru_utime, usage.ru_stime, usage.ru_maxrss * RSS_UNIT)
