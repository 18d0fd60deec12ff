"""Tasks for the tests of the dashboard."""

from __future__ import annotations

from datetime import date, timedelta

from pq_core import PQ, Snooze, TaskGroup

HOUR = timedelta(hours=1)
jobs = TaskGroup(prefix="shop")


@jobs.task
def greet(name: str, *, day: date | None = None) -> str:
    return f"hello {name}"


@jobs.task
def fail(words: str) -> None:
    raise RuntimeError(words)


@jobs.task(max_attempts=3)
def postpone(words: str) -> None:
    raise Snooze(HOUR, words)


@jobs.task
def nap(seconds: float) -> None:
    import time

    time.sleep(seconds)


@jobs.task
def order(
    number: int,
    customer: str,
    /,
    day: date,
    gift: bool,
    lines: list[int] = [],  # noqa: B006
    *more: int,
    note: str | None = None,
    **extra: float,
) -> None:
    """Take an order.

    And more.
    """


@jobs.task(sensitive=True)
def whisper(secret: str) -> None:
    del secret


def create_pq() -> PQ:
    return PQ(tasks=[__name__])
