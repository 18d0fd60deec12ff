"""What tasks cost in rows read, transactions and page faults: counted, not timed."""

from __future__ import annotations

import sys
import time

import psycopg
import pytest

from benchmarks.tasks import noop
from benchmarks.worker import Worker, drained, running
from pq_core import PQ
from pq_core.worker.claiming import Statements
from tests.integration.worker_process import eventually

PAYLOAD = '{"args": [], "kwargs": {}}'
BACKLOG = 100_000


@pytest.fixture
def pq(database: str) -> PQ:
    pq = PQ(database)
    pq.include(noop.group)
    return pq


def transactions(connection: psycopg.Connection) -> int:
    row = connection.execute(
        "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
    )
    return int(row.fetchone()[0])  # type: ignore[index]


def rows_read(connection: psycopg.Connection) -> tuple[int, int]:
    """Return the rows of pq_tasks read one after the other, and the entries read of its indexes."""
    row = connection.execute(
        "SELECT t.seq_tup_read, (SELECT sum(i.idx_tup_read) FROM pg_stat_user_indexes i WHERE i.relid = t.relid)"
        " FROM pg_stat_user_tables t WHERE t.relname = 'pq_tasks'"
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def completed(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT count(*) FROM pq_tasks WHERE status = 'completed' AND name = 'noop'").fetchone()
    assert row is not None
    return int(row[0])


def settled(connection: psycopg.Connection) -> None:
    """Wait until the sessions that have ended have handed in their counts, as their last act."""
    while connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'"
    ).fetchone() != (0,):
        time.sleep(0.05)


def test_a_claim_reads_what_it_takes_and_no_backlog(database: str, connection: psycopg.Connection) -> None:
    fill = "INSERT INTO pq_tasks (name, payload, run_at, due, priority, status, completed_at) SELECT"
    count = f"FROM generate_series(1, {BACKLOG}) i"
    connection.execute(f"{fill} 'noop', '{PAYLOAD}', now(), true, i % 100, 'pending', NULL {count}")
    connection.execute(f"{fill} 'old', '{PAYLOAD}', now() + interval '7 days', false, 100, 'pending', NULL {count}")
    connection.execute(f"{fill} 'old', '{PAYLOAD}', now(), true, 50, 'completed', now() {count}")
    connection.execute("VACUUM (ANALYZE) pq_tasks")
    # Nobody but the worker may read the table meanwhile.
    connection.execute("ALTER TABLE pq_tasks SET (autovacuum_enabled = off)")
    before = rows_read(connection)
    worker = Worker(database, "--concurrency", "4", "--tasks-per-child", "100")
    try:
        until = time.monotonic() + 100
        while time.monotonic() < until:
            time.sleep(0.3)
            # Not the table itself: looking at it would count.
            row = connection.execute(
                "SELECT n_tup_hot_upd + n_tup_upd FROM pg_stat_user_tables WHERE relname = 'pq_tasks'"
            )
            if row.fetchone()[0] > 1000:  # type: ignore[index]
                break
    finally:
        worker.stop()
    settled(connection)
    in_turn, by_index = (after - was for after, was in zip(rows_read(connection), before, strict=True))

    done = completed(connection)
    assert done >= 200
    assert in_turn == 0
    # Each index a row is found by counts, and what was claimed is looked at again; a sort would read 100,000.
    assert by_index / done < 40


def test_reused_children_need_few_transactions(pq: PQ, database: str, connection: psycopg.Connection) -> None:
    pq.enqueue_many(noop.call(n) for n in range(2000))
    pq.close()
    settled(connection)
    before = transactions(connection)

    drained(database, "--concurrency", "4", "--tasks-per-child", "1000")
    settled(connection)

    assert completed(connection) == 2000
    assert (transactions(connection) - before) / 2000 < 1.0


def test_a_worker_has_two_connections(pq: PQ, database: str, connection: psycopg.Connection) -> None:
    sessions = (
        "SELECT application_name, count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_type = 'client backend' AND application_name <> 'pq' AND pid <> pg_backend_pid()"
        " GROUP BY 1 ORDER BY 1"
    )
    found = []
    with running(database, "--concurrency", "4", "--tasks-per-child", "1000", "--prune-share", "0") as worker:
        pq.enqueue_many(noop.call(n) for n in range(5000))
        pq.close()
        while completed(connection) < 5000:
            found.append(connection.execute(sessions).fetchall())
        found.append(connection.execute(sessions).fetchall())
        assert worker.workers
    busiest = max(found, key=lambda rows: sum(count for _, count in rows))
    assert sum(count for _, count in busiest) == 2, busiest


def test_one_task_is_enqueued_in_one_transaction(pq: PQ, connection: psycopg.Connection) -> None:
    pq.enqueue(noop.call())
    pq.close()
    settled(connection)
    before = transactions(connection)
    for n in range(100):
        pq.enqueue(noop.call(n))
    pq.close()
    settled(connection)

    # Opening the connection looks at the schema; these looks count, too.
    assert 100 <= transactions(connection) - before <= 130


def test_page_faults_of_a_fork_are_bounded(pq: PQ, database: str, connection: psycopg.Connection) -> None:
    def faults(*options: str) -> float:
        counts = {}
        for count in (50, 200):
            pq.enqueue_many(noop.call(n) for n in range(count))
            counts[count] = drained(database, "--concurrency", "4", "--tasks-per-child", "1", *options).faults
        # What the start of the worker takes is in both.
        return (counts[200] - counts[50]) / 150

    plain = faults("--no-immortal")
    least = faults()
    assert completed(connection) == 500
    assert plain < 1500
    if sys.version_info >= (3, 12):
        assert least < 0.9 * plain


def test_tasks_at_their_limit_are_not_asked_for_at_every_end_of_another(
    pq: PQ, database: str, connection: psycopg.Connection
) -> None:
    name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
    connection.execute(f"ALTER DATABASE {name} SET track_functions = 'all'")
    pq.limit_queue("limited", rate="1/30s")
    pq.enqueue_many(noop.options(queue="limited").call() for _ in range(50))
    calls = "SELECT calls FROM pg_stat_user_functions WHERE funcname = 'pq_claim_limited'"
    with running(database, "--tasks-per-child", "1000", "--concurrency", "2", "--queues", "default,limited"):
        eventually(lambda: completed(connection) == 1)  # the others wait for their turn
        eventually(lambda: connection.execute(calls).fetchone())
        started = time.monotonic()
        pq.enqueue_many(noop.call() for _ in range(20_000))
        eventually(lambda: completed(connection) >= 20_000, within=100)
        seconds = time.monotonic() - started
    # One a second at most while it is busy, however long that is, and a few at the beginning and the end.
    row = connection.execute(calls).fetchone()
    assert row is not None
    assert row[0] < seconds + 15


PLAIN = ["7", "'{default,side}'", "-32768", "32767", "10", "'{}'", "'{}'", "'{}'", "'2026-03-01'", "NULL"]
AGED = ["7", "'{default,side}'", "'{-32768}'", "'{32767}'", "10", "60", "'2026-03-01'", "NULL"]


@pytest.mark.parametrize(
    ("name", "values"), [("claim_one_queue", PLAIN), ("claim_many_queues", PLAIN), ("claim_aged", AGED)]
)
def test_a_claim_that_finds_nothing_writes_nothing(
    connection: psycopg.Connection, name: str, values: list[str]
) -> None:
    """Idle workers claim several times for each task that comes; what is written has to be flushed each time."""
    connection.execute(
        "INSERT INTO pq_workers (id, name, started_at, expires_at, lease, pid, concurrency, host, pq_version, queues)"
        " VALUES (7, 'w', '2026-03-01', now() + interval '1 h', '1 h', 1, 9, 'here', '1', '{default,side}')"
    )
    # As a worker's session has it: a plan for an empty table would not even look at the lease.
    connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
    claim = Statements("public")[name].text
    for place, value in reversed(list(enumerate(values, start=1))):  # $10 before $1
        claim = claim.replace(f"${place}", f"({value})")
    wrote = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL"
    with connection.transaction():
        assert connection.execute(claim.encode()).fetchall() == []
        assert connection.execute(wrote).fetchone() == (False,)

    fill = f"INSERT INTO pq_tasks (name, payload, run_at, due) VALUES ('noop', '{PAYLOAD}', now(), true)"
    connection.execute(fill.encode())
    assert len(connection.execute(claim.encode()).fetchall()) == 1

    connection.execute(fill.encode())
    connection.execute("UPDATE pq_workers SET expires_at = now()")
    assert connection.execute(claim.encode()).fetchall() == []
