"""Who is told of an outcome, once it stands: the log, the figures, the schedule, the plugins."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pq_core.types import AttemptOutcome, ClaimedTask, Outcome, TaskStatus
from pq_core.worker.attempt_log import log_attempt
from pq_core.worker.claiming import one_line

if TYPE_CHECKING:
    from pq_core.worker.book import Entry
    from pq_core.worker.host import Host
    from pq_core.worker.lease import Rescued
    from pq_core.worker.metrics import Counters
    from pq_core.worker.obituaries import Obituaries
    from pq_core.worker.program import Program
    from pq_core.worker.statistics import Statistics
    from pq_core.worker.ticking import Ticking

logger = logging.getLogger("pq.worker")


WORTH_A_WORD = 5
"""Starts in a row that did not count, at which, and at each so many more, a warning is logged."""


def warn_of_starts(task: ClaimedTask, uncounted: int) -> None:
    """Say of a task that it starts and starts, and never comes to an end that counts."""
    if uncounted and uncounted % WORTH_A_WORD == 0:
        words = "task %s (%s) has started %d times in a row without an end that counts: its workers stop or die first"
        logger.warning(words, task.id, one_line(task.name), uncounted)


class Telling:
    """Tells of outcomes. ``ended``: those of this worker's own attempts, kept with the option ``once``."""

    def __init__(
        self,
        host: Host,
        program: Program,
        *,
        ticking: Ticking,
        statistics: Statistics,
        counters: Counters,
        obituaries: Obituaries,
    ) -> None:
        self._plugins = host.plugins
        self._keep = host.options.once
        self._traceback = host.options.log_traceback
        self._program = program
        self._ticking = ticking
        self._statistics = statistics
        self._counters = counters
        self._obituaries = obituaries
        self.ended: list[AttemptOutcome] = []

    def settled(self, entry: Entry, outcome: AttemptOutcome) -> None:
        """Tell of an attempt that this worker ran."""
        if self._keep:
            self.ended.append(outcome)
        task = entry.task
        if entry.unstarted and outcome.status is TaskStatus.PENDING:
            return  # no attempt: nothing to count, nobody to tell
        warn_of_starts(task, entry.uncounted)
        log_attempt(task, outcome, traceback=self._traceback)
        if task.schedule_id is not None:
            self._ticking.run_ended(task.schedule_id)
        shown, told = self._program.shown(task), self._program.shown_outcome(task, outcome)
        self._count(task, outcome)
        self._plugins.post_task(shown, told)
        if entry.died and outcome.outcome is not Outcome.SUCCEEDED:
            self._obituaries.add(shown, told)

    def _count(self, task: ClaimedTask, outcome: AttemptOutcome) -> None:
        waited = (task.started_at - task.run_at).total_seconds()
        self._statistics.note(task, outcome, waited)
        self._counters.note(task, outcome, waited)

    def rescued(self, found: list[Rescued]) -> None:
        """Tell of attempts that were taken from dead workers, which can't."""
        self._ticking.places_may_be_free()
        for one in found:
            logger.warning("task %s (%s): %s; now %s", one.task.id, one_line(one.task.name), one.error, one.status)
            warn_of_starts(one.task, one.uncounted)
            outcome = AttemptOutcome(
                outcome=Outcome.LOST, status=one.status, final=one.status.finished, retry_in=0.0, error=one.error
            )
            self._count(one.task, outcome)
            self._plugins.post_task(self._program.shown(one.task), outcome)
            self._obituaries.add(self._program.shown(one.task), outcome)
