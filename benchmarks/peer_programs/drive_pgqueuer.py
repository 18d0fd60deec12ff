"""PgQueuer: ``PgQueuer.run()`` in a process of its own or two, in batches of 100."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from datetime import timedelta

import asyncpg
import psycopg
from pgqueuer import PgQueuer  # type: ignore[import-not-found]
from pgqueuer.db import AsyncpgDriver, PsycopgDriver, SyncPsycopgDriver  # type: ignore[import-not-found]
from pgqueuer.queries import Queries, SyncQueries  # type: ignore[import-not-found]
from pgqueuer.types import QueueExecutionMode  # type: ignore[import-not-found]
from timing import COUNT, DSN, SAMPLES, URL, finish, note_time, rate, sample

BATCH = int(os.environ.get("PQ_BENCH_BATCH", "100"))
WORKERS = int(os.environ.get("PQ_BENCH_WORKERS", "1"))


async def run(mode: QueueExecutionMode) -> None:
    """Run a worker."""
    pgq = PgQueuer(AsyncpgDriver(await asyncpg.connect(URL)))

    @pgq.entrypoint("noop")
    async def noop(job: object) -> None:
        """Do nothing."""

    @pgq.entrypoint("note")
    async def note(job: object) -> None:
        note_time(job.payload.decode())  # type: ignore[attr-defined]

    await pgq.run(batch_size=BATCH, mode=mode, dequeue_timeout=timedelta(seconds=5))


def work(mode: str) -> None:
    """Run a worker in this process."""
    asyncio.run(run(QueueExecutionMode[mode]))


async def install() -> None:
    """Make the tables."""
    connection = await psycopg.AsyncConnection.connect(DSN, autocommit=True)
    await Queries(PsycopgDriver(connection)).install()
    await connection.close()


def main() -> None:
    """Measure; print."""
    asyncio.run(install())
    context = multiprocessing.get_context("spawn")
    with psycopg.connect(DSN, autocommit=True) as connection:
        queries = SyncQueries(SyncPsycopgDriver(connection))
        figures = {
            "enqueue, one by one": rate(300, lambda: [queries.enqueue("noop", None) for _ in range(300)]),
            "enqueue, bulk": rate(10_000, lambda: queries.enqueue(["noop"] * 10_000, [None] * 10_000, [0] * 10_000)),
        }
        connection.execute("TRUNCATE pgqueuer, pgqueuer_log")
        queries.enqueue(["noop"] * COUNT, [None] * COUNT, [0] * COUNT)
        workers = [context.Process(target=work, args=("drain",)) for _ in range(WORKERS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        row = connection.execute(
            "SELECT count(*) FILTER (WHERE created > began), extract(epoch FROM max(created) - min(began))::float8"
            " FROM (SELECT created, min(created) OVER () AS began FROM pgqueuer_log WHERE status = 'successful') l"
        ).fetchone()
        assert row is not None
        # A batch is logged at once, with one time: the first one only says when counting begins.
        figures["drain"] = row[0] / row[1]
        worker = context.Process(target=work, args=("continuous",))
        worker.start()
        time.sleep(2)
        try:
            samples = [sample(lambda place: queries.enqueue("note", place.encode())) for _ in range(SAMPLES + 3)][3:]
        finally:
            worker.kill()
            worker.join()
    finish(figures, samples)


if __name__ == "__main__":
    main()
