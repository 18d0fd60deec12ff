"""What a Django project writes, checked by mypy --strict; never run. Django has no types: what comes of it is Any."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, assert_type

from django.db import connections, transaction

from pq_adapters.django import DjangoExecutor, DjangoPQ, database, executor_for, pq
from pq_core import PQ, TaskGroup, TaskId, TaskRecord

jobs = TaskGroup("shop")
DATABASES = {"default": database("postgresql://localhost/shop", CONN_MAX_AGE=60)}


@jobs.task(max_attempts=3)
def send_receipt(order: int, *, copy: bool = False) -> str:
    return f"{order} {copy}"


@pq.task
def tidy() -> None: ...


def place(order: int) -> None:
    with transaction.atomic():
        task = pq.enqueue(send_receipt.call(order, copy=True), run_in=timedelta(hours=1))
        assert_type(task, TaskId[str])
        assert_type(pq.enqueue_many([send_receipt.call(order)]), list[TaskId[str]])
        assert_type(tidy.enqueue(), TaskId[None])
    assert_type(pq.get_task(task), TaskRecord | None)
    assert_type(pq, DjangoPQ)
    plain: PQ = pq
    plain.cancel(task, reason="not needed")
    assert_type(DATABASES["default"], dict[str, Any])
    assert_type(executor_for(connections["default"]), DjangoExecutor | None)
    pq.enqueue(send_receipt.call("seven"))  # type: ignore[arg-type]
    send_receipt.enqueue()  # type: ignore[call-arg]


async def aplace(order: int) -> None:
    assert_type(await pq.aenqueue(send_receipt.call(order)), TaskId[str])
