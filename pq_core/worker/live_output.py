"""What running tasks print, shown in their rows while they run."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from pq_core.worker.claiming import storable
from pq_core.worker.shared import StopReason

if TYPE_CHECKING:
    from pq_core.worker.book import Book
    from pq_core.worker.children import Children
    from pq_core.worker.program import Program
    from pq_core.worker.runs import Child, Run

EVERY = 2.0
"""Seconds between two looks, while something runs."""
SHOWN = 4000
"""Characters that are written meanwhile; the report of the end has all that is kept."""


@dataclass(slots=True, kw_only=True)
class LiveOutput:
    """Looks at what children print, in the memory that each shares with its worker: the child does nothing for it."""

    program: Program
    children: Children
    book: Book
    _written: dict[tuple[int, int], int] = field(default_factory=dict)
    _due: float = 0.0

    def next_event(self) -> float | None:
        """Return when to look again, None while nothing runs."""
        return self._due if self.children.processes.working else None

    def advance(self, now: float, worker_id: int | None) -> None:
        """Note for the next turn what was printed since the last look, by tasks that have run for a while."""
        if now < self._due:
            return
        self._due = now + EVERY
        if worker_id is None:
            return  # the database is out of reach: there is nowhere to write
        before, self._written = self._written, {}
        for child in self.children.processes:
            run = child.head
            if run is None or child.crowd or now - child.since < EVERY or run.reason is StopReason.LOST:
                continue
            written = child.place.written
            if written and self._is_in(child, run) and not self.program.sensitive(run.task):
                self._written[run.key] = written
                if before.get(run.key) != written and (output := child.place.output()) and self._is_in(child, run):
                    self.book.note_running(run, output=storable(output[-SHOWN:]))

    @staticmethod
    def _is_in(child: Child, run: Run) -> bool:
        """Say whether the child is in this very run: it may have ended it and begun the next."""
        return (child.began(run) or inf) < inf and run.end is None
