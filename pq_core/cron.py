"""When a cron expression is due in a timezone. Pure: no clock, no database.

A clock that is moved does one of two things to an expression, by its hour field:

*Times of day* (the hour is named: ``30 2 * * *``, ``0 9-17 * * 1-5``): each wall-clock time comes exactly once. When an
hour is repeated, its first pass counts. A time that the clock leaps over comes at the first valid time after it.

*Steps* (``*`` or ``*/n`` as the hour: ``*/15 * * * *``, ``@hourly``): they follow elapsed time. A repeated hour has its
ticks in both passes, an hour that is left out has none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Any

from pq_core.close_names import close_names
from pq_core.errors import InvalidOption

_SECOND = timedelta(seconds=1)
_INSTANT = timedelta(microseconds=1)
_DAY = timedelta(days=1)
_RANDOM_FIELD = re.compile(r"(?<![a-z])[hr](?![a-z])", re.IGNORECASE)
_START = datetime(2000, 1, 1)

NextWall = Callable[[datetime], datetime]


@dataclass(frozen=True, slots=True)
class Cron:
    """The ticks of one expression in one timezone. Make it by ``cron()``, which checks and caches.

    ``expression``: five fields, six with seconds as the last one, or an alias. ``zone``: where its clock hangs.
    ``steps``: it follows elapsed time.
    """

    expression: str
    zone: tzinfo
    steps: bool
    _next_wall: NextWall

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first tick later than ``moment``, in UTC; None when there is none within fifty years."""
        try:
            return self._next_step(moment) if self.steps else self._next_time_of_day(moment)
        except (_NoMoreDates, OverflowError):
            return None

    def last_until(self, moment: datetime, *, since: datetime) -> datetime:
        """Return the last tick that is not later than ``moment``; ``since`` is a tick that is not."""
        found, after = since, moment
        while (tick := self.next_after(found)) is not None and tick <= moment:
            # Ticks are at least a second apart, and `found` is one: halve what may hold a later one.
            found = tick
            while after - found > _SECOND:
                middle = found + (after - found) / 2
                tick = self.next_after(middle)
                if tick is None or tick > moment:
                    after = middle
                else:
                    found = tick
        return found

    def _next_time_of_day(self, moment: datetime) -> datetime:
        local = moment.astimezone(self.zone)
        wall = local.replace(tzinfo=None, fold=0)
        if local.fold:
            # The second pass of a repeated hour: what it shows has had its turn in the first one.
            first, second = (local.replace(fold=fold).utcoffset() or timedelta(0) for fold in (0, 1))
            change = self._change(moment - (first - second), moment)
            wall = (change + first).replace(tzinfo=None) - _INSTANT
        while True:
            wall = self._next_wall(wall)
            tick = self._instant(wall)
            if tick > moment:
                return tick

    def _instant(self, wall: datetime) -> datetime:
        """Return when the wall clock first shows ``wall``, or the end of the gap that swallows it."""
        later = wall.replace(tzinfo=self.zone).astimezone(UTC)
        if later.astimezone(self.zone).replace(tzinfo=None) == wall:
            return later
        return self._change(wall.replace(tzinfo=self.zone, fold=1).astimezone(UTC), later)

    def _next_step(self, moment: datetime) -> datetime:
        start = moment.astimezone(UTC)
        offset = self._offset(start)
        wall = (start + offset).replace(tzinfo=None)
        while True:
            # As long as the clock runs evenly, wall-clock time is elapsed time.
            tick = (self._next_wall(wall) - offset).replace(tzinfo=UTC)
            change = self._first_change(start, tick)
            if change is None:
                return tick
            start, offset = change, self._offset(change)
            wall = (change + offset).replace(tzinfo=None) - _INSTANT

    def _offset(self, moment: datetime) -> timedelta:
        return moment.astimezone(self.zone).utcoffset() or timedelta(0)

    def _first_change(self, low: datetime, high: datetime) -> datetime | None:
        """Return the first moment after ``low``, up to ``high``, at which the clock is moved. No zone does it daily."""
        offset = self._offset(low)
        while low < high:
            step = min(low + _DAY, high)
            if self._offset(step) != offset:
                return self._change(low, step)
            low = step
        return None

    def _change(self, low: datetime, high: datetime) -> datetime:
        """Return the moment between ``low`` and ``high`` from which on the clock is as it is at ``high``."""
        low, high = (moment.astimezone(UTC).replace(microsecond=0) for moment in (low, high))
        offset = self._offset(high)
        while high - low > _SECOND:
            middle = low + timedelta(seconds=(high - low) // _SECOND // 2)
            if self._offset(middle) == offset:
                high = middle
            else:
                low = middle
        return high


class _NoMoreDates(Exception):
    """The expression has no date in the next fifty years."""


@lru_cache(maxsize=4096)
def cron(expression: str, timezone: str | None = None) -> Cron:
    """Return the ticks of an expression in a timezone of the IANA database, UTC without one.

    Raises InvalidOption for an expression that can't be read or never comes, and for a zone that does not exist.
    """
    parsed = _parse(expression)
    hours = parsed.expanded[1]
    steps = hours == ["*"] or (parsed.expressions[1].startswith("*") and len(hours) > 1)
    found = Cron(expression, find_zone(timezone), steps, _walker(parsed))
    try:
        found._next_wall(_START)
    except _NoMoreDates:
        raise InvalidOption(f"cron={expression!r}: there is no such date, it would never run") from None
    return found


def check_cron(expression: object) -> str:
    """Return the text of an expression, of a ``croniter`` object as well; raise InvalidOption if it can't be read."""
    if type(expression).__module__.partition(".")[0] == "croniter":
        expression = " ".join(str(field) for field in expression.expressions)  # type: ignore[attr-defined]
    if not isinstance(expression, str):
        raise InvalidOption(f"cron={expression!r}: give text, for example '0 9 * * 1-5'")
    return " ".join(expression.split())


def find_zone(name: str | None) -> tzinfo:
    """Return a timezone by its name in the IANA database; UTC for None. InvalidOption when there is none."""
    from zoneinfo import ZoneInfo, available_timezones

    if name is None or name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError, TypeError):  # a folder of the database is an OSError
        near = close_names(str(name), sorted(available_timezones()))
        hint = f"did you mean {near[0]!r}?" if near else "names are those of the IANA database, as 'Europe/Berlin'"
        raise InvalidOption(f"timezone={name!r}: there is no such timezone; {hint}") from None


def _parse(expression: str) -> Any:
    # croniter takes 0.1 s and 6 MB: only processes that have a cron expression at hand pay for it.
    from croniter import CroniterError, croniter

    fields = expression.split()
    if not expression.startswith("@") and len(fields) not in (5, 6):
        raise InvalidOption(
            f"cron={expression!r} has {len(fields)} fields: give five (minute hour day month weekday), six with "
            "seconds as the last one, or an alias as @daily"
        )
    if _RANDOM_FIELD.search(expression):
        raise InvalidOption(f"cron={expression!r}: H and R choose times by chance; name them, or use jitter=")
    try:
        return croniter(expression, _START)
    except (CroniterError, ValueError, KeyError, AttributeError, IndexError, TypeError) as error:
        raise InvalidOption(f"cron={expression!r} can't be read: {error}") from error


def _walker(parsed: Any) -> NextWall:
    from croniter import CroniterBadDateError

    def next_wall(wall: datetime) -> datetime:
        # A copy: the object remembers where it is, and threads share this one.
        try:
            found: datetime = copy(parsed).get_next(datetime, start_time=wall)
        except CroniterBadDateError:
            raise _NoMoreDates from None
        return found

    return next_wall
