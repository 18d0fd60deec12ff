"""A worker's right to its tasks: renewed, compared with the database, and taken from workers that are dead."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import monotonic

from pq_core.types import ClaimedTask, TaskStatus
from pq_core.worker.book import DATA_ERRORS
from pq_core.worker.claiming import Statements, integer
from pq_core.worker.connection import Results, StatementError
from pq_core.worker.link import Link
from pq_core.worker.rows import Row, claimed_task

logger = logging.getLogger("pq.worker")

SETTLING = 1.2
"""Seconds between the end of another's lease and the look whether it was renewed: rescue.sql lets one pass."""
AGAIN = 1.0
"""Seconds between two looks at least: a lease that has ended may be locked, or not be watched for long enough yet."""


_OWN = 5
"""Columns of rescue.sql's answer before those of the task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What one heartbeat told.

    ``running``: (task id, fence) to the words of whoever cancelled it, which may be none (``""``); None: it goes on.
    """

    sent: float
    drain_requested: bool
    stop_requested: bool
    suspects: bool
    running: dict[tuple[int, int], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescued:
    """A task taken back from a dead worker."""

    task: ClaimedTask
    status: TaskStatus
    error: str


@dataclass(slots=True, kw_only=True)
class Lease:
    """The lease of one life of a worker; times are of the monotonic clock.

    ``bands``: the parameters that name the priorities it takes. ``on_beat``: gets every successful heartbeat.
    ``on_gone``: the lease is lost. ``on_rescued``: gets tasks taken from the dead. ``known_dead``: who is known
    to be gone. ``acquitted``: one of them whose end none of its tasks is to blame for; 0: none.
    """

    link: Link
    statements: Statements
    seconds: float
    bands: list[bytes]
    on_beat: Callable[[Beat], None]
    on_gone: Callable[[], None]
    on_rescued: Callable[[list[Rescued]], None]
    worker_id: int | None = None
    expires: float = 0.0
    draining: bool = False
    known_dead: list[int] = field(default_factory=list)
    acquitted: int = 0
    _next_beat: float = 0.0
    _next_rescue: float | None = None
    _sent: float = 0.0
    _blameless: set[int] = field(default_factory=set)
    _plain: bool = False

    def __post_init__(self) -> None:
        if self.acquitted:
            self._blameless.add(self.acquitted)

    def begin(self, worker_id: int, sent: float) -> None:
        """Start a life that was registered by a statement sent at ``sent``."""
        self.worker_id = worker_id
        # From when it was sent: the database's own end of the lease is later, never earlier.
        self.expires = sent + self.seconds
        # The first beat comes at once: it finds what an earlier crash left, and when to look after others.
        self._next_beat = 0.0
        self._next_rescue = 0.0 if self.known_dead else None

    @property
    def held(self) -> bool:
        """True while nobody may have given this worker up for dead."""
        return self.worker_id is not None and monotonic() < self.expires

    def next_event(self) -> float | None:
        """Return when ``advance`` has something to do."""
        if self.worker_id is None:
            return None
        events = [self.expires]
        if self.link.idle:
            events.append(self._next_beat)
            if self._next_rescue is not None:
                events.append(self._next_rescue)
        return min(events)

    def look_by(self, at: float) -> None:
        """Have the next rescue come at ``at``, if it would be later: there is something to take back then."""
        if self._next_rescue is None or at < self._next_rescue:
            self._next_rescue = at

    def beat_soon(self) -> None:
        """Let the next heartbeat come at once: somebody has asked for a cancellation."""
        self._next_beat = 0.0

    def advance(self, now: float) -> None:
        """Send what is due: a heartbeat, or a rescue."""
        if self.worker_id is None:
            return
        if now >= self.expires:
            # In time for its own end: it is the database that was away. One that comes late has stalled, and may owe
            # that to a task of its own.
            if now - self.expires < self.seconds / 3:
                self._blameless.add(self.worker_id)
            self.lose("it could not be renewed in time")
            return
        if not self.link.idle:
            return
        if now >= self._next_beat:
            self._beat(now, self.worker_id)
        elif self._next_rescue is not None and now >= self._next_rescue:
            self._rescue(self.worker_id)

    def lose(self, why: str) -> None:
        """Give the lease up: another may have the tasks by now."""
        logger.error("worker %s lost its lease: %s; its children are ended", self.worker_id, why)
        if self.worker_id is not None:
            # No next life begins before the last child of this one is gone: then nobody has to wait for its lease.
            self.known_dead.append(self.worker_id)
        self.worker_id = None
        self._next_rescue = None
        self.on_gone()

    def _beat(self, now: float, worker_id: int) -> None:
        self._sent = now
        self._next_beat = now + self.seconds / 3
        draining = b"t" if self.draining else b"f"
        self.link.send(
            [
                (self.statements["heartbeat"], [integer(worker_id), draining, *self.bands]),
                (self.statements["running"], [integer(worker_id)]),
            ],
            lambda results, error: self._answered(worker_id, results, error),
        )

    def _answered(self, worker_id: int, results: Results | None, error: StatementError | None) -> None:
        if worker_id != self.worker_id:
            return  # of an earlier life
        if results is None:
            self._next_beat = monotonic() + min(1.0, self.seconds / 10)
            logger.warning("a heartbeat failed: %s", error)
            return
        beat, running = results
        if not beat:
            self.lose("another worker has removed it")
            return
        drain, stop, others, suspects = beat[0]
        self.expires = self._sent + self.seconds
        self._plan_rescue(others)
        self.on_beat(
            Beat(
                sent=self._sent,
                drain_requested=drain == b"t",
                stop_requested=stop == b"t",
                suspects=suspects == b"t",
                running={
                    (int(r[0] or 0), int(r[1] or 0)): None if r[2] is None else r[2].decode("utf-8", "replace")
                    for r in running
                },
            )
        )

    def _plan_rescue(self, others: bytes | None, *, least: float = 0.0) -> None:
        """Look again when the next of the other leases ends; at least once per lease, for tasks without any."""
        if self.known_dead:
            return  # the rescue that is due takes these first
        wait = self.seconds if others is None else min(max(float(others) + SETTLING, least), self.seconds)
        at = monotonic() + wait
        # One that is due already stays so: put off by each heartbeat that comes just before it, it would never come.
        if self._next_rescue is None or at < self._next_rescue:
            self._next_rescue = at

    def _rescue(self, worker_id: int) -> None:
        dead, self.known_dead = self.known_dead, []
        self._next_rescue = None
        plain = b"t" if self._plain else b"f"
        self.link.send(
            [(self.statements["rescue"], [integer(worker_id), _ids(dead), plain, _ids(self._blameless)])],
            lambda results, error: self._rescued(dead, results, error),
        )

    def _rescued(self, dead: list[int], results: Results | None, error: StatementError | None) -> None:
        if results is None:
            self.known_dead = dead + self.known_dead
            self._next_rescue = monotonic() + 1.0
            logger.warning("a rescue failed: %s", error)
            if error is not None and error.sqlstate.startswith(DATA_ERRORS):
                logger.error("the next rescue leaves on_failure out: one of them can't be enqueued")
                self._plain = True
            return
        self._plain = False
        self._blameless.difference_update(dead)
        rows = results[0]
        found = [_rescued(row) for row in rows if row[_OWN] is not None]
        workers = int(rows[0][0] or 0) if rows else 0
        if workers or found:
            logger.warning("%d worker(s) died; %d task(s) were taken back", workers, len(found))
        # By its own answer, not by the next heartbeat's: the lease that it was planned for may have been renewed just
        # before, for the last time.
        self._plan_rescue(rows[0][4] if rows else None, least=AGAIN)
        if (workers or found) and self._next_rescue is not None:
            # A row of the dead one may have been locked: its killed child's session was just ending.
            self._next_rescue = min(self._next_rescue, monotonic() + AGAIN)
        if found:
            self.on_rescued(found)


def _ids(ids: Iterable[int]) -> bytes:
    return b"{" + b",".join(integer(one) for one in ids) + b"}"


def _rescued(row: Row) -> Rescued:
    _, status, error, _, _ = row[:_OWN]
    return Rescued(
        task=claimed_task(row[_OWN:]),
        status=TaskStatus((status or b"pending").decode()),
        error=(error or b"").decode("utf-8", "replace"),
    )
