"""python-pq under failures: ``run_worker()`` with its defaults, but for the concurrency that all have."""

from __future__ import annotations

import os

import marks  # type: ignore[import-not-found]
from pq import PQ  # type: ignore[import-not-found]

URL = os.environ["PQ_BENCH_URL"]


def enqueue(seconds: str, *keys: str) -> None:
    """Make the tables and the tasks."""
    pq = PQ(URL)
    pq.run_db_migrations()
    for key in keys:
        pq.enqueue(marks.step, key, float(seconds))


def work() -> None:
    """Run a worker."""
    PQ(URL).run_worker(concurrency=marks.CONCURRENCY)


if __name__ == "__main__":
    marks.main(enqueue=enqueue, work=work)
