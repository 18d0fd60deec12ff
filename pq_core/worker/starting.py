"""From a claim to the children: what this code can run is started, what nobody takes in time goes back."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING

from pq_core.types import Outcome
from pq_core.worker.child_setup import Unroutable
from pq_core.worker.shared import StopReason
from pq_core.worker.verdict import Verdict

if TYPE_CHECKING:
    from pq_core.types import ClaimedTask
    from pq_core.worker.entering import Entering
    from pq_core.worker.feeding import Feeding
    from pq_core.worker.host import Host
    from pq_core.worker.program import Program
    from pq_core.worker.runs import Claimed

logger = logging.getLogger("pq.worker")

FORK_PAUSE = 1.0
"""Seconds without claims after a fork that the system refused."""
STALE = 0.5
"""Seconds after its claim at which a task that no child has taken goes back: other workers may be free."""
SLOW = 5.0
"""The same where a process is free, but is not forked yet."""
ASIDE = 0.1
"""Seconds without claims after that."""


@dataclass(slots=True, kw_only=True)
class Starting:
    """Starts what was claimed. ``refused_until``: when the system may have room for a process again."""

    host: Host
    program: Program
    feeding: Feeding
    entering: Entering
    refused_until: float = 0.0
    _look_at: float = 0.0

    def add(self, found: list[Claimed]) -> None:
        """Keep of what was claimed what this code can run, release the rest."""
        runnable = []
        held = self.feeding.held() if found else set()
        for claimed in found:
            task = claimed.task
            if (task.id, task.fence) in held:
                # A run of a history that the database has lost, which the next heartbeat ends. Its process and this
                # worker tell runs by these two.
                logger.error("task %s (fence %s) was claimed anew while it still runs here", task.id, task.fence)
                self.entering.put_back(
                    task, "put back: a run from before the database lost a part of its history goes on"
                )
                continue
            try:
                self.program.find(task)
            except Unroutable as error:
                logger.warning("task %s can't run here: %s", task.id, error)
                self._refuse(task, str(error))
                continue
            if absurd := task.options.get("absurd"):
                words = f"its row was not written by pq: the stored options make no sense: {absurd}"
                self.entering.enter(task, Verdict(outcome=Outcome.RAISED, error=words, retryable=False, started=False))
                continue
            full = self.host.prepared(self.program.as_declared(task))
            runnable.append(claimed if full is task else replace(claimed, task=full))
        self.feeding.add(runnable)

    def _refuse(self, task: ClaimedTask, error: str) -> None:
        """Release what this code can't run: at once, for another worker, where the next claims leave it out."""
        claims = self.entering.claims
        known = claims.refusals.add(task.name, self.program.refused_from(task), monotonic())
        after = 0.0 if known and not claims.by_limits(task) else None
        self.entering.enter(task, Verdict(outcome=Outcome.RELEASED, error=error, after=after))

    def advance(self, now: float, *, allowed: bool) -> None:
        """Start what can be. ``allowed``: the worker goes on, and has its lease."""
        feeding = self.feeding
        self._end_refused(now)
        if feeding.processes.forker.lost is not None:
            return  # nobody knows what it has forked: as if this worker had been killed, others take all back
        if not allowed:
            if feeding.stock:
                self.entering.put_back_unstarted("its worker stops or has lost its lease")
            return
        feeding.even_out(now)
        refused, error = feeding.start()
        if error is not None:
            for claimed in refused:
                self._put_refused_back(claimed.task, error, now)
        feeding.top_up()
        if feeding.stock and now >= self._look_at:
            self._look_at = now + STALE / 10
            self._put_stale_back(now)

    def _put_stale_back(self, now: float) -> None:
        late = stale(self.feeding, now)
        for one in late:
            self.feeding.stock.remove(one)
            self.entering.put_back(one.task, "put back: this worker's processes are all in long runs")
        if late:
            # The same turn must not take them again: nobody else would ever see them.
            self.refused_until = max(self.refused_until, now + ASIDE)

    def next_event(self) -> float | None:
        """Return when ``advance`` has something to do, if nothing else happens; asked while it is allowed to."""
        events = [self._look_at if self.feeding.stock else None, self.feeding.next_event()]
        return min((at for at in events if at is not None), default=None)

    def _end_refused(self, now: float) -> None:
        """Put back the runs of children that were not forked, but for what was to be stopped meanwhile."""
        for run, error in self.feeding.take_refused():
            if run.reason is StopReason.NONE:
                self._put_refused_back(run.task, error, now)
            else:
                self.entering.stopped_unstarted(run)

    def _put_refused_back(self, task: ClaimedTask, error: OSError, now: float) -> None:
        """Put back what the system has no process or descriptor for: not the task's fault, and others may have room."""
        logger.error("task %s can't be started: %s", task.id, error)
        self.entering.put_back(task, f"its worker could not fork: {error}")
        self.refused_until = now + FORK_PAUSE


def stale(feeding: Feeding, now: float) -> list[Claimed]:
    """Return of the stock what had better go back to the database, where other workers may be free."""
    # Those for which there is a process as soon as the forks under way are done have not long to wait.
    soon = feeding.concurrency - feeding.processes.working if feeding.processes.forker.busy else 0
    soon += feeding.crowd.room if feeding.crowd.waits else 0
    return [one for at, one in enumerate(feeding.stock) if now >= one.at + (SLOW if at < soon else STALE)]
