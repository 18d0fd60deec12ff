"""``pq top``: queues, workers and running tasks, drawn again and again on a terminal."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from pq_adapters.cli.application import database_command, json_option
from pq_adapters.cli.output import Cell, one_line, print_json, print_table, when
from pq_adapters.cli.parameters import duration
from pq_adapters.cli.queues import row as queue_row
from pq_adapters.cli.task_text import arguments_text
from pq_core.errors import DatabaseUnavailable
from pq_core.types import TaskStatus

if TYPE_CHECKING:
    from rich.console import Group

    from pq_core.client import PQ
    from pq_core.operating import QueueRecord
    from pq_core.types import TaskRecord, WorkerRecord

WINDOW = 10.0
"""Seconds over which the pace is measured."""
QUEUES = ("queue", "state", "due", "scheduled", "running", "oldest wait", "workers", "limits")
WORKERS = ("id", "name", "app", "state", "running", "of", "queues", "heartbeat")
TASKS = ("id", "task", "queue", "for", "attempt", "progress", "worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What one look has found. ``ended``: tasks per second, by state."""

    at: datetime
    queues: list[QueueRecord]
    workers: list[WorkerRecord]
    tasks: list[TaskRecord]
    ended: dict[str, float]

    @property
    def headline(self) -> str:
        """Say it in one line."""
        alive = sum(worker.alive for worker in self.workers)
        running = sum(queue.running for queue in self.queues)
        due = sum(queue.due for queue in self.queues)
        paces = ", ".join(f"{pace:.3g}/s {status}" for status, pace in self.ended.items() if pace) or "nothing ends"
        return f"{when(self.at)}  {alive} worker(s), {running} running, {due} due; {paces}"

    def rows(self) -> tuple[list[list[Cell]], list[list[Cell]], list[list[Cell]]]:
        """Return the rows of queues, of workers and of tasks."""
        return (
            [queue_row(queue) for queue in self.queues],
            [_worker_row(worker, self.at) for worker in self.workers],
            [_task_row(task, self.at) for task in self.tasks],
        )


@click.command(short_help="Watch queues, workers and running tasks.")
@click.option("--interval", type=duration, default="2", show_default=True, metavar="S", help="Between two looks.")
@click.option("--tasks", "most", type=click.IntRange(0, 500), default=15, show_default=True, metavar="N", help="Shown.")
@click.option("--once", is_flag=True, help="Print one picture and end; so it does without a terminal.")
@json_option
@database_command
def top(pq: PQ, interval: timedelta, most: int, once: bool, as_json: bool) -> None:
    """Watch queues, workers and the tasks that have run longest, until Ctrl-C."""
    if as_json:
        picture = look(pq, most)
        print_json({name: getattr(picture, name) for name in ("at", "queues", "workers", "tasks", "ended")})
    elif once or not sys.stdout.isatty():
        _print(look(pq, most))
    else:
        _watch(pq, max(interval.total_seconds(), 0.2), most)


def look(pq: PQ, most: int) -> Picture:
    """Ask the database once for all that is shown; ``most``: running tasks."""
    running = pq.list_tasks(status=TaskStatus.RUNNING, limit=500) if most else []
    running.sort(key=lambda task: task.started_at or datetime.max.replace(tzinfo=UTC))
    return Picture(
        at=datetime.now(UTC),
        queues=pq.queues(),
        workers=pq.workers(),
        tasks=running[:most],
        ended={str(status): count / WINDOW for status, count in pq.pace(WINDOW).items() if status.finished},
    )


def _print(picture: Picture) -> None:
    queues, workers, tasks = picture.rows()
    click.echo(picture.headline)
    for columns, rows, empty in (
        (QUEUES, queues, "there is no queue yet"),
        (WORKERS, workers, "no worker holds a lease"),
        (TASKS, tasks, "nothing runs"),
    ):
        click.echo()
        print_table(columns, rows, empty=empty)


def _watch(pq: PQ, interval: float, most: int) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    # No thread redraws: a picture is drawn when there is a new one.
    with Live(console=console, screen=True, auto_refresh=False, transient=True) as live:
        try:
            while True:
                try:
                    live.update(_draw(look(pq, most)), refresh=True)
                except DatabaseUnavailable as error:
                    live.update(Text(f"{error}\nlooking again every {interval:g} s", style="red"), refresh=True)
                time.sleep(interval)
        except KeyboardInterrupt:
            return


def _draw(picture: Picture) -> Group:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[Any] = [Text(picture.headline, style="bold")]
    for columns, rows in zip((QUEUES, WORKERS, TASKS), picture.rows(), strict=True):
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold cyan")
        for column in columns:
            table.add_column(column.upper(), overflow="ellipsis", no_wrap=True)
        for row in rows:
            style = "yellow" if any(str(cell).startswith(("paused", "dead")) for cell in row[1:4]) else ""
            table.add_row(*(Text(one_line("-" if cell is None else str(cell))) for cell in row), style=style)
        parts += [Text(), table]
    return Group(*parts)


def _worker_row(worker: WorkerRecord, at: datetime) -> list[Cell]:
    beat = max(0.0, (at - worker.heartbeat_at).total_seconds())
    return [
        worker.id,
        worker.name,
        worker.app,
        "dead" if not worker.alive else "stopping" if worker.stopping else "draining" if worker.draining else "alive",
        worker.running,
        worker.concurrency,
        ",".join(worker.queues),
        f"{beat:.0f} s ago",
    ]


def _task_row(task: TaskRecord, at: datetime) -> list[Cell]:
    took = (at - task.started_at).total_seconds() if task.started_at else 0.0
    share = "" if task.progress is None else f"{task.progress:.0%} {task.progress_message or ''}".strip()
    return [
        task.id,
        f"{task.name}({arguments_text(task, limit=40)})",
        task.queue,
        f"{max(took, 0.0):.0f} s",
        f"{task.attempts}/{task.max_attempts}",
        share,
        task.worker_id,
    ]
