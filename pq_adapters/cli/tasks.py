"""``pq tasks``: look at tasks, retry and cancel them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from pq_adapters.cli.application import app_argument, database_command, factory_option, json_option, open_app
from pq_adapters.cli.mistakes import Mistake, Negative
from pq_adapters.cli.output import Cell, print_json, print_table, when
from pq_adapters.cli.parameters import names
from pq_adapters.cli.task_text import arguments_text, describe, last_line
from pq_core.errors import DuplicateClientId
from pq_core.types import TaskStatus

if TYPE_CHECKING:
    from pq_core.client import PQ
    from pq_core.types import TaskRecord

Command = Callable[..., None]

UNFINISHED = (TaskStatus.PENDING, TaskStatus.RUNNING)
REVIVABLE = (TaskStatus.FAILED, TaskStatus.CANCELLED)


def filter_options(function: Command) -> Command:
    """Give a command the options that choose tasks."""
    for option in (
        click.option("--error", metavar="TEXT", help="Its error holds this text."),
        click.option("--client-id", metavar="ID", help="It has this client id."),
        click.option("--name", metavar="NAME", help="It has this name."),
        click.option("--queue", metavar="Q", help="It is in this queue."),
        click.option("--status", type=names, metavar="A,B", help=f"Its state: {', '.join(TaskStatus)}."),
    ):
        function = option(function)
    return function


@click.group(short_help="List, show, retry and cancel tasks.")
def tasks() -> None:
    """Look at tasks, retry and cancel them."""


@tasks.command("list", short_help="List tasks, newest first.")
@filter_options
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, metavar="N", help="At most so many.")
@click.option("--before-id", type=int, metavar="ID", help="Only older ones: the next page.")
@json_option
@database_command
def list_(pq: PQ, limit: int, as_json: bool, **chosen: Any) -> None:
    """List the tasks that match, newest first."""
    found = pq.list_tasks(limit=limit, **_said(chosen))
    if as_json:
        print_json([task.shown() for task in found])
        return
    columns = ("id", "status", "name", "queue", "priority", "tries", "when", "error")
    print_table(columns, map(_row, found), empty="no task matches")
    if len(found) == limit:
        click.echo(f"({limit} shown; more with --before-id {found[-1].id} or --limit)", err=True)


@tasks.command(short_help="Show one task with its history.")
@click.argument("task_id", metavar="ID", type=int)
@json_option
@database_command
def show(pq: PQ, task_id: int, as_json: bool) -> None:
    """Show one task: its arguments, error, output and recorded attempts. Exit status 1 if there is none."""
    task = pq.get_task(task_id)
    if task is None:
        raise Negative(f"there is no task {task_id}; it was deleted or pruned, or is in another schema")
    attempts = pq.attempts(task_id)
    if as_json:
        print_json({"task": task.shown(), "attempts": attempts})
        return
    describe(task, attempts)


@tasks.command(short_help="Run finished tasks again.")
@click.argument("ids", metavar="[ID]...", type=int, nargs=-1)
@filter_options
@click.option("--yes", is_flag=True, help="Don't ask.")
@json_option
@database_command
def retry(pq: PQ, ids: tuple[int, ...], yes: bool, as_json: bool, **chosen: Any) -> None:
    """Run finished tasks again, now and with all their attempts.

    By ids, any finished task; by filter, failed and cancelled ones, whose number is shown first.
    Exit status 1 if one of the ids was not retried.
    """
    filter = _exclusive(ids, chosen)
    if ids:
        _each(ids, pq.retry, verb="retried", hint="it has not finished, or is not there", as_json=as_json)
    elif _agreed(pq, filter, among=REVIVABLE, verb="retry", yes=yes, as_json=as_json):
        _said_count(pq.retry_many(**filter), "retried", as_json)
    else:
        _said_count(0, "retried", as_json)


@tasks.command(short_help="Cancel tasks.")
@click.argument("ids", metavar="[ID]...", type=int, nargs=-1)
@filter_options
@click.option("--reason", metavar="TEXT", help="Stored with the tasks.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@json_option
@database_command
def cancel(pq: PQ, ids: tuple[int, ...], reason: str | None, yes: bool, as_json: bool, **chosen: Any) -> None:
    """Cancel tasks that have not finished: pending ones at once, running ones are told to stop.

    By ids, or by filter, where their number is shown first. Exit status 1 if one of the ids was not cancelled.
    """
    filter = _exclusive(ids, chosen)
    if ids:
        _each(
            ids,
            lambda task_id: pq.cancel(task_id, reason=reason),
            verb="cancelled",
            hint="it has finished, or is not there",
            as_json=as_json,
        )
    elif _agreed(pq, filter, among=UNFINISHED, verb="cancel", yes=yes, as_json=as_json):
        _said_count(pq.cancel_many(reason=reason, **filter), "cancelled", as_json)
    else:
        _said_count(0, "cancelled", as_json)


@tasks.command(short_help="List the tasks that APP declares.")
@app_argument
@factory_option
@json_option
def registered(app: str, factory: bool, as_json: bool) -> None:
    """List the tasks that APP declares; no database is needed."""
    pq = open_app(app, factory=factory, tasks=True)
    rows = registered_rows(pq)
    if as_json:
        print_json(rows)
        return
    columns = ("name", "queue", "priority", "max_attempts", "timeout", "version", "place")
    print_table(columns, ([row[column] for column in columns] for row in rows), empty="no task is declared")


def registered_rows(pq: PQ) -> list[dict[str, Any]]:
    """Return what is known of every declared task, as JSON values."""
    rows = []
    for task in pq.registry.tasks():
        options = task.options_over(pq.defaults)
        rows.append(
            {
                "name": task.name,
                "aliases": list(task.aliases),
                "version": task.version,
                "queue": options.queue or "default",
                "priority": 50 if options.priority is None else int(options.priority),
                "max_attempts": options.max_attempts or 1,
                "timeout": options.timeout,
                "memory_limit": options.memory_limit,
                "signature": str(task.signature),
                "place": task.place,
            }
        )
    return rows


def _row(task: TaskRecord) -> list[Cell]:
    moment = {TaskStatus.PENDING: task.run_at, TaskStatus.RUNNING: task.started_at}.get(task.status, task.completed_at)
    call = f"{task.name}({arguments_text(task, limit=40)})"
    tries = f"{task.attempts}/{task.max_attempts}"
    error = last_line(task.error) if task.status is not TaskStatus.COMPLETED else None
    return [task.id, task.status.value, call, task.queue, task.priority, tries, when(moment), error or ""]


def _said(chosen: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in chosen.items() if value is not None}


def _exclusive(ids: tuple[int, ...], chosen: dict[str, Any]) -> dict[str, Any]:
    filter = _said(chosen)
    if bool(ids) == bool(filter):
        raise click.UsageError("give ids, or a filter like --status failed" + ("; not both" if ids else ""))
    return filter


def _agreed(
    pq: PQ, filter: dict[str, Any], *, among: Iterable[TaskStatus], verb: str, yes: bool, as_json: bool
) -> bool:
    """Tell whether to go on: something matches, and the user has said yes."""
    counts = pq.counts(**filter)
    found = {status: counts[status] for status in among if counts[status]}
    total = sum(found.values())
    if yes or not total:
        return bool(total) or yes
    words = ", ".join(f"{count} {status}" for status, count in found.items())
    if as_json or not sys.stdin.isatty():
        raise Mistake(f"{words} would be meant; add --yes to {verb} them")
    return click.confirm(f"{verb} {total} ({words})?", err=True)


def _each(ids: tuple[int, ...], act: Callable[[int], bool], *, verb: str, hint: str, as_json: bool) -> None:
    done: list[int] = []
    refused: dict[int, str] = {}
    for task_id in dict.fromkeys(ids):
        try:
            if act(task_id):
                done.append(task_id)
            else:
                refused[task_id] = hint
        except DuplicateClientId as error:
            refused[task_id] = f"task {error.existing_id} has its client id {error.client_id!r}"
    if as_json:
        print_json({verb: len(done), "refused": [{"id": i, "reason": reason} for i, reason in refused.items()]})
    else:
        click.echo(f"{verb} {len(done)} of {len(done) + len(refused)}")
        for task_id, reason in refused.items():
            click.echo(f"task {task_id}: {reason}", err=True)
    if refused:
        click.get_current_context().exit(Negative.exit_code)


def _said_count(count: int, verb: str, as_json: bool) -> None:
    if as_json:
        print_json({verb: count, "refused": []})
    else:
        click.echo(f"{verb} {count}")
