"""``pq queues``: what waits where, pausing, resuming and limiting, how long finished tasks stay."""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING, Any

import click

from pq_adapters.cli.application import ListsByDefault, database_command, json_option
from pq_adapters.cli.mistakes import NEGATIVE
from pq_adapters.cli.output import print_json, print_table, when
from pq_adapters.cli.parameters import duration
from pq_core.retention import Keep
from pq_core.types import Rate

if TYPE_CHECKING:
    from pq_core.client import PQ
    from pq_core.operating import QueueRecord


class _RateType(click.ParamType):  # type: ignore[type-arg]  # generic in some releases only
    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Rate:
        try:
            return Rate.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


RATE = _RateType()


def keep(text: str) -> Keep:
    """Return a time like ``7d``, or ``forever``."""
    return "forever" if text == "forever" else duration(text)


@click.group(cls=ListsByDefault, short_help="List, pause, resume and limit queues.")
def queues() -> None:
    """Look at queues and change them. Without a command: list them."""


@queues.command("list", short_help="List the queues.")
@json_option
@database_command
def list_(pq: PQ, as_json: bool) -> None:
    """List the queues that have unfinished tasks, a live worker or settings."""
    found = pq.queues()
    if as_json:
        print_json(found)
        return
    columns = ("queue", "state", "due", "scheduled", "running", "oldest wait", "workers", "limits")
    print_table(columns, map(row, found), empty="there is no queue yet")


@queues.command(short_help="Start nothing of a queue.")
@click.argument("names", metavar="QUEUE...", nargs=-1, required=True)
@click.option("--by", metavar="NAME", help="Who pauses it, to be shown. [default: the user of this shell]")
@json_option
@database_command
def pause(pq: PQ, names: tuple[str, ...], by: str | None, as_json: bool) -> None:
    """Let no worker start tasks of these queues until they are resumed; what runs goes on.

    Exit status 1 if one was paused already.
    """
    who = by or os.environ.get("SUDO_USER") or _user()
    _each({name: pq.pause_queue(name, by=who) for name in names}, "paused", "is paused already", as_json)


@queues.command(short_help="Go on with a queue.")
@click.argument("names", metavar="QUEUE...", nargs=-1, required=True)
@json_option
@database_command
def resume(pq: PQ, names: tuple[str, ...], as_json: bool) -> None:
    """Go on with these queues. Exit status 1 if one was not paused."""
    _each({name: pq.resume_queue(name) for name in names}, "resumed", "is not paused", as_json)


@queues.command(short_help="Limit how much of a queue runs.")
@click.argument("name", metavar="QUEUE")
@click.option("--concurrency", type=click.IntRange(min=1), metavar="N", help="So many run at once, over all workers.")
@click.option("--rate", type=RATE, metavar="N/TIME", help="So many start, evenly spread: 10/s, 100/m, 1/30s, 5000/d.")
@click.option("--none", is_flag=True, help="Lift both limits.")
@json_option
@database_command
def limit(pq: PQ, name: str, concurrency: int | None, rate: Rate | None, none: bool, as_json: bool) -> None:
    """Say how many tasks of a queue run at once and how many start in a time, over all workers.

    What is left out is not limited. Exit status 1 if nothing changed.
    """
    if none == (concurrency is not None or rate is not None):
        raise click.UsageError("give --concurrency or --rate or both, or --none to lift the limits")
    changed = pq.limit_queue(name, concurrency=concurrency, rate=rate)
    if as_json:
        print_json({"queue": name, "concurrency": concurrency, "rate": None if rate is None else str(rate)})
    else:
        words = [] if concurrency is None else [f"{concurrency} at once"]
        words += [] if rate is None else [str(rate)]
        click.echo(f"{name}: {', '.join(words) or 'no limits'}" + ("" if changed else ", as before"))
    if not changed:
        click.get_current_context().exit(NEGATIVE)


@queues.command(short_help="Say how long finished tasks stay.")
@click.argument("name", metavar="QUEUE")
@click.option("--finished", type=keep, metavar="AGE", help="Completed and cancelled ones: 12h, 7d, or forever.")
@click.option("--failed", type=keep, metavar="AGE", help="Failed ones.")
@json_option
@database_command
def retention(pq: PQ, name: str, finished: Keep, failed: Keep, as_json: bool) -> None:
    """Say how long finished tasks of a queue stay before workers delete them.

    What is left out is as the application says, PQ(retention=…).
    """
    pq.set_retention(name, finished=finished, failed=failed)
    if as_json:
        print_json({"queue": name, "finished": finished, "failed": failed})
    else:
        words = ("as the application says" if value is None else str(value) for value in (finished, failed))
        click.echo("{}: finished {}, failed {}".format(name, *words))


def row(queue: QueueRecord) -> list[Any]:
    """Return what is shown of a queue."""

    def count(name: str) -> str | int:
        value: int = getattr(queue, name)
        return f"{value - 1:,}+" if name in queue.more else value

    return [
        queue.name,
        state(queue),
        count("due"),
        count("scheduled"),
        count("running"),
        f"{queue.oldest_wait:.1f} s",
        queue.workers,
        limits(queue),
    ]


def state(queue: QueueRecord) -> str:
    """Return whether anything of a queue is started, in words."""
    if queue.paused_at is not None:
        return f"paused {when(queue.paused_at)}" + (f" by {queue.paused_by}" if queue.paused_by else "")
    return "open" if queue.paused_until is None else f"paused until {when(queue.paused_until)} by a task"


def limits(queue: QueueRecord) -> str:
    """Return a queue's limits in words, and how much of them is in use."""
    words = []
    if queue.concurrency_limit is not None:
        words.append(f"{min(queue.running, queue.concurrency_limit)} of {queue.concurrency_limit} at once")
    if queue.rate_limit is not None:
        period = queue.rate_period.total_seconds() if queue.rate_period is not None else 1.0
        words.append(str(Rate(queue.rate_limit, period)))
    if queue.held:
        words.append(f"{queue.held} due with limits of their own")
    return ", ".join(words)


def _each(done: dict[str, bool], verb: str, otherwise: str, as_json: bool) -> None:
    refused = [name for name, worked in done.items() if not worked]
    if as_json:
        print_json({verb: [name for name, worked in done.items() if worked], "refused": refused})
    else:
        click.echo(f"{verb} {len(done) - len(refused)} of {len(done)}")
        for name in refused:
            click.echo(f"queue {name} {otherwise}", err=True)
    if refused:
        click.get_current_context().exit(NEGATIVE)


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return None  # a container's user need not have a name
