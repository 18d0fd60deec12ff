"""``pq health``: for probes. ``--live`` and ``--here`` read a file, and load no application and no driver."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from pq_adapters.cli.application import dsn_option, factory_option, json_option, open_pq, schema_option
from pq_adapters.cli.mistakes import NEGATIVE
from pq_adapters.cli.output import print_json
from pq_adapters.cli.parameters import duration, names
from pq_core.worker.vitals import STALE, read

if TYPE_CHECKING:
    from pq_core.client import PQ


@dataclass(slots=True)
class Findings:
    """What was looked at, in words, and what of it is not well."""

    said: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@click.command(short_help="Is it alive, is it ready? For probes.")
@click.option("--live", is_flag=True, help="Has the worker of this machine given a sign of life? Reads --file alone.")
@click.option("--ready", is_flag=True, help="Can tasks run: database, schema, live workers, waits? [default]")
@click.option("--here", is_flag=True, help="Does a worker of this machine hold a lease, and go on? Reads --file alone.")
@click.option(
    "--file",
    "file",
    metavar="F",
    envvar=["PQ_HEALTH_FILE", "PQ_WORKER_HEALTH_FILE"],
    help="The worker's --health-file. [env: PQ_WORKER_HEALTH_FILE]",
)
@click.option(
    "--max-age", type=duration, default=f"{STALE:g}", show_default=True, metavar="S", help="Of the last sign of life."
)
@click.option("--max-wait", type=duration, metavar="S", help="No due task has waited longer than this.")
@click.option(
    "--min-workers",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    metavar="N",
    help="So many at least hold a lease and go on.",
)
@click.option("--queues", "served", type=names, metavar="A,B", help="A live worker serves each of these.")
@click.option("--app", metavar="APP", envvar="PQ_APP", show_envvar=True, help="Use the database and schema of this PQ.")
@factory_option
@dsn_option
@schema_option
@json_option
def health(
    live: bool,
    ready: bool,
    here: bool,
    file: str | None,
    max_age: timedelta,
    app: str | None,
    factory: bool,
    dsn: str | None,
    schema: str | None,
    as_json: bool,
    **wanted: Any,
) -> None:
    """Say whether all is well.

    Exit status: 0 yes, 1 no, 2 a mistake in what was asked (a missing file option, an unreachable database is 1).
    --live is for liveness probes: it needs no database, since a restart mends none. --here is for readiness probes: a
    worker that never got its lease takes no other's place. --ready is for alerts and for waiting at a deploy.
    """
    findings = Findings()
    if live or here:
        if file is None:
            raise click.UsageError(
                f"--{'live' if live else 'here'} needs --file (or PQ_WORKER_HEALTH_FILE): "
                "what the worker has as --health-file"
            )
        check_file(file, max_age.total_seconds(), findings, least=wanted["min_workers"] if here else 0)
    if ready or not (live or here):
        check_readiness(dsn, app, factory, schema, wanted, findings)
    if as_json:
        print_json({"healthy": not findings.problems, "problems": findings.problems, "said": findings.said})
    else:
        for line in findings.said:
            click.echo(line)
        for line in findings.problems:
            click.echo(f"not well: {line}", err=True)
    if findings.problems:
        click.get_current_context().exit(NEGATIVE)


def check_file(path: str, most: float, findings: Findings, *, least: int = 0) -> None:
    """Look at the worker's health file. ``least``: so many workers hold a lease and go on; 0: it need only live."""
    sign = read(path)
    if sign.age is None:
        findings.problems.append(sign.words)
    elif sign.age > most:
        findings.problems.append(f"{sign.words}; more than {most:g} s")
    elif least and sign.stopping:
        findings.problems.append(f"{sign.words}; it is about to end")
    elif sign.workers < least:
        findings.problems.append(f"{sign.words}; {least} must hold a lease")
    else:
        findings.said.append(sign.words)


def check_readiness(
    dsn: str | None, app: str | None, factory: bool, schema: str | None, wanted: dict[str, Any], findings: Findings
) -> None:
    """Look at the database, its schema, the workers and what waits."""
    from pq_core.errors import DatabaseUnavailable, NotMigrated, SchemaIncompatible
    from pq_core.schema import check

    with open_pq(dsn=dsn, app=app, factory=factory, schema=schema) as pq:
        try:
            with pq.session() as connection:
                check(connection, pq.schema)
            findings.said.append(f"the database answers; schema {pq.schema} fits this code")
            _check_work(pq, wanted, findings)
        except (DatabaseUnavailable, NotMigrated, SchemaIncompatible) as error:
            findings.problems.append(str(error))


def _check_work(pq: PQ, wanted: dict[str, Any], findings: Findings) -> None:
    alive = [worker for worker in pq.workers() if worker.alive]
    workers = [worker for worker in alive if not worker.draining]
    draining = len(alive) - len(workers)
    words = f"{len(workers)} worker(s) alive" + (f", and {draining} about to end" if draining else "")
    (findings.said if len(workers) >= wanted["min_workers"] else findings.problems).append(words)
    served = {queue for worker in workers for queue in worker.queues}
    for queue in wanted["served"] or ():
        if queue not in served:
            findings.problems.append(f"no live worker serves the queue {queue}")
    paused = {queue.name for queue in pq.queues() if queue.paused}
    waits = {name: queue.oldest_wait for name, queue in pq.stats().queues.items() if name not in paused}
    longest = max(waits, key=lambda name: waits[name], default=None)
    if longest is None:
        findings.said.append("nothing waits")
        return
    words = f"the oldest due task waits for {waits[longest]:.1f} s, in the queue {longest}"
    limit: timedelta | None = wanted["max_wait"]
    late = limit is not None and waits[longest] > limit.total_seconds()
    (findings.problems if late else findings.said).append(words)
