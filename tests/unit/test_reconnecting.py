"""The pauses between two tries to get a connection back."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pq_core.worker.reconnecting import FIRST_PAUSE, LONGEST_PAUSE, QUICK_TRIES, SHORT_PAUSE, pause_before

draws = st.floats(0, 1, exclude_max=True)


@given(attempt=st.integers(1, QUICK_TRIES), draw=draws)
def test_server_that_is_back_is_met_within_a_second_during_the_first_tries(attempt: int, draw: float) -> None:
    assert 0 < pause_before(attempt, draw) <= SHORT_PAUSE == 1.0


@given(attempt=st.integers(1, 10**9), draw=draws)
def test_no_pause_is_longer_than_the_longest_nor_without_an_end_of_trying(attempt: int, draw: float) -> None:
    assert FIRST_PAUSE / 2 <= pause_before(attempt, draw) <= LONGEST_PAUSE


@given(attempt=st.integers(1, 10**6), draw=draws)
def test_pauses_grow_to_the_longest(attempt: int, draw: float) -> None:
    assert pause_before(attempt, draw) <= pause_before(attempt + 1, draw)
    assert pause_before(QUICK_TRIES + 10, 1.0) == LONGEST_PAUSE


def test_first_tries_cover_the_time_of_a_failover() -> None:
    assert sum(pause_before(attempt, 0.0) for attempt in range(1, QUICK_TRIES + 1)) > 12
    assert sum(pause_before(attempt, 0.5) for attempt in range(1, QUICK_TRIES + 1)) > 20


@given(attempt=st.integers(1, 200))
def test_a_thousand_workers_are_spread_over_half_of_the_pause(attempt: int) -> None:
    pauses = [pause_before(attempt, worker / 1000) for worker in range(1000)]

    between = [later - earlier for earlier, later in pairwise(pauses)]
    assert pauses[-1] - pauses[0] > pauses[-1] * 0.49
    assert max(between) < 2 * min(between), "evenly"
