"""Tasks that are scheduled, for the tests of ticking; the workers of those tests run this module."""

from __future__ import annotations

import os
import sys
import time

from pq_core import PQ, TaskGroup

jobs = TaskGroup("s")


@jobs.task
def quick(n: int = 0) -> int:
    return n


@jobs.task(queue="elsewhere")
def unserved() -> None: ...


@jobs.task
def slow(seconds: float) -> None:
    time.sleep(seconds)


@jobs.task(on_lost="fail")
def once(seconds: float) -> None:
    time.sleep(seconds)


@jobs.task
def loaded() -> bool:
    return "croniter" in sys.modules


if os.environ.get("PQ_TEST_DECLARES"):
    jobs.periodic(cron=os.environ["PQ_TEST_DECLARES"], timezone="Europe/Berlin")(quick)


def create_pq() -> PQ:
    """The application of the tests' workers; the database comes from PQ_DATABASE_URL."""
    return PQ(tasks=[__name__], app="ticks")
