"""When a schedule comes next: for those who look at it, or think about it while they type."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import takewhile

from pq_core.cron import find_zone
from pq_core.schedule_options import build_schedule
from pq_core.schedules import Every, Rhythm, ticks_after
from pq_core.types import ScheduleRecord


def next_times(
    *, cron: str | None = None, run_every: timedelta | None = None, timezone: str | None = None, after: datetime
) -> Iterator[datetime]:
    """Yield the times of an expression or an interval after a moment, in its zone; an interval is counted from there.

    Raises InvalidOption for what is none.
    """
    options = build_schedule({"cron": cron, "run_every": run_every, "timezone": timezone}, what="next_times()")
    zone = find_zone(timezone)
    return (tick.astimezone(zone) for tick in ticks_after(options.rhythm(after), after))


def next_times_of(schedule: ScheduleRecord, *, after: datetime) -> Iterator[datetime]:
    """Yield the times of a stored schedule after a moment, in its zone, whether or not it is paused."""
    said = {"cron": schedule.cron, "run_every": schedule.run_every, "timezone": schedule.timezone}
    options = build_schedule({**said, "start_at": schedule.start_at, "end_at": schedule.end_at}, what="next_times_of()")
    # What is stored counts: somebody may have moved it, and before it there is nothing.
    rhythm: Rhythm = options.rhythm(datetime.now(tz=UTC))
    if schedule.run_every is not None and schedule.next_run is not None:
        rhythm = Every(schedule.run_every, schedule.next_run)
    first = max(filter(None, [schedule.next_run, options.start_at]), default=None)
    if first is not None and first > after:
        after = first - timedelta(microseconds=1)
    zone, end = find_zone(schedule.timezone), options.end_at
    return (tick.astimezone(zone) for tick in takewhile(lambda t: end is None or t <= end, ticks_after(rhythm, after)))
