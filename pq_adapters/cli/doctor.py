"""``pq doctor``: what may be wrong with the database, this machine and the application, and what mends it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from pq_adapters.cli.application import (
    dsn_option,
    factory_option,
    json_option,
    load_tasks,
    open_app,
    open_pq,
    schema_option,
)
from pq_adapters.cli.mistakes import NEGATIVE
from pq_adapters.cli.output import one_line, print_json
from pq_core.doctor.finding import Finding, Level, problem
from pq_core.errors import DatabaseUnavailable, PQError

if TYPE_CHECKING:
    from pq_core.client import PQ

PATIENCE = 3.0
"""Seconds that a notification may take."""
MARKS = {Level.OK: "ok      ", Level.WARNING: "warning ", Level.PROBLEM: "problem "}


@click.command(short_help="Look for what is wrong, and say the fix.")
@click.argument("app", metavar="[APP]", required=False, envvar="PQ_APP")
@factory_option
@dsn_option
@schema_option
@click.option("--strict", is_flag=True, help="Warnings count, too.")
@json_option
def doctor(app: str | None, factory: bool, dsn: str | None, schema: str | None, strict: bool, as_json: bool) -> None:
    """Look at the database, at the workers and at this machine; with APP at its code as well.

    Reads only. Exit status 1 if there is a problem (with --strict: or a warning); every one is printed with its fix.
    """
    findings = list(examine(app, factory, dsn, schema))
    if as_json:
        print_json(findings)
    else:
        for finding in findings:
            click.echo(f"{MARKS[finding.level]} {finding.check}: {one_line(finding.text)}")
            if finding.fix:
                click.echo(f"         fix: {one_line(finding.fix)}")
    bad = {Level.PROBLEM, Level.WARNING} if strict else {Level.PROBLEM}
    if any(finding.level in bad for finding in findings):
        click.get_current_context().exit(NEGATIVE)


def examine(app: str | None, factory: bool, dsn: str | None, schema: str | None) -> Iterator[Finding]:
    """Run every check that there is something to look at for."""
    from pq_core.doctor import machine

    # The application as a worker would have it: before anything of ours has opened connections here.
    loaded = None
    if app is not None:
        loaded = open_app(app, factory=factory)
        load_tasks(loaded)
        yield from machine.threads()
        yield from machine.sockets()
    yield from machine.memory()
    with open_pq(dsn=dsn, app=app, factory=factory, schema=schema) as pq:
        try:
            yield from _database(pq, loaded)
        except DatabaseUnavailable as error:
            yield problem("database", str(error), "start it, or correct --dsn, PQ_DATABASE_URL or DATABASE_URL")


def _database(pq: PQ, loaded: PQ | None) -> Iterator[Finding]:
    from pq_core import citus
    from pq_core.doctor import database, machine

    with pq.session() as connection:
        before = time.time()
        [server] = database.ask(connection, pq.schema, "server")
        yield from machine.server_version(server["version"], standby=server["standby"])
        yield from machine.clock(server["time"], before=before, after=time.time())
        found = list(database.schema_version(connection, pq.schema))
        yield from found
        if found[0].level is Level.PROBLEM:
            return
        yield from citus.judge(citus.look(connection, pq.schema), pq.schema)
        yield from database.indexes(connection, pq.schema)
        yield from database.dead_rows(connection, pq.schema)
        yield from database.long_transactions(connection, pq.schema)
        yield from database.running(connection, pq.schema)
        yield from database.starts(connection, pq.schema)
        yield from database.names(connection, pq.schema, loaded.registry if loaded is not None else None)
        readable = database.may_read(connection, pq.schema, "pq_keys")
    if readable:
        yield from _keys(pq)
    alive = [worker for worker in pq.workers() if worker.alive]
    at_once = sum(worker.concurrency for worker in alive)
    yield from database.worker_versions([(worker.id, worker.name, worker.pq_version) for worker in alive])
    yield from database.connections(server, workers=len(alive), concurrency=at_once)
    yield from _pooler(pq)


def _keys(pq: PQ) -> Iterator[Finding]:
    """Look whether somebody can log in to the dashboard as admin, where there are keys at all."""
    from pq_core import keys
    from pq_core.doctor.finding import ok, warning

    found = pq.list_keys()
    words = keys.warning(found, datetime.now(tz=UTC))
    if words is not None:
        what, _, fix = words.partition(": make one: ")
        yield warning("keys", what, fix)
    elif found:
        yield ok("keys", "there is an admin key that is good for a week and more")


def _pooler(pq: PQ) -> Iterator[Finding]:
    from pq_core.database import connect, find_dsn
    from pq_core.doctor import database

    dsn = find_dsn(pq.listen_dsn)
    try:
        with connect(dsn, application_name="pq doctor") as hearing, connect(dsn, application_name="pq doctor") as other:
            yield from database.pooler(hearing, lambda: _notified(hearing, other))
    except PQError as error:
        yield problem("pooler", f"the way that workers take can't be used: {error}", "correct PQ(listen_dsn=…)")


def _notified(hearing: Any, other: Any) -> bool:
    """Tell whether what one connection notifies is heard by the other."""
    channel = f"pq_doctor_{secrets.token_hex(8)}"
    hearing.execute(f"LISTEN {channel}")
    other.execute(f"NOTIFY {channel}")
    return any(True for _ in hearing.notifies(timeout=PATIENCE, stop_after=1))
