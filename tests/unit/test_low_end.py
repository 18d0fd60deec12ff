"""Where searches for ready tasks begin."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pq_core.types import ClaimedTask
from pq_core.worker.low_end import ABOVE_EVERY, ABOVE_LONGEST, LONGEST, SHARE, LowEnd

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
START = [b"{}", b"{}", b"{}"]
TASK = ClaimedTask(
    id=1,
    name="a",
    queue="q",
    priority=50,
    fence=1,
    number=1,
    max_attempts=1,
    payload="{}",
    headers={},
    version=1,
    run_at=NOON,
    created_at=NOON,
    started_at=NOON,
)


LOW, HIGH = -100, 100
"""The band of priorities."""


def test_search_goes_on_after_the_last_in_order_of_claiming() -> None:
    low = LowEnd()
    assert low.search(10.0, LOW, HIGH) == (LOW, START)

    found = [TASK, replace(TASK, id=7, priority=25, run_at=NOON - timedelta(hours=1)), replace(TASK, id=9, priority=75)]
    assert low.found(found, asked=3, now=10.01) is False

    assert low.search(10.02, LOW, HIGH) == (LOW, [b"{25}", b'{"2026-03-01T11:00:00+00:00"}', b"{7}"])


def test_short_answer_after_the_low_end_does_not_mean_empty() -> None:
    low = LowEnd()
    low.search(10.0, LOW, HIGH)
    low.found([TASK], asked=1, now=10.01)
    low.search(10.02, LOW, HIGH)

    assert low.found([], asked=1, now=10.03) is False
    assert low.search(10.04, LOW, HIGH) == (LOW, START)
    assert low.found([], asked=1, now=10.05) is True


def test_search_from_the_start_comes_again_in_a_share_of_the_time() -> None:
    low = LowEnd()
    low.search(10.0, LOW, HIGH)
    low.found([TASK], asked=1, now=10.01)

    assert low.search(10.01 + 0.01 * SHARE - 0.001, LOW, HIGH)[1] != START
    assert low.search(10.01 + 0.01 * SHARE + 0.001, LOW, HIGH) == (LOW, START)


def test_searches_from_the_start_take_a_tenth_of_the_time_however_long_they_take() -> None:
    """A held snapshot: what was claimed stays in the way, 1 ms for a thousand; each claim brings a hundred in 5 ms."""
    low = LowEnd()
    now, claimed, reading = 10.0, 0, 0.0
    while now < 110.0:
        dead = claimed / 1e6 if low.search(now, LOW, HIGH) == (LOW, START) else 0.0
        reading += dead
        now += 0.005 + dead
        low.found([replace(TASK, id=claimed)] * 100, asked=100, now=now)
        claimed += 100
    assert claimed > 1_000_000
    assert reading < 100.0 / SHARE


def test_slow_search_from_the_start_is_put_off_by_half_a_minute_at_most() -> None:
    low = LowEnd()
    low.search(10.0, LOW, HIGH)
    low.found([TASK], asked=1, now=100.0)

    assert low.search(100.0 + LONGEST, LOW, HIGH) == (LOW, START)


def slow_and_far() -> LowEnd:
    """Return one that claims priority 50, at 12.0, after a search from the start that took two seconds."""
    low = LowEnd()
    low.search(10.0, LOW, HIGH)
    low.found([TASK], asked=1, now=12.0)
    return low


def test_higher_priorities_are_looked_for_while_the_start_is_far() -> None:
    low = slow_and_far()
    now = 12.0 + ABOVE_EVERY

    assert low.search(now - 0.01, LOW, HIGH)[0] == LOW
    assert low.search(now, LOW, HIGH) == (TASK.priority + 1, START)
    assert low.found([], asked=1, now=now + 0.001) is False
    assert low.search(now + 0.002, LOW, HIGH) == (LOW, [b"{50}", b'{"2026-03-01T12:00:00+00:00"}', b"{1}"])


def test_what_is_above_is_claimed_before_the_search_goes_on_where_it_was() -> None:
    low = slow_and_far()
    now = 12.0 + ABOVE_EVERY
    low.search(now, LOW, HIGH)
    low.found([replace(TASK, id=5, priority=75)], asked=1, now=now)

    assert low.search(now, LOW, HIGH) == (TASK.priority + 1, [b"{75}", b'{"2026-03-01T12:00:00+00:00"}', b"{5}"])
    assert low.found([], asked=1, now=now) is False
    assert low.search(now, LOW, HIGH) == (LOW, [b"{50}", b'{"2026-03-01T12:00:00+00:00"}', b"{1}"])


def test_slow_search_above_comes_in_a_share_of_the_time_too() -> None:
    low = slow_and_far()
    now = 12.0 + ABOVE_EVERY
    low.search(now, LOW, HIGH)
    low.found([], asked=1, now=now + 0.2)

    assert low.search(now + 0.2 + 0.2 * SHARE - 0.01, LOW, HIGH)[0] == LOW
    assert low.search(now + 0.2 + 0.2 * SHARE, LOW, HIGH) == (TASK.priority + 1, START)
    low.found([], asked=1, now=now + 10)
    assert low.search(now + 10 + ABOVE_LONGEST, LOW, HIGH)[1] == START


def test_nothing_is_looked_for_above_the_highest() -> None:
    low = slow_and_far()

    assert low.search(12.0 + ABOVE_EVERY, LOW, TASK.priority)[0] == LOW


def test_forgetting_begins_from_the_start() -> None:
    low = LowEnd()
    low.search(10.0, LOW, HIGH)
    low.found([TASK], asked=1, now=10.01)
    low.forget()

    assert low.search(10.02, LOW, HIGH) == (LOW, START)
