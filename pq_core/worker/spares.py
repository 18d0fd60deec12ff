"""Processes forked ahead, for workers that give each task one of its own: a task that comes finds one waiting.

A fork and its first steps take longer than the rest of a short task. While all processors are busy with tasks it makes
no difference when that is paid, so spares are forked only when it is quiet, or with fewer runs than processors.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from pq_core.worker.feeding import Feeding
from pq_core.worker.processes import Processes, Wanted

logger = logging.getLogger("pq.worker")

PAUSE = 10.0
"""Seconds without spares after one that could not be forked, or died while it waited."""


@dataclass(slots=True, kw_only=True)
class Spares:
    """Keeps up to ``size`` children waiting. ``always``: also while claimed tasks wait for the ones that run."""

    processes: Processes
    feeding: Feeding
    size: int
    always: bool
    _none_until: float = 0.0
    _filling: bool = False

    def advance(self, now: float, *, allowed: bool) -> None:
        """Fork spares if few are left. ``allowed``: the worker goes on."""
        if not self.size or not allowed:
            return
        if self.processes.spare_died:
            self.processes.spare_died = False
            self._pause(now, "one died while it waited")
        if self.processes.spare_refused:
            self._pause(now, self.processes.spare_refused)
            self.processes.spare_refused = ""
        if now < self._none_until or (self.feeding.stock and not self.always):
            return
        waiting = sum(1 for child in self.processes if child.idle)
        # While tasks run, several at once: what is written between two forks is copied.
        few = waiting <= (self.size // 4 if self.processes.working else self.size - 1)
        missing = self.size - waiting
        if not (few or self._filling) or missing <= 0 or not self.processes.room:
            return
        self._filling = missing > self.processes.room  # the rest goes with the next order
        try:
            for _ in range(min(missing, self.processes.room)):
                self.processes.add(Wanted(fed=True))
        except OSError as error:
            self._pause(now, str(error))
        self.processes.order()

    def next_event(self, now: float) -> float | None:
        """Return when ``advance`` has something to do, if nothing else happens."""
        if not self.size:
            return None
        return self._none_until if self._none_until > now else None

    def _pause(self, now: float, reason: str) -> None:
        self._none_until = now + PAUSE
        logger.warning("no process is forked ahead for %g s: %s", PAUSE, reason)
