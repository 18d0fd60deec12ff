"""What the demo shows of limits and webhooks: tasks under both, and whether they were held."""

from __future__ import annotations

import importlib.util
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from pq_adapters.cli.demo import tables, tasks
from pq_core.types import Rate, TaskStatus

if TYPE_CHECKING:
    from pq_adapters.cli.demo.receiver import Received
    from pq_core.client import PQ
    from pq_core.tasks import Call
    from pq_core.types import TaskRecord

TENANTS = 4
TURNS = 5
QUEUE = "web"
AT_ONCE = 2
RATE = Rate.parse(tasks.TURNS_RATE)
ALLOWANCE = 0.05
"""Seconds that a start under this rate may come early."""
NOTED = 0.25
"""Seconds after which a start is noted that was allowed, at most: this machine has more to do."""
CALLS = 6
METADATA = "http://169.254.169.254/latest/meta-data"
"""What no task may reach: where clouds keep their machines' credentials."""
WEBHOOK = "pq.webhook"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One run of ``demo.turn``; times are of the machine's monotonic clock, in nanoseconds."""

    tenant: str
    number: int
    began: int
    ended: int


@dataclass(frozen=True, slots=True)
class Calling:
    """Where webhooks go, and what arrived there."""

    address: str
    received: Received


@contextmanager
def called() -> Iterator[Calling | None]:
    """Receive webhooks for the block, and allow workers to send them; None where httpx is not installed."""
    if importlib.util.find_spec("httpx") is None:
        yield None
        return
    from pq_adapters.cli.demo.receiver import receiver

    secret = secrets.token_hex(16)
    with receiver(secret) as (address, received):
        # What an operator says to workers: the receiver is on this machine, which is no public address.
        os.environ["PQ_WEBHOOK_ALLOW"] = address
        os.environ["PQ_WEBHOOK_NETWORKS"] = "127.0.0.1/32"
        os.environ["PQ_WEBHOOK_SECRET_DEMO"] = secret
        yield Calling(address, received)


def calls(run: int, calling: Calling | None) -> list[Call[object]]:
    """Return the tasks under limits: turns of each tenant, and webhooks, one of them to where none may go."""
    found: list[Call[object]] = [
        tasks.turn.options(concurrency_key=f"tenant-{tenant}").call(run, f"tenant-{tenant}", number)
        for number in range(TURNS)
        for tenant in range(TENANTS)
    ]
    if calling is not None:
        webhook = tasks.pq.registry.resolve(WEBHOOK).options(queue=QUEUE)
        url = f"http://{calling.address}/orders"
        found += [webhook.call(url, json={"order": order}, secret="demo") for order in range(CALLS)]
        found.append(webhook.call(METADATA, method="GET"))
    return found


def limit(pq: PQ) -> None:
    """Limit the queue of the webhooks."""
    pq.limit_queue(QUEUE, concurrency=AT_ONCE)


def most_at_once(turns: Sequence[Turn]) -> int:
    """Return how many ran at once at most."""
    # An end before a begin of the same moment: the one may have let the other in.
    changes = sorted([(turn.began, 1) for turn in turns] + [(turn.ended, -1) for turn in turns])
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def turn_problems(turns: Sequence[Turn]) -> list[str]:
    """Return what is wrong with the turns: one at a time for each tenant, in the order in which they were enqueued."""
    problems = []
    for name in (f"tenant-{tenant}" for tenant in range(TENANTS)):
        own = sorted((turn for turn in turns if turn.tenant == name), key=lambda turn: turn.began)
        if (order := [turn.number for turn in own]) != list(range(TURNS)):
            problems.append(f"{name}: its tasks ran in the order {order}")
        if most_at_once(own) > 1:
            problems.append(f"{name}: {most_at_once(own)} of its tasks ran at once")
    return problems


def most_in(starts: Sequence[float], seconds: float) -> int:
    """Return how many starts there were in so many seconds at most."""
    return max((sum(first <= at < first + seconds for at in starts) for first in starts), default=0)


def rate_problems(starts: Sequence[float]) -> list[str]:
    """Return where more tasks started than the rate allows; ``starts`` in seconds."""
    order = sorted(starts)
    for low, first in enumerate(order):
        for high in range(low + 1, len(order)):
            span = order[high] - first
            if high - low + 1 > (span + ALLOWANCE + NOTED) * RATE.count / RATE.seconds + 1 + 1e-6:
                return [f"demo.turn: {high - low + 1} starts within {span:.3f} s, at a rate of {RATE}"]
    return []


def call_problems(received: Received, found: Sequence[TaskRecord]) -> list[str]:
    """Return what is wrong with the webhooks: how each ended, and what arrived of them."""
    problems = [f"webhook: {problem}" for problem in received.problems]
    for task in found:
        refused = task.payload["args"][0] == METADATA
        status = TaskStatus.FAILED if refused else TaskStatus.COMPLETED
        if task.status is not status or (refused and "WebhookRefused" not in (task.error or "")):
            problems.append(f"task {task.id}, {WEBHOOK}: {task.status}, not {status}: {task.error}")
    if len(found) != CALLS + 1:
        problems.append(f"there are {len(found)} webhooks, not {CALLS + 1}")
    if sorted(received.keys) != list(range(CALLS)):
        problems.append(f"webhooks arrived for the orders {sorted(received.keys)}, not for {CALLS}")
    if received.most > AT_ONCE:
        problems.append(f"queue {QUEUE}: {received.most} calls at once, not {AT_ONCE} at most")
    if any(len(set(keys)) != 1 for keys in received.keys.values()):
        problems.append("a webhook that was tried again came with another idempotency key")
    if len(received.waits) != 1 or min(received.waits) < 1.0:
        problems.append(f"who was told to wait for a second came back after {received.waits}")
    return problems


def tell(
    pq: PQ, connection: tables.Connection, run: int, found: Sequence[TaskRecord], calling: Calling | None
) -> list[str]:
    """Print how the limits were held; return everything that was not as it has to be."""
    turns = [Turn(tenant=t, number=n, began=b, ended=e) for t, n, b, e in tables.turns(connection, pq.schema, run)]
    starts = tables.starts(connection, pq.schema, "demo.turn")
    problems = turn_problems(turns) + rate_problems(starts)
    click.echo(
        f"limits: {TENANTS} keys with {TURNS} tasks each, a key's one at a time and in order, all of them at {RATE}: "
        f"at most {most_at_once(turns)} at once over all keys, {most_in(starts, 1)} starts in a second"
    )
    if calling is None:
        click.echo("webhooks: left out, httpx is not installed (pip install 'pq-toolkit[webhook]')")
        return problems
    received = calling.received
    problems += call_problems(received, [task for task in found if task.name == WEBHOOK])
    click.echo(
        f"webhooks: {CALLS} orders for {calling.address}, signed, in a queue limited to {AT_ONCE} at once: "
        f"at most {received.most} at once"
    )
    waits = f"{received.waits[0]:.1f} s" if received.waits else "never"
    click.echo(f"  one was told 429 and to come back in a second: it came after {waits}; {METADATA} was refused")
    return problems
