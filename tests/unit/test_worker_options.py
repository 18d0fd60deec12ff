"""What can be said of a worker."""

from __future__ import annotations

from typing import Any

import pytest

from pq_core.errors import InvalidOption
from pq_core.worker.options import BANDS, WorkerOptions, automatic_memory_limit, parse_size


@pytest.mark.parametrize(
    "given",
    [
        {"concurrency": -1},
        {"concurrency": True},
        {"concurrency": 1.5},
        {"lease": 1},
        {"lease": float("nan")},
        {"poll_interval": 0},
        {"grace": -1},
        {"max_runtime": 0},
        {"memory_limit": 5},
        {"memory_limit": "much"},
        {"priorities": ["urgent"]},
        {"priorities": []},
        {"queues": []},
        {"queues": [""]},
        {"queues": ["a\x00b"]},
        {"queues": [5]},
        {"result_limit": 0},
        {"tasks_per_child": 0},
        {"spares": -1},
    ],
    ids=str,
)
def test_option_that_makes_no_sense_is_refused_by_name(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=next(iter(given))):
        WorkerOptions(**given)


def test_names_may_be_one_text() -> None:
    options = WorkerOptions(queues="b, a,b", priorities="high,critical")  # type: ignore[arg-type]

    assert (options.queues, options.priorities) == (("b", "a"), ("high", "critical"))


def test_concurrency_is_by_default_that_of_the_machine() -> None:
    assert WorkerOptions().concurrency >= 1


@pytest.mark.parametrize(
    ("priorities", "ranges"),
    [
        (None, [(-32768, 32767)]),
        (["critical"], [(100, 32767)]),
        (["high", "critical"], [(75, 32767)]),
        (["low", "critical"], [(100, 32767), (25, 49)]),
        (["batch", "low", "normal", "high", "critical"], [(-32768, 32767)]),
        (["batch", "normal", "high"], [(50, 99), (-32768, 24)]),
    ],
)
def test_bands_become_ranges_highest_first(priorities: list[str] | None, ranges: list[tuple[int, int]]) -> None:
    assert WorkerOptions(priorities=priorities and tuple(priorities)).ranges() == ranges


def test_every_priority_is_in_one_band() -> None:
    for priority in (-32768, -100, 0, 24, 25, 49, 50, 74, 75, 99, 100, 32767):
        assert sum(low <= priority <= high for low, high in BANDS.values()) == 1


def test_automatic_memory_limit_shares_what_the_image_leaves() -> None:
    assert automatic_memory_limit(None, 0, 4) is None
    assert automatic_memory_limit(1 << 30, 1 << 28, 4) == 3 * 2**26
    with pytest.raises(InvalidOption, match="lower the concurrency"):
        automatic_memory_limit(1 << 27, 1 << 26, 8)


@pytest.mark.parametrize(
    ("text", "size"),
    [("1048576", 2**20), ("512M", 2**29), ("512 MiB", 2**29), ("2g", 2**31), ("1.5K", 1536), ("1T", 2**40), ("5B", 5)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-5", "0", "much", "5X", "nan", "inf", "1e400"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidOption, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"concurrency": 1}, 2),
        ({"concurrency": 5}, 5),
        ({"concurrency": 100}, 8),
        ({"concurrency": 100, "spares": 20}, 20),
        ({"spares": 0}, 0),
        ({"tasks_per_child": 2, "spares": 5}, 0),
        ({"once": True}, 0),
    ],
    ids=str,
)
def test_processes_forked_ahead(given: dict[str, Any], expected: int) -> None:
    assert WorkerOptions(**given).spare_processes == expected
