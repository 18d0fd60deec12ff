"""Tasks that use engines, for the tests of the SQLAlchemy adapter; a worker that imports it has used them itself."""

from __future__ import annotations

import asyncio
import os

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from pq_adapters.sqlalchemy import engine_url
from pq_core import PQ, AttemptOutcome, Backoff, ClaimedTask, Role, TaskGroup, current_attempt, role

jobs = TaskGroup(prefix="sa")
AT_ONCE = Backoff(base=0, jitter=0)
SYNC = ("psycopg", "psycopg2")
ASYNC = ("psycopg_async", "asyncpg")
BACKEND = text("SELECT pg_backend_pid()")
EFFECT = text("INSERT INTO effects VALUES (:task, :fence)")

engines: dict[str, Engine] = {}
async_engines: dict[str, AsyncEngine] = {}
backends: dict[str, int] = {}
"""The server processes of the pooled connections that the worker's image opened, by driver."""


def backend(driver: str) -> int:
    """Use an engine, and return the server process that answered."""
    with engines[driver].connect() as connection:
        return int(connection.execute(BACKEND).scalar_one())


async def abackend(driver: str) -> int:
    """Use an async engine, and return the server process that answered."""
    async with async_engines[driver].connect() as connection:
        return int((await connection.execute(BACKEND)).scalar_one())


if role() is Role.WORKER:
    # One pooled connection each, which every child inherits.
    engines.update({driver: create_engine(engine_url(driver=driver)) for driver in SYNC})
    async_engines.update({driver: create_async_engine(engine_url(driver=driver)) for driver in ASYNC})
    if os.environ.get("TEST_USE_IN_IMAGE"):
        backends.update({driver: backend(driver) for driver in SYNC})
        backends.update({driver: asyncio.run(abackend(driver)) for driver in ASYNC})


class UsesEngineInWorker:
    """Notes after every task which server process the worker's own use of each engine meets."""

    def pq_post_task(self, task: ClaimedTask, outcome: AttemptOutcome) -> None:
        for driver in SYNC:
            print(f"worker on {driver}: {backend(driver) == backends[driver]}", flush=True)


def create_pq() -> PQ:
    """The application; the database comes from PQ_DATABASE_URL."""
    plugins: list[object] = []
    if os.environ.get("TEST_USE_IN_IMAGE"):
        plugins.append(UsesEngineInWorker())
    pq = PQ(tasks=[__name__], plugins=plugins)
    if os.environ.get("TEST_BLOCK"):
        pq.plugins.block(os.environ["TEST_BLOCK"])
    return pq


@jobs.task
def uses_engine(driver: str) -> list[bool]:
    """Say whether two uses had the same connection, and whether that was the worker's."""
    first, second = backend(driver), backend(driver)
    return [first == second, first == backends.get(driver)]


@jobs.task
async def uses_async_engine(driver: str) -> list[bool]:
    """Do what ``uses_engine`` does."""
    first, second = await abackend(driver), await abackend(driver)
    return [first == second, first == backends.get(driver)]


@jobs.task(max_attempts=2, backoff=AT_ONCE)
def completes(driver: str) -> None:
    """Write and complete in one transaction; the first attempt dies between the two and the commit."""
    attempt = current_attempt()
    with Session(engines[driver]) as session, session.begin():
        session.execute(EFFECT, {"task": attempt.id, "fence": attempt.fence})
        attempt.complete(session, result="by complete")
        if attempt.number == 1:
            raise ValueError("before the commit")
    raise ValueError("after the commit")


@jobs.task(max_attempts=2, backoff=AT_ONCE)
async def acompletes(driver: str) -> None:
    """Do what ``completes`` does."""
    attempt = current_attempt()
    async with AsyncSession(async_engines[driver]) as session, session.begin():
        await session.execute(EFFECT, {"task": attempt.id, "fence": attempt.fence})
        await attempt.acomplete(session, result="by complete")
        if attempt.number == 1:
            raise ValueError("before the commit")
    raise ValueError("after the commit")
