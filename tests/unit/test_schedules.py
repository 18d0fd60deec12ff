"""When schedules are due: clock changes against an independent calculation, and what becomes of missed ticks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pq_core.cron import check_cron, cron
from pq_core.errors import InvalidOption
from pq_core.schedules import COUNTED, PUNCTUAL, Decision, Every, decide, first_run, ticks_after

ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",  # its gap was at midnight
    "America/Havana",  # its repeated hour is at midnight
    "America/Caracas",  # moved by half an hour, twice, for good
    "Africa/Casablanca",  # leaves summer time for a month a year
    "Australia/Lord_Howe",  # half an hour
    "Pacific/Apia",  # lost a day
    "Asia/Kathmandu",  # a quarter of an hour off, never moved
    "Europe/Dublin",
)
BEGIN, END = datetime(2006, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Segment:
    """A stretch of time in which the clock runs evenly."""

    start: datetime
    end: datetime
    offset: timedelta


@cache
def segments(zone: str) -> list[Segment]:
    """Return how a zone's clock ran, found by asking it again and again through twenty years and more."""
    clock, moment, last = ZoneInfo(zone), BEGIN - timedelta(days=3), END + timedelta(days=3)
    coarse, fine = timedelta(hours=12), timedelta(minutes=15)
    found, start, offset = [], moment, moment.astimezone(clock).utcoffset()
    while moment < last:
        if (moment + coarse).astimezone(clock).utcoffset() == offset:
            moment += coarse
            continue
        while moment.astimezone(clock).utcoffset() == offset:
            moment += fine
        found.append(Segment(start, moment, offset or timedelta()))
        start, offset = moment, moment.astimezone(clock).utcoffset()
    return [*found, Segment(start, moment, offset or timedelta())]


def changes(zone: str) -> list[datetime]:
    return [one.start for one in segments(zone)[1:]]


@dataclass(frozen=True)
class Plain:
    """A cron expression by its values: matched here without any cron library."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    steps: str = ""
    weekdays: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        days = ",".join(str((day + 1) % 7) for day in self.weekdays) or "*"
        return f"{','.join(map(str, self.minutes))} {self.steps or ','.join(map(str, self.hours))} * * {days}"

    def walls(self, first: date, last: date) -> Iterator[datetime]:
        """Yield the wall-clock times it means."""
        day = first
        while day <= last:
            if not self.weekdays or day.weekday() in self.weekdays:
                for hour in self.hours:
                    for minute in self.minutes:
                        yield datetime.combine(day, time(hour, minute))
            day += timedelta(days=1)

    def ticks(self, zone: str, since: datetime, until: datetime) -> list[datetime]:
        """Return the ticks later than ``since`` and not later than ``until``."""
        found = set()
        for wall in self.walls((since - timedelta(days=3)).date(), (until + timedelta(days=3)).date()):
            shown = [
                (wall - one.offset).replace(tzinfo=UTC)
                for one in segments(zone)
                if one.start <= (wall - one.offset).replace(tzinfo=UTC) < one.end
            ]
            if self.steps:
                found.update(shown)
            elif shown:
                found.add(min(shown))
            else:  # never shown: the clock leapt over it, at the first change whose new time is later
                ahead = [one.start for one in segments(zone) if (one.start + one.offset).replace(tzinfo=None) > wall]
                found.add(min(ahead))
        return sorted(tick for tick in found if since < tick <= until)


MINUTES = st.lists(st.integers(0, 59), min_size=1, max_size=3, unique=True).map(lambda found: tuple(sorted(found)))
EXPRESSIONS = st.one_of(
    st.builds(
        Plain,
        MINUTES,
        st.lists(st.integers(0, 23), min_size=1, max_size=3, unique=True).map(lambda found: tuple(sorted(found))),
        weekdays=st.sampled_from([(), (6,), (0, 1, 2, 3, 4), (5, 6)]),
    ),
    st.builds(Plain, MINUTES, st.just(tuple(range(24))), st.just("*")),
    st.sampled_from([2, 3, 4, 6]).flatmap(
        lambda step: st.builds(Plain, MINUTES, st.just(tuple(range(0, 24, step))), st.just(f"*/{step}"))
    ),
)


@settings(max_examples=150, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    expression=EXPRESSIONS,
    seconds=st.integers(0, int((END - BEGIN).total_seconds()) - 20 * 86400),
)
def test_ticks_are_those_of_an_independent_calculation_at_any_time(zone: str, expression: Plain, seconds: int) -> None:
    since = BEGIN + timedelta(seconds=seconds)
    until = since + timedelta(days=9)

    expected = expression.ticks(zone, since, until)

    assert list(islice(ticks_after(cron(expression.text, zone), since), len(expected))) == expected


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize(
    "expression",
    [
        Plain((0, 30), (0, 1, 2, 3)),
        Plain((15,), (1, 2, 23)),
        Plain((0, 15, 30, 45), tuple(range(24)), "*"),
        Plain((0,), tuple(range(0, 24, 2)), "*/2"),
    ],
    ids=lambda one: one.text,
)
def test_ticks_are_those_of_an_independent_calculation_around_every_change(zone: str, expression: Plain) -> None:
    rhythm = cron(expression.text, zone)
    inside = [change for change in changes(zone) if BEGIN < change < END]
    for change in inside[:: max(1, len(inside) // 12)]:
        since, until = change - timedelta(hours=27), change + timedelta(hours=27)
        expected = expression.ticks(zone, since, until)

        assert list(islice(ticks_after(rhythm, since), len(expected))) == expected
        # From any moment, the same one comes next.
        for moment in (change - timedelta(seconds=1), change, change + timedelta(minutes=44, microseconds=1)):
            assert rhythm.next_after(moment) == expected[bisect_right(expected, moment)]


def times(expression: str, zone: str, after: str, count: int) -> list[str]:
    start = datetime.fromisoformat(after).replace(tzinfo=ZoneInfo(zone))
    found = islice(ticks_after(cron(expression, zone), start), count)
    return [tick.astimezone(ZoneInfo(zone)).strftime("%d %H:%M%z") for tick in found]


@pytest.mark.parametrize(
    ("expression", "zone", "after", "expected"),
    [
        ("30 1 * * *", "America/New_York", "2025-11-01T12:00", ["02 01:30-0400", "03 01:30-0500"]),
        ("30 2 * * *", "Europe/Berlin", "2025-03-29T12:00", ["30 03:00+0200", "31 02:30+0200"]),
        ("0,20,40 2 * * *", "Europe/Berlin", "2025-03-29T12:00", ["30 03:00+0200", "31 02:00+0200"]),
        ("15 2 * * *", "Australia/Lord_Howe", "2025-10-04T12:00", ["05 02:30+1100", "06 02:15+1100"]),
        ("0 12 * * *", "Pacific/Apia", "2011-12-29T13:00", ["31 00:00+1400", "31 12:00+1400"]),
        ("*/30 * * * *", "Europe/Berlin", "2025-10-26T01:45", ["26 02:00+0200", "26 02:30+0200", "26 02:00+0100"]),
        ("@hourly", "Europe/Berlin", "2025-03-30T00:30", ["30 01:00+0100", "30 03:00+0200"]),
        ("0 0 * * *", "Asia/Kathmandu", "2025-01-01T12:00", ["02 00:00+0545", "03 00:00+0545"]),
        ("0 0 * * *", "America/Havana", "2025-11-01T12:00", ["02 00:00-0400", "03 00:00-0500"]),
        ("0 0 * * *", "America/Sao_Paulo", "2018-11-03T12:00", ["04 01:00-0200", "05 00:00-0200"]),
        ("30 9 * * 1-5 20", "UTC", "2025-01-03T12:00", ["06 09:30+0000", "07 09:30+0000"]),
        ("0 0 29 2 *", "UTC", "2025-01-01T00:00", ["29 00:00+0000"]),
    ],
)
def test_cases_of_the_docs(expression: str, zone: str, after: str, expected: list[str]) -> None:
    assert times(expression, zone, after, len(expected)) == expected


def test_sixth_field_is_seconds() -> None:
    after = datetime(2025, 1, 1, tzinfo=UTC)
    assert [t.second for t in islice(ticks_after(cron("* * * * * */20"), after), 4)] == [20, 40, 0, 20]


@pytest.mark.parametrize("zone", ZONES)
def test_quarter_hours_are_a_quarter_of_an_hour_apart(zone: str) -> None:
    change = changes(zone)[0] if changes(zone) else BEGIN
    found = list(islice(ticks_after(cron("*/15 * * * *", zone), change - timedelta(days=1)), 200))

    if zone != "Pacific/Apia":  # the day that it lost was lost in one piece, which is a multiple as well
        assert {later - earlier for earlier, later in pairwise(found)} == {timedelta(minutes=15)}


@settings(max_examples=60, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    expression=EXPRESSIONS,
    seconds=st.integers(0, int((END - BEGIN).total_seconds()) - 90 * 86400),
    hours=st.integers(0, 80 * 24),
)
def test_last_tick_until_a_time_is_the_one_before_the_next(
    zone: str, expression: Plain, seconds: int, hours: int
) -> None:
    rhythm = cron(expression.text, zone)
    since = rhythm.next_after(BEGIN + timedelta(seconds=seconds))
    assert since is not None
    moment = since + timedelta(hours=hours)

    last = rhythm.last_until(moment, since=since)

    following = rhythm.next_after(last)
    assert since <= last <= moment
    assert following is not None
    assert following > moment


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("61 * * * *", "out of range"),
        ("* * * *", "4 fields"),
        ("0 0 1 1 * 0 2030", "7 fields"),
        ("0 0 30 2 *", "no such date"),
        ("H * * * *", "by chance"),
        ("R(1-5) * * * *", "by chance"),
        ("@reboot", "can't be read"),
        ("", "0 fields"),
        ("*/0 * * * *", "can't be read"),
        ("a b c d e", "can't be read"),
    ],
)
def test_impossible_expressions_are_refused(expression: str, says: str) -> None:
    with pytest.raises(InvalidOption, match=says):
        cron(expression, None)


@pytest.mark.parametrize("zone", ["Europe/Berln", "Europe", "", "../etc/passwd", "CEST+1\0"])
def test_zones_that_do_not_exist_are_refused(zone: str) -> None:
    with pytest.raises(InvalidOption, match="no such timezone"):
        cron("0 0 * * *", zone)


def test_objects_of_croniter_are_taken_for_their_expression() -> None:
    from croniter import croniter

    assert check_cron(croniter("*/5 9 * * 1-5")) == "*/5 9 * * 1-5"


def test_thread_safe() -> None:
    from concurrent.futures import ThreadPoolExecutor

    rhythm = cron("*/7 * * * *", "Europe/Berlin")
    starts = [BEGIN + timedelta(hours=n) for n in range(400)]
    expected = [rhythm.next_after(start) for start in starts]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert list(pool.map(rhythm.next_after, starts)) == expected


# --- intervals ----------------------------------------------------------------------------------------------------

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def test_an_interval_does_not_drift() -> None:
    rhythm, due = Every(timedelta(seconds=0.1), NOW), NOW
    for n in range(1000):
        # Each tick is handled a little late.
        made = decide(rhythm, due=due, now=due + timedelta(milliseconds=n % 60))
        assert made.ticks == (due,)
        assert made.next_run is not None
        due = made.next_run

    assert due == NOW + timedelta(seconds=100)


# --- missed ticks: the table of docs/schedules.md -----------------------------------------------------------------


def minutes_ago(*minutes: int) -> tuple[datetime, ...]:
    return tuple(NOW - n * MINUTE for n in minutes)


@pytest.mark.parametrize("rhythm", [Every(10 * MINUTE, NOW), cron("*/10 * * * *")], ids=["interval", "cron"])
@pytest.mark.parametrize(
    ("late", "catch_up", "ticks", "missed"),
    [
        (timedelta(0), "latest", minutes_ago(0), 0),
        (timedelta(0), "all", minutes_ago(0), 0),
        (timedelta(0), "skip", minutes_ago(0), 0),
        (30 * MINUTE, "latest", minutes_ago(0), 3),
        (30 * MINUTE, "all", minutes_ago(30, 20, 10, 0), 0),
        (30 * MINUTE, "skip", (), 4),
    ],
)
def test_missed_ticks(rhythm: Every, late: timedelta, catch_up: str, ticks: tuple[datetime, ...], missed: int) -> None:
    made = decide(rhythm, due=NOW - late, now=NOW + timedelta(seconds=1), catch_up=catch_up)  # type: ignore[arg-type]

    assert made == Decision(ticks=ticks, next_run=NOW + 10 * MINUTE, missed=missed, wait=catch_up == "all")


def test_a_tick_is_missed_when_it_is_found_ten_seconds_late() -> None:
    rhythm = Every(timedelta(days=1), NOW)
    assert decide(rhythm, due=NOW, now=NOW + PUNCTUAL, catch_up="skip").ticks == (NOW,)
    assert decide(rhythm, due=NOW, now=NOW + PUNCTUAL * 1.1, catch_up="skip").ticks == ()


def test_not_due_is_left_alone() -> None:
    rhythm = Every(MINUTE, NOW)
    assert decide(rhythm, due=NOW, now=NOW - MINUTE) == Decision(ticks=(), next_run=NOW)


@pytest.mark.parametrize("rhythm", [Every(MINUTE, NOW), cron("* * * * *")], ids=["interval", "cron"])
def test_all_is_bounded_and_leaves_out_the_oldest(rhythm: Every) -> None:
    made = decide(rhythm, due=NOW - 1500 * MINUTE, now=NOW, catch_up="all", limit=1000)

    assert len(made.ticks) == 1000
    assert (made.ticks[0], made.ticks[-1]) == (NOW - 999 * MINUTE, NOW)
    assert made.missed == 501


def test_all_after_years_does_not_go_through_them() -> None:
    made = decide(cron("* * * * *"), due=NOW - timedelta(days=3 * 365), now=NOW, catch_up="all", limit=1000)

    assert (len(made.ticks), made.ticks[-1], made.missed) == (1000, NOW, COUNTED)


def test_ends_with_its_end() -> None:
    rhythm = Every(MINUTE, NOW)
    made = decide(rhythm, due=NOW, now=NOW + 5 * MINUTE, catch_up="all", end=NOW + 2 * MINUTE)

    assert (len(made.ticks), made.next_run) == (3, None)
    assert decide(rhythm, due=NOW + 3 * MINUTE, now=NOW + 5 * MINUTE, end=NOW + 2 * MINUTE).next_run is None


def test_a_tick_that_somebody_moved_counts_as_it_is() -> None:
    moved = NOW - timedelta(seconds=7)
    made = decide(cron("0 0 * * *"), due=moved, now=NOW)

    assert (made.ticks, made.next_run) == ((moved,), datetime(2026, 5, 2, tzinfo=UTC))


def test_first_run_may_be_the_start_itself() -> None:
    rhythm = Every(MINUTE, NOW)
    assert first_run(rhythm, now=NOW - timedelta(hours=1), start=NOW, end=None) == NOW
    assert first_run(rhythm, now=NOW, start=NOW, end=None) == NOW + MINUTE
    assert first_run(rhythm, now=NOW, start=None, end=NOW) is None


@settings(max_examples=100, deadline=None)
@given(
    seconds=st.integers(1, 10**6),
    late=st.integers(0, 10**6),
    catch_up=st.sampled_from(["latest", "all", "skip"]),
    limit=st.integers(1, 50),
)
def test_every_tick_is_run_or_missed_and_the_next_is_in_the_future(
    seconds: int, late: int, catch_up: str, limit: int
) -> None:
    rhythm, due = Every(timedelta(seconds=seconds), NOW), NOW
    now = NOW + timedelta(seconds=late)

    made = decide(rhythm, due=due, now=now, catch_up=catch_up, limit=limit)  # type: ignore[arg-type]

    assert len(made.ticks) + made.missed == late // seconds + 1
    assert made.next_run is not None
    assert now < made.next_run <= now + rhythm.interval
    assert all(due <= tick <= now for tick in made.ticks)
