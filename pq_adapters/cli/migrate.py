"""``pq migrate``: create or upgrade the tables."""

from __future__ import annotations

import click

from pq_adapters.cli.application import dsn_option, factory_option, json_option, open_app, schema_option
from pq_adapters.cli.output import print_json


@click.command(short_help="Create or upgrade the tables.")
@click.argument("app", metavar="[APP]", required=False, envvar="PQ_APP")
@factory_option
@dsn_option
@schema_option
@click.option("--sql", "as_sql", is_flag=True, help="Print the script for an empty schema; touch no database.")
@click.option(
    "--since",
    type=click.IntRange(0, 9999),
    metavar="N",
    help="With --sql: what comes after revision N (0: no tables), for a transaction that is open, as of a migration of "
    "your own.",
)
@click.option("--to", type=click.IntRange(1, 9999), metavar="M", help="With --since: up to revision M, not the latest.")
@click.option(
    "--roles", is_flag=True, help="Print the SQL for the roles producer, worker and viewer; touch no database."
)
@click.option(
    "--citus-fence",
    "fence",
    is_flag=True,
    help="Beside tables that Citus distributes: one commit for them and for the tasks enqueued with them.",
)
@click.option("--role-prefix", default="pq_", show_default=True, metavar="P", help="How the names of the roles begin.")
@json_option
def migrate(
    app: str | None,
    factory: bool,
    dsn: str | None,
    schema: str | None,
    as_sql: bool,
    since: int | None,
    to: int | None,
    roles: bool,
    fence: bool,
    role_prefix: str,
    as_json: bool,
) -> None:
    """Bring the tables to this version of pq: create them or upgrade them.

    With APP, in its database and schema, where --dsn and --schema don't say otherwise; else in that of --dsn,
    PQ_DATABASE_URL or DATABASE_URL. Several at once do no harm: one works, the others wait and find it done.
    """
    from pq_core import schema as tables

    found_dsn = None
    if app is not None and (dsn is None or schema is None):
        pq = open_app(app, factory=factory)
        # Straight to Postgres, where the application names such a way: migrations lock by their session.
        found_dsn, schema = pq.listen_dsn, schema or pq.schema
    schema = schema or "public"
    if roles:
        from pq_core.privileges import roles_sql

        click.echo(roles_sql(schema, prefix=role_prefix), nl=False)
        return
    if (since is not None and not as_sql) or (to is not None and since is None):
        raise click.UsageError("--since goes with --sql, and --to with --since")
    if as_sql:
        if since is None:
            script = tables.migration_sql(schema)
        else:
            after = f"{since:04}" if since else None
            script = tables.migration_sql(schema, revision=f"{to:04}" if to else "head", since=after, within=True)
        click.echo(script, nl=False)
        if fence:
            from pq_core.citus import fence_sql

            click.echo(fence_sql(schema), nl=False)
        return
    result = tables.migrate(dsn or found_dsn, schema)
    if fence and not tables.build_citus_fence(dsn or found_dsn, schema):
        raise click.UsageError("--citus-fence: the extension citus is not in this database")
    for note in result.notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        print_json(result)
    elif result.newer:
        click.echo(f"schema {schema}: at revision {result.after:04}, newer than this pq; they work together")
    elif result.changed:
        before = "no tables" if result.before is None else f"revision {result.before:04}"
        click.echo(f"schema {schema}: from {before} to revision {result.after:04}")
    else:
        click.echo(f"schema {schema}: at revision {result.after:04} already")
