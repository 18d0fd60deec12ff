"""What a FastAPI application writes, checked by mypy --strict and pyright; never run."""

# pyright: strict
from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, assert_type

import psycopg
from fastapi import Depends, FastAPI
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from pq_adapters.fastapi import DepPQ, TaskState, get_pq, lifespan, task_router, transaction, using
from pq_core import PQ, AsyncBoundPQ, BoundPQ, TaskGroup, TaskId

jobs = TaskGroup()
pq = PQ()


@jobs.task
def pack(order: int) -> str:
    return str(order)


async def own_session() -> AsyncIterator[AsyncSession]:
    async with AsyncSession() as session, session.begin():
        yield session


DepAsyncSession = Annotated[AsyncSession, transaction(async_sessionmaker(create_async_engine("postgresql://")).begin)]
DepAsyncTasks = Annotated[AsyncBoundPQ, using(DepAsyncSession)]
DepSession = Annotated[Session, transaction(sessionmaker(create_engine("postgresql://")).begin)]
DepTasks = Annotated[BoundPQ, using(DepSession)]
DepOwn = Annotated[AsyncBoundPQ, using(Depends(own_session, scope="function"))]
DepConnection = Annotated[psycopg.Connection[Any], transaction(pq.session)]
DepAsyncConnection = Annotated[psycopg.AsyncConnection[Any], transaction(pq.asession)]


@asynccontextmanager
async def inner(app: FastAPI) -> AsyncGenerator[dict[str, Any], None]:
    yield {"a": 1}


@asynccontextmanager
async def outer(app: FastAPI) -> AsyncGenerator[Any, None]:
    async with lifespan(pq)(app) as state:
        yield state


def create_pq() -> PQ:
    return pq


app = FastAPI(lifespan=lifespan(create_pq, inner))
other = FastAPI(lifespan=outer)
app.include_router(task_router(visible=lambda request, task: task.client_id == request.headers.get("user")))


@app.post("/orders")
async def place(session: DepAsyncSession, tasks: DepAsyncTasks, client: DepPQ) -> int:
    assert_type(session, AsyncSession)
    assert_type(tasks, AsyncBoundPQ)
    assert_type(client, PQ)
    assert_type(await tasks.aenqueue(pack.call(7)), TaskId[str])
    return await client.aenqueue(pack.call(7))


@app.post("/sync-orders")
def place_sync(session: DepSession, tasks: DepTasks) -> int:
    assert_type(session, Session)
    return tasks.enqueue(pack.call(7))


def state(shown: TaskState, client: Annotated[PQ, Depends(get_pq)]) -> str:
    return shown.status.value
