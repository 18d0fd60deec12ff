"""``pq workers``: who holds a lease."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pq_adapters.cli.application import database_command, json_option
from pq_adapters.cli.output import print_json, print_table, when

if TYPE_CHECKING:
    from pq_core.client import PQ


@click.command(short_help="List the workers.")
@json_option
@database_command
def workers(pq: PQ, as_json: bool) -> None:
    """List the workers that hold a lease, or held one that nobody has cleared away yet."""
    found = pq.workers()
    if as_json:
        print_json(found)
        return
    columns = ("id", "name", "app", "alive", "running", "of", "queues", "started", "heartbeat", "version")
    rows = (
        (
            worker.id,
            worker.name,
            worker.app,
            "yes" if worker.alive else "no",
            worker.running,
            worker.concurrency,
            ",".join(worker.queues),
            when(worker.started_at),
            when(worker.heartbeat_at),
            worker.pq_version,
        )
        for worker in found
    )
    print_table(columns, rows, empty="no worker holds a lease")
