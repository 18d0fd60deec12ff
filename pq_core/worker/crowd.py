"""The child in which many coroutines wait at the same time, as its worker sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf
from time import monotonic
from typing import Any

from pq_core.worker import inbox, wire
from pq_core.worker.forking import Exit
from pq_core.worker.runs import Child, Claimed, Ended, Run, needs_own_process, progress_of, usage
from pq_core.worker.shared import StopReason

SUSPECTS = 10_000
"""Tasks remembered for having been in a process that crashed."""


@dataclass(slots=True, kw_only=True)
class Crowd:
    """Up to ``size`` coroutines in one child; a size of 1 means that there is none.

    ``wanted``: says of a task whether it is a coroutine that may share. ``fork``: starts the child with its first run.
    ``run``: makes a run of a claimed task.
    """

    size: int
    lifetime: int
    wanted: Callable[[Claimed], bool]
    fork: Callable[[Claimed, Run], Child]
    run: Callable[[Claimed, float], Run]
    child: Child | None = None
    _runs: dict[tuple[int, int], Run] = field(default_factory=dict)
    _finished: list[Ended] = field(default_factory=list)
    _reach: int = 1
    _suspects: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(list(self._runs.values()))

    # --- what may be taken on -----------------------------------------------------------------------------------

    def takes(self, claimed: Claimed) -> bool:
        """Say whether the task runs here: a coroutine, without a memory limit, that was in no crash."""
        if self.size <= 1 or needs_own_process(claimed.task) or claimed.task.id in self._suspects:
            return False
        return self.wanted(claimed)

    @property
    def room(self) -> int:
        """How many more to claim for; what comes may be no coroutine, so not more than lately proved right."""
        return max(0, min(self._reach, self.size - len(self._runs))) if self.size > 1 else 0

    @property
    def hungry(self) -> bool:
        """True when it could do with more of what there is."""
        return self._reach > 1 and len(self._runs) <= self.size // 2

    def learn(self, claimed: int, taken: int) -> None:
        """Take in how many of the tasks claimed were for here."""
        if taken and taken * 2 >= claimed:
            self._reach = min(self._reach * 4, self.size)
        elif claimed:
            self._reach = 1

    def start(self, claimed: Claimed) -> bool:
        """Begin to run a task; False when there is no place. Raises OSError when no child can be forked."""
        if len(self._runs) >= self.size:
            return False
        now = monotonic()
        run = self.run(claimed, now)
        child = self.child
        if child is None or child.leaving or child.left <= 0:
            if child is not None:
                if self._runs:
                    return False  # it is about to be replaced, once those in it have ended
                self.let_go()
            self.child = child = self.fork(claimed, run)
            child.left = self.lifetime - 1
        else:
            message = inbox.pack(claimed.row)
            if len(message) > inbox.TASK_LIMIT or child.inbox is None or not child.inbox.put(message):
                return False
            child.left -= 1
        self._runs[run.key] = run
        if run.timeout is not None:
            child.look_at = min(child.look_at, now + run.timeout)
        return True

    def let_go(self) -> None:
        """Let the child end; once its coroutines have."""
        child = self.child
        if child is not None and child.inbox is not None and not child.leaving:
            child.leaving = True
            child.inbox.shut()

    # --- what it says -------------------------------------------------------------------------------------------

    def note(self, child: Child, kind: wire.Kind, body: dict[str, Any]) -> Run | None:
        """Take in a frame; return the run if it has news. Raises BrokenFrame for an end of what it does not run."""
        id_, fence = body.get("id"), body.get("fence")
        run = self._runs.get((id_, fence)) if isinstance(id_, int) and isinstance(fence, int) else None
        if kind in (wire.Kind.END, wire.Kind.DONE):
            if run is None:
                raise wire.BrokenFrame("a task ends once")
            run.end = body
            del self._runs[run.key]
            exit_ = Exit(child.pid, 0, 0.0, 0.0, 0)
            self._finished.append(Ended(child=child, run=run, exit=exit_, wall=usage(body.get("wall"))))
            return None
        if run is None:
            return None
        if kind is wire.Kind.COMPLETED:
            run.completed_itself = True
            return None
        run.progress = progress_of(body)
        return run

    @property
    def has_finished(self) -> bool:
        """True when something has ended that was not asked for yet."""
        return bool(self._finished)

    def take_finished(self) -> list[Ended]:
        """Return what has ended since this was last asked."""
        done, self._finished = self._finished, []
        return done

    # --- ending -------------------------------------------------------------------------------------------------

    def stop(self, run: Run, reason: StopReason, grace: float, words: str = "") -> None:
        """Ask one coroutine to stop; the first reason stands. The whole child is killed if it has not in time."""
        child = self.child
        if child is None or run.reason is not StopReason.NONE:
            return
        run.reason = reason
        run.words = words
        run.kill_at = monotonic() + grace
        child.look_at = min(child.look_at, run.kill_at)
        if child.inbox is not None:
            child.inbox.put(inbox.pack_stop(run.task.id, run.task.fence, reason))

    def enforce(self, child: Child, now: float) -> bool:
        """Stop what is over its time; True when the child has to be killed since something did not stop."""
        child.look_at = inf
        for run in self:
            if run.kill_at is not None:
                if now >= run.kill_at:
                    return True
                child.look_at = min(child.look_at, run.kill_at)
            elif run.timeout is not None:
                deadline = run.handed + run.timeout
                if now >= deadline:
                    self.stop(run, StopReason.TIMEOUT, run.grace)
                else:
                    child.look_at = min(child.look_at, deadline)
        return False

    def reaped(self, child: Child, exit_: Exit, now: float, stacks: str) -> list[Ended]:
        """Return what was in the child when it ended.

        Who of them was at fault can't be told, unless there was but one: the others come back, and run alone.
        """
        done = self.take_finished()
        if child is not self.child:
            return done
        self.child = None
        runs, self._runs = list(self._runs.values()), {}
        alone = len(runs) == 1
        if not alone and not child.killed:
            if len(self._suspects) > SUSPECTS:
                self._suspects.clear()
            self._suspects.update(run.task.id for run in runs)
        for run in runs:
            if run.reason is StopReason.NONE and not alone:
                run.neighbour = True
            done.append(Ended(child=child, run=run, exit=exit_, wall=now - run.handed, stacks=stacks))
        return done
