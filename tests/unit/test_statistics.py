"""Histograms: what a percentile read from one is worth."""

from __future__ import annotations

import random

import pytest

from pq_core.statistics import (
    BYTES,
    ERROR_BOUND,
    HIGHEST,
    SECONDS,
    bucket,
    loaded,
    lower_bound,
    merged,
    percentile,
    stored,
    value_of,
)


@pytest.mark.parametrize("unit", [SECONDS, BYTES])
def test_percentiles_are_within_the_bound(unit: float) -> None:
    chance = random.Random(7)
    for _ in range(50):
        values = sorted(unit * 10 ** chance.uniform(0, 8) for _ in range(chance.randrange(1, 400)))
        histogram: dict[int, int] = {}
        for value in values:
            place = bucket(value, unit)
            histogram[place] = histogram.get(place, 0) + 1

        for share in (0.01, 0.5, 0.95, 1.0):
            true = values[max(0, -(-int(share * len(values) * 1000) // 1000) - 1)]
            found = percentile(histogram, share, unit)
            assert found is not None
            assert abs(found - true) <= true * (ERROR_BOUND + 1e-9) or bucket(true, unit) == bucket(found, unit)


def test_every_value_lies_in_its_bucket() -> None:
    for exponent in range(-60, 300):
        value = SECONDS * 1.13**exponent
        place = bucket(value, SECONDS)
        assert lower_bound(place, SECONDS) <= value * (1 + 1e-9)
        assert value < lower_bound(place + 1, SECONDS) * (1 + 1e-9) or place == HIGHEST
        assert abs(value_of(place, SECONDS) - value) <= value * (ERROR_BOUND + 1e-9) or place in (0, HIGHEST)


@pytest.mark.parametrize("value", [0.0, -5.0, float("nan"), SECONDS / 2])
def test_what_is_too_small_is_in_the_first_bucket(value: float) -> None:
    assert bucket(value, SECONDS) == 0


def test_what_is_too_large_is_in_the_last_bucket() -> None:
    assert bucket(float("inf"), SECONDS) == HIGHEST
    assert bucket(1e300, SECONDS) == HIGHEST


def test_nothing_has_no_percentile() -> None:
    assert percentile({}, 0.5, SECONDS) is None


def test_merging_adds_and_storing_keeps() -> None:
    total = merged([{3: 1, 9: 2}, {}, {9: 5, 1: 1}])

    assert total == {3: 1, 9: 7, 1: 1}
    assert stored(total) == [1, 1, 3, 1, 9, 7]
    assert loaded(stored(total)) == total
    assert loaded(None) == {}
