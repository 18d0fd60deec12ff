"""Ours under failures: ``pq worker`` with its defaults, but for the concurrency that all have."""

from __future__ import annotations

import os
import sys

import marks  # type: ignore[import-not-found]
import psycopg

from pq_core import PQ

pq = PQ(app="failures")


@pq.task(name="step")
def step(key: str, seconds: float) -> None:
    """Take a while."""
    marks.step(key, seconds)


def enqueue(seconds: str, *keys: str) -> None:
    """Make the tables and the tasks."""
    pq.create_tables()
    pq.enqueue_many(step.call(key, float(seconds)) for key in keys)


def transactions(seconds: str, *keys: str) -> None:
    """Insert a row and enqueue, in one transaction each, and roll every other one back."""
    pq.create_tables()
    with psycopg.connect(os.environ["PQ_BENCH_DSN"]) as connection:
        for number, key in enumerate(keys):
            connection.execute("INSERT INTO orders VALUES (%s)", (key,))
            pq.using(connection).enqueue(step.call(key, float(seconds)))
            if number % 2:
                connection.rollback()
            else:
                connection.commit()


def work() -> None:
    """Become the worker."""
    options = ("fail_pq_toolkit:pq", "--concurrency", str(marks.CONCURRENCY))
    os.execv(sys.executable, [sys.executable, "-m", "pq_core", "worker", *options])


if __name__ == "__main__":
    marks.main(enqueue=enqueue, transactions=transactions, work=work)
