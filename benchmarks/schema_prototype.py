"""Measure the schema's hot path in plain SQL: ``python -m benchmarks.schema_prototype [--rows N] [--dsn …]``.

It works in schemas of its own named ``pq_prototype_…`` and drops them. Cases that are compared take turns, so that a
busy machine slows all of them alike; what is printed are medians over rounds and their ratio within the run. The
decisions that follow from it stand in ``docs/adr/0001-schema.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.schema_variants import DUE, VARIANTS, Variant

CORE = Path(__file__).resolve().parent.parent / "pq_core"
OWN = Path(__file__).resolve().parent / "sql"
ONE_QUEUE, MANY_QUEUES = "claim_one_queue", "claim_many_queues"
SEARCH, CANDIDATES = "search_many_queues", "claim_candidates"
Connection = psycopg.Connection[Any]

SESSION = (
    "SET plan_cache_mode = force_generic_plan",  # planning costs more than running
    "SET enable_seqscan = off",  # a plan made while the table was empty must not survive a bulk load
    "SET enable_bitmapscan = off",  # reads all of an index before the first row
    "SET jit = off",
    "SET synchronous_commit = on",
)


COMPLETE = """
WITH report AS MATERIALIZED (
    SELECT r.* FROM jsonb_to_recordset($2::jsonb) AS r(id bigint, fence bigint, status text, outcome text, error text,
        result jsonb, ledger jsonb)
), held AS MATERIALIZED (
    SELECT t.id FROM {schema}.pq_tasks t
    WHERE t.id = ANY (ARRAY(SELECT r.id FROM report r)) AND (t.status = 'running') IS NOT FALSE
        AND t.worker_id = $1::bigint
    FOR UPDATE OF t SKIP LOCKED
), ended AS (
    UPDATE {schema}.pq_tasks t
    SET status = r.status, outcome = r.outcome, completed_at = clock_timestamp(), error = r.error, result = r.result,
        ledger = r.ledger, worker_id = NULL
    FROM report r
    WHERE t.id = ANY (ARRAY(SELECT h.id FROM held h)) AND r.id = t.id AND r.fence = t.fence
    RETURNING t.id
)
SELECT e.id FROM ended e"""
"""What a worker's report comes down to for tasks that succeed, so that table layouts can be compared."""


def render(text: str, schema: str) -> str:
    """Fill in the schema as the migration and the store do."""
    text = text.replace("{schema_text}", f"'{schema}'").replace("{tasks_text}", f"'{schema}.pq_tasks'")
    return text.replace("{schema}", schema).replace("{{", "{").replace("}}", "}")


def statement(name: str, schema: str) -> str:
    """Return a statement of the worker, or one that it was compared with, without its comments."""
    folder = OWN if name in (SEARCH, CANDIDATES) else CORE / "sql" / "worker"
    text = re.sub(r"(?m)^\s*--.*\n", "", (folder / f"{name}.sql").read_text())
    return render(text, schema).rstrip().rstrip(";")


def turn(claim: str, complete: str) -> str:
    """Join 'complete the previous' and 'claim the next' into one statement.

    The reports are its last parameter; the first row has the ids that were recorded in its last column, ``ended``.
    """
    reports = 1 + max(int(n) for n in re.findall(r"\$(\d+)", claim))
    completing = complete[: complete.rindex("\nSELECT")].replace("$2", f"${reports}")
    claiming = claim[: claim.rindex("\nSELECT")].removeprefix("WITH ")
    return (
        f"{completing}, {claiming}\nSELECT c.*, CASE WHEN row_number() OVER () = 1 THEN ARRAY(SELECT e.id FROM ended e)"
        " END AS ended\nFROM (VALUES (1)) one LEFT JOIN claimed c ON true"
    )


@dataclass(slots=True)
class LowEnd:
    """Where the next search begins, so that it need not read what it has already taken from the index.

    Under an old snapshot the index entries of claimed tasks stay; a search from the start reads them all. What was
    enqueued before this point since (more urgent, or retried) is found by a search from the start, which may take
    one part in ``share`` of the time.
    """

    share: float = 10.0
    key: tuple[int, Any, int] | None = None
    next_full: float = 0.0
    started: float = 0.0
    full: bool = True

    def begin(self) -> tuple[list[int], list[Any], list[int]]:
        """Return the arrays for a search that begins now."""
        self.started = time.perf_counter()
        self.full = self.key is None or self.started >= self.next_full
        return ([], [], []) if self.full or self.key is None else ([-self.key[0]], [self.key[1]], [self.key[2]])

    def end(self, found: Sequence[tuple[int, Any, int]]) -> None:
        """Take note of what a search found: (-priority, run_at, id) of each."""
        now = time.perf_counter()
        if self.full:
            self.next_full = now + self.share * (now - self.started)
        if found:
            self.key = max(found)


@dataclass(slots=True)
class Drainer:
    """A worker without children: completes what it claimed the turn before, and claims."""

    connection: Connection
    schema: str
    queues: list[str] = field(default_factory=lambda: ["default"])
    low_end: LowEnd | None = None
    search_size: int = 0
    change: Callable[[str], str] = str
    worker: int = 0
    reports: list[dict[str, Any]] = field(default_factory=list)
    candidates: list[int] = field(default_factory=list)
    statements: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        complete = render(COMPLETE, self.schema)
        for name in (ONE_QUEUE, MANY_QUEUES, CANDIDATES):
            self.statements[name] = self.change(turn(statement(name, self.schema), complete))
        row = self.connection.execute(
            f"INSERT INTO {self.schema}.pq_workers (expires_at, lease, pid, concurrency, name, host, pq_version,"
            " queues) VALUES (now() + interval '1 day', interval '1 day', 1, 1, 'w', 'h', '0', $1) RETURNING id",
            [self.queues],
        ).fetchone()
        assert row is not None
        self.worker = row[0]

    def turn(self, n: int) -> int:
        """Report what the last turn claimed, claim up to ``n`` more and return how many those were."""
        begin = self.low_end.begin() if self.low_end else ([], [], [])
        reports, everything = json.dumps(self.reports), (-32768, 32767)
        if self.search_size and not self.candidates:
            found = self.connection.execute(
                statement(SEARCH, self.schema), [self.queues, *everything, max(20 * n, self.search_size), *begin]
            ).fetchall()
            self.candidates = [row[0] for row in found]
        if self.search_size:
            named, self.candidates = self.candidates[:n], self.candidates[n:]
            rows = self.connection.execute(self.statements[CANDIDATES], [self.worker, named, n, reports]).fetchall()
        else:
            name = ONE_QUEUE if len(self.queues) == 1 else MANY_QUEUES
            parameters = [self.worker, self.queues, *everything, n, *begin, reports]
            rows = self.connection.execute(self.statements[name], parameters).fetchall()
        rows = [row for row in rows if row[0] is not None]
        if self.low_end:
            self.low_end.end([(-row[3], row[10], row[0]) for row in rows])
        self.reports = [{"id": row[0], "fence": row[4], "status": "completed", "outcome": "succeeded"} for row in rows]
        return len(rows)


def create(connection: Connection, schema: str, *changes: str) -> None:
    """Create the schema from revision 0001, then change it."""
    with psycopg.connect(connection.info.dsn, autocommit=True) as plain:  # many statements in one text
        plain.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}")
        plain.execute(render((CORE / "migrations" / "versions" / "0001_tables.sql").read_text(), schema))
        for change in changes:
            plain.execute(change.replace("{schema}", schema))


def fill(
    connection: Connection,
    schema: str,
    n: int,
    *,
    queue: str = "'default'",
    priority: str = "50",
    run_at: str = "now()",
    due: bool = True,
    finished: bool = False,
) -> None:
    """Insert ``n`` tasks; queue, priority and run_at are SQL of ``i``."""
    ended = "'completed', now(), now(), 'succeeded', 1, 1" if finished else "'pending', NULL, NULL, NULL, 0, 0"
    connection.execute(
        f"INSERT INTO {schema}.pq_tasks (run_at, due, name, payload, queue, priority, status, started_at, completed_at,"
        f" outcome, attempts, fence) SELECT {run_at}, {due}, 'mail.send', jsonb_build_object('args',"
        f" jsonb_build_array(i), 'kwargs', '{{}}'::jsonb), {queue}, {priority}, {ended} FROM generate_series(1, {n}) i"
    )


def compare(title: str, cases: Mapping[str, Callable[[], float]], rounds: int) -> None:
    """Run the cases in turns; print each one's median and its ratio to the first."""
    found: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    for turn_of in range(rounds):
        for name in (names[(turn_of + i) % len(names)] for i in range(len(names))):  # nobody is always first
            found[name].append(cases[name]())
    medians = {name: statistics.median(values) for name, values in found.items()}
    first = next(iter(medians.values()))
    print(f"\n{title} (ms of Postgres' processor time, median of {rounds}, lowest to highest; ratio to the first)")
    for name, value in medians.items():
        low, high = min(found[name]), max(found[name])
        print(f"  {name:36} {value:9.3f}  ({low:.3f} to {high:.3f})  ratio {value / first:.2f}", flush=True)


def spent_by(connection: Connection) -> float:
    """Seconds of processor that this connection's backend has used; the wall clock where that can't be read."""
    try:
        return int(Path(f"/proc/{connection.info.backend_pid}/schedstat").read_text().split()[0]) / 1e9
    except OSError:
        return time.perf_counter()


def per_turn(drainer: Drainer, n: int, turns: int) -> float:
    """Milliseconds of Postgres' processor time for a turn with ``n`` tasks."""
    began, done = spent_by(drainer.connection), 0
    while done < n * turns:
        claimed = drainer.turn(n)
        assert claimed, f"{drainer.schema}: {done} of {n * turns} tasks"
        done += claimed
    return 1000 * (spent_by(drainer.connection) - began) * n / done


def flat(connect: Callable[[], Connection], rows: int, history: int, rounds: int) -> None:
    """Claims beside a backlog, a future, a history, many queues and many priorities."""
    connection = connect()
    spare = 25_000 + rounds * 3_000
    shape: dict[str, tuple[dict[str, Any], ...]] = {
        "empty table": (),
        f"{rows:,} pending": ({"n": rows},),
        f"{rows:,} due next week, critical": (
            {"n": rows, "run_at": "now() + interval '7 days' + i * interval '1 ms'", "due": False, "priority": "100"},
        ),
        f"{history:,} finished": ({"n": history, "finished": True},),
        "200 priorities": ({"n": rows // 10, "priority": "i % 200 - 100"},),
        "200 queues, one has work": (),
        "200 queues, all have work": ({"n": rows // 10, "queue": "'q' || i % 200"},),
        "the same, one search for 500 tasks or 20 turns": ({"n": rows // 10, "queue": "'q' || i % 200"},),
    }
    drainers: dict[str, Drainer] = {}
    for number, (name, fillings) in enumerate(shape.items()):
        schema = f"pq_prototype_{number}"
        create(connection, schema)
        for filling in fillings:
            fill(connection, schema, **filling)
        many = "queues" in name or "search" in name
        spread = "'q' || i % 200" if many else "'default'"
        fill(connection, schema, spare, queue="'q7'" if "one has" in name else spread)
        queues = [f"q{i}" for i in range(200)] if many else ["default"]
        drainers[name] = Drainer(connect(), schema, queues, search_size=500 if "search" in name else 0)

    def measured(n: int, turns: int) -> dict[str, Callable[[], float]]:
        return {name: partial(per_turn, drainer, n, turns) for name, drainer in drainers.items()}

    compare("Right after the load, without ANALYZE: turn of 10", measured(10, 20), max(3, rounds // 2))
    for drainer in drainers.values():
        connection.execute(f"VACUUM ANALYZE {drainer.schema}.pq_tasks")
    for n, turns in ((1, 40), (10, 50), (100, 20)):
        compare(f"Turn of {n}: complete the previous, claim the next", measured(n, turns), rounds)
    for drainer in drainers.values():
        drainer.connection.close()
        connection.execute(f"DROP SCHEMA {drainer.schema} CASCADE")


def snapshot(connect: Callable[[], Connection], n: int) -> None:
    """Drain ``n`` tasks while an old snapshot keeps every dead index entry."""
    connection = connect()
    for label, low_end in (("from the start each time", None), ("from a moving low end", LowEnd())):
        create(connection, "pq_prototype_s")
        fill(connection, "pq_prototype_s", n)
        connection.execute("VACUUM ANALYZE pq_prototype_s.pq_tasks")
        holder = connect()
        holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT count(*) FROM pq_prototype_s.pq_queues")
        drainer = Drainer(connect(), "pq_prototype_s", low_end=low_end)
        tenths: list[tuple[float, float]] = []
        while len(tenths) < 10 and sum(wall for wall, _ in tenths) < 120:
            start, used, done = time.perf_counter(), spent_by(drainer.connection), 0
            while done < n // 10 and (got := drainer.turn(100)):
                done += got
            tenths.append((time.perf_counter() - start, spent_by(drainer.connection) - used))
        rates = " ".join(f"{n / 10 / wall:,.0f}" for wall, _ in tenths)
        costs = " ".join(f"{1e7 * used / n:.0f}" for _, used in tenths)
        print(f"\nSnapshot held, {n:,} drained {label}, by tenth:")
        print(f"  tasks/s: {rates}\n  µs of Postgres' processor time per task: {costs}")
        print(
            f"  end to start: rate {tenths[0][0] / tenths[-1][0]:.2f}, cost {tenths[-1][1] / tenths[0][1]:.2f}",
            flush=True,
        )
        holder.close()
        drainer.connection.close()
        connection.execute("DROP SCHEMA pq_prototype_s CASCADE")


@contextmanager
def variants(
    connect: Callable[[], Connection], spare: int, made: Mapping[str, Variant]
) -> Iterator[dict[str, Drainer]]:
    """Make one schema with ``spare`` tasks for each variant of the tables and statements."""
    connection, drainers = connect(), {}
    for number, (name, (changes, change)) in enumerate(made.items()):
        schema = f"pq_prototype_v{number}"
        create(connection, schema, *changes)
        fill(connection, schema, spare)
        connection.execute(f"VACUUM ANALYZE {schema}.pq_tasks")
        drainers[name] = Drainer(connect(), schema, change=change)
    yield drainers
    for drainer in drainers.values():
        drainer.connection.close()
        connection.execute(f"DROP SCHEMA {drainer.schema} CASCADE")


def alternatives(connect: Callable[[], Connection], rows: int, rounds: int) -> None:
    """What other tables, indexes and storage would cost."""
    with variants(connect, 2_500 * (rounds + 1), VARIANTS) as drainers:
        turns = {name: partial(per_turn, drainer, 100, 20) for name, drainer in drainers.items()}
        compare("Alternatives: turn of 100", turns, rounds)
        admin = connect()

        def insert(schema: str) -> float:
            began = spent_by(admin)
            fill(admin, schema, 5_000)
            return 1000 * (spent_by(admin) - began) / 5

        compare("Alternatives: insert 1,000", {n: partial(insert, d.schema) for n, d in drainers.items()}, rounds)
    later = rows // 10
    with variants(connect, 5_000, DUE) as drainers:
        for drainer in drainers.values():
            fill(connect(), drainer.schema, later, run_at="now() + interval '7 days'", due=False, priority="100")
        turns = {name: partial(per_turn, drainer, 10, 5) for name, drainer in drainers.items()}
        compare(f"Beside {later:,} due next week, critical: turn of 10", turns, rounds)


def bloat(connect: Callable[[], Connection], n: int) -> None:
    """Sizes after a steady queue of ``n`` tasks, against the sizes of the same rows written anew."""
    connection = connect()
    print(f"\nSteady queue of {n:,} tasks, 1,000 pending (stock autovacuum with our settings per table)")
    for fillfactor in (70, 85, 100):
        create(connection, "pq_prototype_b", f"ALTER TABLE {{schema}}.pq_tasks SET (fillfactor = {fillfactor})")
        fill(connection, "pq_prototype_b", 1_000)
        drainer, began = Drainer(connect(), "pq_prototype_b", low_end=LowEnd()), time.perf_counter()
        for _ in range(n // 100):
            fill(connection, "pq_prototype_b", 100)
            drainer.turn(100)
        spent = time.perf_counter() - began
        before = sizes(connection)
        updates = connection.execute(
            "SELECT n_tup_upd, n_tup_hot_upd, autovacuum_count FROM pg_stat_user_tables"
            " WHERE schemaname = 'pq_prototype_b' AND relname = 'pq_tasks'"
        ).fetchone()
        connection.execute("VACUUM FULL pq_prototype_b.pq_tasks")
        after = sizes(connection)
        print(f"  fillfactor {fillfactor}: {n / spent:,.0f} tasks/s; updates, HOT ones, autovacuums: {updates}")
        for name, size in before.items():
            ratio = size / max(after.get(name, 0), 8192)
            print(f"    {name:20} {size / 2**20:7.1f} MB, {ratio:.2f} of written anew", flush=True)
        drainer.connection.close()
    connection.execute("DROP SCHEMA pq_prototype_b CASCADE")


def sizes(connection: Connection) -> dict[str, int]:
    """Bytes of pq_tasks and of each index that grew."""
    rows = connection.execute(
        "SELECT relname, pg_relation_size(oid) FROM pg_class WHERE relnamespace = 'pq_prototype_b'::regnamespace"
        " AND relname LIKE 'pq\\_tasks%' AND relkind IN ('r', 'i') AND pg_relation_size(oid) > 65536"
        " ORDER BY relkind DESC, 1"
    ).fetchall()
    return {name.removeprefix("pq_tasks_") if name != "pq_tasks" else "table": size for name, size in rows}


def main() -> None:
    """Parse the command line and run the parts asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.schema_prototype", description=__doc__)
    parser.add_argument("--dsn", default=os.environ.get("PQ_DATABASE_URL", ""), help="of a scratch database")
    parser.add_argument("--rows", type=int, default=100_000, help="pending rows")
    parser.add_argument("--history", type=int, help="finished rows (default: five times as many)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=["flat", "snapshot", "alternatives", "bloat"], action="append")
    options = parser.parse_args()

    def connect() -> Connection:
        connection = psycopg.connect(options.dsn, autocommit=True, cursor_factory=psycopg.RawCursor)
        connection.prepare_threshold = 0
        for setting in SESSION:
            connection.execute(setting)
        return connection

    with connect() as first:
        settings = {
            name: first.execute(f"SHOW {name}").fetchone()[0]  # type: ignore[index]
            for name in ("server_version", "shared_buffers", "fsync", "synchronous_commit", "autovacuum", "lc_collate")
        }
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}", end=", ")
    print(f"psycopg {psycopg.__version__}, {settings}")
    parts = options.only or ["flat", "snapshot", "alternatives", "bloat"]
    if "flat" in parts:
        flat(connect, options.rows, options.history or 5 * options.rows, options.rounds)
    if "snapshot" in parts:
        snapshot(connect, options.rows)
    if "alternatives" in parts:
        alternatives(connect, options.rows, options.rounds)
    if "bloat" in parts:
        bloat(connect, options.rows)


if __name__ == "__main__":
    main()
