"""What plugins that report have to know of tasks and their ends, in the words of pq."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pq_core.tasks import Call
    from pq_core.types import AttemptOutcome, ClaimedTask

FAILURES = frozenset({"raised", "timed_out", "out_of_memory", "crashed", "lost"})
"""Outcomes that are somebody's fault; the others are a decision of the task, of a user or of the worker."""

_ENDINGS = {
    "Snooze": "snoozed",
    "Cancel": "cancelled",
    "TaskCancelled": "cancelled",
    "TaskTimeout": "timed_out",
}


def ending_of(error: BaseException | None) -> str:
    """Return the outcome that an exception out of the task function stands for, by its name in ``Outcome``."""
    if error is None:
        return "succeeded"
    if isinstance(error, MemoryError):
        return "out_of_memory"
    for kind in type(error).__mro__:
        # By name: this package imports nothing of pq_core at run time.
        if kind.__module__ == "pq_core.errors" and kind.__name__ in _ENDINGS:
            return _ENDINGS[kind.__name__]
    return "raised"


def error_type_of(error: BaseException) -> str:
    """Return what groups failures: the exception's dotted name, or the outcome where that says more."""
    ending = ending_of(error)
    if ending != "raised":
        return ending
    kind = type(error)
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


def error_type(outcome: AttemptOutcome) -> str | None:
    """Return the same for an attempt that has ended, ``None`` if it did not fail."""
    if outcome.outcome not in FAILURES:
        return None
    return (outcome.exception_type if outcome.outcome == "raised" else None) or outcome.outcome.value


def summary_of(outcome: AttemptOutcome) -> str:
    """Return the one line of an attempt's error that says most: the exception of a traceback, else the first."""
    lines = [line for line in (outcome.error or "").splitlines() if line.strip()]
    if not lines:
        return outcome.outcome.value
    return (lines[-1] if lines[0].startswith("Traceback ") else lines[0]).strip()[:500]


def queue_of(call: Call[Any]) -> str:
    """Return the queue that a call says, or its task, or its group; what a ``PQ``'s defaults say is not known here."""
    return call.settings.queue or call.task.settings.queue or "default"


def latency_of(task: ClaimedTask) -> float:
    """Return the seconds from when the task was due to when this attempt started."""
    return max(0.0, (task.started_at - max(task.run_at, task.created_at)).total_seconds())


def join_baggage(headers: dict[str, str], more: str) -> None:
    """Add members to the ``baggage`` header, which several plugins write."""
    if more:
        headers["baggage"] = ",".join(filter(None, [headers.get("baggage", ""), more]))
