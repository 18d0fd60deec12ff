"""``pq schedules next``: when a schedule, an expression or an interval is due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

import click

from pq_adapters.cli.application import dsn_option, factory_option, json_option, open_pq, schema_option
from pq_adapters.cli.mistakes import Mistake, Negative
from pq_adapters.cli.output import print_json, print_table
from pq_adapters.cli.parameters import duration, moment

if TYPE_CHECKING:
    from pq_core.schedules import Rhythm
    from pq_core.types import ScheduleRecord


@click.command("next", short_help="Print the next times.")
@click.argument("count", metavar="N", type=click.IntRange(1, 100_000))
@click.argument("key", metavar="[KEY]", required=False)
@click.option("--cron", "expression", metavar="EXPR", help="Of this expression.")
@click.option("--timezone", metavar="ZONE", help="Its timezone; default UTC.")
@click.option("--every", type=duration, metavar="S", help="Of this interval, counted from --after.")
@click.option("--after", type=moment, metavar="ISO", help="Later than this; default now.")
@json_option
@dsn_option
@click.option("--app", metavar="APP", envvar="PQ_APP", show_envvar=True, help="Use the database and schema of this PQ.")
@factory_option
@schema_option
def next_(
    count: int,
    key: str | None,
    expression: str | None,
    timezone: str | None,
    every: timedelta | None,
    after: datetime | None,
    as_json: bool,
    dsn: str | None,
    app: str | None,
    factory: bool,
    schema: str | None,
) -> None:
    """Print the next N times of the schedule with this key, task name or id, or of an expression or interval.

    For --cron and --every no database is needed.
    """
    if sum(given is not None for given in (key, expression, every)) != 1:
        raise click.UsageError("give one of KEY, --cron and --every")
    from pq_core.cron import find_zone
    from pq_core.schedule_options import build_schedule
    from pq_core.schedules import Every, ticks_after

    now = datetime.now(tz=UTC)
    start, end = after or now, None
    rhythm: Rhythm
    if key is None:
        options = build_schedule({"cron": expression, "run_every": every, "timezone": timezone}, what="next")
        rhythm, zone = options.rhythm(start), find_zone(timezone)
    else:
        with open_pq(dsn=dsn, app=app, factory=factory, schema=schema) as pq:
            found = _one(pq.list_schedules(), key)
        said = {"cron": found.cron, "run_every": found.run_every, "timezone": found.timezone}
        options = build_schedule({**said, "start_at": found.start_at, "end_at": found.end_at}, what="next")
        # What is stored counts: somebody may have moved it, and before it there is nothing.
        rhythm = options.rhythm(now)
        if found.run_every is not None and found.next_run is not None:
            rhythm = Every(found.run_every, found.next_run)
        zone, end = find_zone(timezone or found.timezone), options.end_at
        first = max(filter(None, [found.next_run, options.start_at]), default=None)
        if first is not None and first > start:
            start = first - timedelta(microseconds=1)
    times = [tick for tick in islice(ticks_after(rhythm, start), count) if end is None or tick <= end]
    rows = [{"utc": tick.astimezone(UTC).isoformat(), "local": tick.astimezone(zone).isoformat()} for tick in times]
    if as_json:
        print_json(rows)
    else:
        print_table(("utc", "local"), ([row["utc"], row["local"]] for row in rows), empty="it does not come again")


def _one(schedules: list[ScheduleRecord], key: str) -> ScheduleRecord:
    """Return the schedule that ``key`` means: by its key first, then by its task's name, then by its id."""
    for same in (
        lambda one: one.key == key,
        lambda one: one.name == key,
        lambda one: str(one.id) == key,
    ):
        match [one for one in schedules if same(one)]:
            case [only]:
                return only
            case []:
                continue
            case several:
                words = ", ".join(f"{one.id} ({one.name} {one.key})".replace(" )", ")") for one in several)
                raise Mistake(f"{key!r} may be several schedules: {words}; give the id")
    raise Negative(f"there is no schedule {key!r}; `pq schedules list` shows them")
