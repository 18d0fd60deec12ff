"""A worker's right to its tasks: renewed, compared with the database, and taken from workers that are dead."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import monotonic

from pq_core.types import ClaimedTask, TaskStatus
from pq_core.worker.book import is_data_error
from pq_core.worker.claiming import Statements, integer, text_array
from pq_core.worker.connection import Callback, Parameters, Query, Results, StatementError
from pq_core.worker.history import Found, History
from pq_core.worker.link import Link
from pq_core.worker.rows import LAST, Key, Row, claimed_task, moment

logger = logging.getLogger("pq.worker")

SETTLING = 1.2
"""Seconds between the end of another's lease and the look whether it was renewed: rescue.sql lets one pass."""
AGAIN = 1.0
"""Seconds between two looks at least: a lease that has ended may be locked, or not be watched for long enough yet."""


Send = Callable[[list[tuple[Query, Parameters]], Callback], None]

_OWN = 6
"""Columns of rescue.sql's answer before those of the task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What one heartbeat told.

    ``running``: the key of each claim to the words of whoever cancelled it, which may be none (``""``); None: it goes
    on. ``at_most_once``: those of ``on_lost="fail"``. ``alone``: no turn was under way, and none was answered since.
    """

    sent: float
    drain_requested: bool
    stop_requested: bool
    suspects: bool
    running: dict[Key, str | None]
    at_most_once: frozenset[Key]
    alone: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescued:
    """A task taken back from a dead worker. ``uncounted``: how many of its starts in a row did not count."""

    task: ClaimedTask
    status: TaskStatus
    error: str
    uncounted: int


@dataclass(slots=True, kw_only=True)
class Lease:
    """The lease of one life of a worker; times are of the monotonic clock.

    Renewed over ``watch``, and over each new ``work`` connection before anything else goes there: it may lead to
    another server than before. ``began``: when it began, as the database says it, which with the id is its key.
    ``bands``: the parameters that name the priorities it takes. ``on_beat``: gets every successful heartbeat.
    ``on_rewound``: the database has lost a part of its history, with some of what this worker did. ``on_gone``: the
    lease is lost. ``on_rescued``: gets tasks taken from the dead. ``known_dead``: leases of workers that are.
    ``runs_nothing``: no child is left.
    ``acquitted``: one of them whose end none of its tasks is to blame for; 0: none.
    """

    work: Link
    watch: Link
    statements: Statements
    seconds: float
    bands: list[bytes]
    on_beat: Callable[[Beat], None]
    on_rewound: Callable[[], None]
    on_gone: Callable[[], None]
    on_rescued: Callable[[list[Rescued]], None]
    runs_nothing: Callable[[], bool]
    worker_id: int | None = None
    began: bytes = b""
    expires: float = 0.0
    draining: bool = False
    known_dead: list[tuple[int, bytes]] = field(default_factory=list)
    acquitted: int = 0
    _newest_at: float = 0.0
    _lost_at: float = 0.0
    _history: History = field(default_factory=History)
    _renewed: bytes | None = None
    _renewed_sent: float = 0.0
    _next_check: float = 0.0
    _next_beat: float = 0.0
    _next_rescue: float | None = None
    _blameless: set[int] = field(default_factory=set)
    _rewound: set[int] = field(default_factory=set)
    _plain: bool = False

    def __post_init__(self) -> None:
        if self.acquitted:
            self._blameless.add(self.acquitted)

    def begin(self, worker_id: int, began: bytes, sent: float) -> None:
        """Start a life that was registered by a statement sent at ``sent``."""
        self.worker_id = worker_id
        self.began = began
        self._renewed = None
        self._renewed_sent = 0.0
        # From when it was sent: the database's own end of the lease is later, never earlier.
        self.expires = sent + self.seconds
        # The first beat comes at once: it finds what an earlier crash left, and when to look after others.
        self._next_beat = 0.0
        self._next_rescue = 0.0 if self.known_dead else None

    @property
    def heard_at(self) -> float:
        """When the newest renewal was sent that a server has answered, which knows all that this worker remembers."""
        return self._renewed_sent

    @property
    def held(self) -> bool:
        """True while nobody may have given this worker up for dead."""
        return self.worker_id is not None and monotonic() < self.expires

    def next_event(self) -> float | None:
        """Return when ``advance`` has something to do."""
        events = [self._next_check] if self.work.unproved else []
        if self.worker_id is not None:
            events.append(self.expires)
            if self.watch.idle:
                events.append(self._next_beat)
                if self._next_rescue is not None:
                    events.append(self._next_rescue)
        return min(events, default=None)

    def look_by(self, at: float) -> None:
        """Have the next rescue come at ``at``, if it would be later: there is something to take back then."""
        if self._next_rescue is None or at < self._next_rescue:
            self._next_rescue = at

    def beat_soon(self) -> None:
        """Let the next heartbeat come at once: somebody has asked for a cancellation, or the connection is new."""
        self._next_beat = 0.0

    def advance(self, now: float) -> None:
        """Send what is due: a look at a new connection's server, a heartbeat, or a rescue."""
        if self.work.unproved and now >= self._next_check:
            self.check(now)
        if self.worker_id is None:
            return
        if now >= self.expires:
            # In time for its own end: it is the database that was away. One that comes late has stalled, and may owe
            # that to a task of its own.
            if now - self.expires < self.seconds / 3:
                self._blameless.add(self.worker_id)
            self.lose("it could not be renewed in time")
            return
        if not self.watch.idle:
            return
        if now >= self._next_beat:
            self._next_beat = now + self.seconds / 3
            self._beat(now, self.worker_id, self.watch)
        elif self._next_rescue is not None and now >= self._next_rescue:
            self._rescue(self.worker_id, self.watch.send)

    def lose(self, why: str) -> None:
        """Give the lease up: another may have the tasks by now."""
        logger.error("worker %s lost its lease: %s; its children are ended", self.worker_id, why)
        if self.worker_id is not None:
            # No next life begins before the last child of this one is gone: then nobody has to wait for its lease.
            self.known_dead.append((self.worker_id, self.began))
        self.worker_id = None
        self._lost_at = monotonic()
        self._next_rescue = None
        self.on_gone()

    # --- which server, and what it knows of this worker -----------------------------------------------------------

    def check(self, now: float) -> None:
        """Find out where a new work connection leads, and let it be used if all is as this worker remembers it.

        Over that very connection: the other one may still lead elsewhere.
        """
        self._next_check = now + self.work.patience  # until it is answered
        if self.worker_id is not None:
            self._beat(now, self.worker_id, self.work)
            return
        # Without a lease nothing but the ends of the last life is left to be wrong.
        self.work.send([self._ask_history], self._looked)

    def _looked(self, results: Results | None, error: StatementError | None) -> None:
        self._next_check = 0.0
        if results is not None:
            if self._meets(self.work, results[0][0]):
                self.work.admit()
        elif error is not None and error.sqlstate.startswith(("42", "3F")):
            self.work.admit()  # no tables, or no rights: whoever asks for a lease says so
        elif error is not None and error.sqlstate:  # else it broke, and the next one is asked at once
            self._next_check = monotonic() + min(1.0, self.seconds / 10)

    @property
    def _ask_history(self) -> tuple[Query, Parameters]:
        return self.statements["history"], []

    def _meets(self, link: Link, row: Row) -> bool:
        """Say whether the server at the other end goes on from what this worker remembers."""
        before = str(self._history)
        match self._history.meet(row):
            case Found.OLDER if self._newest_is_gone():
                self._history.accept(row)
                self._rewind(f"the database went from {before} to {self._history}, and no other has answered since")
                return False
            case Found.OLDER:
                # Demoted, or cut off from the others: what it says of this worker's tasks is past.
                link.leave(f"its server writes an older history than {before}")
                return False
            case Found.OTHER:
                self._rewind(f"the database went from {before} to {self._history}")
                return False
        self._newest_at = monotonic()
        return True

    def _newest_is_gone(self) -> bool:
        """Say whether an older history is all that there is, as after the restore of what was saved before a failover.

        By then others have taken back, in whatever newer history there may be, what this worker had.
        """
        since = max(self._newest_at, self._lost_at) + self.seconds
        return self.worker_id is None and monotonic() >= since and self.runs_nothing()

    def _rewind(self, how: str) -> None:
        """Give up what the database may have lost: nobody can say which commits of the runs are gone with the rest."""
        words = f"{how}: what its tasks did may be lost"
        self.on_rewound()
        self.work.doubt()  # it may be the other connection that led here
        if self.worker_id is None:
            logger.error("%s; ends that are not recorded yet are dropped", words)
            return
        self._blameless.add(self.worker_id)
        self._rewound.add(self.worker_id)
        self.lose(words)

    # --- renewing -------------------------------------------------------------------------------------------------

    def _beat(self, now: float, worker_id: int, link: Link) -> None:
        draining = b"t" if self.draining else b"f"
        link.send(
            [
                self._ask_history,
                (
                    self.statements["heartbeat"],
                    [integer(worker_id), draining, *self.bands, self.began, self._renewed],
                ),
                (self.statements["running"], [integer(worker_id)]),
            ],
            lambda results, error: self._answered(link, now, worker_id, results, error),
        )

    def _answered(
        self, link: Link, sent: float, worker_id: int, results: Results | None, error: StatementError | None
    ) -> None:
        if link is self.work:
            self._next_check = 0.0
        if worker_id != self.worker_id:
            return  # of an earlier life
        if results is None:
            pause = monotonic() + min(1.0, self.seconds / 10)
            if link is self.watch:
                self._next_beat = pause
            elif error is not None and error.sqlstate:  # else it broke, and the next one is asked at once
                self._next_check = pause
            logger.warning("a heartbeat failed: %s", error)
            return
        history, beat, running = results
        if not self._meets(link, history[0]):
            return
        if not beat:
            self.lose("another worker has removed it")
            return
        drain, stop, others, suspects, renewed, behind = beat[0]
        if behind == b"t":
            self._rewind("the database went back to a time before this worker's last renewal")
            return
        if sent >= self._renewed_sent:
            self._renewed, self._renewed_sent = renewed, sent
        self.expires = max(self.expires, sent + self.seconds)
        self._plan_rescue(others)
        alone = link is self.work
        if alone:
            self.work.admit()
        self.on_beat(_beat(sent, running, drain=drain, stop=stop, suspects=suspects, alone=alone))

    def _plan_rescue(self, others: bytes | None, *, least: float = 0.0) -> None:
        """Look again when the next of the other leases ends; at least once per lease, for tasks without any."""
        if self.known_dead:
            return  # the rescue that is due takes these first
        wait = self.seconds if others is None else min(max(float(others) + SETTLING, least), self.seconds)
        at = monotonic() + wait
        # One that is due already stays so: put off by each heartbeat that comes just before it, it would never come.
        if self._next_rescue is None or at < self._next_rescue:
            self._next_rescue = at

    def take_back_own(self, send: Send) -> bool:
        """Take back what earlier lives left, without a lease: this worker ends. False when they left nothing.

        Only once every child of theirs is gone.
        """
        if not self.known_dead:
            return False
        self._rescue(0, send)
        return True

    def _rescue(self, worker_id: int, send: Send) -> None:
        dead, self.known_dead = self.known_dead, []
        self._next_rescue = None
        plain = b"t" if self._plain else b"f"
        ids, began = _ids(id_ for id_, _ in dead), text_array(one.decode() for _, one in dead)
        parameters = [integer(worker_id), ids, plain, _ids(self._blameless), began, _ids(self._rewound)]
        send(
            [(self.statements["rescue"], parameters)],
            lambda results, error: self._rescued(dead, results, error),
        )

    def _rescued(self, dead: list[tuple[int, bytes]], results: Results | None, error: StatementError | None) -> None:
        if results is None:
            self.known_dead = dead + self.known_dead
            self._next_rescue = monotonic() + 1.0
            logger.warning("a rescue failed: %s", error)
            if error is not None and is_data_error(error.sqlstate):
                logger.error("the next rescue leaves on_failure out: one of them can't be enqueued")
                self._plain = True
            return
        self._plain = False
        self._blameless.difference_update(id_ for id_, _ in dead)
        self._rewound.difference_update(id_ for id_, _ in dead)
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


def _beat(
    sent: float, running: list[Row], *, drain: bytes | None, stop: bytes | None, suspects: bytes | None, alone: bool
) -> Beat:
    claims: dict[Key, str | None] = {}
    at_most_once = set()
    for id_, fence, started_at, words, on_lost in running:
        key = (int(id_ or 0), int(fence or 0), moment(started_at) or LAST)
        claims[key] = None if words is None else words.decode("utf-8", "replace")
        if on_lost == b"fail":
            at_most_once.add(key)
    return Beat(
        sent=sent,
        drain_requested=drain == b"t",
        stop_requested=stop == b"t",
        suspects=suspects == b"t",
        running=claims,
        at_most_once=frozenset(at_most_once),
        alone=alone,
    )


def _ids(ids: Iterable[int]) -> bytes:
    return b"{" + b",".join(integer(one) for one in ids) + b"}"


def _rescued(row: Row) -> Rescued:
    _, status, error, _, _, uncounted = row[:_OWN]
    return Rescued(
        task=claimed_task(row[_OWN:]),
        status=TaskStatus((status or b"pending").decode()),
        error=(error or b"").decode("utf-8", "replace"),
        uncounted=int(uncounted or 0),
    )
