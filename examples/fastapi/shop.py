"""A shop on FastAPI, with SQLAlchemy's async sessions on asyncpg: `uvicorn shop:app`, `pq worker shop:pq`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Annotated

from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pq_adapters.fastapi import lifespan, task_router, transaction, using
from pq_adapters.sqlalchemy import SafeEngines, engine_url
from pq_core import PQ, AsyncBoundPQ, TaskGroup, current_attempt

jobs = TaskGroup("shop")
pq = PQ(app="shop", plugins=[SafeEngines()])  # the database of PQ_DATABASE_URL, else DATABASE_URL
pq.include(jobs)

engine = create_async_engine(engine_url(driver="asyncpg"))
Sessions = async_sessionmaker(engine)


class Base(DeclarativeBase):
    """The tables of the shop."""


class Order(Base):
    """What somebody wants."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    price: Mapped[Decimal]
    billed: Mapped[bool] = mapped_column(default=False)


@jobs.task(max_attempts=3)
async def bill(order_id: int) -> Decimal:
    """Bill the order, and end the task with it."""
    async with Sessions.begin() as session:
        order = await session.get_one(Order, order_id)
        order.billed = True
        await current_attempt().acomplete(session, result=order.price)
        return order.price


@asynccontextmanager
async def create_tables(app: FastAPI) -> AsyncIterator[None]:
    """Stand for the shop's own start and end."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


DepSession = Annotated[AsyncSession, transaction(Sessions.begin)]
DepTasks = Annotated[AsyncBoundPQ, using(DepSession)]

app = FastAPI(lifespan=lifespan(pq, create_tables))
app.include_router(task_router())


class NewOrder(BaseModel):
    """The body of a request."""

    item: str
    price: Decimal


@app.post("/orders", status_code=202)
async def place(new: NewOrder, request: Request, response: Response, session: DepSession, tasks: DepTasks) -> str:
    """Store the order and its task, both or neither, before the answer is sent."""
    order = Order(item=new.item, price=new.price)
    session.add(order)
    await session.flush()  # the id comes from the database
    task_id = await tasks.aenqueue(bill.call(order.id))
    if new.item == "coffee":
        raise HTTPException(409, "tea only")
    response.headers["Location"] = str(request.url_for("pq_task", task_id=task_id))
    return f"order {order.id}"
