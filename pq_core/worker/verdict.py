"""How an attempt ended, decided from what is left of its child: pure, no system calls."""

from __future__ import annotations

import hashlib
import signal
from dataclasses import dataclass
from typing import Any

from pq_core.policy import describe_exit, describe_memory, describe_timeout
from pq_core.types import ClaimedTask, Outcome
from pq_core.worker.shared import StopReason

LONGEST_DELAY = 1000 * 365 * 86400
"""Seconds that a task can be put off at most: within what a timestamp holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the worker knows of an ended child.

    ``end``: its last word, None if it had none. ``status``: wait status. ``reason``: why the worker stopped it.
    ``words``: of whoever cancelled it.
    ``killed``: the worker sent SIGKILL. ``oom_killed``: the kernel killed for lack of memory meanwhile.
    ``broken``: why its frames could not be read. ``stacks``: what faulthandler wrote.
    ``peak``: bytes above the image. ``begun``: false for a task handed to a reused child that never ran it.
    ``neighbour``: its process ended over another run that shared it.
    """

    end: dict[str, Any] | None
    status: int
    reason: StopReason
    killed: bool
    oom_killed: bool
    broken: str | None
    stacks: str
    peak: int
    timeout: float | None
    begun: bool = True
    neighbour: bool = False
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """An outcome and what is told of it. ``error``: of a success why there is no result.

    ``started``: False when no child ever ran it. ``pause``: its key or its queue is to pause as long as it does.
    """

    outcome: Outcome
    error: str | None = None
    exception_type: str | None = None
    fingerprint: str | None = None
    retryable: bool = True
    after: float | None = None
    result: Any = None
    started: bool = True
    pause: bool = False


_STOPPED = {
    StopReason.TIMEOUT: Outcome.TIMED_OUT,
    StopReason.CANCEL: Outcome.CANCELLED,
    StopReason.INTERRUPT: Outcome.INTERRUPTED,
    StopReason.LOST: Outcome.LOST,
}


def judge(task: ClaimedTask, evidence: Evidence) -> Verdict:
    """Return how the attempt ended.

    A child's own word counts where it fits: a run that returned in spite of being asked to stop has succeeded;
    one that raised anything after it was asked has stopped. Without a last word the exit status decides.
    """
    end = evidence.end
    if not evidence.begun and evidence.reason is StopReason.NONE:
        error = "put back: the child it was handed to died before it began"
        return Verdict(outcome=Outcome.INTERRUPTED, error=error, started=False)
    if evidence.neighbour:
        error = f"put back: the process that it shared with other coroutines {_how_it_ended(evidence)}"
        return Verdict(outcome=Outcome.INTERRUPTED, error=error)
    if end is None or evidence.broken:
        return _without_word(task, evidence)
    match end.get("how"):
        case "succeeded":
            return Verdict(outcome=Outcome.SUCCEEDED, result=end.get("result"), error=_text(end.get("unstored")))
        case "snoozed":
            return Verdict(
                outcome=Outcome.SNOOZED,
                after=_number(end.get("after")),
                error=_text(end.get("error")),
                pause=end.get("pause") is True,
            )
        case "cancelled":
            return Verdict(outcome=Outcome.CANCELLED, error=_text(end.get("error")))
        case "released":
            return Verdict(outcome=Outcome.RELEASED, error=_text(end.get("error")))
        case "raised" if evidence.reason is not StopReason.NONE:
            return _stopped(evidence, _text(end.get("error")) or "")
        case "raised":
            return _raised(task, evidence, end)
        case _:
            return _without_word(task, evidence)


def _raised(task: ClaimedTask, evidence: Evidence, end: dict[str, Any]) -> Verdict:
    memory = bool(end.get("memory"))
    error, origin = _text(end.get("error")) or "", _text(end.get("origin"))
    if memory:
        limit = task.options.get("memory_limit")
        error = f"{describe_memory(limit=limit, peak=evidence.peak)}\n{error}"
    return Verdict(
        outcome=Outcome.OUT_OF_MEMORY if memory else Outcome.RAISED,
        error=error,
        exception_type=_text(end.get("exception_type")),
        fingerprint=None if origin is None else _fingerprint(task_words=origin),
        retryable=bool(end.get("retryable", True)),
        after=_number(end.get("after")),
    )


def _stopped(evidence: Evidence, told: str) -> Verdict:
    outcome = _STOPPED[evidence.reason]
    words = {
        StopReason.TIMEOUT: describe_timeout(evidence.timeout or 0.0),
        StopReason.CANCEL: "cancelled while running" + (f": {evidence.words}" if evidence.words else ""),
        StopReason.INTERRUPT: "interrupted: its worker stopped",
        StopReason.LOST: "stopped: its worker lost its lease",
    }[evidence.reason]
    if evidence.killed:
        words += "; it did not stop when asked and was killed"
    details = told or evidence.stacks
    return Verdict(
        outcome=outcome,
        error=f"{words}\n{details}".rstrip(),
        fingerprint=_fingerprint(task_words=str(outcome)),
    )


def _without_word(task: ClaimedTask, evidence: Evidence) -> Verdict:
    if evidence.reason is not StopReason.NONE:
        return _stopped(evidence, "")
    words = describe_exit(evidence.status)
    if evidence.broken:
        return _crashed(f"broke the channel to its worker: {evidence.broken}", evidence)
    if evidence.status == signal.SIGKILL and evidence.oom_killed:
        limit = task.options.get("memory_limit")
        return Verdict(
            outcome=Outcome.OUT_OF_MEMORY,
            error=f"killed by the kernel for lack of memory; {describe_memory(limit=limit, peak=evidence.peak)}",
            fingerprint=_fingerprint(task_words="oom"),
        )
    if evidence.status == 0 or evidence.status >> 8 == 70:
        words += " without reporting a result: the channel to its worker was closed, or it left by os._exit"
    return _crashed(words, evidence)


def _how_it_ended(evidence: Evidence) -> str:
    if evidence.killed:
        return f"was killed{': ' + evidence.broken if evidence.broken else ', since one of them did not stop'}"
    return f"ended ({describe_exit(evidence.status)}); the next time it runs in one of its own"


def _crashed(words: str, evidence: Evidence) -> Verdict:
    return Verdict(
        outcome=Outcome.CRASHED,
        error=f"{words}\n{evidence.stacks}".rstrip(),
        fingerprint=_fingerprint(task_words=words),
    )


def _fingerprint(*, task_words: str) -> str:
    return hashlib.blake2b(task_words.encode(errors="replace"), digest_size=8).hexdigest()


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> float | None:
    """Return seconds that the database can add to a time; a child may have said anything."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(min(max(value, 0), LONGEST_DELAY)) if value == value else None
