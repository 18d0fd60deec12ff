"""The pruner: finished tasks that were kept long enough are deleted in the background, bit by bit.

Every worker can do it; for each set of queues one at a time does, on a connection that it opens for the round, so that
neither claims nor heartbeats wait. It never uses more than its share of the database's time: after a statement that
took a second it rests for nine, with a share of a tenth.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import random
from time import monotonic

from pq_core.retention import Retention
from pq_core.worker.claiming import Statements, integer, number, text_array
from pq_core.worker.connection import Parameters, Query, Results, StatementError
from pq_core.worker.link import Link

logger = logging.getLogger("pq.worker")

ROWS = 1000
"""Rows that the first statement of a round reads."""
MOST_ROWS = 5000
AIM = 0.1
"""Seconds that one statement shall take: the rows follow from that."""
HOLD = 300.0
"""Seconds after which another worker may go on where one has died."""
REST = 20.0
"""A round that only read rows which are kept is followed by a pause this many times as long, so that they are not read
all the time. The more of what it read it deleted, the shorter: else it would not keep up with those who enqueue. With
several workers another one may go on after HOLD."""
SWEEP = 86400.0
"""Seconds between two looks for attempts of tasks that are gone, and for old rows of the audit log."""
STATES = ("completed", "cancelled", "failed")
ATTEMPTS = "attempts"
AUDIT = "audit"
FORBIDDEN = "42501"
"""The error of a role that may not do this: that of ``pq migrate --roles`` for workers does not see the audit log."""


@dataclass(slots=True, kw_only=True)
class Pruner:
    """``share``: of the database's time, 0 to 1; 0: nothing is pruned. ``interval``: seconds between two rounds.

    ``open_link``: makes the round's connection.
    """

    statements: Statements
    retention: Retention
    queues: Sequence[str]
    share: float
    interval: float
    open_link: Callable[[], Link]
    clock: Callable[[], float] = monotonic
    deleted: int = 0
    audited: int = 0
    _link: Link | None = None
    _todo: list[str] = field(default_factory=list)
    _after: tuple[bytes, bytes] = (b"-infinity", b"0")
    _rows: int = ROWS
    _next_at: float = 0.0
    _check_at: float = 0.0
    _began: float = 0.0
    _worker_id: int = 0
    _sweep_at: float = 0.0
    _asking: bool = False
    _seen: int = 0

    def __post_init__(self) -> None:
        now = self.clock()
        # Not at once: a worker that starts has better things to do, and many start together.
        self._check_at = now + min(self.interval, 10.0) * (0.5 + random())
        self._sweep_at = now + min(self.interval, SWEEP) * random() / 2

    @property
    def chore(self) -> str:
        """The name under which workers that serve the same queues take turns."""
        digest = hashlib.blake2b("\0".join(sorted(self.queues)).encode(), digest_size=8).hexdigest()
        return f"prune {digest}"

    @property
    def fileno(self) -> int | None:
        """The round's socket, while there is one."""
        return self._link.fileno if self._link is not None else None

    def next_event(self) -> float | None:
        """Return when ``advance`` has something to do."""
        if not self.share:
            return None
        if self._link is None:
            return None if self._asking else self._check_at
        due = self._link.next_event()
        if self._link.idle and not self._asking:
            return self._next_at if due is None else min(due, self._next_at)
        return due

    def advance(self, now: float, work: Link, worker_id: int | None) -> None:
        """Do the next step that is due. ``work``: where the round is asked for, if it is free."""
        if not self.share or worker_id is None:
            return
        if self._link is not None:
            self._link.advance(now)
            if self._link.failures > 2:
                self._end(now, why="the database can't be reached")
            elif self._link.idle and now >= self._next_at and not self._asking:
                self._step(now)
        elif now >= self._check_at and work.idle and not self._asking:
            self._asking = True
            self._worker_id = worker_id
            parameters: Parameters = [self.chore.encode(), number(HOLD), integer(worker_id)]
            work.send([(self.statements["prune_claim"], parameters)], self._claimed)

    def close(self) -> None:
        """Leave what is under way; the database ends the statement by itself."""
        if self._link is not None:
            self._link.close()
            self._link = None
        self._asking = False

    def _claimed(self, results: Results | None, error: StatementError | None) -> None:
        self._asking = False
        now = self.clock()
        if results is None or not results[0]:
            self._check_at = now + self.interval * (0.75 + random() / 2)
            if error is not None and error.sqlstate:
                logger.warning("nothing is pruned now: %s", error)
            return
        self._todo = list(STATES)
        if now >= self._sweep_at:
            self._todo.append(ATTEMPTS)
            if self.retention.audit is not None:
                self._todo.append(AUDIT)
            self._sweep_at = now + SWEEP
        self._after, self._rows = (b"-infinity", b"0"), ROWS
        self._began = self._next_at = now
        self.deleted = self.audited = self._seen = 0
        self._link = self.open_link()

    def _step(self, now: float) -> None:
        assert self._link is not None
        what = self._todo[0]
        chore: list[bytes | None] = [self.chore.encode(), integer(self._worker_id), number(HOLD)]
        query: Query
        if what == ATTEMPTS:
            query = self.statements["prune_attempts"]
            age = self.retention.seconds("failed") or SWEEP
            parameters = [*chore, number(age), self._after[1], integer(self._rows)]
        elif what == AUDIT:
            query = self.statements["prune_audit"]
            parameters = [*chore, number(self.retention.seconds(AUDIT) or 0.0), integer(self._rows)]
        else:
            query = self.statements["prune_tasks"]
            keep = self.retention.seconds(what)
            parameters = [
                *chore,
                what.encode(),
                text_array(self.queues),
                None if keep is None else number(keep),
                *self._after,
                integer(self._rows),
            ]
        self._asking = True
        rows = self._rows
        self._link.send([(query, parameters)], lambda r, e: self._stepped(r, e, sent=now, rows=rows))

    def _stepped(self, results: Results | None, error: StatementError | None, *, sent: float, rows: int) -> None:
        self._asking = False
        now = self.clock()
        took = max(now - sent, 0.0001)
        self._next_at = now + took * (1 / self.share - 1)
        if results is None:
            assert error is not None
            if error.sqlstate == FORBIDDEN and self._todo[0] == AUDIT:
                logger.info("the audit log is left as it is: this role may not prune it")
                self._end(now)
            elif error.sqlstate:
                self._end(now, why=str(error))
            return  # a connection that broke is opened again, and the same asked once more
        if not results[0]:
            self._end(now)  # somebody else has the chore: this worker was taken for dead
            return
        row = results[0][0]
        seen, gone = int(row[0] or 0), int(row[1] or 0)
        if self._todo[0] == AUDIT:
            self.audited += gone
        else:
            self.deleted += gone
        self._seen += seen
        self._rows = max(50, min(MOST_ROWS, int(rows * min(max(AIM / took, 0.2), 2.0))))
        if seen >= rows:
            self._after = (row[-2] or b"-infinity", row[-1] or b"0")
            return
        self._todo.pop(0)
        self._after = (b"-infinity", b"0")
        if not self._todo:
            self._end(now)

    def _end(self, now: float, *, why: str = "") -> None:
        self.close()
        took = now - self._began
        kept = 1 - (self.deleted + self.audited) / self._seen if self._seen else 1.0
        self._check_at = now + max(self.interval * (0.75 + random() / 2), REST * took * kept)
        if why:
            logger.warning("pruning is broken off: %s", why)
        if self.deleted:
            logger.info("pruned %d finished task(s) in %.1f s", self.deleted, took)
        if self.audited:
            logger.info("pruned %d row(s) of the audit log", self.audited)
