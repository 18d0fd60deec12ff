"""Histograms of how long things take and how much memory they need: a leaf that imports the standard library alone.

A histogram counts values by bucket; buckets grow by the fourth root of two, so that a percentile read from one is
within 9.1 % of the value that it stands for, whatever the scale. In the database a histogram is an ``integer[]`` of
bucket, count, bucket, count, …: only buckets that hold something, the lowest first. They are merged by adding counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import log2

SECONDS = 1e-4
"""The unit of histograms of time: what is shorter is not told apart."""
BYTES = 4096.0
"""The unit of histograms of memory."""
PER_DOUBLING = 4
HIGHEST = 255
ERROR_BOUND = 2 ** (1 / (2 * PER_DOUBLING)) - 1
"""How far a percentile may be from the true value, as a share of that: 0.0905."""

Histogram = dict[int, int]


def bucket(value: float, unit: float) -> int:
    """Return the bucket of a value: 0 for less than ``unit``, then four for each doubling."""
    ratio = value / unit
    if not ratio >= 1:  # NaN as well
        return 0
    return min(1 + int(PER_DOUBLING * log2(ratio)), HIGHEST) if ratio < 2**63 else HIGHEST


def value_of(bucket: int, unit: float) -> float:
    """Return the value that stands for all in a bucket: its geometric middle, half the unit for the first one."""
    if bucket <= 0:
        return unit / 2
    return float(unit * 2 ** ((bucket - 0.5) / PER_DOUBLING))


def lower_bound(bucket: int, unit: float) -> float:
    """Return the least value that belongs into a bucket; the next bucket's is the end of this one."""
    return float(unit * 2 ** ((bucket - 1) / PER_DOUBLING)) if bucket > 0 else 0.0


def merged(histograms: Iterable[Mapping[int, int]]) -> Histogram:
    """Return the sum of histograms."""
    total: Histogram = {}
    for histogram in histograms:
        for place, count in histogram.items():
            total[place] = total.get(place, 0) + count
    return total


def percentile(histogram: Mapping[int, int], share: float, unit: float) -> float | None:
    """Return the value below which ``share`` (0 to 1) of all values are, within ERROR_BOUND; None without any value."""
    total = sum(histogram.values())
    if not total:
        return None
    rank = max(1.0, share * total)
    seen = 0
    place = 0
    for place in sorted(histogram):
        seen += histogram[place]
        if seen >= rank:
            break
    return value_of(place, unit)


def stored(histogram: Mapping[int, int]) -> list[int]:
    """Return a histogram as it is stored."""
    return [number for place in sorted(histogram) for number in (place, histogram[place])]


def loaded(numbers: Sequence[int] | None) -> Histogram:
    """Return the histogram that is stored as ``numbers``."""
    return dict(zip(numbers[::2], numbers[1::2], strict=True)) if numbers else {}
