"""Procrastinate under failures: ``run_worker()`` with its defaults, and the task that its documentation advises.

That is a periodic one which retries what workers without a sign of life (for 30 s) had begun. Its documentation shows
it with every tenth minute; here it is every minute, the shortest that five fields of cron can say.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import marks  # type: ignore[import-not-found]
import procrastinate  # type: ignore[import-not-found]
import psycopg

DSN = os.environ["PQ_BENCH_DSN"]


def an_app(connector: object) -> procrastinate.App:
    """Return an app with the two tasks."""
    app = procrastinate.App(connector=connector)

    @app.task(name="step")
    async def step(key: str, seconds: float) -> None:
        with marks.marked(key):
            await asyncio.sleep(seconds)

    @app.periodic(cron="* * * * *")
    @app.task(name="retry_stalled", queueing_lock="retry_stalled", pass_context=True)
    async def retry_stalled(context: Any, timestamp: int) -> None:
        for job in await app.job_manager.get_stalled_jobs():
            await app.job_manager.retry_job(job)

    return app


def enqueue(seconds: str, *keys: str) -> None:
    """Make the tables and the tasks."""
    with an_app(procrastinate.SyncPsycopgConnector(conninfo=DSN)).open() as app:
        app.schema_manager.apply_schema()
        app.tasks["step"].batch_defer(*({"key": key, "seconds": float(seconds)} for key in keys))


def transactions(seconds: str, *keys: str) -> None:
    """Insert a row and enqueue, in one transaction each, and roll every other one back."""
    with (
        an_app(procrastinate.SyncPsycopgConnector(conninfo=DSN)).open() as app,
        psycopg.connect(DSN) as connection,
    ):
        app.schema_manager.apply_schema()
        for number, key in enumerate(keys):
            connection.execute("INSERT INTO orders VALUES (%s)", (key,))
            app.tasks["step"].configure(connection=connection).defer(key=key, seconds=float(seconds))
            if number % 2:
                connection.rollback()
            else:
                connection.commit()


def work() -> None:
    """Run a worker."""
    an_app(procrastinate.PsycopgConnector(conninfo=DSN)).run_worker(concurrency=marks.CONCURRENCY)


if __name__ == "__main__":
    marks.main(enqueue=enqueue, transactions=transactions, work=work)
