"""``pq demo``: the command."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pq_adapters.cli.mistakes import NEGATIVE, Mistake
from pq_core.worker.options import WorkerOptions


@click.command(short_help="See the main job done on this machine.")
@click.option("--files", type=click.IntRange(1), metavar="N", help="Only the first N files. [default: all]")
@click.option("--tests", is_flag=True, help="The library's own tests, too: three times as many files.")
@click.option("--concurrency", type=click.IntRange(1, 1000), metavar="N", help="Tasks at once. [default: two per core]")
@click.option("--dsn", metavar="DSN", help="Another database than the embedded one in ./.pq")
@click.option("--keep", is_flag=True, help="Leave the schema pq_demo behind, to look at with psql and pq.")
@click.option("--dashboard", is_flag=True, help="Serve the dashboard on it, from the start until Ctrl-C.")
def demo(files: int | None, tests: bool, concurrency: int | None, dsn: str | None, keep: bool, dashboard: bool) -> None:
    """Measure every file of Python's standard library, each in a task of its own.

    The tasks are enqueued in one transaction with a row of the application's; each writes what it found in one
    transaction with its own completion; three misbehave on purpose (a crash, too much memory, an endless loop). At the
    end the application's table is compared with a direct count. Others are under limits: of their key, which gives
    order, or of a queue of webhooks to a small server of the demo's own. Everything is in the schema pq_demo.

    Exit status: 0 if everything agrees, 1 if not.
    """
    # Where the demo's application, here and in the worker, finds its database. Never one that was meant for others.
    os.environ["PQ_DATABASE_URL"] = dsn or f"embedded:{Path('.pq').absolute()}"
    from pq_adapters.cli.demo import library, limits, report, run, tables
    from pq_adapters.cli.demo.screen import screen
    from pq_adapters.cli.demo.tasks import pq

    found = library.files(tests=tests, limit=files)
    if not found:
        raise Mistake(f"there are no Python files in {library.root()}; this Python keeps its library elsewhere")
    options = WorkerOptions(concurrency=concurrency or 2 * WorkerOptions().concurrency)
    with (
        pq,
        limits.called() as calling,
        tables.prepared(pq, keep=keep) as connection,
        run.dashboard(dashboard) as shown,
    ):
        click.echo(f"input: {len(found)} files of {library.root()}{'' if tests else ', its tests left out'}")
        limits.limit(pq)
        enqueued = run.enqueue(pq, found, calling)
        total = enqueued.tasks
        click.echo(
            f"enqueued {total} tasks in one transaction with the run's own row: {enqueued.seconds * 1000:.0f} ms"
        )
        click.echo(f"a worker runs them, {options.concurrency} at once, each in a process of its own")
        worked = run.work(pq, screen(total), total=total, concurrency=options.concurrency)
        agreed = report.tell(pq, connection, enqueued, found, worked, calling)
        if keep:
            look = f"pq tasks list --schema {pq.schema}"
            click.echo(f"kept; look with: {f'PQ_DATABASE_URL=embedded: {look}' if dsn is None else f'{look} --dsn …'}")
        if shown is not None:
            click.echo("the dashboard stays up; Ctrl-C ends it")
            run.wait_for_end(shown)
    if not agreed:
        click.get_current_context().exit(NEGATIVE)
