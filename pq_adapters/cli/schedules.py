"""``pq schedules``: look at schedules, add, pause, run and remove them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from pq_adapters.cli.application import (
    app_argument,
    database_command,
    factory_option,
    json_option,
    load_tasks,
    open_app,
)
from pq_adapters.cli.enqueue import parse_arguments
from pq_adapters.cli.mistakes import NEGATIVE, Mistake, Negative
from pq_adapters.cli.output import Cell, one_line, print_json, print_table, when
from pq_adapters.cli.parameters import duration, moment, priority
from pq_adapters.cli.schedule_times import next_
from pq_adapters.cli.task_text import last_line
from pq_core.errors import PayloadDecodeError

if TYPE_CHECKING:
    from pq_core.client import PQ
    from pq_core.schedule_operations import Synced
    from pq_core.types import ScheduleRecord, TaskRecord

Command = Callable[..., None]


def schedule_argument(function: Command) -> Command:
    """Give a command the argument and the option that choose a schedule."""
    function = click.option("--key", default="", metavar="K", help="The one with this key.")(function)
    return click.argument("target", metavar="SCHEDULE", type=_target)(function)


def _target(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


@click.group(short_help="List, add, pause and run schedules.")
def schedules() -> None:
    """Look at schedules, add, pause, run and remove them.

    SCHEDULE is the name of its task, with --key if there are several of it, or its id.
    """


schedules.add_command(next_)


@schedules.command("list", short_help="List schedules.")
@click.option("--name", metavar="NAME", help="Only those of this task.")
@click.option("--of-app", metavar="NAME", help="Only those that the application of this name declared.")
@json_option
@database_command
def list_(pq: PQ, name: str | None, of_app: str | None, as_json: bool) -> None:
    """List schedules by name and key."""
    found = pq.list_schedules(name=name, app=of_app)
    if as_json:
        print_json([one.shown() for one in found])
        return
    columns = ("id", "name", "key", "when", "timezone", "next", "last", "state", "running", "skipped", "missed")
    print_table(columns, map(_row, found), empty="there is no schedule")


@schedules.command(short_help="Show one schedule with its runs.")
@schedule_argument
@click.option("--runs", type=click.IntRange(0), default=10, show_default=True, metavar="N", help="So many runs.")
@json_option
@database_command
def show(pq: PQ, target: str | int, key: str, runs: int, as_json: bool) -> None:
    """Show one schedule and its latest runs. Exit status 1 if there is none."""
    found = pq.get_schedule(target, key=key)
    if found is None:
        raise _unknown(target, key)
    history = pq.schedule_runs(found.id, limit=runs)
    if as_json:
        print_json({"schedule": found.shown(), "runs": [run.shown() for run in history]})
        return
    _describe(found)
    if history:
        click.echo("  runs:")
        columns = ("task", "due", "started", "finished", "status", "tries", "error")
        print_table(columns, map(_run_row, history), empty="")


@schedules.command(short_help="Make a task run again and again.")
@click.argument("app", metavar="APP")
@click.argument("name", metavar="NAME")
@click.argument("arguments", metavar="[ARGUMENT]...", nargs=-1)
@factory_option
@click.option("--cron", metavar="EXPR", help="When: five fields, six with seconds as the last, or an alias as @daily.")
@click.option("--every", "run_every", type=duration, metavar="S", help="Or how often: 90, 15m, 1d.")
@click.option("--timezone", metavar="ZONE", help="Of the expression, as Europe/Berlin.  [default: UTC]")
@click.option("--key", default="", metavar="K", help="Tells schedules of one task apart.")
@click.option(
    "--max-concurrent",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    metavar="N",
    help="Skip a tick while so many runs are unfinished; 0: never.",
)
@click.option(
    "--catch-up",
    type=click.Choice(["latest", "all", "skip"]),
    default="latest",
    show_default=True,
    help="What becomes of ticks that no worker was there for.",
)
@click.option(
    "--catch-up-limit", type=click.IntRange(1), default=1000, show_default=True, metavar="N", help="With all: at most."
)
@click.option("--jitter", type=duration, metavar="S", help="Start up to so much later, by chance.")
@click.option("--start-at", type=moment, metavar="ISO", help="No tick before this.")
@click.option("--end-at", type=moment, metavar="ISO", help="No tick after this.")
@click.option("--paused", is_flag=True, help="Don't start yet.")
@click.option("--client-id", metavar="ID", help="Your own unique name of the schedule.")
@click.option("--priority", type=priority, metavar="P", help="Of its tasks.")
@click.option("--queue", metavar="Q", help="Of its tasks.")
@click.option("--timeout", type=duration, metavar="S", help="Of its tasks.")
@click.option("--max-attempts", type=int, metavar="N", help="Of its tasks.")
@json_option
def add(
    app: str,
    name: str,
    arguments: tuple[str, ...],
    factory: bool,
    max_concurrent: int,
    paused: bool,
    timeout: timedelta | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Make the task NAME of APP run again and again, and print the schedule's id.

    Arguments are written as for pq enqueue. A schedule of the same task and key is changed.
    """
    from pq_core import payload

    args, kwargs = parse_arguments(arguments, None)
    pq = open_app(app, factory=factory)
    load_tasks(pq)
    task = pq.registry.resolve(name)
    try:
        read = payload.decode({"args": args, "kwargs": kwargs}, signature=task.typed_signature)
    except PayloadDecodeError as error:
        raise Mistake(f"{name}: {error}") from error
    said = {option: value for option, value in given.items() if value is not None}
    if timeout is not None:
        said["timeout"] = timeout.total_seconds()
    if paused:
        said["active"] = False
    with pq:
        id_ = pq.schedule(task.call(*read[0], **read[1]), max_concurrent=max_concurrent or None, **said)
    print_json({"id": id_}) if as_json else click.echo(id_)


@schedules.command(short_help="Let a schedule rest.")
@schedule_argument
@json_option
@database_command
def pause(pq: PQ, target: str | int, key: str, as_json: bool) -> None:
    """Let a schedule rest; runs that are under way go on. Exit status 1 if there is none."""
    _done(pq.pause_schedule(target, key=key), target, key, "paused", as_json)


@schedules.command(short_help="Let a schedule go on.")
@schedule_argument
@json_option
@database_command
def resume(pq: PQ, target: str | int, key: str, as_json: bool) -> None:
    """Let a schedule go on; ticks of the pause are not made up for. Exit status 1 if there is none."""
    _done(pq.resume_schedule(target, key=key), target, key, "resumed", as_json)


@schedules.command(short_help="Run a schedule now.")
@schedule_argument
@json_option
@database_command
def run(pq: PQ, target: str | int, key: str, as_json: bool) -> None:
    """Enqueue one run now, beside the rhythm, paused or not, and print the task's id.

    Exit status 1 if there is no such schedule.
    """
    if pq.get_schedule(target, key=key) is None:
        raise _unknown(target, key)
    id_ = int(pq.run_schedule_now(target, key=key))
    print_json({"id": id_}) if as_json else click.echo(id_)


@schedules.command(short_help="Delete a schedule.")
@schedule_argument
@json_option
@database_command
def remove(pq: PQ, target: str | int, key: str, as_json: bool) -> None:
    """Delete a schedule; its tasks stay. Exit status 1 if there is none.

    One that is declared in code comes back with the next worker that starts.
    """
    _done(pq.unschedule(target, key=key), target, key, "removed", as_json)


@schedules.command(short_help="Store what APP declares in code.")
@app_argument
@factory_option
@click.option("--prune", is_flag=True, help="Also remove what its code once declared and does not any more.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@json_option
def sync(app: str, factory: bool, prune: bool, yes: bool, as_json: bool) -> None:
    """Store the schedules that APP declares in code, as its workers do when they start.

    Unlike a worker it also goes back to a definition that newer code has replaced. With --prune, what would be removed
    is shown first, and you are asked; without a terminal --yes is needed.
    """
    with open_app(app, factory=factory, tasks=True) as pq:
        done = pq.sync_schedules()
        gone = pq.prune_schedules() if prune else []
        if not as_json:
            for one in done:
                click.echo(_synced(one))
            for one in gone:
                click.echo(f"to remove {_words(one)}")
        agreed = yes or not gone
        if not agreed and not as_json and sys.stdin.isatty():
            agreed = click.confirm(f"remove {len(gone)} schedule(s)?", err=True)
        removed = pq.prune_schedules(remove=True) if gone and agreed else []
    if as_json:
        print_json({"synced": done, "to_remove": gone, "removed": removed})
    else:
        click.echo(f"{len(done)} declared, {len(removed)} removed")
    if not agreed:
        click.echo("pq: nothing was removed; add --yes", err=True)
    if not agreed or any(one.action == "taken" for one in done):
        click.get_current_context().exit(NEGATIVE)


def _synced(one: Synced) -> str:
    match one.action:
        case "foreign":
            return f"left as it is, not declared by this application's code: {_words(one)}"
        case "taken":
            return f"not stored, schedule {one.other} has its client id: {_words(one)}"
        case action:
            return f"{action} {_words(one)}"


def _words(one: Synced) -> str:
    return " ".join(filter(None, [f"{one.id}:", one.name, one.key]))


def _done(done: bool, target: str | int, key: str, verb: str, as_json: bool) -> None:
    if not done:
        raise _unknown(target, key)
    print_json({verb: True}) if as_json else click.echo(verb)


def _unknown(target: str | int, key: str) -> Negative:
    words = (
        f"with the id {target}" if isinstance(target, int) else f"of {target}" + (f" with the key {key}" if key else "")
    )
    return Negative(f"there is no schedule {words}; `pq schedules list` shows them")


def _row(found: ScheduleRecord) -> list[Cell]:
    return [
        found.id,
        found.name,
        found.key,
        _rhythm(found),
        found.timezone or "UTC",
        when(found.next_run) if found.active else None,
        when(found.last_run),
        _state(found),
        found.unfinished,
        found.skipped,
        found.missed,
    ]


def _rhythm(found: ScheduleRecord) -> str:
    return found.cron or f"every {found.run_every}"


def _state(found: ScheduleRecord) -> str:
    if found.error is not None:
        return "broken"
    if found.ended_at is not None:
        return "ended"
    return "active" if found.active else "paused"


def _run_row(task: TaskRecord) -> list[Cell]:
    tries = f"{task.attempts}/{task.max_attempts}"
    times: list[datetime | None] = [task.tick_at, task.started_at, task.completed_at]
    return [task.id, *map(when, times), task.status.value, tries, last_line(task.error) or ""]


def _describe(found: ScheduleRecord) -> None:
    click.echo(f"schedule {found.id}: {one_line(found.name)} {one_line(found.key)}".rstrip())
    lines: dict[str, Any] = {
        "when": f"{_rhythm(found)} ({found.timezone or 'UTC'})",
        "state": _state(found),
        "error": found.error,
        "next": when(found.next_run) if found.active else None,
        "last run": when(found.last_run),
        "starts": when(found.start_at),
        "ends": when(found.end_at),
        "jitter": found.jitter,
        "arguments": found.shown().payload,
        "queue": f"{found.queue}, priority {found.priority}",
        "timeout": None if found.max_runtime_seconds is None else f"{found.max_runtime_seconds:g} s",
        "overlap": f"{found.unfinished} of {found.max_concurrent or 'any number of'} runs unfinished",
        "skipped": found.skipped and f"{found.skipped}, the last at {when(found.last_skipped_at)}",
        "catch up": found.catch_up + (f", at most {found.catch_up_limit}" if found.catch_up == "all" else ""),
        "missed": found.missed or None,
        "client id": found.client_id,
        "declared": f"by {found.declared_by or 'hand'}" + (f" of {found.app}" if found.app else ""),
        "changed": when(found.updated_at),
    }
    for label, value in lines.items():
        if value:
            click.echo(f"  {label + ':':<14}{one_line(str(value))}")
