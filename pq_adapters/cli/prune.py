"""``pq prune``: delete what ended long ago."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from pq_adapters.cli.application import database_command, json_option
from pq_adapters.cli.output import print_json
from pq_adapters.cli.parameters import duration, names
from pq_core.filters import FINISHED

if TYPE_CHECKING:
    from pq_core.client import PQ


@click.command(short_help="Delete finished tasks.")
@click.option("--older-than", type=duration, required=True, metavar="AGE", help="Ended longer ago: 90m, 12h, 7d.")
@click.option(
    "--status",
    type=names,
    metavar="A,B",
    help="Only of these states. [default: completed,failed,cancelled]",
)
@click.option("--audit", is_flag=True, help="Rows of the audit log instead of tasks.")
@click.option("--batch", type=click.IntRange(1), default=1000, show_default=True, help="Rows in one transaction.")
@json_option
@database_command
def prune(
    pq: PQ, older_than: timedelta, status: tuple[str, ...] | None, audit: bool, batch: int, as_json: bool
) -> None:
    """Delete finished tasks, with the history of their attempts, that ended longer ago than AGE."""
    if audit and status:
        raise click.UsageError("--audit goes without --status: the audit log has no states")
    if audit:
        deleted = pq.prune_audit(older_than, batch=batch)
    else:
        deleted = pq.prune(older_than, statuses=status or FINISHED, batch=batch)
    if as_json:
        print_json({"deleted": deleted})
    else:
        click.echo(f"deleted {deleted}")
