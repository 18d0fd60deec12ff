"""How long the dashboard's pages take on the server with a million tasks in the table.

    python benchmarks/bench_dashboard.py [--tasks N] [--rounds N] [--dsn DSN] [--keep]

Makes a schema of its own in the database of --dsn (else PQ_DATABASE_URL, else the embedded server), fills it by SQL,
asks each page several times through the application itself, without a network in between, and prints the median of each
in milliseconds; "first" is the one before them, when the process held no statistics in memory. Ends with 1 if the
overview takes 100 ms or more at the median, or any other page 200 ms or more. --keep leaves the schema there.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpx
import psycopg
from psycopg import sql

from pq_adapters.dashboard import create_app
from pq_adapters.dashboard.figures import figures_of
from pq_core import PQ
from pq_core.dsn import find_dsn
from pq_core.schema import drop, migrate

SCHEMA = "pq_bench_dashboard"
HERE = Path(__file__).resolve().parent
OVERVIEW, OTHERS = 100.0, 200.0
"""Milliseconds at the median."""

FILTERS = [
    "",
    *[f"state={state}" for state in ("waiting", "scheduled", "running", "completed", "failed", "cancelled")],
    "name=jobs.charge_card",
    "name=there.is.none",
    "queue=mail",
    "queue=nowhere",
    "priority=100",
    "priority=33",
    "worker=3",
    "worker=3&state=failed",
    "worker=3&state=failed&name=there.is.none",
    "worker=3&state=completed",
    "worker=3&state=completed&name=there.is.none",
    "worker=3&queue=nowhere",
    "worker=13",
    "worker=13&state=completed",
    "worker=13&state=completed&queue=nowhere",
    "worker=13&within=24h",
    "worker=999",
    "worker=999&queue=mail",
    "state=held",
    "state=held&queue=search",
    "state=held&key=tenant+42",
    "state=held&key=nobody",
    "key=tenant+42",
    "schedule=4",
    "client_id=order-501",
    "client_id=nobody",
    "error=no+such+thing",
    "error=nothing+says+this",
    "within=1h",
    "within=7d",
    f"until={quote(f'{datetime.now(tz=UTC) - timedelta(days=20):%Y-%m-%dT%H:%M}')}",
    "state=failed&name=jobs.charge_card",
    "state=failed&error=nothing+says+this",
    "state=failed&fingerprint=none&name=jobs.index_page",
    "state=completed&queue=nowhere",
    "state=completed&name=jobs.charge_card&queue=nowhere",
    "state=completed&within=24h&priority=33",
    "state=waiting&queue=mail",
    "state=waiting&name=there.is.none",
    "state=scheduled&name=there.is.none",
    "state=cancelled&schedule=4",
]


def fill(dsn: str, tasks: int) -> None:
    """Make the schema and its rows, unless they are there."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        if connection.execute("SELECT to_regclass(%s)", (f"{SCHEMA}.filled_{tasks}",)).fetchone() != (None,):
            return
    drop(dsn, SCHEMA)
    migrate(dsn, SCHEMA)
    with psycopg.connect(dsn, autocommit=True) as connection:
        for name in ("dashboard_rows", "dashboard_statistics"):
            text = (HERE / f"{name}.sql").read_text(encoding="utf-8")
            for statement in text.split(";\n"):
                if any(line and not line.startswith("--") for line in statement.splitlines()):
                    filled = statement.replace("{schema}", SCHEMA).replace("{tasks}", str(tasks))
                    connection.execute(sql.SQL(filled.replace("{", "{{").replace("}", "}}")).format())
        connection.execute(f"CREATE TABLE {SCHEMA}.filled_{tasks} ()")
        connection.execute("VACUUM ANALYZE")


async def measure(dsn: str, rounds: int) -> bool:
    """Print the median of each page; return whether all are fast enough."""
    fast = True
    async with PQ(dsn, schema=SCHEMA) as pq:
        task = (await pq.alist_tasks(limit=1, status="failed"))[0]
        pages = {
            "/": OVERVIEW,
            "/?range=24h": OVERVIEW,
            "/?range=7d": OVERVIEW,
            **{f"/tasks?{chosen}": OTHERS for chosen in FILTERS},
            f"/tasks/{task.id}": OTHERS,
            **{f"/failures?within={within}": OTHERS for within in ("1h", "24h", "7d", "30d")},
            "/schedules": OTHERS,
            "/schedules/4": OTHERS,
            "/queues": OTHERS,
            "/queue?name=import": OTHERS,
            "/limits": OTHERS,
            "/limits?key=tenant": OTHERS,
            "/limits?key=nobody": OTHERS,
            "/workers": OTHERS,
            "/functions": OTHERS,
            "/function?name=jobs.charge_card": OTHERS,
            "/tasks/bulk?action=retry&state=failed": OTHERS,
        }
        app = create_app(pq, require_login=False)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://bench", timeout=60) as client:
            for path, limit in pages.items():
                figures_of(app.state.dashboard).forget()
                first, second = await _timed(client, path), 0.0
                times = [await _timed(client, path) for _ in range(rounds)]
                if path.startswith("/tasks?"):
                    second = await _second(client, path)
                median = statistics.median(times)
                ok = median < limit
                fast = fast and ok
                mark = "" if ok else f"  more than {limit:.0f}"
                following = f"  next page {second:6.1f}" if second else ""
                print(f"{median:8.1f} ms  first {first:7.1f}  {path}{following}{mark}", flush=True)
    return fast


async def _timed(client: httpx.AsyncClient, path: str) -> float:
    start = time.perf_counter()
    answer = await client.get(path)
    took = time.perf_counter() - start
    if answer.status_code != 200:
        raise SystemExit(f"{path}: {answer.status_code} {answer.text[:300]}")
    return took * 1000


async def _second(client: httpx.AsyncClient, path: str) -> float:
    """Return how long the next page takes, 0 when there is none."""
    text = (await client.get(path)).text
    if 'rel="next" href="' not in text:
        return 0.0
    link = text.partition('rel="next" href="')[2].partition('"')[0].replace("&amp;", "&")
    return await _timed(client, f"/tasks{link}")


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dsn")
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    os.environ.setdefault("PQ_DATABASE_URL", "embedded:")
    dsn = find_dsn(arguments.dsn)
    began = time.perf_counter()
    fill(dsn, arguments.tasks)
    with psycopg.connect(dsn) as connection:
        version = connection.info.parameter_status("server_version")
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, Postgres {version}, "
        f"{arguments.tasks:,} tasks (filled in {time.perf_counter() - began:.0f} s); medians of {arguments.rounds}"
    )
    try:
        return 0 if asyncio.run(measure(dsn, arguments.rounds)) else 1
    finally:
        if not arguments.keep:
            drop(dsn, SCHEMA)


if __name__ == "__main__":
    sys.exit(main())
