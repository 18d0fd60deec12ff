"""What attempts came to over the last hour, day or week: read from the statistics that workers keep, held for a moment.

Minutes that have passed hardly change, so a process that was asked a moment ago answers from memory; the last hour is
brought up to date from its newest minutes alone.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from pq_adapters.dashboard.reading import run
from pq_adapters.dashboard.words import FAILURES
from pq_core import statistics_request
from pq_core.statistics import BYTES, SECONDS, Histogram, percentile
from pq_core.statistics_request import StatisticsRow

if TYPE_CHECKING:
    from pq_adapters.dashboard.app import Dashboard
    from pq_core.client import PQ

T = TypeVar("T")

MINUTE = timedelta(minutes=1)
LATE = timedelta(minutes=6)
"""Workers write a minute's row again for so long at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A time to look at. ``step``: of the bars. ``coarse``: of percentiles. ``fresh``: seconds for which it is held."""

    key: str
    title: str
    last: timedelta
    step: timedelta
    coarse: timedelta
    label: str
    fresh: float


RANGES = {
    one.key: one
    for one in (
        Range(
            key="1h", title="Hour", last=timedelta(hours=1), step=MINUTE, coarse=MINUTE, label="%H:%M", fresh=1.0
        ),
        Range(
            key="24h", title="Day", last=timedelta(days=1), step=timedelta(minutes=15), coarse=timedelta(hours=1),
            label="%H:%M", fresh=20.0,
        ),
        Range(
            key="7d", title="Week", last=timedelta(days=7), step=timedelta(hours=1), coarse=timedelta(hours=1),
            label="%a %d", fresh=60.0,
        ),
    )
}  # fmt: skip


@dataclass(slots=True)
class Sum:
    """What several rows come to."""

    count: int = 0
    ok: int = 0
    bad: int = 0
    wait_seconds: float = 0.0
    run_seconds: float = 0.0
    cpu_seconds: float = 0.0
    waits: Histogram | None = None
    runs: Histogram | None = None
    memory: Histogram | None = None

    def add(self, row: StatisticsRow) -> None:
        """Take a row in."""
        self.count += row.count
        if row.outcome == "succeeded":
            self.ok += row.count
        elif row.outcome in FAILURES:
            self.bad += row.count
        self.wait_seconds += row.wait_seconds
        self.run_seconds += row.run_seconds
        self.cpu_seconds += row.cpu_seconds
        self.waits = _into(self.waits, row.waits)
        self.runs = _into(self.runs, row.runs)
        self.memory = _into(self.memory, row.memory)

    @property
    def other(self) -> int:
        """Attempts that neither succeeded nor failed."""
        return self.count - self.ok - self.bad

    def wait(self, share: float) -> float | None:
        """Return the seconds that ``share`` of the attempts waited at most."""
        return percentile(self.waits or {}, share, SECONDS)

    def run(self, share: float) -> float | None:
        """Return the seconds that ``share`` of the attempts ran at most."""
        return percentile(self.runs or {}, share, SECONDS)

    def peak_memory(self, share: float) -> float | None:
        """Return the bytes that ``share`` of the attempts needed at most."""
        return percentile(self.memory or {}, share, BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Sums by time, the oldest first, without a gap. ``fine``: by ``step``; ``coarse``: with percentiles."""

    range: Range
    times: list[datetime]
    fine: list[Sum]
    coarse_times: list[datetime]
    coarse: list[Sum]
    whole: Sum


class Figures:
    """The statistics of one dashboard."""

    def __init__(self, pq: PQ) -> None:
        self._pq = pq
        self._held: dict[tuple[str, ...], tuple[float, Any]] = {}
        self._locks: dict[tuple[str, ...], asyncio.Lock] = {}
        self._hour: dict[datetime, Sum] = {}
        self._hour_read_at = float("-inf")

    async def series(self, key: str) -> Series:
        """Return the sums over a range by time."""
        chosen = RANGES[key]
        return await self._hold(("series", key), chosen.fresh, lambda: self._series(chosen))

    async def grouped(self, by: statistics_request.By, key: str) -> dict[str, Sum]:
        """Return the sums over a range by ``queue`` or ``name``."""
        chosen = RANGES[key]
        both = await self._hold(("groups", key), max(chosen.fresh, 5.0), lambda: self._grouped(chosen))
        return both[by]

    def forget(self) -> None:
        """Hold nothing any more; the next look reads everything."""
        self._held.clear()
        self._hour, self._hour_read_at = {}, float("-inf")

    def grouped_before(self, by: statistics_request.By, key: str) -> dict[str, Sum]:
        """Return what ``grouped`` returned last, without asking: for those who must not."""
        _, held = self._held.get(("groups", key), (0.0, {}))
        found: dict[str, Sum] = held.get(by, {})
        return found

    async def _hold(self, key: tuple[str, ...], fresh: float, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what was read a moment ago, or read it: once, however many ask."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            at, held = self._held.get(key, (float("-inf"), None))
            if monotonic() - at <= fresh:
                found: T = held
                return found
            found = await read()
            self._held[key] = (monotonic(), found)
            return found

    async def _grouped(self, chosen: Range) -> dict[str, dict[str, Sum]]:
        """Read once, sum up twice: the rows are few, taking them apart is what costs."""
        sums: dict[str, dict[str, Sum]] = {"queue": {}, "name": {}}
        for row in await self._read(["queue", "name", "outcome"], last=chosen.last, histograms=True):
            sums["queue"].setdefault(row.queue or "", Sum()).add(row)
            sums["name"].setdefault(row.name or "", Sum()).add(row)
        return sums

    async def _series(self, chosen: Range) -> Series:
        now = datetime.now(tz=UTC)
        times = _times(now, chosen.last, chosen.step)
        if chosen.key == "1h":
            fine = coarse = await self._last_hour(times)
            coarse_times = times
        else:
            coarse_times = _times(now, chosen.last, chosen.coarse)
            fine_rows, coarse_rows = await asyncio.gather(
                self._read(["time", "outcome"], since=times[0], step=chosen.step, histograms=False),
                self._read(["time", "outcome"], since=coarse_times[0], step=chosen.coarse, histograms=True),
            )
            fine, coarse = _by_time(fine_rows, times), _by_time(coarse_rows, coarse_times)
        whole = Sum()
        for one in coarse:
            _add(whole, one)
        return Series(range=chosen, times=times, fine=fine, coarse_times=coarse_times, coarse=coarse, whole=whole)

    async def _last_hour(self, times: list[datetime]) -> list[Sum]:
        read_before = monotonic() - self._hour_read_at < LATE.total_seconds() / 2
        since = times[-1] - LATE if read_before else times[0]
        rows = await self._read(["time", "outcome"], since=since, step=MINUTE, histograms=True)
        kept = {at: one for at, one in self._hour.items() if read_before and times[0] <= at < since}
        for row in rows:
            if row.time is not None:
                kept.setdefault(row.time, Sum()).add(row)
        self._hour, self._hour_read_at = kept, monotonic()
        return [kept.get(at) or Sum() for at in times]

    async def _read(self, by: list[statistics_request.By], **options: Any) -> list[StatisticsRow]:
        said: dict[str, Any] = {
            "last": None, "since": None, "until": None, "step": None, "queue": None, "name": None, "outcome": None,
        }  # fmt: skip
        return await run(self._pq, statistics_request.read(self._pq.schema, by=by, **{**said, **options}))


def _times(now: datetime, last: timedelta, step: timedelta) -> list[datetime]:
    """Return when the steps of a range begin, the one that is now last."""
    seconds = step.total_seconds()
    newest = datetime.fromtimestamp(now.timestamp() // seconds * seconds, tz=UTC)
    count = round(last / step)
    return [newest - step * back for back in range(count - 1, -1, -1)]


def _by_time(rows: list[StatisticsRow], times: list[datetime]) -> list[Sum]:
    sums = {at: Sum() for at in times}
    for row in rows:
        if row.time in sums:
            sums[row.time].add(row)
    return [sums[at] for at in times]


def _add(whole: Sum, part: Sum) -> None:
    whole.count += part.count
    whole.ok += part.ok
    whole.bad += part.bad
    whole.wait_seconds += part.wait_seconds
    whole.run_seconds += part.run_seconds
    whole.cpu_seconds += part.cpu_seconds
    whole.waits = _into(whole.waits, part.waits or {})
    whole.runs = _into(whole.runs, part.runs or {})
    whole.memory = _into(whole.memory, part.memory or {})


def _into(total: Histogram | None, part: Histogram) -> Histogram:
    """Add one histogram to another, in place: there are thousands of them."""
    total = {} if total is None else total
    for place, count in part.items():
        total[place] = total.get(place, 0) + count
    return total


_known: weakref.WeakKeyDictionary[Dashboard, Figures] = weakref.WeakKeyDictionary()


def figures_of(dashboard: Dashboard) -> Figures:
    """Return the figures of a dashboard, made at first use."""
    if (figures := _known.get(dashboard)) is None:
        figures = _known[dashboard] = Figures(dashboard.pq)
    return figures
