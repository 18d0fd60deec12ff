"""What a worker has to tell the database: ends of attempts that are not recorded yet, and progress."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

from pq_core.needed import GONE
from pq_core.sqlstates import ALREADY_PREPARED, NO_PRIVILEGE
from pq_core.types import AttemptOutcome, ClaimedTask, Outcome, TaskStatus
from pq_core.worker.claiming import Statements, encode_report, integer, storable, take_batch
from pq_core.worker.connection import Parameters, Query, StatementError
from pq_core.worker.rows import Key, Row, claim_key, moment

if TYPE_CHECKING:
    from pq_core.worker.runs import Run

logger = logging.getLogger("pq.worker")

DATA_ERRORS = ("22", "23", "42", "54", "P0", "XX")
"""SQLSTATE classes that the same report would meet again: bad data, constraints, names, sizes, a trigger's refusal."""

PASSING = (*GONE, NO_PRIVILEGE, ALREADY_PREPARED)
"""Of these what may pass by itself: somebody restores tables, or grants; a pooler's session is another's."""


REFUSED_BY = ("pq_report", "pq_limit_pause")
"""Statements that hold what is reported of an end; whatever else fails in the same turn says nothing about it."""


def is_data_error(sqlstate: str) -> bool:
    """Say whether the same data would meet this error again."""
    return sqlstate.startswith(DATA_ERRORS) and sqlstate not in PASSING


@dataclass(slots=True, kw_only=True)
class Entry:
    """The end of one attempt: its item of the report, and what the hooks get once it is recorded.

    ``completed_itself``: the task said so, in a transaction of its own. ``plain``: everything that the database might
    have refused was taken out. ``began``: when its run did, of the monotonic clock. ``uncounted``: how many starts in a
    row did not count, once it is recorded. ``doubted_at``: since when its ``completed_itself`` waits to be judged.
    """

    worker_id: int
    task: ClaimedTask
    item: dict[str, Any]
    outcome: AttemptOutcome
    completed_itself: bool = False
    plain: bool = False
    died: bool = False
    began: float = 0.0
    uncounted: int = 0
    doubted_at: float = inf

    @property
    def unstarted(self) -> bool:
        """True for a task that was put back before it began: no attempt, whatever became of the report."""
        return self.item.get("unstarted") is True


KEPT = ("id", "fence", "started_at", "counted", "ledger", "begun", "unstarted")
"""What is left of an end that the database has refused."""
REMEMBERED = 4096
"""Claims of tasks with ``on_lost="fail"`` that are remembered after their end."""


@dataclass(slots=True)
class Begun:
    """Claims of this life that are over and must not start again, also if the database forgets how they ended.

    A server that crashes with ``synchronous_commit = off`` loses its last commits, and a standby may be promoted
    without them: a row then is as it was when it was claimed.
    """

    _keys: dict[Key, None] = field(default_factory=dict)
    _refused: dict[Key, None] = field(default_factory=dict)
    _forgotten: datetime | None = None

    def add(self, task: ClaimedTask) -> None:
        """Remember the claim of a task with ``on_lost="fail"``."""
        if task.on_lost != "fail":
            return
        self._keys[claim_key(task)] = None
        if len(self._keys) > REMEMBERED:
            oldest = next(iter(self._keys))
            del self._keys[oldest]
            self._forgotten = max(oldest[2], self._forgotten or oldest[2])

    def refuse(self, task: ClaimedTask) -> None:
        """Remember a claim whose end the database refused to record: if it comes again, it has started once more."""
        self.add(task)
        self._refused[claim_key(task)] = None
        if len(self._refused) > REMEMBERED:
            del self._refused[next(iter(self._refused))]

    def was_refused(self, key: Key) -> bool:
        """Say whether the end of this claim was refused."""
        return key in self._refused

    def parameters(self) -> list[bytes | None]:
        """Return which claims ``may_hold`` is true of, as deregister.sql takes it."""
        claims = [{"id": id_, "fence": fence, "started_at": at.isoformat()} for id_, fence, at in self._keys]
        return [encode_report(claims), self._forgotten.isoformat().encode() if self._forgotten else None]

    def may_hold(self, key: Key) -> bool:
        """Say whether the claim was begun, or can't be told from those that were forgotten."""
        return key in self._keys or (self._forgotten is not None and key[2] <= self._forgotten)

    def begin_life(self, began: bytes) -> None:
        """Forget all: what is left of earlier lives is taken back by their leases, nothing of it is for this one."""
        self._keys.clear()
        self._refused.clear()
        self._forgotten = moment(began)


@dataclass(slots=True, kw_only=True)
class Book:
    """Ends that wait to be recorded, in order.

    ``settled``: gets every entry once, when the database has it (with the outcome that stands), or when it turned out
    to be another's. ``uncommitted``: gets an end that says its task completed itself while the row still runs; returns
    what is reported in its place. ``waiting_since``: since when an end waits to be sent for the first time.
    ``void``: what ends is of a history that the database has lost, until the next life begins.
    """

    statements: Statements
    settled: Callable[[Entry, AttemptOutcome], None]
    uncommitted: Callable[[Entry], Entry]
    void: bool = False
    begun: Begun = field(default_factory=Begun)
    waiting_since: float | None = None
    entries: list[Entry] = field(default_factory=list)
    progress: dict[int, dict[str, Any]] = field(default_factory=dict)
    _sent: list[Entry] = field(default_factory=list)
    _singly: int = 0
    _ledgers: list[Entry] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.entries or self.progress or self._ledgers)

    def add(self, entry: Entry) -> None:
        """Note an end."""
        if self.void:
            self.settled(entry, _lost(entry.outcome))
            return
        if self.waiting_since is None:
            self.waiting_since = monotonic()
        note = self.progress.get(entry.task.id)
        if note is not None and note.get("fence") == entry.task.fence:
            del self.progress[entry.task.id]
            entry.item.setdefault("progress", note.get("share"))
            entry.item.setdefault("progress_message", note.get("message"))
        self.entries.append(entry)

    def note_running(self, run: Run, **known: Any) -> None:
        """Note for the next turn how far a run is. ``known``: what else its row is to say."""
        claim = {"fence": run.task.fence, "started_at": run.task.started_at.isoformat()}
        note = self.progress.get(run.task.id, {})
        if note.get("fence") != run.task.fence:
            note = {}
        told = {"told": True, **run.progress} if run.progress is not None else {}
        self.progress[run.task.id] = {**note, **claim, **told, **known}

    def statements_to_send(self, worker_id: int | None) -> list[tuple[Query, Parameters]]:
        """Return what goes into the next turn; ``take`` gets the answer to the first if ``reporting``."""
        sending: list[tuple[Query, Parameters]] = []
        self.waiting_since = None
        self._sent = self._next_entries()
        if self._sent:
            owner = integer(self._sent[0].worker_id)
            sending.append((self.statements["report"], [owner, encode_report([e.item for e in self._sent])]))
            pauses = [entry.item["pause"] for entry in self._sent if "pause" in entry.item]
            if pauses:
                sending.append((self.statements["limit_pause"], [encode_report(pauses)]))
        for entry in self._ledgers:
            item = entry.item
            sending.append(
                (
                    self.statements["ledger"],
                    [
                        integer(entry.task.id),
                        integer(entry.task.fence),
                        json.dumps(item["ledger"]).encode(),
                        item["output"].encode() if "output" in item else None,
                        item["started_at"].encode(),
                    ],
                )
            )
        self._ledgers.clear()
        if self.progress and worker_id is not None:
            notes = [{"id": key, **note} for key, note in self.progress.items()]
            sending.append((self.statements["progress"], [integer(worker_id), encode_report(notes)]))
            self.progress.clear()
        return sending

    @property
    def reporting(self) -> bool:
        """True while a report is under way."""
        return bool(self._sent)

    def reported(self) -> set[Key]:
        """Return the claims of all ends that are noted here."""
        return {claim_key(entry.task) for entry in self.entries}

    def drop(self) -> None:
        """Forget all that is not recorded yet, and what ends until the next life begins: nothing of it may stand."""
        self.void = True
        self.waiting_since = None
        dropped, self.entries = self.entries, []
        self._sent, self._singly = [], 0
        self._ledgers.clear()
        self.progress.clear()
        for entry in dropped:
            self.settled(entry, _lost(entry.outcome))

    def begin_life(self, began: bytes) -> None:
        """Begin anew, under a new lease."""
        self.void = False
        self.begun.begin_life(began)

    def _next_entries(self) -> list[Entry]:
        if not self.entries:
            return []
        owner = self.entries[0].worker_id
        same = [entry for entry in self.entries if entry.worker_id == owner]
        if self._singly:
            return same[:1]
        return same[: len(take_batch([entry.item for entry in same]))]

    def take(self, rows: list[Row]) -> bool:
        """Take in the answer to a report; True when some have to be reported again a little later."""
        answers = {(int(row[0] or 0), int(row[1] or 0), moment(row[7])): row for row in rows}
        again: list[Entry] = []
        sent, self._sent = self._sent, []
        self._singly = max(0, self._singly - 1)
        for entry in sent:
            row = answers.get(claim_key(entry.task))
            report = (row[3] or b"lost").decode() if row else "lost"
            if report == "later":
                again.append(entry)
                continue
            if report == "uncommitted":
                again.append(self.uncommitted(entry))
                continue
            if not entry.unstarted:
                self.begun.add(entry.task)
            self._settle(entry, report, row)
        done = {id(entry) for entry in sent}
        self.entries = [entry for entry in self.entries if id(entry) not in done] + again
        return bool(again)

    def _settle(self, entry: Entry, report: str, row: Row | None) -> None:
        outcome = entry.outcome
        match report:
            case "recorded":
                entry.uncounted = int(row[9] or 0) if row else 0
                status = TaskStatus((row[2] or b"failed").decode()) if row else outcome.status
                if status is not outcome.status:
                    # A version was parked, or it was cancelled meanwhile: what stands is what the row says.
                    outcome = _changed(outcome, status, float(row[5]) if row and row[5] is not None else None)
            case "self":
                recorded = (row[4] or b"").decode() if row else ""
                if recorded == "succeeded":
                    if outcome.outcome is not Outcome.SUCCEEDED:
                        logger.warning(
                            "task %s completed in its own transaction; that it then ended as %s changes nothing",
                            entry.task.id,
                            outcome.outcome,
                        )
                        outcome = _succeeded(outcome)
                    self._ledgers.append(entry)
            case _ if entry.unstarted:
                pass  # whoever has it by now has not taken it from a run
            case _:
                logger.warning("task %s (fence %s) was taken away while it ran", entry.task.id, entry.task.fence)
                outcome = _lost(outcome)
        self.settled(entry, outcome)

    @property
    def narrowing(self) -> bool:
        """True while each end goes by itself, to find the one that is refused."""
        return self._singly > 0

    def failed(self, error: StatementError, *, alone: bool) -> None:
        """Take in that the turn failed: nothing of it is recorded. ``alone``: it was for nothing but reports.

        An error that the same data would meet again is narrowed down to one end, which then goes without what the
        database refused.
        """
        sent, self._sent = self._sent, []
        if not sent or not error.sqlstate or error.sqlstate == ALREADY_PREPARED:
            return
        # Of a commit, which names no statement, it may be anything in the turn.
        if error.statement not in REFUSED_BY and not (alone and not error.statement):
            return
        if len(sent) > 1:
            self._singly = len(sent)
            return
        entry = sent[0]
        if not is_data_error(error.sqlstate):
            # Nothing about this end itself, a lock for one: it comes again after the others.
            self._singly = max(self._singly, 1)
            self.entries.remove(entry)
            self.entries.append(entry)
            return
        if entry.plain:
            logger.error("the end of task %s can't be recorded: %s", entry.task.id, error)
            # Its row still runs: heartbeats find it, and by then it must be known that it has been started.
            self.begun.refuse(entry.task)
            self.entries.remove(entry)
            self.settled(entry, _lost(entry.outcome))
            return
        logger.error("the end of task %s was refused and is recorded without its data: %s", entry.task.id, error)
        entry.plain = True
        self._singly = max(self._singly, 1)
        item = entry.item
        words = storable(f"the database refused what this attempt left: {error}\n{item.get('error') or ''}")
        entry.item = {
            **{key: item[key] for key in KEPT if key in item},
            "delay": item.get("delay"),
            "status": "failed" if item["status"] == "completed" else item["status"],
            "outcome": "raised" if item["outcome"] == "succeeded" else item["outcome"],
            "error": words,
            "output": None,
            "result": None,
            "plain": True,
        }


def _changed(outcome: AttemptOutcome, status: TaskStatus, retry_in: float | None) -> AttemptOutcome:
    return replace(outcome, status=status, final=status.finished, retry_in=retry_in)


def _succeeded(outcome: AttemptOutcome) -> AttemptOutcome:
    return replace(
        outcome, outcome=Outcome.SUCCEEDED, status=TaskStatus.COMPLETED, final=True, retry_in=None, error=None
    )


def _lost(outcome: AttemptOutcome) -> AttemptOutcome:
    return replace(outcome, outcome=Outcome.LOST, status=TaskStatus.PENDING, final=False, retry_in=0.0)
