"""From an ended child to what is recorded of its attempt: pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pq_core.types import AttemptOutcome, ClaimedTask, Outcome
from pq_core.worker.book import Entry
from pq_core.worker.claiming import storable
from pq_core.worker.thawing import thawed
from pq_core.worker.verdict import Evidence, Verdict

if TYPE_CHECKING:
    from pq_core.policy import Transition
    from pq_core.worker.runs import Ended

_ThawedOutcome = thawed(AttemptOutcome)


@dataclass(slots=True, kw_only=True)
class AttemptCost:
    """What an attempt used: seconds, bytes, and how its process ended. ``left``: what it had left running then."""

    wall: float = 0.0
    cpu_user: float = 0.0
    cpu_system: float = 0.0
    peak_memory: int = 0
    signal: int | None = None
    exit_code: int | None = None
    left: tuple[str, ...] = ()

    def ledger(self) -> dict[str, Any]:
        """Return the ledger as it is stored."""
        found: dict[str, Any] = {
            "wall": round(self.wall, 6),
            "cpu_user": round(self.cpu_user, 6),
            "cpu_system": round(self.cpu_system, 6),
            "peak_memory": self.peak_memory,
        }
        if self.signal is not None:
            found["signal"] = self.signal
        if self.exit_code:
            found["exit_code"] = self.exit_code
        if self.left:
            found["left"] = list(self.left)
        return found


NAMED = 20
"""Threads and processes that an attempt has left of which the names are kept."""

NO_COST = AttemptCost()
_SUCCEEDED = Verdict(outcome=Outcome.SUCCEEDED)


def cost_of(done: Ended, image_rss: int) -> AttemptCost:
    """Return what the child used; its peak is counted above the worker's image of ``image_rss`` bytes."""
    exit_ = done.exit
    return AttemptCost(
        wall=done.wall,
        cpu_user=exit_.cpu_user,
        cpu_system=exit_.cpu_system,
        peak_memory=max(0, exit_.max_rss - image_rss),
        signal=exit_.signal,
        exit_code=exit_.exit_code,
        left=_left(done.run.end),
    )


def _left(end: dict[str, Any] | None) -> tuple[str, ...]:
    """Return the names of what a child says that its task has left; it may have said anything."""
    names = None if end is None else end.get("left")
    if not isinstance(names, list):
        return ()
    return tuple(storable(name, 200) or "" for name in names[:NAMED] if isinstance(name, str))


def evidence_of(done: Ended, cost: AttemptCost) -> Evidence:
    """Return what is left to judge the attempt by."""
    child, run = done.child, done.run
    return Evidence(
        end=run.end,
        status=done.exit.status,
        reason=run.reason,
        words=run.words,
        killed=child.killed,
        oom_killed=child.oom_killed,
        broken=child.broken,
        stacks=done.stacks,
        peak=cost.peak_memory,
        timeout=run.timeout,
        begun=run.begun,
        neighbour=run.neighbour,
    )


def plain_success(done: Ended) -> Verdict | None:
    """Return what ``judge`` would, of a run that ended by its own word as it should; None for any other."""
    child, run = done.child, done.run
    end = run.end
    if end is None or end.get("how") != "succeeded" or not run.begun or run.neighbour or child.broken:
        return None
    if "unstored" in end:
        return None
    result = end.get("result")
    return _SUCCEEDED if result is None else Verdict(outcome=Outcome.SUCCEEDED, result=result)


def key_of(task: ClaimedTask) -> str | None:
    """Return the concurrency key of a task."""
    limits = task.options.get("limits")
    key = limits.get("key") if isinstance(limits, dict) else None
    return key if isinstance(key, str) else None


def entry_of(
    task: ClaimedTask,
    verdict: Verdict,
    transition: Transition,
    *,
    worker_id: int,
    cost: AttemptCost = NO_COST,
    output: str | None = None,
    completed_itself: bool = False,
    died: bool = False,
    progress: dict[str, Any] | None = None,
    began: float = 0.0,
) -> Entry:
    """Return what is reported of an attempt, and what the hooks get."""
    succeeded = transition.outcome is Outcome.SUCCEEDED
    error = storable(verdict.error if succeeded else transition.error)
    output = storable(output)
    item: dict[str, Any] = {
        "id": task.id,
        "fence": task.fence,
        "started_at": task.started_at.isoformat(),
        "status": transition.status.value,
        "outcome": transition.outcome.value,
        "counted": transition.counted,
        "ledger": cost.ledger(),
    }
    if completed_itself and succeeded:
        item["itself"] = True  # its own transaction has to say so, too
    if verdict.result is not None:
        item["result"] = verdict.result
    if output is not None:
        item["output"] = output
    if not succeeded:
        item |= {"delay": transition.delay, "error": error, "fingerprint": verdict.fingerprint}
        item["unroutable"] = transition.outcome is Outcome.RELEASED
        item["begun"] = transition.outcome in (Outcome.INTERRUPTED, Outcome.LOST) and verdict.started
        if transition.outcome is Outcome.INTERRUPTED and not verdict.started:
            item["unstarted"] = True
    elif error is not None:
        item["error"] = error
    if verdict.pause and transition.delay:
        key = key_of(task)
        subject = f"queue:{task.queue}" if key is None else f"key:{key}"
        item["pause"] = {"subject": subject, "seconds": transition.delay}
    if progress:
        item |= {"progress": progress.get("share"), "progress_message": storable(progress.get("message"))}
    outcome = _ThawedOutcome()
    outcome.outcome = transition.outcome
    outcome.status = transition.status
    outcome.final = transition.status.finished
    outcome.retry_in = transition.delay
    outcome.error = error
    outcome.exception_type = verdict.exception_type
    outcome.signal = cost.signal
    outcome.exit_code = cost.exit_code
    outcome.wall = cost.wall
    outcome.cpu_user = cost.cpu_user
    outcome.cpu_system = cost.cpu_system
    outcome.peak_memory = cost.peak_memory
    outcome.result = verdict.result
    outcome.output = output
    outcome.__class__ = AttemptOutcome
    return Entry(
        worker_id=worker_id,
        task=task,
        item=item,
        outcome=outcome,
        completed_itself=completed_itself,
        died=died,
        began=began,
    )


def otherwise(entry: Entry, transition: Transition) -> Entry:
    """Return what is reported instead of a success, of the same run."""
    item = {key: value for key, value in entry.item.items() if key not in ("itself", "result")}
    item |= {
        "status": transition.status.value,
        "outcome": transition.outcome.value,
        "counted": transition.counted,
        "begun": not transition.counted,
        "delay": transition.delay,
        "error": storable(transition.error),
    }
    outcome = replace(
        entry.outcome,
        outcome=transition.outcome,
        status=transition.status,
        final=transition.status.finished,
        retry_in=transition.delay,
        error=item["error"],
        result=None,
    )
    return replace(entry, item=item, outcome=outcome, completed_itself=False)
