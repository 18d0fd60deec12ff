"""What a short-lived worker stays for: tasks that run under a lease which nobody renews any more."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from pq_core.worker.claiming import Statements, integer, one_line, text_array

if TYPE_CHECKING:
    from pq_core.worker.connection import Results, StatementError
    from pq_core.worker.lease import Lease
    from pq_core.worker.rows import Row

logger = logging.getLogger("pq.worker")

LONGEST = 60.0
"""Seconds that a worker stays at most, or for a lease of its own where that is longer."""
MARGIN = 5.0
"""Seconds beyond that: to see the end of the lease, and to take the tasks."""
PAUSE = 1.0
"""Seconds between two looks at most."""


@dataclass(frozen=True, slots=True)
class Held:
    """Tasks of one other worker; times in seconds from now, as ``abandoned.sql`` tells them."""

    worker_id: int
    name: str | None
    tasks: int
    ends_in: float | None
    alive: bool
    late_in: float | None
    free_in: float

    @property
    def silent(self) -> bool:
        """True when its worker has no lease, or should have renewed it by now."""
        return self.late_in is None or self.late_in <= 0 or (self.ends_in or 0.0) <= 0

    def __str__(self) -> str:
        if self.ends_in is None:
            return f"{self.tasks} of worker {self.worker_id}, which has no lease"
        ends = f"ends in {self.ends_in:.0f} s" if self.ends_in > 0 else f"ended {-self.ends_in:.0f} s ago"
        return f"{self.tasks} of worker {self.worker_id} ({one_line(self.name or '?')}), whose lease {ends}"


def worth_waiting(held: Held, *, patient: bool, left: float) -> float | None:
    """Return in how many seconds to look at ``held`` again, None when there is nothing to wait for.

    ``left``: seconds that the worker stays yet. ``patient``: it also waits to see whether a worker whose lease goes on
    renews it: killed a moment ago, it looks like one that lives.
    """
    if left <= 0:
        return None
    if held.silent:
        wait = held.free_in
    elif patient and not held.alive and held.late_in is not None:
        wait = held.late_in
    else:
        return None
    return max(wait, 0.0) if wait <= left else None


@dataclass(slots=True, kw_only=True)
class Abandoned:
    """Keeps a worker that has nothing left to do until it could take over what the dead left, within bounds.

    ``patient``: see ``worth_waiting``. ``left``: tasks that it leaves running though nobody runs them.
    """

    lease: Lease
    statements: Statements
    queues: tuple[str, ...]
    patient: bool
    left: int = 0
    _until: float | None = None
    _look_at: float = 0.0
    _asking: bool = False
    _over: bool = False
    _known: list[Held] = field(default_factory=list)
    _told: set[int] = field(default_factory=set)

    def begin_anew(self) -> None:
        """Forget what was seen: the worker has something to do."""
        if self._until is not None:
            self._until, self._look_at, self._over, self._known, self.left = None, 0.0, False, [], 0

    def stays(self, now: float) -> bool:
        """Say whether the worker is to stay although it has nothing to do; looks when it is time."""
        if self._until is None:
            self._until = now + max(LONGEST, self.lease.seconds) + MARGIN
        if not self._over and now >= self._until + MARGIN:  # the database does not answer
            self._leave()
        if self._over:
            return False
        worker_id = self.lease.worker_id
        if not self._asking and worker_id is not None and now >= self._look_at and self.lease.watch.idle:
            self._asking = True
            self.lease.watch.send(
                [(self.statements["abandoned"], [integer(worker_id), text_array(self.queues)])], self._answered
            )
        return True

    def next_event(self) -> float | None:
        """Return when ``stays`` has something to do, if nothing else happens."""
        if self._until is None or self._over:
            return None
        if self._asking or not self.lease.watch.idle:
            return self._until + MARGIN
        return min(self._look_at, self._until + MARGIN)

    def _answered(self, results: Results | None, error: StatementError | None) -> None:
        self._asking = False
        now = monotonic()
        self._look_at = now + PAUSE
        if results is None:
            logger.warning("a look for abandoned tasks failed: %s", error)
        elif self._until is not None:  # else there is something to do meanwhile
            self._take([_held(row) for row in results[0]], now, self._until - now)

    def _take(self, found: list[Held], now: float, left: float) -> None:
        self._known = found
        waits = {held.worker_id: worth_waiting(held, patient=self.patient, left=left) for held in found}
        awaited = [held for held in found if waits[held.worker_id] is not None]
        for held in awaited:
            if held.silent:
                self.lease.look_by(now + held.free_in)
        if not awaited:
            self._leave()
            return
        self._look_at = now + min(max(min(wait for wait in waits.values() if wait is not None), 0.1), PAUSE)
        new = [held for held in awaited if held.worker_id not in self._told]
        if new:
            self._told.update(held.worker_id for held in new)
            words = "nothing is due; staying up to %.0f s to see whether somebody still runs: %s"
            logger.info(words, max(left, 0.0), "; ".join(map(str, new)))

    def _leave(self) -> None:
        self._over = True
        silent = [held for held in self._known if held.silent]
        self.left = sum(held.tasks for held in silent)
        if silent:
            words = "tasks are left running that nobody runs: %s; a worker that lives longer or comes later takes them"
            logger.warning(words, "; ".join(map(str, silent)))


def _held(row: Row) -> Held:
    worker_id, name, tasks, ends_in, alive, late_in, free_in = row
    return Held(
        worker_id=int(worker_id or 0),
        name=None if name is None else name.decode("utf-8", "replace"),
        tasks=int(tasks or 0),
        ends_in=None if ends_in is None else float(ends_in),
        alive=alive == b"t",
        late_in=None if late_in is None else float(late_in),
        free_in=float(free_in or 0.0),
    )
