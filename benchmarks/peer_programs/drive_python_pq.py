"""python-pq: ``pq.run_worker()`` in processes of their own, its default for each."""

from __future__ import annotations

import multiprocessing
import os
import time

from pq import PQ  # type: ignore[import-not-found]
from timing import COUNT, SAMPLES, URL, finish, note_time, rate, sample

WORKERS = int(os.environ["PQ_BENCH_WORKERS"])


def noop() -> None:
    """Do nothing."""


def work() -> None:
    """Run a worker."""
    from loguru import logger

    logger.remove()
    PQ(URL).run_worker(poll_interval=float(os.environ.get("PQ_BENCH_POLL", "1")))


def main() -> None:
    """Measure; print."""
    pq = PQ(URL)
    pq.run_db_migrations()
    figures = {"enqueue, one by one": rate(300, lambda: [pq.enqueue(noop) for _ in range(300)])}
    pq.clear_all()
    for _ in range(COUNT):
        pq.enqueue(noop)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    try:
        while pq.pending_count() == COUNT:
            time.sleep(0.002)
        first, began = pq.pending_count(), time.perf_counter()
        while left := pq.pending_count():
            time.sleep(0.02)
        figures["drain"] = (first - left) / (time.perf_counter() - began)
        samples = [sample(lambda place: pq.enqueue(note_time, place)) for _ in range(min(SAMPLES, 20) + 1)][1:]
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    finish(figures, samples)


if __name__ == "__main__":
    main()
