"""``pq dashboard``: the pages and the API, served from here."""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING

import click

from pq_adapters.cli.application import dsn_option, factory_option, open_app, open_pq, schema_option
from pq_adapters.cli.mistakes import Mistake
from pq_core.dsn import is_embedded

if TYPE_CHECKING:
    from pq_core.client import PQ


@click.command(short_help="Serve the dashboard and its API.")
@click.argument("app", metavar="[APP]", envvar="PQ_APP", required=False)
@factory_option
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where to listen.")
@click.option(
    "--port", type=click.IntRange(0, 65535), metavar="N", help="0: any free one.  [default: 8765, or a free one]"
)
@click.option("--allow-host", multiple=True, metavar="NAME", help="A name that it is reached by; repeat for more.")
@click.option(
    "--allow-origin", multiple=True, metavar="URL", help="Changes may come from here too, as https://ops.example.com."
)
@click.option("--title", default="pq", metavar="TEXT", help="What the pages are called.")
@dsn_option
@schema_option
def dashboard(
    app: str | None,
    factory: bool,
    host: str,
    port: int | None,
    allow_host: tuple[str, ...],
    allow_origin: tuple[str, ...],
    title: str,
    dsn: str | None,
    schema: str | None,
) -> None:
    """Serve the dashboard and its API until Ctrl-C.

    With APP its tasks can be enqueued and scheduled; without it, everything else works. On a loopback address nobody
    needs a key as long as there is none (pq keys create); on any other address there must be one first. In the embedded
    database it makes the tables by itself when there are none.
    """
    try:
        serving = importlib.import_module("pq_adapters.dashboard.serving")
    except ImportError as error:
        raise Mistake(str(error)) from error
    with contextlib.ExitStack() as stack:
        if app is None:
            pq = open_pq(dsn=dsn, app=None, factory=False, schema=schema)
        else:
            pq = open_app(app, factory=factory, tasks=True)
            if schema is not None and schema != pq.schema:
                raise Mistake(f"--schema {schema}: {app} has the schema {pq.schema}; leave one of them out")
            if dsn is not None:
                stack.enter_context(pq.override(dsn, everywhere=True))
        stack.enter_context(pq)
        if is_embedded(pq.dsn):
            _make_tables(pq)
        try:
            serving.serve(
                pq,
                host=host,
                port=port,
                allowed_hosts=allow_host,
                allowed_origins=allow_origin,
                title=title,
                say=click.echo,
            )
        except ImportError as error:
            raise Mistake(str(error)) from error


def _make_tables(pq: PQ) -> None:
    """Bring the embedded database, which is this project's own, to what this code needs."""
    from pq_core.schema import migrate

    result = migrate(pq.dsn, pq.schema)
    if result.changed:
        click.echo(f"tables in schema {result.schema}: revision {result.after:04}")
