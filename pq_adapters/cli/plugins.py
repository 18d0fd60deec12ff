"""``pq plugins``: who implements which hook."""

from __future__ import annotations

import click

from pq_adapters.cli.application import app_argument, factory_option, json_option, open_app
from pq_adapters.cli.output import print_json, print_table


@click.command(short_help="List who implements which hook.")
@app_argument
@factory_option
@click.option("--all", "everything", is_flag=True, help="Hooks that nobody implements, too.")
@json_option
def plugins(app: str, factory: bool, everything: bool, as_json: bool) -> None:
    """List the hooks and the plugins of APP that implement them, in the order in which they are called."""
    found = open_app(app, factory=factory).plugins.implementations()
    shown = {hook: names for hook, names in found.items() if names or everything}
    if as_json:
        print_json(shown)
        return
    rows = [(hook, ", ".join(names)) for hook, names in shown.items()]
    print_table(("hook", "plugins"), rows, empty="no plugin implements a hook")
