"""Procrastinate: ``app.run_worker_async()`` in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import time

import procrastinate  # type: ignore[import-not-found]
from timing import COUNT, DSN, SAMPLES, finish, note_time, rate, sample

CONCURRENCY = int(os.environ.get("PQ_BENCH_CONCURRENCY", "30"))


def an_app(connector: object) -> procrastinate.App:
    """Return an app with the two tasks."""
    app = procrastinate.App(connector=connector)

    @app.task(name="noop")
    async def noop() -> None:
        """Do nothing."""

    @app.task(name="note")
    async def note(place: str) -> None:
        note_time(place)

    return app


def work(wait: bool) -> None:
    """Run a worker, until the queue is empty or for ever."""
    an_app(procrastinate.PsycopgConnector(conninfo=DSN)).run_worker(wait=wait, concurrency=CONCURRENCY)


def main() -> None:
    """Measure; print."""
    context = multiprocessing.get_context("spawn")
    with an_app(procrastinate.SyncPsycopgConnector(conninfo=DSN)).open() as app:
        app.schema_manager.apply_schema()
        noop, note = app.tasks["noop"], app.tasks["note"]
        figures = {
            "enqueue, one by one": rate(300, lambda: [noop.defer() for _ in range(300)]),
            "enqueue, bulk": rate(5000, lambda: noop.batch_defer(*({} for _ in range(5000)))),
        }
        app.connector.execute_query("TRUNCATE procrastinate_jobs CASCADE")
        noop.batch_defer(*({} for _ in range(COUNT)))
        worker = context.Process(target=work, args=(False,))
        worker.start()
        worker.join()
        times = app.connector.execute_query_one(
            "SELECT count(*) - 1 AS n, extract(epoch FROM max(at) - min(at))::float8 AS seconds"
            " FROM procrastinate_events WHERE type = 'succeeded'"
        )
        figures["drain"] = times["n"] / times["seconds"]
        worker = context.Process(target=work, args=(True,))
        worker.start()
        time.sleep(2)
        try:
            samples = [sample(lambda place: note.defer(place=place)) for _ in range(SAMPLES + 3)][3:]
        finally:
            worker.kill()
            worker.join()
    finish(figures, samples)


if __name__ == "__main__":
    main()
