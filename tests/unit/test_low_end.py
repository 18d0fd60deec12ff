"""Where searches for ready tasks begin."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pq_core.types import ClaimedTask
from pq_core.worker.low_end import LONGEST, SHARE, LowEnd

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


def test_search_goes_on_after_the_last_in_order_of_claiming() -> None:
    low = LowEnd()
    assert low.parameters(10.0) == START

    found = [TASK, replace(TASK, id=7, priority=25, run_at=NOON - timedelta(hours=1)), replace(TASK, id=9, priority=75)]
    assert low.found(found, asked=3, now=10.01) is False

    assert low.parameters(10.02) == [b"{25}", b'{"2026-03-01T11:00:00+00:00"}', b"{7}"]


def test_short_answer_after_the_low_end_does_not_mean_empty() -> None:
    low = LowEnd()
    low.parameters(10.0)
    low.found([TASK], asked=1, now=10.01)
    low.parameters(10.02)

    assert low.found([], asked=1, now=10.03) is False
    assert low.parameters(10.04) == START
    assert low.found([], asked=1, now=10.05) is True


def test_search_from_the_start_comes_again_in_a_share_of_the_time() -> None:
    low = LowEnd()
    low.parameters(10.0)
    low.found([TASK], asked=1, now=10.01)

    assert low.parameters(10.01 + 0.01 * SHARE - 0.001) != START
    assert low.parameters(10.01 + 0.01 * SHARE + 0.001) == START


def test_slow_search_from_the_start_is_not_put_off_for_long() -> None:
    low = LowEnd()
    low.parameters(10.0)
    low.found([TASK], asked=1, now=13.0)

    assert low.parameters(13.0 + LONGEST) == START


def test_forgetting_begins_from_the_start() -> None:
    low = LowEnd()
    low.parameters(10.0)
    low.found([TASK], asked=1, now=10.01)
    low.forget()

    assert low.parameters(10.02) == START
