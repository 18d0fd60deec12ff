"""What a worker remembers, to compare it with what a database does."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from pq_core.types import ClaimedTask
from pq_core.worker.book import REMEMBERED, Begun
from pq_core.worker.history import Found, History
from pq_core.worker.rows import Key, claim_key, claimed_task, moment

BEGAN = b"2026-12-01 00:00:00.000001+00"
ROW = (
    b"7", b"t", b"default", b"50", b"1", b"1", b"1", b"{}", None, b"1", BEGAN, BEGAN, b"2026-12-01 00:01:00.123456+00",
    None, None, None, b"0", b"0", None, None, b"fail", None,
)  # fmt: skip


@pytest.mark.parametrize(
    ("system", "timeline", "found", "then"),
    [
        (b"1", b"5", Found.SAME, ("1", 5)),
        (b"1", b"6", Found.OTHER, ("1", 6)),
        (b"1", b"4", Found.OLDER, ("1", 5)),
        (b"2", b"1", Found.OTHER, ("2", 1)),
        (None, None, Found.SAME, ("1", 5)),
    ],
)
def test_history_goes_forward(system: bytes, timeline: bytes, found: Found, then: tuple[str, int]) -> None:
    history = History()
    assert history.meet((b"1", b"5")) is Found.SAME

    assert history.meet((system, timeline)) is found
    assert (history.system, history.timeline) == then


def claimed(n: int) -> ClaimedTask:
    task = claimed_task(ROW)
    return replace(task, id=n, started_at=task.started_at + timedelta(microseconds=n))


def test_claims_that_ended_are_remembered_within_bounds() -> None:
    begun = Begun()
    begun.begin_life(BEGAN)
    for n in range(REMEMBERED + 10):
        begun.add(claimed(n))
    begun.add(replace(claimed(-1), on_lost="retry"))

    def may_hold(n: int, fence: int = 1) -> bool:
        key: Key = claim_key(claimed(n))
        return begun.may_hold((key[0], fence, key[2]))

    assert len(begun._keys) == REMEMBERED
    assert may_hold(REMEMBERED + 9)
    assert may_hold(3), "forgotten: it can't be told apart"
    assert may_hold(3, fence=9)
    assert not may_hold(REMEMBERED + 9, fence=9)
    assert not may_hold(REMEMBERED + 11), "younger than all that was forgotten"
    begun.begin_life(BEGAN)
    assert not may_hold(REMEMBERED + 9)
    before = moment(BEGAN)
    assert before is not None
    assert begun.may_hold((1, 1, before)), "of an earlier life"
