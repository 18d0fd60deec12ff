"""When schedules are due, and what becomes of ticks that were missed. Pure: no clock, no database.

A *tick* is one due time of a schedule. The table of cases in docs/schedules.md is what ``decide`` does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Literal

from pq_core.cron import Cron

CatchUp = Literal["latest", "all", "skip"]

PUNCTUAL = timedelta(seconds=10)
"""A tick that is found later than this after its time was missed: no worker was there."""
COUNTED = 100
"""Missed ticks of a cron schedule are counted up to so many at a time: counting a year of minutes takes a minute."""
EXACT = 5000
"""Ticks of a cron schedule that are gone through one by one to find the last thousand."""


@dataclass(frozen=True, slots=True)
class Every:
    """Ticks at an even distance: at ``anchor`` and every ``interval`` before and after it."""

    interval: timedelta
    anchor: datetime

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first tick later than ``moment``; None beyond the calendar."""
        try:
            return self.anchor + ((moment - self.anchor) // self.interval + 1) * self.interval
        except OverflowError:
            return None

    def last_until(self, moment: datetime, *, since: datetime) -> datetime:
        """Return the last tick that is not later than ``moment``."""
        return self.anchor + ((moment - self.anchor) // self.interval) * self.interval


Rhythm = Every | Cron


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of a schedule that is due.

    ``ticks``: those that are to become tasks, oldest first. ``next_run``: the tick after them; None: it has ended.
    ``missed``: how many were left out because nobody was there; of a cron schedule ``COUNTED`` may mean more.
    ``wait``: a tick that finds no place waits for one; otherwise it is skipped.
    """

    ticks: tuple[datetime, ...]
    next_run: datetime | None
    missed: int = 0
    wait: bool = False


def decide(
    rhythm: Rhythm,
    *,
    due: datetime,
    now: datetime,
    catch_up: CatchUp = "latest",
    limit: int = 1000,
    end: datetime | None = None,
) -> Decision:
    """Return what becomes of the ticks from ``due`` to ``now``.

    ``due``: the first tick nobody has handled. ``limit``: with ``"all"``, how many run at most; the oldest beyond
    that are left out. ``end``: no tick is later than this.
    """
    following = _within(rhythm.next_after(max(now, due)), end)
    until = now if end is None else min(now, end)
    if due > now:
        return Decision(ticks=(), next_run=_within(due, end))
    if due > until:
        return Decision(ticks=(), next_run=None)
    if catch_up == "all":
        ticks, missed = _newest(rhythm, due, until, limit)
        return Decision(ticks=ticks, next_run=following, missed=missed, wait=True)
    if catch_up == "skip" and now - due > PUNCTUAL:
        return Decision(ticks=(), next_run=following, missed=_count(rhythm, due, until))
    last = rhythm.last_until(until, since=due)
    return Decision(ticks=(last,), next_run=following, missed=_count(rhythm, due, last) - 1)


def ticks_after(rhythm: Rhythm, moment: datetime) -> Iterator[datetime]:
    """Yield the ticks later than ``moment``, without end as long as there are any."""
    tick = rhythm.next_after(moment)
    while tick is not None:
        yield tick
        tick = rhythm.next_after(tick)


def first_run(rhythm: Rhythm, *, now: datetime, start: datetime | None, end: datetime | None) -> datetime | None:
    """Return the first tick after ``now`` that is neither before ``start`` nor after ``end``; None without one."""
    if start is not None and start > now:
        # A tick at the very start counts.
        return _within(rhythm.next_after(start - timedelta(microseconds=1)), end)
    return _within(rhythm.next_after(now), end)


def _within(tick: datetime | None, end: datetime | None) -> datetime | None:
    return tick if tick is None or end is None or tick <= end else None


def _from(rhythm: Rhythm, due: datetime, until: datetime) -> Iterator[datetime]:
    """Yield ``due``, which may lie beside the rhythm (somebody moved it), and the ticks after it up to ``until``."""
    yield due
    for tick in ticks_after(rhythm, due):
        if tick > until:
            return
        yield tick


def _count(rhythm: Rhythm, due: datetime, until: datetime) -> int:
    if isinstance(rhythm, Every):
        return (until - due) // rhythm.interval + 1
    return sum(1 for _ in islice(_from(rhythm, due, until), COUNTED))


def _newest(rhythm: Rhythm, due: datetime, until: datetime, limit: int) -> tuple[tuple[datetime, ...], int]:
    """Return the last ``limit`` of the ticks from ``due`` to ``until``, and how many came before them."""
    if isinstance(rhythm, Every):
        missed = max((until - due) // rhythm.interval + 1 - limit, 0)
        first = due + missed * rhythm.interval
        return tuple(islice(_from(rhythm, first, until), limit)), missed
    last: deque[datetime] = deque(maxlen=limit)
    for number, tick in enumerate(_from(rhythm, due, until), 1):
        last.append(tick)
        if number == EXACT:
            break
    else:
        return tuple(last), number - len(last)
    # So many that going through them all would hold up the worker: go on near the end, by how dense they were.
    near = max(until - (tick - due) / EXACT * limit * 2, tick)
    last.extend(islice(_from(rhythm, rhythm.last_until(near, since=tick), until), EXACT))
    return tuple(last), COUNTED
