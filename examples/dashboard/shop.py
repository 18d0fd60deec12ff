"""A FastAPI application with the dashboard inside it, behind its own login: `uvicorn shop:app`, `pq worker shop:pq`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request

from pq_adapters.dashboard import Principal, Role, create_app
from pq_core import PQ, TaskGroup

jobs = TaskGroup("shop")
pq = PQ(app="shop")  # the database of PQ_DATABASE_URL, else DATABASE_URL
pq.include(jobs)

STAFF = {"ada-token": ("ada", Role.ADMIN), "bob-token": ("bob", Role.VIEWER)}
"""Stands for the shop's own users and sessions."""


@jobs.task
def pack(order_id: int) -> str:
    """Pack an order."""
    return f"order {order_id} is packed"


def staff(request: Request) -> Principal | None:
    """Return who asks, for the dashboard; None sends them away."""
    known = STAFF.get(request.headers.get("x-shop-token", ""))
    return None if known is None else Principal(name=known[0], role=known[1])


def current_user(user: Annotated[Principal | None, Depends(staff)]) -> Principal:
    """The same function, as a dependency of the shop's own routes."""
    if user is None:
        raise HTTPException(401, "staff only")
    return user


app = FastAPI()
# A mounted application's lifespan never runs, and this one needs none.
app.mount("/ops/tasks", create_app(pq, auth=staff, title="shop tasks"))


@app.post("/orders/{order_id}/pack", status_code=202)
async def order_pack(order_id: int, user: Annotated[Principal, Depends(current_user)]) -> dict[str, int]:
    """Enqueue a task as the shop does it: not through the dashboard."""
    return {"task": await pq.aenqueue(pack.call(order_id))}
