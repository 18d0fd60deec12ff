"""What an application with SQLAlchemy or SQLModel writes, checked by mypy --strict and pyright; never run."""

# pyright: strict
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_type

import sqlmodel
from sqlalchemy import URL, Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session
from sqlmodel.ext.asyncio.session import AsyncSession as AsyncModelSession

from pq_adapters.sqlalchemy import SafeEngines, engine_url, exclude_pq_tables
from pq_core import PQ, AsyncBoundPQ, BoundPQ, TaskGroup, TaskId, current_attempt

jobs = TaskGroup()
pq = PQ(plugins=[SafeEngines()])
url: URL = engine_url(driver="asyncpg")
alembic: dict[str, Any] = {"include_name": exclude_pq_tables}


def mine(name: str | None, kind: str, parents: Mapping[str, str | None]) -> bool:
    return exclude_pq_tables(name, kind, parents)


@jobs.task
def pack(order: int) -> str:
    return str(order)


def sync(
    session: Session,
    scoped: scoped_session[Session],
    connection: Connection,
    model_session: sqlmodel.Session,
) -> None:
    assert_type(pq.using(session), BoundPQ)
    assert_type(pq.using(scoped), BoundPQ)
    assert_type(pq.using(connection), BoundPQ)
    assert_type(pq.using(model_session), BoundPQ)
    assert_type(pq.using(session).enqueue(pack.call(7)), TaskId[str])
    assert_type(pq.using(session).enqueue_many([pack.call(7)]), list[TaskId[str]])
    current_attempt().complete(session)


async def asynchronous(
    session: AsyncSession,
    scoped: async_scoped_session[AsyncSession],
    connection: AsyncConnection,
    model_session: AsyncModelSession,
) -> None:
    assert_type(pq.using(session), AsyncBoundPQ)
    assert_type(pq.using(scoped), AsyncBoundPQ)
    assert_type(pq.using(connection), AsyncBoundPQ)
    assert_type(pq.using(model_session), AsyncBoundPQ)
    assert_type(await pq.using(session).aenqueue(pack.call(7)), TaskId[str])
    await current_attempt().acomplete(session)
    pq.using(session).enqueue(pack.call(7))  # type: ignore[attr-defined]  # pyright: ignore
