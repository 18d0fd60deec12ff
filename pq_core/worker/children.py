"""The children of a worker: fed, listened to, stopped when overdue, reaped."""

from __future__ import annotations

import os
import selectors
from collections.abc import Callable, Iterator
from math import inf

from pq_core.types import ClaimedTask
from pq_core.worker.child_setup import ChildSetup
from pq_core.worker.crowd import Crowd
from pq_core.worker.earshot import Earshot
from pq_core.worker.feeding import Feeding
from pq_core.worker.forker import Forker
from pq_core.worker.halting import Halting
from pq_core.worker.listening import Listening
from pq_core.worker.pace import HORIZON
from pq_core.worker.processes import Processes, Wanted
from pq_core.worker.reaping import Reaping
from pq_core.worker.runs import Child, Claimed, Ended, Run
from pq_core.worker.spares import Spares

LOOK = 0.002
"""Seconds between two readings of children that the selector does not report, at least."""
CROWD_TASKS = 1000
"""Coroutines after which their child is replaced where ``tasks_per_child`` says nothing of reuse."""


class Children:
    """All children of one worker, and what is done with them.

    ``forker``: whom they are forked by. ``before``: gets each task before it is handed to a process. ``tail``: bytes of
    output kept per attempt. ``async_concurrency``: how many of what ``is_async`` says are coroutines run together in a
    child. ``spares``: processes forked ahead.
    """

    def __init__(
        self,
        setup: ChildSetup,
        *,
        forker: Forker,
        selector: selectors.BaseSelector,
        concurrency: int,
        grace: float,
        tail: int,
        before: Callable[[ClaimedTask], None],
        async_concurrency: int = 1,
        is_async: Callable[[ClaimedTask], bool] = lambda task: False,
        spares: int = 0,
    ) -> None:
        # With reused children, and coroutines, somebody always waits for what comes of an end.
        earshot = Earshot.beside(selector) if setup.tasks_per_child == 1 and async_concurrency == 1 else None
        own = selector if earshot is None else earshot.selector
        processes = Processes(setup=setup, forker=forker, selector=own, tail=tail, earshot=earshot)

        def fork(claimed: Claimed, run: Run) -> Child:
            return processes.add(Wanted(claimed=claimed, fed=True, crowd=True))

        crowd = Crowd(
            size=async_concurrency,
            lifetime=setup.tasks_per_child if setup.tasks_per_child > 1 else CROWD_TASKS,
            wanted=lambda claimed: is_async(claimed.task),
            fork=fork,
            room_to_fork=lambda: processes.room,
            run=lambda claimed, now: feeding.new_run(claimed, now, begun=True),
            frame_limit=lambda claimed: processes.frame_limit(claimed.task),
        )
        feeding = Feeding(processes=processes, crowd=crowd, concurrency=concurrency, grace=grace, before=before)
        listening = Listening(processes=processes, crowd=crowd, feeding=feeding)
        self.processes = processes
        self.crowd = crowd
        self.feeding = feeding
        self.listening = listening
        self.spares = Spares(
            processes=processes, feeding=feeding, size=spares, always=concurrency < (os.cpu_count() or 1)
        )
        self.halting = Halting(processes=processes, crowd=crowd, feeding=feeding, listening=listening)
        self.reaping = Reaping(processes=processes, crowd=crowd, feeding=feeding, listening=listening)

    def __iter__(self) -> Iterator[tuple[Child, Run]]:
        """Go through all runs, each with its child."""
        runs = [(child, run) for child in self.processes for run in child.runs]
        return iter([*runs, *self.crowd])

    @property
    def busy(self) -> int:
        """How many runs are under way."""
        return self.processes.working + len(self.crowd)

    @property
    def has_work(self) -> bool:
        """True while a task is under way, or waits for a process."""
        return bool(self.busy or self.feeding.stock)

    def advance(self, now: float) -> list[Ended]:
        """Take in which children have begun, and what those say that had to wait; return the runs that have ended."""
        forked = self.processes.take_answer()
        for child in forked or ():
            if child.crowd:
                self.crowd.forked(child, now)
        self.listening.read_silent()
        self.halting.enforce(now)
        ended = self.reaping.reap(now)
        earshot = self.processes.earshot
        if earshot is not None and (forked is not None or (earshot.next_event or inf) <= now):
            self.hear(earshot)
        return ended

    def hear(self, earshot: Earshot) -> None:
        """Read those that have said something."""
        waiting = earshot.waiting()
        for child in waiting:
            self.listening.read(child)
        if any(child.decoder.partial for child in waiting):
            earshot.wait_for_rest()

    @property
    def have_news(self) -> bool:
        """True when something that they said is to be acted on before one of them has ended."""
        return bool(self.listening.finished or self.listening.news or self.crowd.has_finished)

    def next_event(self, now: float) -> float | None:
        """Return when there is something to do, if nothing else happens."""
        if self.listening.finished or self.crowd.has_finished or self.processes.forker.exits:
            return now
        events = [at for child in self.processes if (at := child.next_event) < inf]
        if self.processes.earshot is not None and (until := self.processes.earshot.next_event) is not None:
            events.append(until)
        silent = [child.load for child in self.processes if child.silent]
        if silent:
            events.append(now + min(max(min(silent) / 4, LOOK), HORIZON))
        return min(events, default=None)
