"""One fault's stage: a database of its own, workers, load, measurements, and the checker at the end."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb

from pq_core import PQ
from pq_core.schema import migrate
from tests.chaos import app
from tests.chaos.checker import Checker, Findings
from tests.chaos.fleet import Fleet, Place
from tests.chaos.server import Server

ROLE = "chaos"
"""Who all but the suite itself connect as: nobody special, so that limits hold for them."""
TEMPLATE = "chaos_template"
SETTLE_WITHIN = 90.0
PROBE_WITHIN = 60.0
TABLES = """
    CREATE TABLE chaos_orders (key text PRIMARY KEY, kind text NOT NULL, client text, number integer);
    CREATE TABLE chaos_effects (key text NOT NULL, task bigint NOT NULL, fence bigint NOT NULL, pid integer);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is done. ``seconds``: of injecting; ``warm_up``: before it; ``probe``: tasks that measure throughput,
    ``probes`` times, 0: not at all."""

    workers: int = 3
    concurrency: int = 2
    lease: float = 5.0
    rate: float = 25.0
    warm_up: float = 2.0
    seconds: float = 8.0
    probe: int = 60
    probes: int = 3


@dataclass(slots=True, kw_only=True)
class Result:
    """What came of one fault. ``recovery``: seconds from its end until all that was committed before it had ended."""

    injected: int
    kills: int
    findings: Findings
    recovery: float
    before: float
    after: float
    problems: list[str] = field(default_factory=list)

    @property
    def ratio(self) -> float | None:
        """Throughput after, as a share of before."""
        return self.after / self.before if self.before and self.after else None


def prepare(server: Server) -> None:
    """Make the role and the template that every stage's database is a copy of."""
    server.execute(f"CREATE ROLE {ROLE} LOGIN")
    server.execute(f"CREATE DATABASE {TEMPLATE} OWNER {ROLE}")
    dsn = make_conninfo(server.dsn, dbname=TEMPLATE, user=ROLE)
    migrate(dsn, "public")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(TABLES)


class Stage:
    """Set up by ``open``, with whatever the fault has changed before: ``via`` (another way to the database for
    workers, load and effects), ``extra`` (more variables, for each keeper), ``enter`` (puts a keeper on another host).
    """

    def __init__(self, server: Server, folder: Path, size: Size) -> None:
        folder.mkdir(parents=True)
        self.server = server
        self.folder = folder
        self.size = size
        self.database = f"chaos_{secrets.token_hex(4)}"
        self.fleet = Fleet(folder, lease=size.lease, concurrency=size.concurrency)
        self.via: str | None = None
        self.load_via: str | None = None
        self.enter: list[Callable[[], None] | None] = [None] * size.workers
        self.extra: list[dict[str, str]] = [{} for _ in range(size.workers)]

    @property
    def direct(self) -> str:
        """The superuser's DSN of the stage's database."""
        return make_conninfo(self.server.dsn, dbname=self.database)

    @property
    def plain(self) -> str:
        """The ordinary DSN of the stage's database, without detours."""
        return make_conninfo(self.direct, user=ROLE)

    def address(self, via: str | None) -> str:
        """Return the DSN by which processes of the run get to the database."""
        return self.plain if via is None else make_conninfo(via, dbname=self.database, user=ROLE)

    def open(self) -> None:
        """Make the database, start workers, schedules and load."""
        self.server.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}").format(
                sql.Identifier(self.database), sql.Identifier(TEMPLATE), sql.Identifier(ROLE)
            ).as_string(None)
        )  # fmt: skip
        with PQ(self.plain, tasks=[app.__name__]) as pq:
            every = {"often": timedelta(seconds=0.5), "seldom": timedelta(seconds=1)}
            for key, interval in every.items():
                alone = 1 if key == "seldom" else None
                pq.schedule(app.tick.call(key), run_every=interval, key=key, catch_up="all", max_concurrent=alone)
        work = self.address(self.via)
        environments = [self.fleet.environment(work, **{app.EFFECTS: work, **more}) for more in self.extra]
        self.fleet.start(*(Place(*both) for both in zip(environments, self.enter, strict=True)))
        self.fleet.start_load(self.address(self.load_via or self.via), enqueuers=2, rate=self.size.rate)
        time.sleep(self.size.warm_up)

    def order_long(self, count: int, seconds: float) -> None:
        """Order tasks that run for so long, and wait until half of them have begun."""
        self.order("endless", "plain", [[seconds]] * count, at_least=count / 2)

    def order(
        self, prefix: str, function: str, arguments: list[list[float]], *, at_least: float, **options: Any
    ) -> None:
        """Order a task for each of ``arguments``, which follow its key, and wait until so many run."""
        keys = [f"{prefix}-{number}" for number in range(len(arguments))]
        tasks = [
            {"name": f"chaos.{function}", "priority": 100, "max_attempts": 50, **options, "args": [key, *rest]}
            for key, rest in zip(keys, arguments, strict=True)
        ]
        order = (
            "WITH booked AS (INSERT INTO chaos_orders (key, kind)"
            " SELECT key, %s FROM unnest(%s::text[]) key RETURNING 1)"
            " SELECT e.id FROM pq_enqueue(%s) e, (SELECT count(*) FROM booked) b"
        )
        begun = "SELECT count(*) FROM pq_tasks WHERE payload -> 'args' ->> 0 = ANY (%s) AND status <> 'pending'"
        with psycopg.connect(self.plain, autocommit=True) as connection:
            connection.execute(order, (function, keys, Jsonb(tasks)))
            until = time.monotonic() + 20
            while (connection.execute(begun, (keys,)).fetchone() or (0,))[0] < at_least and time.monotonic() < until:
                time.sleep(0.05)

    def throughput(self) -> float:
        """Return tasks per second, the best of some bursts; 0 when none got through in time.

        Seconds of a machine that does nothing else: others may be at work here, which a fixed piece of work tells.
        """
        best = 0.0
        for _ in range(self.size.probes):
            before = _yardstick()
            rate = self._burst()
            best = max(best, rate * (before + _yardstick()) / 2 / _unit())
        return best

    def _burst(self) -> float:
        from_now = time.monotonic()
        many = 'SELECT id FROM pq_enqueue((SELECT jsonb_agg(\'{"name": "chaos.probe", "priority": 100}\'::jsonb) '
        with psycopg.connect(self.plain, autocommit=True) as connection:
            ids = [row[0] for row in connection.execute(f"{many}FROM generate_series(1, %s)))", (self.size.probe,))]
            left = "SELECT count(*) FROM pq_tasks WHERE id = ANY (%s) AND status IN ('pending', 'running')"
            while (connection.execute(left, (ids,)).fetchone() or (1,))[0]:
                if time.monotonic() > from_now + PROBE_WITHIN:
                    return 0.0
                time.sleep(0.02)
        return self.size.probe / (time.monotonic() - from_now)

    def recovery(self) -> float:
        """Return the seconds from now until every task that is committed now has ended."""
        lifted = time.monotonic()
        with psycopg.connect(self.direct, autocommit=True) as connection:
            (last,) = connection.execute("SELECT coalesce(max(id), 0) FROM pq_tasks").fetchone() or (0,)
            # Debounced tasks start anew again and again.
            unfinished = (
                "SELECT count(*) FROM pq_tasks WHERE id <= %s AND status IN ('pending', 'running')"
                " AND name <> 'chaos.version'"
            )
            while (connection.execute(unfinished, (last,)).fetchone() or (1,))[0]:
                if time.monotonic() > lifted + SETTLE_WITHIN:
                    break
                time.sleep(0.05)
        return time.monotonic() - lifted

    def settle(self) -> list[str]:
        """End load and schedules and wait until nothing is left to do; return what went wrong."""
        self.fleet.stop_load()
        until = time.monotonic() + SETTLE_WITHIN
        with psycopg.connect(self.direct, autocommit=True) as connection:
            connection.execute("UPDATE pq_periodic SET active = false, updated_at = clock_timestamp()")
            left = "SELECT count(*) FROM pq_tasks WHERE status IN ('pending', 'running')"
            while count := (connection.execute(left).fetchone() or (0,))[0]:
                if time.monotonic() > until:
                    return [f"{count} tasks had not ended {SETTLE_WITHIN:g} s after the last was enqueued"]
                time.sleep(0.05)
        return []

    def check(self) -> Findings:
        """Have the checker look, after the workers have ended."""
        return Checker(self.direct, self.folder).check()

    def leases(self) -> int:
        """Return how many leases are left."""
        with psycopg.connect(self.direct) as connection:
            row = connection.execute("SELECT count(*) FROM pq_workers WHERE expires_at > clock_timestamp()").fetchone()
        return int(row[0]) if row else 0

    def close(self, *, keep: bool) -> None:
        """End all that is left of it."""
        self.fleet.close()
        if keep:
            return
        with suppress(psycopg.Error):
            name = sql.Identifier(self.database)
            self.server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name).as_string(None))
        shutil.rmtree(self.folder, ignore_errors=True)


@cache
def _unit() -> float:
    """Seconds that the piece of work takes at best."""
    return min(_yardstick() for _ in range(5))


def _yardstick() -> float:
    """Return how long a fixed piece of work takes now: processes are started, and a core computes."""
    began = time.monotonic()
    for _ in range(40):
        subprocess.run(["true"], check=True)
        sum(range(20_000))
    return time.monotonic() - began
