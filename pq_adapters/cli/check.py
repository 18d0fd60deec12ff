"""``pq check``: can a worker run this application?"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from pq_adapters.cli.application import app_argument, factory_option, json_option, open_app
from pq_adapters.cli.mistakes import NEGATIVE
from pq_adapters.cli.output import print_json, print_table
from pq_adapters.cli.tasks import registered_rows
from pq_core.errors import PQError
from pq_core.sealing import SEALED

if TYPE_CHECKING:
    from pq_core.client import PQ
    from pq_core.tasks import Task


@dataclass(slots=True)
class Findings:
    """What is wrong (``problems``), and what may be (``warnings``)."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@click.command(short_help="Check an application before it runs.")
@app_argument
@factory_option
@click.option("--strict", is_flag=True, help="Warnings count as problems.")
@click.option(
    "--database",
    is_flag=True,
    help="Its database, too: reachable, migrated, and all that waits there can run with this code.",
)
@json_option
def check(app: str, factory: bool, strict: bool, database: bool, as_json: bool) -> None:
    """Load APP as a worker would, and say what would go wrong.

    Lists its tasks, checks their names, signatures and options, its plugins and allowed modules, and names the
    threads and connections that loading it left behind. --database, for CI before a deploy: pending tasks, versions
    and schedules that this code can't run are problems. Exit status 1 if there is a problem.
    """
    pq = open_app(app, factory=factory, tasks=True)
    findings = Findings()
    check_tasks(pq, findings)
    check_plugins(pq, findings)
    check_process(findings)
    if database:
        check_database(pq, findings)
    if strict:
        findings.problems += findings.warnings
        findings.warnings = []
    rows = registered_rows(pq)
    if as_json:
        print_json(
            {
                "tasks": rows,
                "queues": sorted(pq.registry.queues(pq.defaults)),
                "problems": findings.problems,
                "warnings": findings.warnings,
            }
        )
    else:
        _say(pq, rows, findings)
    if findings.problems:
        click.get_current_context().exit(NEGATIVE)


def check_tasks(pq: PQ, findings: Findings) -> None:
    """Check every declared task, and the modules whose functions may run."""
    tasks = pq.registry.tasks()
    if not tasks and not pq.registry.allowed_modules():
        findings.problems.append("no task is declared: PQ(tasks=[…]) names the modules that hold them")
    for task in tasks:
        _check_task(pq, task, findings)
    for module in pq.registry.allowed_modules():
        try:
            importlib.import_module(module)
        except Exception as error:
            findings.problems.append(f"allow=[{module!r}] can't be imported: {type(error).__name__}: {error}")


def _check_task(pq: PQ, task: Task[..., Any], findings: Findings) -> None:
    if task.function.__module__ == "__main__" and task.name.startswith("__main__"):
        findings.problems.append(f"{task.name}: its module is run as a script, no worker will find it: give it name=")
    try:
        task.prepare()
    except Exception as error:
        findings.problems.append(f"{task.name}: its signature can't be read: {type(error).__name__}: {error}")
        return
    handler = task.options_over(pq.defaults).on_failure
    if handler is not None:
        try:
            handler.spec(pq.defaults, pq.registry, payload_limit=pq.payload_limit, nested=True)
        except PQError as error:
            findings.problems.append(f"{task.name}: on_failure: {error}")
    kind = task.options_over(pq.defaults).payload
    if kind in SEALED and not pq.registry.seals.available:
        findings.problems.append(f'{task.name}: payload="{kind}" needs a key: set PQ_KEYS, or PQ(keys=[…])')
    if task.clashing:
        findings.warnings.append(
            f"{task.name}: its parameters {', '.join(sorted(task.clashing))} are named like options: "
            "enqueue it by task.call(…) or task.options(…)"
        )


def check_plugins(pq: PQ, findings: Findings) -> None:
    """Load the plugins."""
    try:
        _ = pq.plugins
    except PQError as error:
        findings.problems.append(str(error))


def check_process(findings: Findings) -> None:
    """Look for what does not survive a fork, and for a container that is killed as a whole."""
    from pq_core.doctor.machine import kills_whole_container
    from pq_core.worker.host import foreign_sockets, other_threads

    if threads := other_threads():
        findings.warnings.append(
            f"loading it started threads: {', '.join(threads)}; they don't exist in the children that run tasks"
        )
    if sockets := foreign_sockets():
        findings.warnings.append(
            f"loading it left {len(sockets)} connection(s) open; children can't use them: connect inside the tasks"
        )
    if kills_whole_container():
        findings.warnings.append(
            "out of memory, the kernel ends this container as a whole (memory.oom.group): "
            "give tasks a memory_limit, or the worker --memory-limit auto"
        )


def check_database(pq: PQ, findings: Findings) -> None:
    """Connect, compare the schema with this code, and what is stored with what this code can run."""
    from pq_core.doctor.database import CAP, ask, unrunnable
    from pq_core.schema import check as check_schema
    from pq_core.schema import check_whole

    try:
        with pq, pq.session() as connection:
            check_schema(connection, pq.schema)
            check_whole(connection, pq.schema)
            waiting = ask(connection, pq.schema, "waiting", cap=CAP)
            schedules = pq.list_schedules()
    except PQError as error:
        findings.problems.append(str(error))
        return
    for row in waiting:
        if reason := unrunnable(pq.registry, row["name"], row["version"]):
            findings.problems.append(f"{row['count']} pending task(s) {row['name']} can't run with this code: {reason}")
    for schedule in schedules:
        words = f"{schedule.name} {schedule.key}".strip()
        if reason := unrunnable(pq.registry, schedule.name, schedule.version):
            state = "" if schedule.active else " (paused)"
            findings.problems.append(f"the schedule {words}{state} can't run with this code: {reason}")
        elif schedule.error:
            findings.problems.append(f"the schedule {words} can't be worked out: {schedule.error}")


def _say(pq: PQ, rows: list[dict[str, Any]], findings: Findings) -> None:
    columns = ("name", "queue", "priority", "max_attempts", "timeout", "signature")
    print_table(columns, ([row[column] for column in columns] for row in rows), empty="no task is declared")
    click.echo(f"queues: {', '.join(sorted(pq.registry.queues(pq.defaults)))}")
    for warning in findings.warnings:
        click.echo(f"warning: {warning}")
    for problem in findings.problems:
        click.echo(f"problem: {problem}")
    click.echo("no problem found" if not findings.problems else f"{len(findings.problems)} problem(s) found")
