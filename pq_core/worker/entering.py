"""How the end of an attempt gets into the book: of one that ran, of one that never began."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pq_core.types import ClaimedTask, Outcome, TaskStatus
from pq_core.worker.ending import cost_of, entry_of, evidence_of, plain_success
from pq_core.worker.shared import StopReason
from pq_core.worker.verdict import Verdict, judge

if TYPE_CHECKING:
    from pq_core.worker.attention import Attention
    from pq_core.worker.book import Book
    from pq_core.worker.children import Children
    from pq_core.worker.claims import Claims
    from pq_core.worker.host import Host
    from pq_core.worker.program import Program
    from pq_core.worker.runs import Ended, Run

logger = logging.getLogger("pq.worker")


@dataclass(slots=True, kw_only=True)
class Entering:
    """Judges what has ended and enters it."""

    host: Host
    program: Program
    attention: Attention
    claims: Claims
    children: Children
    book: Book

    def enter(self, task: ClaimedTask, verdict: Verdict, **known: Any) -> None:
        """Note an end. ``known``: what else there is to record, as ``entry_of`` takes it."""
        self.claims.child_ended(task)
        transition = self.program.decide(task, verdict)
        if transition.status is TaskStatus.PENDING:
            self.attention.wake()  # it may be due again at once, and its time has to be known
        owner = self.children.processes.setup.worker_id
        self.book.add(entry_of(task, verdict, transition, worker_id=owner, **known))

    def run_ended(self, done: Ended) -> None:
        """Note the end of a run."""
        run = done.run
        cost = cost_of(done, self.host.image_rss)
        # What nearly every run comes to, without the evidence that the others are judged by.
        verdict = plain_success(done) or judge(run.task, evidence_of(done, cost))
        output = None if self.program.sensitive(run.task) else done.output
        if verdict.outcome is Outcome.LOST:
            self.claims.child_ended(run.task)
            logger.warning("task %s is not recorded: another worker may have it", run.task.id)
            return
        self.enter(
            run.task,
            verdict,
            cost=cost,
            output=output,
            completed_itself=run.completed_itself,
            died=run.end is None,
            progress=run.progress,
        )

    def put_back(self, task: ClaimedTask, error: str) -> None:
        """Note that a task did not begin, and is to be claimed anew."""
        self.enter(task, Verdict(outcome=Outcome.INTERRUPTED, error=error, started=False))

    def stopped_unstarted(self, run: Run) -> None:
        """Note that a run was stopped whose process was never there."""
        words = f"stopped before it began{': ' + run.words if run.words else ''}"
        match run.reason:
            case StopReason.LOST:
                self.claims.child_ended(run.task)
            case StopReason.CANCEL:
                self.enter(run.task, Verdict(outcome=Outcome.CANCELLED, error=words, started=False))
            case _:
                self.put_back(run.task, words)

    def put_back_unstarted(self, why: str) -> None:
        """Put everything back that no child has received."""
        feeding = self.children.feeding
        feeding.take_all_back()
        while feeding.stock:
            self.put_back(feeding.stock.popleft().task, f"put back: {why}")

    def note_progress(self, worker_id: int | None) -> None:
        """Note how far runs say they are."""
        news = self.children.listening.news
        for run in news:
            if worker_id is not None and run.reason is not StopReason.LOST:
                self.book.progress[run.task.id] = {"fence": run.task.fence, **(run.progress or {})}
        news.clear()
