"""What an application writes, checked by mypy --strict and pyright; never run.

Lines that must be refused carry an ignore: both checkers are told to complain about one that is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

import psycopg

from pq_core import (
    PQ,
    AsyncBoundPQ,
    Backoff,
    BoundPQ,
    Call,
    Cancel,
    Priority,
    Retry,
    ScheduleRecord,
    Snooze,
    TaskGroup,
    TaskId,
    TaskOptions,
    call,
    current_attempt,
)

jobs = TaskGroup("billing", queue="billing", defaults=TaskOptions(max_attempts=3))


@jobs.task
def bare(x: int) -> str:
    return str(x)


@jobs.task(
    name="receipt",
    aliases=["billing.mail:send_receipt"],
    version=2,
    priority=Priority.HIGH,
    max_attempts=5,
    retry_on=(OSError,),
    backoff=Backoff(base=2, max=600),
    timeout=30,
    memory_limit=512 * 2**20,
    on_lost="fail",
    on_failure=bare.call(7),
)
def send_receipt(order_id: int, *, copy: bool = False) -> str:
    attempt = current_attempt()
    if attempt.number > 3:
        raise Retry(after=timedelta(minutes=1))
    if copy:
        raise Snooze(60)
    raise Cancel("no")


@send_receipt.upgrade(from_version=1)
def receipt_1(order: str) -> tuple[Sequence[Any], Mapping[str, Any]]:
    return (int(order),), {"copy": True}


@jobs.task
async def fetch(url: str) -> bytes:
    return url.encode()


@jobs.task(name="later", queue="slow")
async def fetch_later(url: str) -> int:
    return len(url)


@jobs.task
def nothing() -> None: ...


@jobs.task(on_failure=nothing)
def handled() -> None: ...


def plain(x: int, y: str = "") -> float:
    return x + len(y)


async def aplain(x: int) -> float:
    return x


pq = PQ()


@pq.task
def small(x: int) -> list[int]:
    return [x]


@pq.task(name="small2", max_attempts=2)
async def small_async(x: int) -> dict[str, int]:
    return {"x": x}


def calls() -> None:
    assert_type(send_receipt(7, copy=True), str)
    assert_type(bare.call(7), Call[str])
    assert_type(send_receipt.call(7, copy=True), Call[str])
    assert_type(fetch.call("u"), Call[bytes])
    assert_type(fetch_later.call("u"), Call[int])
    assert_type(call(plain, 7, y="y"), Call[float])
    assert_type(call(aplain, 7), Call[float])
    assert_type(call(send_receipt, 7), Call[str])
    assert_type(send_receipt.options(run_in=timedelta(1)).call(7), Call[str])
    assert_type(send_receipt.options(priority=1).options(client_id="c").call(7).options(queue="q"), Call[str])
    anything: Call[object] = bare.call(7)
    assert_type(anything.task.name, str)

    send_receipt.call("7")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    send_receipt.call()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    send_receipt.call(7, kopy=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    send_receipt.options(prority=7)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    send_receipt.options(retry_on=(OSError,))  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    send_receipt.options(on_lost="often")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    jobs.task(timeout="30")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


async def awaited() -> None:
    assert_type(await fetch("u"), bytes)
    assert_type(await small_async(7), dict[str, int])
    assert_type(await send_receipt.aenqueue(7), TaskId[str])
    assert_type(await fetch.aenqueue("u"), TaskId[bytes])
    assert_type(await bare.call(7).aenqueue(), TaskId[str])
    assert_type(await bare.options(priority=3).aenqueue(7), TaskId[str])
    assert_type(await pq.aenqueue(fetch.call("u")), TaskId[bytes])
    assert_type(await pq.aenqueue(fetch, "u"), TaskId[bytes])
    assert_type(await pq.aenqueue(send_receipt, 7, run_at=datetime.now(UTC)), TaskId[str])


def enqueued() -> None:
    assert_type(send_receipt.enqueue(7), TaskId[str])
    assert_type(fetch.enqueue("u"), TaskId[bytes])
    assert_type(send_receipt.options(run_at=datetime.now(UTC)).enqueue(7), TaskId[str])
    assert_type(small.call(7).enqueue(), TaskId[list[int]])
    assert_type(pq.enqueue(send_receipt.call(7)), TaskId[str])
    assert_type(pq.enqueue(fetch.call("u")), TaskId[bytes])
    assert_type(pq.enqueue(send_receipt.call(7), client_id="c", on_duplicate="return"), TaskId[str])
    assert_type(pq.enqueue_many(bare.call(i) for i in range(3)), list[TaskId[str]])

    task_id = pq.enqueue(small_async.call(7))
    assert_type(task_id, TaskId[dict[str, int]])
    assert_type(pq.wait(task_id, timeout=10), dict[str, int])
    number: int = task_id
    pq.wait(number)


def flat() -> None:
    """python-pq's form: without options the arguments are checked, with them the result's type is kept."""
    at = datetime.now(UTC)
    assert_type(pq.enqueue(send_receipt, 7), TaskId[str])
    assert_type(pq.enqueue(send_receipt, 7, copy=True), TaskId[str])
    assert_type(pq.enqueue(fetch, "u"), TaskId[bytes])
    assert_type(pq.enqueue(plain, 7), TaskId[float])
    assert_type(pq.enqueue(aplain, 7), TaskId[float])
    assert_type(
        pq.enqueue(send_receipt, 7, run_at=at, priority=Priority.HIGH, client_id="c", max_runtime_seconds=9),
        TaskId[str],
    )
    assert_type(pq.enqueue(fetch, "u", priority=3), TaskId[bytes])
    assert_type(pq.enqueue(plain, 7, priority=3), TaskId[float])
    assert_type(pq.enqueue(aplain, 7, priority=3), TaskId[float])
    assert_type(pq.upsert(send_receipt, 7, client_id="c"), TaskId[str])
    assert_type(pq.upsert(send_receipt.call(7), client_id="c"), TaskId[str])


def in_your_transaction(connection: psycopg.Connection[Any], other: psycopg.AsyncConnection[Any]) -> None:
    assert_type(pq.using(connection), BoundPQ)
    assert_type(pq.using(other), AsyncBoundPQ)
    assert_type(pq.using(connection).enqueue(send_receipt.call(7)), TaskId[str])
    assert_type(pq.using(connection).enqueue(send_receipt, 7, priority=3), TaskId[str])


async def in_your_async_transaction(connection: psycopg.AsyncConnection[Any]) -> None:
    assert_type(await pq.using(connection).aenqueue(send_receipt.call(7)), TaskId[str])


@jobs.periodic(run_every=timedelta(minutes=5), catch_up="skip")
@jobs.task
def refresh(depth: int = 1) -> int:
    return depth


@jobs.periodic(cron="0 9 * * 1", timezone="Europe/Berlin", key="weekly", kwargs={"depth": 2})
def undeclared(depth: int) -> int:
    return depth


async def schedules(connection: psycopg.AsyncConnection[Any]) -> None:
    assert_type(refresh.enqueue(3), TaskId[int])
    assert_type(undeclared.call(3), Call[int])
    assert_type(pq.schedule(refresh.call(2), cron="@daily", timezone="UTC", queue="slow", timeout=3), int)
    assert_type(pq.schedule(refresh, 2, run_every=timedelta(hours=1), key="k", active=False, priority=3), int)
    assert_type(pq.schedule(plain, 7, cron="@daily", max_concurrent=None), int)
    assert_type(await pq.using(connection).aschedule(refresh.call(), run_every=timedelta(hours=1)), int)
    assert_type(pq.list_schedules(active=True), list[ScheduleRecord])
    assert_type(pq.pause_schedule(refresh, key="k"), bool)
    pq.schedule(refresh.call(), crn="@daily")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
