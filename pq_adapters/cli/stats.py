"""``pq stats``: what stands where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pq_adapters.cli.application import database_command, json_option
from pq_adapters.cli.output import print_json, print_table
from pq_core.types import TaskStatus

if TYPE_CHECKING:
    from pq_core.client import PQ


@click.command(short_help="Count tasks by queue and state.")
@click.option("--finished", is_flag=True, help="Count finished tasks, too: reads every one of them.")
@json_option
@database_command
def stats(pq: PQ, finished: bool, as_json: bool) -> None:
    """Show the unfinished tasks by queue, how long the oldest due one waits, and how many workers there are."""
    found = pq.stats()
    counts = pq.counts() if finished else {}
    if as_json:
        totals = {name: getattr(found, name) for name in ("due", "scheduled", "running", "oldest_wait", "workers")}
        ended = {status.value: count for status, count in counts.items() if status.finished}
        print_json({**totals, "queues": found.queues, **({"finished": ended} if finished else {})})
        return
    columns = ("queue", "due", "scheduled", "running", "oldest wait")
    rows = [(q.name, q.due, q.scheduled, q.running, f"{q.oldest_wait:.1f} s") for q in found.queues.values()]
    print_table(columns, rows, empty="nothing waits and nothing runs")
    click.echo(f"workers alive: {found.workers}")
    if finished:
        ended_words = (f"{counts[status]} {status}" for status in TaskStatus if status.finished)
        click.echo(f"finished: {', '.join(ended_words)}")
