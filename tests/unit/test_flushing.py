"""A flush before a process ends: bounded, one at a time, and shorter while nobody answers."""

from __future__ import annotations

import threading
from time import monotonic

from pq_hooks.flushing import LITTLE, PATIENCE, Flusher


def took(flusher: Flusher, flush: threading.Event) -> float:
    began = monotonic()
    assert flusher(lambda: flush.wait(30)) is False
    return monotonic() - began


def test_flush_that_ends_is_waited_for() -> None:
    done: list[int] = []

    assert Flusher(10)(lambda: done.append(1)) is True

    assert done == [1]


def test_flush_that_hangs_is_left_and_the_next_ones_get_little_time() -> None:
    flusher, answer = Flusher(0.3), threading.Event()

    first = [took(flusher, answer) for _ in range(PATIENCE)]
    later = took(flusher, answer)

    assert all(each >= 0.3 for each in first)
    assert LITTLE <= later < 0.3
    answer.set()
    assert Flusher(10)(answer.wait) is True


def test_one_that_succeeds_ends_that() -> None:
    flusher, answer = Flusher(0.2), threading.Event()
    for _ in range(PATIENCE + 1):
        took(flusher, answer)
    answer.set()
    while not flusher(lambda: None):
        pass

    never = threading.Event()
    assert took(flusher, never) >= 0.2
    never.set()


def test_flushes_do_not_pile_up() -> None:
    flusher, answer = Flusher(0.05), threading.Event()
    begun: list[int] = []

    def flush() -> None:
        begun.append(1)
        answer.wait(30)

    for _ in range(5):
        flusher(flush)

    assert begun == [1]
    answer.set()


def test_flush_that_raises_is_contained() -> None:
    def flush() -> None:
        raise OSError("no route")

    assert Flusher(10)(flush) is True
