"""The states of a worker: it runs, takes nothing new, ends what it has, is over."""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pq_core.worker.abandoned import Abandoned
    from pq_core.worker.attention import Attention
    from pq_core.worker.book import Book
    from pq_core.worker.children import Children
    from pq_core.worker.claims import Claims
    from pq_core.worker.entering import Entering
    from pq_core.worker.farewell import Farewell
    from pq_core.worker.host import Host
    from pq_core.worker.lease import Lease
    from pq_core.worker.obituaries import Obituaries
    from pq_core.worker.ticking import Ticking
    from pq_core.worker.turns import Turns

logger = logging.getLogger("pq.worker")

HASTE = 2.0
"""Seconds that interrupted tasks have at most, when the worker is to stop now."""


class Phase(enum.Enum):
    """Where a worker stands between its start and its end."""

    RUNNING = "running"
    DRAINING = "draining"
    KILLING = "killing"
    STOPPED = "stopped"


@dataclass(slots=True, kw_only=True)
class Phases:
    """Takes a worker from one phase to the next."""

    host: Host
    attention: Attention
    ticking: Ticking
    claims: Claims
    children: Children
    book: Book
    turns: Turns
    entering: Entering
    lease: Lease
    obituaries: Obituaries
    farewell: Farewell
    abandoned: Abandoned
    phase: Phase = Phase.RUNNING
    _drain_until: float | None = None

    @property
    def running(self) -> bool:
        """True while nothing asks it to end."""
        return self.phase is Phase.RUNNING

    @property
    def claiming(self) -> bool:
        """True while it may take something on: it has a lease and is not about to stop."""
        return self.running and self.lease.held

    @property
    def unready(self) -> str:
        """Why it takes nothing on, in words for a probe; empty while it does."""
        if not self.running:
            return "it drains"
        return "" if self.lease.held else "it holds no lease: the database is out of reach, or did not give it one yet"

    def next_event(self, now: float) -> float | None:
        """Return when ``advance`` has something to do, if nothing else happens."""
        events = [
            self._drain_until if self.phase is Phase.DRAINING else None,
            self.abandoned.next_event() if self.running else None,
            self.farewell.next_event(now),
        ]
        return min((at for at in events if at is not None), default=None)

    def drain(self) -> None:
        """Take nothing new; let what runs end, up to ``drain_timeout``."""
        if self.phase is Phase.RUNNING:
            self.entering.put_back_unstarted("its worker stops")
            logger.info("draining: %d task(s) run", self.children.busy)
            self.phase = Phase.DRAINING
            self.host.stopping()
            self.lease.draining = True
            self._drain_until = monotonic() + self.host.options.drain_timeout

    def stop_now(self) -> None:
        """Interrupt what runs and put it back."""
        if self.phase in (Phase.RUNNING, Phase.DRAINING):
            self.entering.put_back_unstarted("its worker stops")
            logger.info("stopping: %d task(s) are interrupted and put back", self.children.busy)
            self.host.stopping()
            self.phase = Phase.KILLING
            self.lease.draining = True
            self.children.halting.interrupt_all(HASTE)

    def stopped(self) -> None:
        """End the loop."""
        self.phase = Phase.STOPPED

    def advance(self, now: float) -> None:
        """Go on to the next phase if it is time."""
        match self.phase:
            case Phase.DRAINING if self._drain_until is not None and now >= self._drain_until:
                self.stop_now()
            case Phase.RUNNING if self._nothing_left(now):
                served = self.host.options.once and self.claims.found_any
                if served or not self.abandoned.stays(now):
                    self.phase = Phase.DRAINING
            case Phase.RUNNING if self.children.has_work:
                self.abandoned.begin_anew()
        if self.phase in (Phase.DRAINING, Phase.KILLING):
            self._leave_when_done(now)

    def _nothing_left(self, now: float) -> bool:
        """Say whether a worker that is to go by itself has nothing to stay for."""
        if self.children.has_work or self.book or self.obituaries or self.turns.under_way or self.ticking.busy(now):
            return False
        options = self.host.options
        if options.once:
            return self.claims.claimed_once
        looked = self.lease.worker_id is not None and not self.attention.claim and self._slept(now)
        return options.until_empty and looked

    def _slept(self, now: float) -> bool:
        attention = self.attention
        due = attention.next_due
        empty = not attention.contended and (due is None or due > now)
        return bool(attention.look_at) and empty and not self.claims.suspects and not self.claims.limited.open

    def _leave_when_done(self, now: float) -> None:
        self.children.feeding.dismiss_idle()
        if len(self.children.processes) or self.obituaries:
            return
        self.entering.put_back_unstarted("its worker stopped")
        if self.farewell.advance(now):
            self.stopped()
