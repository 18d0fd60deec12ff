"""How a worker leaves: what it has to say is said, and the lease given back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from pq_core.worker.claiming import Statements, integer

if TYPE_CHECKING:
    from pq_core.worker.book import Book
    from pq_core.worker.connection import StatementError
    from pq_core.worker.lease import Lease
    from pq_core.worker.statistics import Statistics
    from pq_core.worker.turns import Turns

logger = logging.getLogger("pq.worker")

PATIENCE = 3.0
"""Seconds that giving the lease back may take at the end."""
PAUSE = 0.2
"""Seconds between two tries."""


@dataclass(slots=True, kw_only=True)
class Farewell:
    """Gives the lease back; what it lost meanwhile it takes back itself, rather than leave it to others for a lease.

    ``on_deregistered``: gets the id that the worker had.
    """

    statements: Statements
    turns: Turns
    book: Book
    lease: Lease
    statistics: Statistics
    on_deregistered: Callable[[int], None]
    _until: float | None = None
    _again_at: float = 0.0

    def next_event(self, now: float) -> float | None:
        """Return when ``advance`` has something to do, if nothing else happens."""
        if self._until is None:
            return None
        return self._again_at if now < self._again_at < self._until else self._until

    def advance(self, now: float) -> bool:
        """Go on with it, once nothing runs any more; True when nothing is left to do, or it took too long."""
        work, worker_id = self.turns.work, self.lease.worker_id
        if self._until is None:
            self._until = now + PATIENCE
        if now >= self._until:
            logger.warning("the database did not answer the farewell; the lease will end by itself")
            return True
        if self.book or self.turns.under_way or not work.idle or now < self._again_at:
            return False
        if worker_id is None:
            self._again_at = now + PAUSE  # a failed try is told by what is left to take back then
            return not self.lease.take_back_own(self.turns.send)
        if not self.statistics.say_farewell(now, work, worker_id):
            goodbye = (
                self.statements["deregister"],
                [integer(worker_id), self.lease.began, *self.book.begun.parameters()],
            )
            self.turns.send([goodbye], lambda results, error: self._answered(worker_id, error))
        return False

    def _answered(self, worker_id: int, error: StatementError | None) -> None:
        if error is not None:
            logger.warning("the farewell failed: %s", error)
            self._again_at = monotonic() + PAUSE
            return
        self.on_deregistered(worker_id)
        logger.info("worker %s stopped", worker_id)
        self.lease.worker_id = None
