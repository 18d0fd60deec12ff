"""Tasks of the application in ``fastapi_app``."""

from __future__ import annotations

import time
from decimal import Decimal

from pq_core import PQ, TaskGroup, current_attempt

jobs = TaskGroup(prefix="fa")


def create_pq() -> PQ:
    """The client of server and worker; the database comes from PQ_DATABASE_URL."""
    return PQ(tasks=[__name__])


@jobs.task
def pack(order: int) -> Decimal:
    return Decimal(order) / 4


@jobs.task
def fails() -> None:
    raise ValueError("a secret")


@jobs.task
def works_on() -> None:
    current_attempt().progress(0.5, "half of it")
    time.sleep(60)
