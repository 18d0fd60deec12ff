"""Which runs are stopped and when: over their time, cancelled, interrupted with their worker."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from time import monotonic

from pq_core.worker.crowd import Crowd
from pq_core.worker.feeding import Feeding
from pq_core.worker.listening import Listening
from pq_core.worker.processes import Processes
from pq_core.worker.runs import Child, Run
from pq_core.worker.shared import StopReason
from pq_core.worker.signalling import ask_to_stop, kill


@dataclass(slots=True, kw_only=True)
class Halting:
    """Ends what has to end before it would by itself."""

    processes: Processes
    crowd: Crowd
    feeding: Feeding
    listening: Listening

    def stop(
        self,
        child: Child,
        reason: StopReason,
        *,
        only: Run | None = None,
        grace: float | None = None,
        words: str = "",
    ) -> None:
        """Ask the child's run to stop, and have the process killed if it has not in ``grace`` seconds.

        The first reason stands. ``only``: the run that is meant, None for whatever the child is in. ``words``: of
        whoever cancelled it. What waits behind the run goes back to the stock.
        """
        self.feeding.take_back(child)
        self.listening.read(child)  # what it was in may be over
        run = child.head
        if only is not None and run is not only:
            return  # it has ended, and the child is in the next one
        if run is None or run.reason is not StopReason.NONE or run.end is not None:
            return
        child.leaving = True
        child.stopping = reason
        child.kill_at = monotonic() + (run.grace if grace is None else grace)
        run.words = words
        ask_to_stop(child, run, reason)
        self.processes.listen(child)

    def stop_run(self, child: Child, run: Run, reason: StopReason, words: str = "") -> None:
        """Stop one run. One that waits behind another is taken back into the stock."""
        grace = 0.0 if reason is StopReason.LOST else None
        if child.crowd:
            self.crowd.stop(run, reason, run.grace if grace is None else grace, words)
            return
        if child.head is not run:
            self.feeding.take_back(child)
            self.listening.read(child)
        if child.head is run:
            self.stop(child, reason, only=run, grace=grace, words=words)

    def interrupt_all(self, most: float) -> None:
        """Ask every run to stop and come back, within ``most`` seconds."""
        until = monotonic() + most
        for child, run in self.crowd:
            self.crowd.stop(run, StopReason.INTERRUPT, min(run.grace, most))
            if run.kill_at is not None:  # it was asked before, with a longer grace
                run.kill_at = min(run.kill_at, until)
                child.look_at = min(child.look_at, run.kill_at)
        for child in self.processes:
            if child.runs:
                self.stop(child, StopReason.INTERRUPT, grace=min(child.runs[0].grace, most))
            if child.kill_at is not None:
                child.kill_at = min(child.kill_at, until)

    def kill_all(self, reason: StopReason) -> None:
        """End every child with its whole process group, now."""
        for run in [*(run for child in self.processes for run in child.runs), *(run for _, run in self.crowd)]:
            if run.reason is StopReason.NONE and run.end is None:
                run.reason = reason
        for child in self.processes:
            kill(child)

    def enforce(self, now: float) -> None:
        """Stop what is over its deadline, kill what did not stop."""
        for child in self.processes:
            if child.kill_at is not None:
                if now >= child.kill_at:
                    kill(child)
            elif child.pid and now >= child.look_at:
                if not child.crowd:
                    self._check_time(child, now)
                elif self.crowd.enforce(child, now):
                    kill(child)

    def _check_time(self, child: Child, now: float) -> None:
        run = child.head
        if run is None or run.timeout is None:
            return
        began = child.began(run)
        if began is None:
            # Still behind another one, whose end is on its way to us.
            child.look_at = now + min(max(run.timeout / 4, 0.01), 0.25)
        elif now >= (deadline := min(max(began, run.handed), now) + run.timeout):
            child.look_at = inf  # once: it is stopped now, or on its way out already
            self.stop(child, StopReason.TIMEOUT, only=run)
        else:
            child.look_at = deadline
