"""An application for the browser to look at: a shop whose tasks mostly behave."""

from __future__ import annotations

import ctypes
import os
import random
import time
from datetime import timedelta
from pathlib import Path

from pq_core import PQ, Backoff, TaskGroup, current_attempt

mail = TaskGroup(prefix="mail", queue="mail")
shop = TaskGroup(prefix="shop")
media = TaskGroup(prefix="media", queue="media")
reports = TaskGroup(prefix="reports", queue="reports")

SOON = Backoff(base=30, jitter=0)


WORD = "word".ljust(60, "x")


class CardDeclined(Exception):
    """The bank says no."""


class MailboxFull(Exception):
    """Nobody reads their mail."""


def create_pq() -> PQ:
    """The application of the worker and of the dashboard; the database comes from PQ_DATABASE_URL."""
    return PQ(tasks=[__name__, "pq_adapters.webhook"], app="shop")


@mail.task
def send_receipt(order_id: int, *, copy: bool = False) -> str:
    time.sleep(random.uniform(0.005, 0.06))
    return f"sent {order_id}"


@mail.task(max_attempts=3, backoff=SOON)
def send_newsletter(customer: int) -> None:
    time.sleep(random.uniform(0.005, 0.03))
    if customer % 4 == 0:
        raise MailboxFull(f"mailbox of customer {customer} is full")


@shop.task
def charge_card(order_id: int, amount: str) -> str:
    """Fail until the file says that the bank is open."""
    print(f"charging {amount} for order {order_id}")
    time.sleep(random.uniform(0.01, 0.05))
    bank = os.environ.get("SHOP_BANK")
    if bank is None or not Path(bank).exists():
        raise CardDeclined(f"order {order_id}: the bank does not answer")
    return "charged"


@shop.task(name="settle".ljust(55, "x"))
def settle(town: str, **words: str) -> None:
    """Have a name of 60 characters, and fail if that is asked for."""
    if town.startswith("fails"):
        raise CardDeclined(f"{town}: {words}")


@shop.task
def sync_stock(warehouse: str) -> int:
    time.sleep(random.uniform(0.05, 0.2))
    return len(warehouse)


@media.task(memory_limit=64 * 2**20)
def resize_image(path: str, *, width: int = 800) -> str:
    time.sleep(random.uniform(0.02, 0.15))
    if "broken" in path:
        ctypes.string_at(0)
    if "huge" in path:
        return str(len(bytearray(b"x") * 2**30))
    return f"{path}@{width}"


@media.task
def transcode(path: str, *, seconds: float) -> str:
    """Take its time, and say how far it is."""
    attempt = current_attempt()
    steps = max(int(seconds * 5), 1)
    for step in range(steps):
        attempt.progress(step / steps, f"frame {step * 250:,} of {steps * 250:,}")
        if step % 10 == 0:
            print(f"{path}: pass {step // 10 + 1}", flush=True)
        time.sleep(seconds / steps)
    return f"{path}.mp4"


@reports.periodic(cron="*/5 * * * *", timezone="Europe/Berlin", key="eu", kwargs={"region": "eu"})
@reports.task(timeout=30)
def sales(region: str) -> int:
    time.sleep(0.05)
    return len(region)


@reports.periodic(run_every=timedelta(hours=6), key="nightly")
@reports.task(timeout=2)
def cleanup() -> None:
    time.sleep(0.02)
