"""The command ``pq``: its commands by name, each imported when it is used."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

import click

from pq_adapters.cli.mistakes import translate
from pq_core.version import __version__

COMMANDS = {
    "check": "check:check",
    "completion": "completion:completion",
    "dashboard": "dashboard:dashboard",
    "demo": "demo.command:demo",
    "doctor": "doctor:doctor",
    "enqueue": "enqueue:enqueue",
    "health": "health:health",
    "keys": "keys:keys",
    "limits": "limits:limits",
    "migrate": "migrate:migrate",
    "plugins": "plugins:plugins",
    "prune": "prune:prune",
    "queues": "queues:queues",
    "schedules": "schedules:schedules",
    "stats": "stats:stats",
    "tasks": "tasks:tasks",
    "top": "top:top",
    "worker": "worker:worker",
    "workers": "workers:workers",
}
"""Where each command is, below this package."""


class Root(click.Group):
    """Finds commands by name, and says errors of pq's in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(f"pq_adapters.cli.{module}"), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that ``args`` begin with; of an unknown one, what may have been meant."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS and not ctx.resilient_parsing:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(COMMANDS))}"
            raise click.UsageError(f"no command is called {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if not isinstance(error, (click.ClickException, click.exceptions.Exit, click.Abort)):
                translate(error)
            raise


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="pq")
def root() -> None:
    """Background tasks on Postgres.

    APP is module:object, where your PQ is; the current directory is importable. Commands about a database take it
    from --dsn, else from --app, else from PQ_DATABASE_URL or DATABASE_URL.

    Exit status: 0 done, 1 the answer is no or something failed, 2 a mistake in what was asked.
    """
