"""What follows from how an attempt ended: pure functions, no clock, no database, no global randomness."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from pq_core.errors import Retry
from pq_core.types import Backoff, OnLost, Outcome, TaskOptions, TaskStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """What becomes of a task after an attempt.

    ``counted``: whether the attempt counts against ``max_attempts`` (if not, the row's ``attempts`` goes back
    by one). ``delay``: seconds until it runs again, only when ``status`` is pending. ``error``: text to store.
    """

    status: TaskStatus
    outcome: Outcome
    counted: bool = True
    delay: float | None = None
    error: str | None = None


def decide(
    outcome: Outcome,
    *,
    number: int,
    max_attempts: int,
    retryable: bool,
    backoff: Backoff,
    after: float | None,
    error: str | None,
    random: Callable[[], float],
) -> Transition:
    """Return what becomes of a task whose attempt ``number`` (counted from 1) ended as ``outcome``.

    A failure (raised, timed out, out of memory, crashed) runs again while attempts are left and it is
    ``retryable``: after ``after`` seconds if the task said so (``Retry(after=…)``), else after its backoff.
    ``after`` is also the delay of a snoozed or released task. ``random`` returns floats in [0, 1).

    ``lost`` is not decided here: the worker that could call this is dead. The rescuer's statement does, by
    the same rule as for interrupted (pending at once, uncounted), or failed with ``on_lost="fail"``; see ``lost``.
    """
    match outcome:
        case Outcome.SUCCEEDED:
            return Transition(status=TaskStatus.COMPLETED, outcome=outcome)
        case Outcome.CANCELLED:
            return Transition(status=TaskStatus.CANCELLED, outcome=outcome, error=error)
        case Outcome.SNOOZED | Outcome.RELEASED | Outcome.INTERRUPTED:
            wait = 0.0 if outcome is Outcome.INTERRUPTED else after or 0.0
            return Transition(status=TaskStatus.PENDING, outcome=outcome, counted=False, delay=wait, error=error)
        case Outcome.RAISED | Outcome.TIMED_OUT | Outcome.OUT_OF_MEMORY | Outcome.CRASHED:
            if number >= max_attempts or not retryable:
                return Transition(status=TaskStatus.FAILED, outcome=outcome, error=error)
            wait = delay(backoff, number, random) if after is None else after
            return Transition(status=TaskStatus.PENDING, outcome=outcome, delay=wait, error=error)
        case Outcome.LOST:
            raise ValueError("a lost attempt is decided by the rescuer's statement, in the database")


def lost(on_lost: OnLost, error: str) -> Transition:
    """Return what becomes of a task whose attempt is lost, where its worker lives to say so: as a rescuer decides."""
    if on_lost == "fail":
        words = f'{error}, and on_lost="fail" forbids to start this twice'
        return Transition(status=TaskStatus.FAILED, outcome=Outcome.LOST, counted=False, error=words)
    return Transition(status=TaskStatus.PENDING, outcome=Outcome.LOST, counted=False, delay=0.0, error=error)


def delay(backoff: Backoff, failures: int, random: Callable[[], float]) -> float:
    """Return the seconds to wait after ``failures`` failures (from 1): never below 0 nor above ``backoff.max``.

    The jitter is cut off at the ceiling instead of being clamped to it: tasks that have all reached the
    ceiling would otherwise come back together again.
    """
    try:
        grown = float(backoff.base) * float(backoff.factor) ** (max(failures, 1) - 1)
    except OverflowError:
        grown = float(backoff.max) if backoff.base else 0.0
    middle = min(grown, float(backoff.max))
    low = middle * (1 - backoff.jitter)
    high = min(middle * (1 + backoff.jitter), float(backoff.max))
    return min(low + (high - low) * random(), high)


def retryable(error: BaseException, options: TaskOptions) -> bool:
    """Return whether ``error`` may be tried again: by default everything may, ``SystemExit`` included.

    ``no_retry_on`` wins over ``retry_on``. A task that raises ``Retry`` has said so itself.
    """
    if isinstance(error, Retry):
        return True
    if options.no_retry_on and isinstance(error, tuple(options.no_retry_on)):
        return False
    return options.retry_on is None or isinstance(error, tuple(options.retry_on))


def describe_exit(status: int) -> str:
    """Say in words what a wait status (of ``os.wait4``) means: ``killed by signal 11 (SIGSEGV)``."""
    if os.WIFEXITED(status):
        return f"exited with status {os.WEXITSTATUS(status)}"
    if os.WIFSIGNALED(status):
        dumped = ", core dumped" if os.WCOREDUMP(status) else ""
        return f"killed by {describe_signal(os.WTERMSIG(status))}{dumped}"
    return f"ended with wait status {status}"


def describe_signal(number: int) -> str:
    """Return ``signal 11 (SIGSEGV)``; signals without a name stay a number."""
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def describe_memory(*, limit: int | None, peak: int | None) -> str:
    """Say which memory limit (bytes) was reached and how much the attempt had; ``None``: not known."""
    reached = f"memory limit {_size(limit)} reached" if limit is not None else "out of memory"
    return reached if peak is None else f"{reached} at {_size(peak)}"


def describe_timeout(seconds: float) -> str:
    """Say that a run took longer than its timeout."""
    return f"timed out after {seconds:.15g} s"


def _size(count: int) -> str:
    for power, unit in ((20, "MiB"), (10, "KiB")):
        if count >= 1 << power:
            amount = count / (1 << power)
            return f"{amount:.0f} {unit}" if amount >= 10 else f"{amount:.2g} {unit}"
    return f"{count} B"
