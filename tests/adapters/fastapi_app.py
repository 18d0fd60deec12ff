"""An application with routes of every kind, for the tests of the FastAPI adapter; served by uvicorn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import psycopg
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from pq_adapters.fastapi import DepPQ, lifespan, task_router, transaction, using
from pq_adapters.sqlalchemy import engine_url
from pq_core import AsyncBoundPQ, BoundPQ, TaskRecord
from tests.adapters.fastapi_tasks import create_pq, pack

INSERT = text("INSERT INTO orders VALUES (:order)")

engine = create_engine(engine_url(driver="psycopg2"))
async_engine = create_async_engine(engine_url(driver="asyncpg"))
Sessions = async_sessionmaker(async_engine)


async def late_session() -> AsyncIterator[AsyncSession]:
    """As many write it: this commit comes after the response."""
    async with Sessions.begin() as session:
        yield session


async def own_connection(pq: DepPQ) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with pq.asession() as connection:
        yield connection


DepSession = Annotated[Session, transaction(sessionmaker(engine).begin)]
DepTasks = Annotated[BoundPQ, using(DepSession)]
DepAsyncSession = Annotated[AsyncSession, transaction(Sessions.begin)]
DepAsyncTasks = Annotated[AsyncBoundPQ, using(DepAsyncSession)]
DepLateSession = Annotated[AsyncSession, Depends(late_session)]
DepLateTasks = Annotated[AsyncBoundPQ, using(late_session)]
DepOwnTasks = Annotated[AsyncBoundPQ, using(Depends(own_connection, scope="function"))]

routes = APIRouter()


@routes.get("/shop")
async def shop(request: Request) -> str:
    return str(request.state.shop)


@routes.post("/plain/{order}", status_code=202)
def plain(order: int, pq: DepPQ) -> int:
    return pq.enqueue(pack.call(order))


@routes.post("/async-plain/{order}", status_code=202)
async def async_plain(order: int, pq: DepPQ) -> int:
    return await pq.aenqueue(pack.call(order))


@routes.post("/orders/{order}", status_code=202)
def place(order: int, session: DepSession, tasks: DepTasks, refuse: bool = False) -> int:
    session.execute(INSERT, {"order": order})
    task_id = tasks.enqueue(pack.call(order))
    if refuse:
        raise HTTPException(418)
    return task_id


@routes.post("/async-orders/{order}", status_code=202)
async def async_place(order: int, session: DepAsyncSession, tasks: DepAsyncTasks, refuse: bool = False) -> int:
    await session.execute(INSERT, {"order": order})
    task_id = await tasks.aenqueue(pack.call(order))
    if refuse:
        raise HTTPException(418)
    return task_id


@routes.post("/late-orders/{order}", status_code=202)
async def late_place(order: int, session: DepLateSession, tasks: DepLateTasks) -> int:
    await session.execute(INSERT, {"order": order})
    return await tasks.aenqueue(pack.call(order))


@routes.post("/own-orders/{order}", status_code=202)
async def own_place(order: int, tasks: DepOwnTasks) -> int:
    return await tasks.aenqueue(pack.call(order))


async def is_mine(request: Request, record: TaskRecord) -> bool:
    return record.client_id == request.headers.get("user")


@asynccontextmanager
async def own_lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
    yield {"shop": "tea"}
    engine.dispose()
    await async_engine.dispose()


app = FastAPI(lifespan=lifespan(create_pq, own_lifespan))
app.include_router(routes)
app.include_router(task_router())
app.include_router(task_router(prefix="/mine", visible=is_mine, show_error=True, show_result=False))
mounted = FastAPI()
mounted.include_router(routes)
app.mount("/mounted", mounted)
