"""What a heartbeat told, compared with what this worker remembers of its tasks."""

from __future__ import annotations

import logging
from collections.abc import Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pq_core.types import Outcome
from pq_core.worker.rows import Key, claim_key
from pq_core.worker.shared import StopReason
from pq_core.worker.verdict import Verdict

if TYPE_CHECKING:
    from pq_core.worker.book import Book
    from pq_core.worker.children import Children
    from pq_core.worker.entering import Entering
    from pq_core.worker.host import Host
    from pq_core.worker.lease import Beat
    from pq_core.worker.runs import Child, Run
    from pq_core.worker.turns import Turns

logger = logging.getLogger("pq.worker")


@dataclass(slots=True, kw_only=True)
class Comparing:
    """Acts on where the database and this worker's memory differ."""

    host: Host
    children: Children
    book: Book
    turns: Turns
    entering: Entering
    _unknown: set[Key] = field(default_factory=set)

    def take(self, beat: Beat) -> None:
        """Stop what was cancelled or taken away, put back what nobody here remembers."""
        mine = {claim_key(run.task): (child, run) for child, run in self.children}
        for key, (child, run) in mine.items():
            if (words := beat.running.get(key)) is not None:
                self.children.halting.stop_run(child, run, StopReason.CANCEL, words)
            elif key not in beat.running and run.handed < beat.sent and not is_over(self.children, child, run):
                logger.warning("task %s was taken away from this worker; its child is ended", run.task.id)
                self.children.halting.stop_run(child, run, StopReason.LOST)
        self._forget_of_stock(beat)
        self._put_back_unknown(beat, mine.keys())

    def _forget_of_stock(self, beat: Beat) -> None:
        """Let go of tasks not begun that were cancelled or taken away."""
        stock = self.children.feeding.stock
        for one in list(stock):
            key = claim_key(one.task)
            if (words := beat.running.get(key)) is not None:
                stock.remove(one)
                error = f"cancelled before it began: {words}" if words else "cancelled before it began"
                self.entering.enter(one.task, Verdict(outcome=Outcome.CANCELLED, error=error, started=False))
            elif key not in beat.running and one.at < beat.sent:
                logger.warning("task %s was taken away from this worker before it began", one.task.id)
                stock.remove(one)
                self.entering.claims.child_ended(one.task)

    def _put_back_unknown(self, beat: Beat, mine: Set[Key]) -> None:
        # Rows that nobody here remembers: a claim whose answer was lost. Only what two heartbeats in a row have seen,
        # with no turn under way: a claim may have been answered between the statement and this line. None can have been
        # before a new connection takes turns.
        stock = {claim_key(one.task) for one in self.children.feeding.stock}
        known = mine | stock | self.book.reported()
        unknown = beat.running.keys() - known
        if self.turns.under_way:
            unknown &= self._unknown  # what an earlier beat has seen already; anything else may be on its way
        for key in unknown if beat.alone else unknown & self._unknown:
            # Or an end that was recorded, which the server has lost: where that may be, some must not start again.
            begun = key in beat.at_most_once and self.book.begun.may_hold(key)
            refused = self.book.begun.was_refused(key)
            what = "its end is lost" if begun else "it is put back"
            logger.warning("task %s is running for this worker, which does not know it; %s", key[0], what)
            self.entering.forget(key, may_have_begun=begun, refused=refused)
        self._unknown = unknown


def is_over(children: Children, child: Child, run: Run) -> bool:
    """Say whether the run has ended, or completed its task itself, also if that was not read yet."""
    if not run.end and not run.completed_itself:
        children.listening.read(child)
    return bool(run.end or run.completed_itself)
