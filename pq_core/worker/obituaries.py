"""Processes that tell the plugins of children which could not do so themselves (``pq_task_died``)."""

from __future__ import annotations

import logging
import signal
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from pq_core.worker import guards
from pq_core.worker.forking import reap

if TYPE_CHECKING:
    from pq_core.types import AttemptOutcome, ClaimedTask
    from pq_core.worker.host import Host

logger = logging.getLogger("pq.worker")

PATIENCE = 10.0
"""Seconds that one report may take."""
MOST = 1000
"""Reports that wait at most: a fleet that dies at once must not keep its heirs busy."""


@dataclass(slots=True, kw_only=True)
class Obituaries:
    """Reports of dead attempts, at most ``at_once`` at a time. ``inherited``: what these put out of use."""

    host: Host
    at_once: int
    inherited: Callable[[], list[int]]
    _waiting: deque[tuple[ClaimedTask, AttemptOutcome]] = field(default_factory=deque)
    _running: dict[int, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self._waiting or self._running)

    def add(self, task: ClaimedTask, outcome: AttemptOutcome) -> None:
        """Have the plugins told, if any wants to know."""
        if not self.host.plugins.has_task_died:
            return
        if len(self._waiting) >= MOST:
            logger.warning("too many dead attempts at once: the plugins are not told of task %s", task.id)
            return
        self._waiting.append((task, outcome))

    def next_event(self) -> float | None:
        """Return when ``advance`` has to be called next, on the monotonic clock; a child's end calls it as well."""
        return min(self._running.values(), default=None)

    def advance(self, now: float) -> None:
        """Reap reports that have ended, end those that take too long, start the next."""
        for pid, until in list(self._running.items()):
            if reap(pid) is not None:
                del self._running[pid]
            elif now >= until:
                guards.kill_group(pid, signal.SIGKILL)
                self._running[pid] = now + 1.0
        while self._waiting and len(self._running) < self.at_once:
            task, outcome = self._waiting.popleft()
            try:
                pid = self.host.fork_death_report(task, outcome, drop=self.inherited())
            except OSError as error:
                logger.error("the plugins can't be told of task %s: %s", task.id, error)
                continue
            self._running[pid] = monotonic() + PATIENCE
