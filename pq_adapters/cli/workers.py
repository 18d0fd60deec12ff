"""``pq workers``: who holds a lease, and having them end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pq_adapters.cli.application import ListsByDefault, database_command, json_option
from pq_adapters.cli.mistakes import NEGATIVE
from pq_adapters.cli.output import print_json, print_table, when

if TYPE_CHECKING:
    from collections.abc import Callable

    from pq_core.client import PQ


@click.group(cls=ListsByDefault, short_help="List, drain and stop workers.")
def workers() -> None:
    """Look at workers, and have them end. Without a command: list them."""


@workers.command("list", short_help="List the workers.")
@json_option
@database_command
def list_(pq: PQ, as_json: bool) -> None:
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


def chosen_workers(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take the workers that it is about: by ids, by host and application, or all."""
    command = click.option("--all", "everyone", is_flag=True, help="All workers.")(command)
    command = click.option("--of-app", metavar="NAME", help="All workers of the application of this name.")(command)
    command = click.option("--host", metavar="NAME", help="All workers on this machine.")(command)
    return click.argument("ids", metavar="[ID]...", type=int, nargs=-1)(command)


@workers.command(short_help="Have workers end in good order.")
@chosen_workers
@json_option
@database_command
def drain(pq: PQ, as_json: bool, **chosen: Any) -> None:
    """Have workers claim nothing more, end what they run within their --drain-timeout, and stop.

    As SIGTERM does, from anywhere: told at once where LISTEN works, else with the next heartbeat. A keeper starts no
    new worker in their place; a service manager may start the keeper again. Exit status 1 if one of the ids is no
    live worker, or none matches.
    """
    _tell(pq, pq.drain_worker, "drained", as_json=as_json, **chosen)


@workers.command(short_help="Have workers leave at once.")
@chosen_workers
@json_option
@database_command
def stop(pq: PQ, as_json: bool, **chosen: Any) -> None:
    """Have workers interrupt what they run, put it back for others, and leave.

    As a second SIGTERM does, from anywhere; told as by drain, and not replaced by their keeper either. A worker of a
    version that does not know this ends what it runs first. Exit status 1 if one of the ids is no live worker, or none
    matches.
    """
    _tell(pq, pq.stop_worker, "stopped", as_json=as_json, **chosen)


def _tell(
    pq: PQ,
    tell: Callable[[int], bool],
    done: str,
    *,
    ids: tuple[int, ...],
    host: str | None,
    of_app: str | None,
    everyone: bool,
    as_json: bool,
) -> None:
    if bool(ids) + bool(host or of_app) + everyone != 1:
        raise click.UsageError("give ids, or --host and --of-app, or --all")
    chosen = ids or tuple(
        worker.id
        for worker in pq.workers()
        if worker.alive and host in (None, worker.host) and of_app in (None, worker.app)
    )
    answers = {worker_id: tell(worker_id) for worker_id in dict.fromkeys(chosen)}
    told = [worker_id for worker_id, yes in answers.items() if yes]
    refused = [worker_id for worker_id, yes in answers.items() if not yes]
    if as_json:
        print_json({done: told, "refused": refused})
    else:
        click.echo(f"told {len(told)} of {len(answers)}")
        for worker_id in refused:
            click.echo(f"worker {worker_id}: no live worker has this id", err=True)
    if refused or not told:
        click.get_current_context().exit(NEGATIVE)
