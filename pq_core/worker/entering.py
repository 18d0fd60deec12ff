"""How the end of an attempt gets into the book: of one that ran, of one that never began."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

from pq_core.policy import lost
from pq_core.types import ClaimedTask, Outcome, TaskStatus
from pq_core.worker.claiming import one_line
from pq_core.worker.ending import cost_of, entry_of, evidence_of, otherwise, plain_success
from pq_core.worker.shared import StopReason
from pq_core.worker.verdict import Verdict, judge

if TYPE_CHECKING:
    from pq_core.worker.attention import Attention
    from pq_core.worker.book import Book, Entry
    from pq_core.worker.children import Children
    from pq_core.worker.claims import Claims
    from pq_core.worker.host import Host
    from pq_core.worker.lease import Lease
    from pq_core.worker.program import Program
    from pq_core.worker.rows import Key
    from pq_core.worker.runs import Ended, Run
    from pq_core.worker.sessions import Sessions

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
    sessions: Sessions
    lease: Lease

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
        if cost.left:
            ended = any(not one.startswith("daemon ") for one in cost.left)
            level = logging.WARNING if ended else logging.INFO  # daemons go on, as their name says
            logger.log(level, "task %s ended and left %s", run.task.id, ", ".join(cost.left))
        # What nearly every run comes to, without the evidence that the others are judged by.
        verdict = plain_success(done) or judge(run.task, evidence_of(done, cost))
        output = None if self.program.sensitive(run.task) else done.output
        if verdict.outcome is Outcome.LOST:
            self.claims.child_ended(run.task)
            self.book.begun.add(run.task)
            if not self.book.void:  # else it was said of all of them
                logger.warning("task %s is not recorded: another worker may have it", run.task.id)
            return
        if verdict.outcome is Outcome.SUCCEEDED and verdict.error is not None:
            logger.warning(
                "task %s (%s) completed: %s", run.task.id, one_line(run.task.name), verdict.error.partition("\n")[0]
            )
        self.enter(
            run.task,
            verdict,
            cost=cost,
            output=output,
            completed_itself=run.completed_itself,
            died=run.end is None,
            progress=run.progress,
            began=run.handed,
        )

    def uncommitted(self, entry: Entry) -> Entry:
        """Judge a run that says it completed its task, whose row still runs: there is no such commit.

        Where no connection was lost since it began there never was one: that counts, as what the task raises does,
        since it would come again. Otherwise the server may have lost it: also behind a pooler, which keeps connections
        over a failover, so that it is judged only once a heartbeat has met the history that this worker remembers.
        """
        if self.lease.worker_id is not None and self.lease.heard_at <= entry.doubted_at:
            if entry.doubted_at == inf:
                entry.doubted_at = monotonic()
                self.lease.beat_soon()
            return entry
        words = "complete() was called, and no transaction that did so is committed"
        if entry.began < self.sessions.unbroken_since:
            transition = lost(entry.task.on_lost, f"lost: {words}; the database was out of reach meanwhile")
        else:
            transition = self.program.decide(entry.task, Verdict(outcome=Outcome.RAISED, error=words))
        logger.error("task %s: %s; now %s", entry.task.id, words, transition.status)
        if transition.status is TaskStatus.PENDING:
            self.attention.wake()
        return otherwise(entry, transition)

    def forget(self, key: Key, *, may_have_begun: bool, refused: bool) -> None:
        """Note of a claim that nobody here knows that it is given back; that it failed, if it must not start again.

        ``refused``: it ran, and the database did not take its end.
        """
        if not may_have_begun:
            words = "put back: its end can't be recorded" if refused else "put back: the answer to its claim was lost"
            self.put_back(self.host.placeholder(key, "retry"), words, started=refused)
            return
        task = self.host.placeholder(key, "fail")
        words = "can't record how it ended" if refused else "has lost how it ended"
        transition = lost(task.on_lost, f"lost: this was begun, and the database {words}")
        verdict = Verdict(outcome=Outcome.LOST, error=transition.error)
        owner = self.children.processes.setup.worker_id
        self.book.add(entry_of(task, verdict, transition, worker_id=owner))

    def put_back(self, task: ClaimedTask, error: str, *, started: bool = False) -> None:
        """Note that a task is to be claimed anew: it did not begin, unless ``started`` says that it did."""
        self.enter(task, Verdict(outcome=Outcome.INTERRUPTED, error=error, started=started))

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
        if feeding.stock:
            logger.info("%d task(s) that had not begun are put back: %s", len(feeding.stock), why)
        while feeding.stock:
            self.put_back(feeding.stock.popleft().task, f"put back: {why}")

    def note_progress(self, worker_id: int | None) -> None:
        """Note how far runs say they are."""
        news = self.children.listening.news
        for run in news:
            if worker_id is not None and run.reason is not StopReason.LOST:
                self.book.note_running(run)
        news.clear()
