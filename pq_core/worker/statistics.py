"""What a worker's attempts came to, minute by minute: summed in memory, written every few seconds.

Each worker writes rows of its own, whole and not as additions: to write one again, after an answer that got lost,
changes nothing. A worker that is killed takes the figures of its last seconds with it; nothing else is lost.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import random
from time import monotonic
from typing import TYPE_CHECKING

from pq_core.statistics import BYTES, SECONDS, Histogram, bucket, stored
from pq_core.worker.claiming import Statements, integer, number

if TYPE_CHECKING:
    from pq_core.types import AttemptOutcome, ClaimedTask
    from pq_core.worker.connection import Results, StatementError
    from pq_core.worker.link import Link

logger = logging.getLogger("pq.worker")

FLUSH = 5.0
"""Seconds between two writes."""
MERGE = 60.0
"""Seconds between two looks for what can be merged or has become too old, give or take a quarter by chance."""
PAUSE = 30.0
"""Seconds after a write that the database refused."""
ROWS = 500
"""Rows of one write at most; the others follow in the next one."""
SERIES = 2000
"""Queues, names and outcomes that are told apart within a minute; what is more is counted under OTHER."""
OTHER = "(other)"

Key = tuple[int, str, str, str]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Sums:
    __slots__ = ("count", "cpu", "memory", "run", "runs", "wait", "waits")

    def __init__(self) -> None:
        self.count = 0
        self.wait = self.run = self.cpu = 0.0
        self.waits: Histogram = {}
        self.runs: Histogram = {}
        self.memory: Histogram = {}


@dataclass(slots=True, kw_only=True)
class Statistics:
    """The sums of one worker. Times are of the monotonic clock; ``retention``: seconds for which rows are kept,
    None: for ever.

    The minute of an end is that of the database's clock when it was recorded. That clock is known from what claims
    return: an attempt's start plus its length is a moment of it, at most a little in the past.
    """

    statements: Statements
    retention: float | None
    clock: Callable[[], float] = monotonic
    _sums: dict[Key, _Sums] = field(default_factory=dict)
    _changed: set[Key] = field(default_factory=set)
    _sent: list[Key] = field(default_factory=list)
    _worker_id: int | None = None
    _offset: float = float("-inf")
    _flush_at: float | None = None
    _merge_at: float = field(default_factory=lambda: monotonic() + MERGE * random())
    _said_farewell: bool = False

    def note(self, task: ClaimedTask, outcome: AttemptOutcome, waited: float) -> None:
        """Count one end. ``waited``: seconds from when it was due to its start."""
        if not task.name:
            return  # of a task that this worker knows nothing about
        now = self.clock()
        started = (task.started_at - _EPOCH).total_seconds()
        self._offset = max(self._offset, started + outcome.wall - now)
        key = (int((self._offset + now) // 60), task.queue, task.name, outcome.outcome.value)
        sums = self._sums.get(key)
        if sums is None:
            sums, key = self._begin(key)
        self._changed.add(key)
        if self._flush_at is None:
            self._flush_at = now + FLUSH
        cpu = outcome.cpu_user + outcome.cpu_system
        sums.count += 1
        sums.wait += waited if waited > 0 else 0.0
        sums.run += outcome.wall
        sums.cpu += cpu
        place = bucket(waited, SECONDS)
        sums.waits[place] = sums.waits.get(place, 0) + 1
        place = bucket(outcome.wall, SECONDS)
        sums.runs[place] = sums.runs.get(place, 0) + 1
        place = bucket(outcome.peak_memory, BYTES)
        sums.memory[place] = sums.memory.get(place, 0) + 1

    def _begin(self, key: Key) -> tuple[_Sums, Key]:
        if len(self._sums) >= SERIES:
            key = (key[0], OTHER, OTHER, key[3])
        return self._sums.setdefault(key, _Sums()), key

    def next_event(self) -> float | None:
        """Return when ``advance`` has something to do."""
        return self._merge_at if self._flush_at is None else min(self._flush_at, self._merge_at)

    def advance(self, now: float, link: Link, worker_id: int | None) -> None:
        """Do what is due, if the connection is free for it: in a transaction of its own, since nobody waits for it."""
        if worker_id is None or not link.idle:
            return
        if self._flush_at is not None and now >= self._flush_at:
            self._write(now, link, worker_id)
        elif now >= self._merge_at:
            self._merge_at = now + MERGE * (0.75 + random() / 2)
            kept = None if self.retention is None else number(self.retention)
            link.send([(self.statements["statistics_merge"], [kept])], self._merged)

    def say_farewell(self, now: float, link: Link, worker_id: int) -> bool:
        """Write what is left before the worker goes; False when there is nothing, or it was tried."""
        if not self._changed or self._said_farewell:
            return False
        self._write(now, link, worker_id)
        self._said_farewell = len(self._changed) == 0
        return True

    def _write(self, now: float, link: Link, worker_id: int) -> None:
        if self._worker_id is None:
            # For good: under the number of a later lease, what was written before would count twice.
            self._worker_id = worker_id
        self._sent = sorted(self._changed)[:ROWS]
        self._changed.difference_update(self._sent)
        self._flush_at = now if self._changed else None
        rows = [self._row(key) for key in self._sent]
        parameters = [integer(self._worker_id), json.dumps(rows, ensure_ascii=True).encode()]
        link.send([(self.statements["statistics_put"], parameters)], self._written)

    def _row(self, key: Key) -> dict[str, object]:
        minute, queue, name, outcome = key
        sums = self._sums[key]
        return {
            "minute": minute * 60,
            "queue": queue,
            "name": name,
            "outcome": outcome,
            "count": sums.count,
            "wait": round(sums.wait, 6),
            "run": round(sums.run, 6),
            "cpu": round(sums.cpu, 6),
            "waits": stored(sums.waits),
            "runs": stored(sums.runs),
            "memory": stored(sums.memory),
        }

    def _written(self, results: Results | None, error: StatementError | None) -> None:
        sent, self._sent = self._sent, []
        now = self.clock()
        if error is not None:
            # Told with what changes until then.
            self._changed.update(key for key in sent if key in self._sums)
            self._flush_at = now + (PAUSE if error.sqlstate else FLUSH)
            logger.warning("statistics can't be written: %s", error)
            return
        minute = int((self._offset + now) // 60)
        for key in sent:
            if key[0] < minute and key not in self._changed:
                del self._sums[key]

    def _merged(self, results: Results | None, error: StatementError | None) -> None:
        if error is not None:
            self._merge_at = self.clock() + 10 * MERGE
            logger.warning("statistics can't be merged: %s", error)
        elif results is not None and results[0] and results[0][0][0] == b"t":
            self._merge_at = self.clock() + 1.0  # there is more
