"""The child in which many coroutines wait at the same time, as its worker sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf
from time import monotonic
from typing import Any

from pq_core.worker import inbox, wire
from pq_core.worker.forking import Exit
from pq_core.worker.runs import LAST_WORD_GRACE, Child, Claimed, Ended, Run, needs_own_process, progress_of, usage
from pq_core.worker.shared import StopReason

FULL = 0.02
"""Seconds before something is put into an inbox again that was full."""
SUSPECTS = 10_000
"""Tasks remembered for having been in a process that crashed."""


@dataclass(slots=True, kw_only=True)
class Crowd:
    """Up to ``size`` coroutines in one child; a size of 1 means that there is none.

    A child that has run its share gets no more, and ends when the last coroutine in it has, beside its successor.
    ``child``: the one that gets what comes. ``wanted``: says of a task whether it is a coroutine that may share.
    ``fork``: has the child forked with its first run, where there is ``room_to_fork``. ``run``: makes a run of a
    claimed task. ``frame_limit``: bytes that its end may take.
    """

    size: int
    lifetime: int
    wanted: Callable[[Claimed], bool]
    fork: Callable[[Claimed, Run], Child]
    room_to_fork: Callable[[], int]
    run: Callable[[Claimed, float], Run]
    frame_limit: Callable[[Claimed], int]
    child: Child | None = None
    _runs: dict[tuple[int, int], Run] = field(default_factory=dict)
    _where: dict[tuple[int, int], Child] = field(default_factory=dict)
    _untold: set[tuple[int, int]] = field(default_factory=set)
    _full_until: float = 0.0
    _finished: list[Ended] = field(default_factory=list)
    _reach: int = 1
    _suspects: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[tuple[Child, Run]]:
        return iter([(self._where[key], run) for key, run in self._runs.items()])

    # --- what may be taken on -----------------------------------------------------------------------------------

    def takes(self, claimed: Claimed) -> bool:
        """Say whether the task runs here: a coroutine, without a memory limit, that was in no crash."""
        if self.size <= 1 or needs_own_process(claimed) or claimed.task.id in self._suspects:
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

    @property
    def has_place(self) -> bool:
        """True when one more can begin."""
        return self._has_room and (self._takes_more or self.room_to_fork() > 0)

    @property
    def waits(self) -> bool:
        """True when one more could begin if a child could be asked for: one is, in a moment."""
        return self._has_room and not self._takes_more and not self.room_to_fork()

    @property
    def _has_room(self) -> bool:
        return 1 < self.size > len(self._runs) and monotonic() >= self._full_until

    @property
    def _takes_more(self) -> bool:
        return self.child is not None and not self.child.leaving and self.child.left > 0

    def start(self, claimed: Claimed) -> bool:
        """Begin to run a task; False when there is no place. Raises OSError where a new child gets no descriptor."""
        if not self.has_place:
            return False
        now = monotonic()
        run = self.run(claimed, now)
        if self.child is not None and not self._takes_more:
            self._retire(self.child)
        child = self.child
        if child is None:
            self.child = child = self.fork(claimed, run)
            child.left = self.lifetime - 1
        else:
            message = inbox.pack(claimed.row)
            if child.inbox is None or not child.inbox.put(message):
                self._full_until = now + FULL  # it is busy with what it has
                return False
            child.left -= 1
            child.decoder.limit = max(child.decoder.limit, self.frame_limit(claimed))
        self._runs[run.key] = run
        self._where[run.key] = child
        if run.timeout is not None:
            child.look_at = min(child.look_at, now + run.timeout)
        return True

    def _retire(self, child: Child) -> None:
        """Give the child nothing more; its inbox stays open for stops, as long as something runs in it."""
        self.child = None if self.child is child else self.child
        child.left = 0
        if child not in self._where.values():
            self._shut(child)

    def let_go(self) -> None:
        """Let the child end, if nothing runs in it."""
        if self.child is not None and self.child not in self._where.values():
            self._retire(self.child)

    @staticmethod
    def _shut(child: Child) -> None:
        if child.inbox is not None and not child.leaving:
            child.leaving = True
            child.kill_at = monotonic() + LAST_WORD_GRACE
            child.inbox.shut()

    # --- what it says -------------------------------------------------------------------------------------------

    def note(self, child: Child, kind: wire.Kind, body: dict[str, Any]) -> Run | None:
        """Take in a frame; return the run if it has news. Raises BrokenFrame for an end of what it does not run."""
        id_, fence = body.get("id"), body.get("fence")
        run = self._runs.get((id_, fence)) if isinstance(id_, int) and isinstance(fence, int) else None
        if kind in (wire.Kind.END, wire.Kind.DONE):
            if run is None or self._where[run.key] is not child:
                raise wire.BrokenFrame("a task ends once")
            run.end = body
            self._forget(run)
            if child is not self.child and child not in self._where.values():
                self._shut(child)
            exit_ = Exit(child.pid, 0, 0.0, 0.0, 0)
            self._finished.append(Ended(child=child, run=run, exit=exit_, wall=usage(body.get("wall"))))
            return None
        if run is None or self._where[run.key] is not child:
            return None
        if kind is wire.Kind.COMPLETED:
            run.completed_itself = True
            return None
        run.progress = progress_of(body)
        return run

    def _forget(self, run: Run) -> None:
        del self._runs[run.key]
        del self._where[run.key]
        self._untold.discard(run.key)

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
        child = self._where.get(run.key)
        if child is None or run.reason is not StopReason.NONE:
            return
        run.reason = reason
        run.words = words
        run.kill_at = monotonic() + grace
        self._untold.add(run.key)
        child.look_at = min(child.look_at, run.kill_at)
        self._tell(child, run)

    def _tell(self, child: Child, run: Run) -> None:
        message = inbox.pack_stop(run.task.id, run.task.fence, run.reason)
        if child.inbox is not None and child.inbox.put(message):
            self._untold.discard(run.key)
        else:
            child.look_at = min(child.look_at, monotonic() + FULL)  # its inbox is full: again in a moment

    def enforce(self, child: Child, now: float) -> bool:
        """Stop what is over its time; True when the child has to be killed since something did not stop."""
        child.look_at = inf
        for where, run in self:
            if where is not child:
                continue
            if run.kill_at is not None:
                if now >= run.kill_at:
                    return True
                child.look_at = min(child.look_at, run.kill_at)
                if run.key in self._untold:
                    self._tell(child, run)
            elif run.timeout is not None:
                deadline = run.handed + run.timeout
                if now >= deadline:
                    self.stop(run, StopReason.TIMEOUT, run.grace)
                else:
                    child.look_at = min(child.look_at, deadline)
        return False

    def forked(self, child: Child, at: float) -> None:
        """Note that the child was forked: of what it was handed before no timeout has run."""
        for where, run in self:
            if where is child:
                run.handed = max(run.handed, at)
        child.look_at = at  # it is set anew by who looks

    def forget_child(self, child: Child) -> list[Run]:
        """Return the runs that were handed to a child which the system had no room for."""
        self.child = None if self.child is child else self.child
        runs = [run for where, run in self if where is child]
        for run in runs:
            self._forget(run)
        return runs

    def reaped(self, child: Child, exit_: Exit, now: float, stacks: str) -> list[Ended]:
        """Return what was in the child when it ended.

        Who of them was at fault can't be told, unless there was but one: the others come back, and run alone.
        """
        done = self.take_finished()
        self.child = None if self.child is child else self.child
        unread = set() if child.inbox is None else set(child.inbox.take_back())
        runs = [run for where, run in self if where is child]
        for run in runs:
            self._forget(run)
            run.begun = run.key not in unread
        alone = sum(run.begun for run in runs) == 1
        if not alone and (not child.killed or child.broken):
            if len(self._suspects) > SUSPECTS:
                self._suspects.clear()
            self._suspects.update(run.task.id for run in runs if run.begun)
        for run in runs:
            if run.reason is StopReason.NONE and run.begun and not alone:
                run.neighbour = True
            done.append(Ended(child=child, run=run, exit=exit_, wall=now - run.handed, stacks=stacks))
        return done
