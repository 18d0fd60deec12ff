"""A shop: its own table, its tasks, its PQ."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from pq_core import PQ, Backoff, Retry, TaskGroup, current_attempt

jobs = TaskGroup("shop", queue="shop")

pq = PQ(app="shop")  # the database of PQ_DATABASE_URL, else DATABASE_URL
pq.include(jobs)


@dataclass(frozen=True)
class Item:
    """One line of an order."""

    name: str
    price: Decimal
    count: int = 1


@jobs.task(max_attempts=3, backoff=Backoff(base=0.1), timeout=10)
def bill(order: int, items: list[Item]) -> Decimal:
    """Add the order up, and write the bill in one transaction with the end of this task.

    Were the process killed right after the commit, the task would be completed; right before it, neither the bill nor
    the completion would be there, and the task would run again.
    """
    total = sum((item.price * item.count for item in items), Decimal(0))
    with pq.session() as connection:
        connection.execute("UPDATE orders SET total = %s WHERE id = %s", (total, order))
        pq.using(connection).enqueue(pack.call(order))
        current_attempt().complete(connection, result=total)
    return total


@jobs.task(max_attempts=3)
def pack(order: int) -> str:
    """Pack the order; the first try finds the packer at lunch."""
    attempt = current_attempt()
    if attempt.number == 1:
        raise Retry("the packer is at lunch", after=0.1)
    attempt.progress(0.5, "taping the box")
    with pq.session() as connection:
        connection.execute("UPDATE orders SET packed = true WHERE id = %s", (order,))
    return f"order {order} packed at attempt {attempt.number}"


@jobs.task(name="crash")
def crash() -> None:
    """Die of a signal, as a broken C library would: this process, and nothing else."""
    import ctypes

    ctypes.string_at(0)
