"""The turns of a worker with the database: in one round trip all that ended is reported, and work claimed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from pq_core.worker.connection import Callback, Parameters, Query, Results, StatementError

if TYPE_CHECKING:
    from pq_core.worker.attention import Attention
    from pq_core.worker.book import Book
    from pq_core.worker.children import Children
    from pq_core.worker.claims import Claims, Sending
    from pq_core.worker.entering import Entering
    from pq_core.worker.lease import Lease
    from pq_core.worker.link import Link
    from pq_core.worker.starting import Starting
    from pq_core.worker.ticking import Ticking

logger = logging.getLogger("pq.worker")

LATER = 0.05
"""Seconds before an end is reported again whose row was locked, and before the first retry of a failed turn."""
LONGEST_PAUSE = 5.0
"""Seconds between two tries of a turn that fails again and again."""
REPORT_PAUSE = 0.005
"""Seconds that ends may wait for others to be reported with, while there is work at hand."""
FORK_PAUSE = 4 * REPORT_PAUSE
"""The same while processes are being forked: with the answer come the ends of those that ended meanwhile."""
REPORT_MANY = 64
"""Ends that don't wait for others."""
REPORTING = ("pq_report", "pq_limit_pause", "pq_ledger", "pq_progress")
"""Statements of a turn that tell the database something; the others are a claim's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What one turn was sent for: by which life, and which claim for how many tasks.

    ``reporting``: ends were reported. ``reports``: they or what else there was to tell.
    """

    worker_id: int | None
    reporting: bool
    reports: bool
    claim: str
    tasks: int


@dataclass(slots=True, kw_only=True)
class Turns:
    """Reports and claims over ``work``. ``under_way``: a turn is not answered yet.

    ``once``: it waits with the one claim until due schedules have made their tasks.

    A turn is one transaction: while a claim or a report fails, the two go apart, so that neither undoes the other.
    """

    work: Link
    lease: Lease
    attention: Attention
    ticking: Ticking
    claims: Claims
    book: Book
    children: Children
    starting: Starting
    entering: Entering
    once: bool
    under_way: bool = False
    _report_at: float = 0.0
    _claim_at: float = 0.0
    _report_failures: int = 0
    _claim_failures: int = 0

    def advance(self, now: float, *, claiming: bool) -> None:
        """Send a turn if there is something to say or to ask. ``claiming``: the worker takes something on."""
        if not self.work.idle or self.under_way:
            return
        worker_id = self.lease.worker_id
        reports: Sending = []
        room = self._room(now)
        if self.book and now >= self._report_due(now):
            reports = self.book.statements_to_send(worker_id)
        if reports and self._apart:
            self._send(worker_id, reports, [], room)
            return
        claims: Sending = []
        # Who runs but one task runs the one that a schedule is about to make.
        waits = self.once and not self.ticking.started
        if worker_id is None or now < self._claim_at:
            waits = True
        elif not claiming or self.starting.refused_until > now or self._piles_up:
            claims, waits = self.claims.pass_on(worker_id), True
        if worker_id is not None and not waits:
            claims = self.claims.statements_to_send(
                now,
                worker_id,
                room=room,
                busy=self.children.has_work,
                reporting=bool(reports),
                idle=self.children.feeding.idle,
            )
        if reports or claims:
            self._send(worker_id, reports, claims, room)

    def _send(self, worker_id: int | None, reports: Sending, claims: Sending, room: int) -> None:
        asked = _Asked(
            worker_id=worker_id,
            reporting=self.book.reporting,
            reports=bool(reports),
            claim=claims[-1][0].name if claims else "",
            tasks=self.claims.free(room) if claims else 0,
        )
        self.send([*reports, *claims], lambda results, error: self._answered(asked, results, error))

    def send(self, statements: list[tuple[Query, Parameters]], callback: Callback) -> None:
        """Send statements as a turn: until they are answered there is no other."""

        def answered(results: Results | None, error: StatementError | None) -> None:
            self.under_way = False
            callback(results, error)

        self.under_way = True
        self.work.send(statements, answered)

    def next_event(self, now: float, *, running: bool) -> float | None:
        """Return when ``advance`` has something to do, if nothing else happens. ``running``: no end is asked for."""
        events = []
        if self.book:
            events.append(self._report_due(now))
        if not running and (self.claims.owes or self.attention.marked):
            events.append(max(now, self._claim_at))
        if running and not self._piles_up:
            at = self.claims.next_event(now, room=self._room(now), busy=self.children.has_work)
            if at is not None:
                events.append(max(at, self._claims_from))
        return min(events, default=None)

    @property
    def _apart(self) -> bool:
        return self.book.narrowing or self._report_failures > 0 or self._claim_failures > 0

    @property
    def _piles_up(self) -> bool:
        """True while nothing can be recorded: who claims on would only have more to tell."""
        return self._report_failures > 0 and len(self.book.entries) >= REPORT_MANY

    @property
    def _claims_from(self) -> float:
        return max(self._claim_at, self.starting.refused_until)

    def _room(self, now: float) -> int:
        """Return how many tasks the next round trip should bring: not one for each that was handed out."""
        feeding = self.children.feeding
        wants_more = feeding.hungry or (bool(self.book) and self._report_due(now) <= now)
        return feeding.room(now) if wants_more else 0

    def _report_due(self, now: float) -> float:
        """Return when the ends are to be reported: at once, unless there is work at hand and more will follow soon."""
        since = self.book.waiting_since
        if since is None or self.children.feeding.hungry or len(self.book.entries) >= REPORT_MANY:
            return self._report_at
        pause = FORK_PAUSE if self.children.processes.forker.busy else REPORT_PAUSE
        return max(self._report_at, since + pause)

    def _answered(self, asked: _Asked, results: Results | None, error: StatementError | None) -> None:
        now = monotonic()
        if results is None:
            assert error is not None
            self._failed(asked, error, now)
            return
        if asked.reports:
            self._report_failures = 0
        if asked.claim:
            self._claim_failures = 0
        if asked.reporting:
            if self.book.take(results[0]):
                self._report_at = now + LATER
            rows = results[0]
            enqueued = bool(rows) and rows[0][6] not in (None, b"0")  # by on_failure; every row says it
            if enqueued or any(row[2] == b"pending" for row in rows):  # ... or a parked version took its place
                self.attention.wake()
        if asked.claim:
            self.starting.add(self.claims.take(asked.claim, results[-1], asked=asked.tasks, now=now))
            if asked.worker_id != self.lease.worker_id:
                # Claimed by a life that is over: they are still its tasks, and go back before the next one begins.
                self.entering.put_back_unstarted("its worker lost its lease")

    def _failed(self, asked: _Asked, error: StatementError, now: float) -> None:
        if asked.reporting:
            self.book.failed(error, alone=not asked.claim)
        of_reports = asked.reports and (not error.statement or error.statement in REPORTING)
        of_claim = bool(asked.claim) and (not error.statement or error.statement not in REPORTING)
        if of_reports:
            self._report_failures += 1
        if of_claim:
            self._claim_failures += 1
        failures = max(self._report_failures if of_reports else 0, self._claim_failures if of_claim else 0)
        pause = min(LATER * 2 ** min(failures - 1, 10), LONGEST_PAUSE)
        if error.sqlstate:
            logger.warning("a turn failed and is tried again in %.2g s: %s", pause, error)
        if asked.claim:
            self.claims.refusals.say_again()
            self.attention.wake()
            self.attention.marked = False
            self.claims.owes = not self.once  # what it was to pass on may not have been
        if of_reports:
            self._report_at = now + pause
        if of_claim:
            self._claim_at = now + pause
