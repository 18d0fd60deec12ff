"""``pq limits``: how much of each limit is in use."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from pq_adapters.cli.application import database_command, json_option
from pq_adapters.cli.output import print_json, print_table, when

if TYPE_CHECKING:
    from pq_core.client import PQ
    from pq_core.limits_in_use import LimitRecord

_UNITS = (("s", 1), ("m", 60), ("h", 3600), ("d", 86400))


@click.command(short_help="Show how much of each limit is in use.")
@click.option("--reached", is_flag=True, help="Only limits that let nothing start now: full, at their rate, or paused.")
@json_option
@database_command
def limits(pq: PQ, reached: bool, as_json: bool) -> None:
    """Show the limits of queues, task functions and keys: how many run, how many may, how many wait.

    Queues are listed if they have a limit or are paused; functions and keys while tasks of theirs run or wait, or while
    a task has paused them.
    """
    found = [limit for limit in pq.limits() if limit.reached or not reached]
    if as_json:
        print_json([{**asdict(limit), "full": limit.full, "reached": limit.reached} for limit in found])
        return
    columns = ("of", "name", "running", "allowed", "rate", "waiting", "state")
    empty = "no limit lets nothing start" if reached else "nothing runs or waits under a limit"
    print_table(columns, map(row, found), empty=empty)


def row(limit: LimitRecord) -> list[Any]:
    """Return what is shown of a limit."""
    return [
        limit.kind,
        limit.name,
        limit.running,
        limit.allowed,
        None if limit.rate is None else rate(limit.rate),
        f"{limit.waiting:,}+" if limit.more else limit.waiting,
        state(limit),
    ]


def state(limit: LimitRecord) -> str:
    """Return what keeps tasks back, in words."""
    if limit.paused:
        return "paused" if limit.paused_until is None else f"paused until {when(limit.paused_until)}"
    if limit.full:
        return "full"
    return "open" if limit.next_start is None else "at its rate"


def rate(per_second: float) -> str:
    """Return starts per second in the shortest unit in which they are a whole number, as ``100/m``."""
    for unit, seconds in _UNITS:
        count = per_second * seconds
        if count >= 0.999 and abs(count - round(count)) < 1e-6 * count:
            return f"{round(count)}/{unit}"
    return f"{per_second:.3g}/s"
