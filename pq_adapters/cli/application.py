"""Which application and which database a command is about, and how its PQ is got."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from pq_adapters.cli.mistakes import report
from pq_core.app import load_app

if TYPE_CHECKING:
    from pq_core.client import PQ

Command = Callable[..., None]

app_argument = click.argument("app", metavar="APP", envvar="PQ_APP")
factory_option = click.option("--factory", is_flag=True, help="APP is a function that returns the PQ.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
dsn_option = click.option("--dsn", metavar="DSN", help="The database: a libpq URL or key/value string.")
schema_option = click.option(
    "--schema", metavar="S", envvar="PQ_SCHEMA", show_envvar=True, help="The schema of pq's tables. [default: public]"
)


def open_app(reference: str, *, factory: bool = False, tasks: bool = False) -> PQ:
    """Return the PQ that ``module:object`` names. ``tasks``: with the modules of its tasks imported.

    An error inside those modules is shown with its traceback; any other is said in one line.
    """
    try:
        pq = load_app(reference, factory=factory)
    except (Exception, SystemExit) as error:
        report(error, f"loading {reference}")
    if tasks:
        load_tasks(pq)
    return pq


def load_tasks(pq: PQ) -> None:
    """Import the modules of the tasks."""
    try:
        pq.registry.load()
    except (Exception, SystemExit) as error:
        report(error, "loading the tasks")


def open_pq(*, dsn: str | None, app: str | None, factory: bool, schema: str | None) -> PQ:
    """Return a PQ on the database that is meant: ``dsn``, else the application's, else the environment's."""
    from pq_core.client import PQ

    if dsn is not None or app is None:
        return PQ(dsn, schema=schema or "public")
    pq = open_app(app, factory=factory)
    if schema is None or schema == pq.schema:
        return pq
    return PQ(pq.dsn, listen_dsn=pq.listen_dsn, schema=schema)


class ListsByDefault(click.Group):
    """A group of commands that lists when none of them is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``list`` before options that are not the group's own."""
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def database_command(function: Command) -> Command:
    """Give a command the options that choose a database, and call it with the ``PQ`` as ``pq``."""

    @dsn_option
    @click.option(
        "--app", metavar="APP", envvar="PQ_APP", show_envvar=True, help="Use the database and schema of this PQ."
    )
    @factory_option
    @schema_option
    @functools.wraps(function)
    def command(dsn: str | None, app: str | None, factory: bool, schema: str | None, **given: Any) -> None:
        with open_pq(dsn=dsn, app=app, factory=factory, schema=schema) as pq:
            function(pq=pq, **given)

    return command
