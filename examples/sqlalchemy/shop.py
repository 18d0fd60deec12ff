"""A shop on SQLAlchemy: its tables, its tasks, its PQ."""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from pq_adapters.sqlalchemy import SafeEngines, engine_url
from pq_core import PQ, TaskGroup, current_attempt

jobs = TaskGroup("shop")

pq = PQ(app="shop", plugins=[SafeEngines()])  # the database of PQ_DATABASE_URL, else DATABASE_URL
pq.include(jobs)

engine = create_engine(engine_url())  # the same database
async_engine = create_async_engine(engine_url(driver="asyncpg"))


class Base(DeclarativeBase):
    """The tables of the shop; pq's are not among them."""


class Order(Base):
    """What somebody wants."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    price: Mapped[Decimal]
    state: Mapped[str] = mapped_column(default="new")


def place_order(session: Session, item: str, price: Decimal) -> int:
    """Add an order and its task to the session's transaction."""
    order = Order(item=item, price=price)
    session.add(order)
    session.flush()  # the id comes from the database
    return pq.using(session).enqueue(bill.call(order.id))


@jobs.task(max_attempts=3)
def bill(order_id: int) -> Decimal:
    """Bill an order: its new state, the task that follows and the end of this one are one transaction."""
    with Session(engine) as session, session.begin():
        order = session.get_one(Order, order_id)
        order.state = "billed"
        pq.using(session).enqueue(pack.call(order_id))
        current_attempt().complete(session, result=order.price)
        return order.price


@jobs.task(max_attempts=3)
async def pack(order_id: int) -> str:
    """Pack an order, by an async session."""
    async with AsyncSession(async_engine) as session, session.begin():
        order = await session.get_one(Order, order_id)
        order.state = "packed"
        return f"{order.item} packed"
