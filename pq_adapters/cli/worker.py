"""``pq worker``: check what is asked, then become a lean process that does it."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from typing import Any

import click

from pq_adapters.cli.application import app_argument, factory_option
from pq_adapters.cli.launch import worker_command
from pq_adapters.cli.mistakes import Mistake
from pq_adapters.cli.parameters import duration, names, size, size_or_auto
from pq_core.errors import InvalidOption
from pq_core.worker.options import WorkerOptions

MOST_PROCESSES = 1000


@click.command(
    short_help="Run the tasks of APP.", context_settings={"auto_envvar_prefix": "PQ_WORKER", "show_default": True}
)
@app_argument
@factory_option
@click.option("--queues", type=names, metavar="A,B", help="Queues it serves. [default: those of its tasks]")
@click.option(
    "--priorities", type=names, metavar="A,B", help="Bands: critical, high, normal, low, batch. [default: all]"
)
@click.option("--concurrency", type=int, metavar="N", help="Tasks at once, in each process. [default: one per core]")
@click.option("--processes", type=click.IntRange(1, MOST_PROCESSES), default=1, metavar="N", help="Worker processes.")
@click.option("--tasks-per-child", type=int, default=1, metavar="N", help="Tasks that one child runs.")
@click.option(
    "--spares",
    type=int,
    metavar="N",
    help="Processes forked ahead, with one task per child. [default: --concurrency, 2 to 8]",
)
@click.option(
    "--async-concurrency",
    type=int,
    default=1,
    metavar="N",
    help="Async tasks at once in one more child, which they share. [default: 1, a process each]",
    show_default=False,
)
@click.option(
    "--ageing", type=duration, metavar="S", help="Waiting that makes a task count one band higher. [default: never]"
)
@click.option(
    "--lease",
    type=duration,
    envvar=["PQ_WORKER_LEASE", "PQ_LEASE"],
    default="30",
    metavar="S",
    help="After this long without a sign of life a worker counts as dead.",
)
@click.option("--until-empty", is_flag=True, help="End when nothing is due and nothing runs here.")
@click.option("--poll-interval", type=duration, default="1", metavar="S", help="Between looks when nothing wakes it.")
@click.option("--max-runtime", type=duration, metavar="S", help="Timeout of tasks that have none. [default: none]")
@click.option("--grace", type=duration, default="5", metavar="S", help="From SIGTERM to SIGKILL of a task.")
@click.option("--drain-timeout", type=duration, default="25", metavar="S", help="For running tasks, at a stop.")
@click.option(
    "--memory-limit",
    type=size_or_auto,
    metavar="B|auto",
    help="What a task may add where it says nothing itself; auto: the container's share. [default: none]",
)
@click.option(
    "--max-child-memory",
    type=size,
    metavar="B",
    help="A reused child with more above the image takes no other task. [default: any]",
)
@click.option("--allow", multiple=True, metavar="MODULE", help="Its plain functions may run too; can be repeated.")
@click.option("--plugin", "plugins", multiple=True, metavar="M:O", help="One more plugin; can be repeated.")
@click.option("--block-plugin", "block", multiple=True, metavar="NAME", help="Leave a plugin out; can be repeated.")
@click.option("--health-file", type=click.Path(dir_okay=False), metavar="F", help="Touched while all is well.")
@click.option(
    "--prune-share", type=float, default=0.1, metavar="X", help="Of the database's time, for deletions; 0: none."
)
@click.option("--prune-interval", type=duration, default="60", metavar="S", help="Between two rounds of deletions.")
@click.option("--metrics-port", type=int, metavar="P", help="Serve Prometheus' text there; process N at P + N.")
@click.option("--metrics-host", default="0.0.0.0", metavar="H", help="The address that the metrics are served on.")
@click.option("--strict", is_flag=True, help="Refuse to start when the application has started threads.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", help="Format of pq's own log.")
@click.option("--log-traceback", is_flag=True, help="Log the whole traceback of failed attempts, not one line.")
@click.option(
    "--no-huge-pages",
    "huge_pages",
    is_flag=True,
    flag_value=False,
    default=True,
    show_default=False,
    help="Leave the image's memory as it is; huge pages make forks cheap.",
)
@click.option(
    "--no-immortal",
    "immortal",
    is_flag=True,
    flag_value=False,
    default=True,
    show_default=False,
    help="Let functions and classes count their references as ever.",
)
@click.option(
    "--burst", is_flag=True, hidden=True, help="Of RQ.", expose_value=False, callback=lambda *said: _no_burst(*said)
)
@click.option("--check", is_flag=True, help="Only report threads, sockets, memory, and the cost of one fork.")
def worker(app: str, **given: Any) -> None:
    """Run the tasks of APP, each in a process of its own, until it is told to stop.

    SIGTERM or SIGINT: finish what runs, and put back what takes longer than --drain-timeout. A second one: put it
    back now. SIGHUP: new workers with the code as it is now, while the old ones finish.

    Every option has an environment variable: --poll-interval is PQ_WORKER_POLL_INTERVAL.
    """
    separate = ("factory", "processes", "allow", "plugins", "block", "log_format", "check")
    apart = {name: given.pop(name) for name in separate}
    arguments = worker_command(app, worker_options(given), **apart)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    try:
        os.execv(arguments[0], arguments)
    except OSError as error:
        raise Mistake(f"{arguments[0]} can't be started: {error.strerror}") from error


def _no_burst(_: click.Context, __: click.Parameter, said: bool) -> None:
    if said:
        raise Mistake("there is no --burst: --until-empty ends the worker when nothing is due")


def worker_options(given: dict[str, Any]) -> WorkerOptions:
    """Return the options from what the flags said; an unsaid one has its default. Mistake names the flag."""
    values: dict[str, Any] = {
        name: value.total_seconds() if isinstance(value, timedelta) else value
        for name, value in given.items()
        if value is not None
    }
    if values.get("concurrency") == 0:
        raise Mistake("--concurrency 0: give a whole number from 1 to 1000")
    try:
        return WorkerOptions(**values)
    except InvalidOption as error:
        option, separator, rest = str(error).partition("=")
        if not separator or option not in values:
            option, separator, rest = str(error).partition(":")
        if option in values:
            raise Mistake(f"--{option.replace('_', '-')}{separator}{rest}") from error
        raise Mistake(str(error)) from error
