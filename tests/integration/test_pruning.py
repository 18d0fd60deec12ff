"""Retention: real workers delete what was kept long enough, one of them at a time, at their own rate."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from pq_core import PQ, InvalidOption, Retention
from pq_core.retention import KEEP_ALL, retention_of
from pq_core.worker import statistics
from pq_core.worker.claiming import Statements
from pq_core.worker.pruning import Pruner
from tests.integration import worker_tasks as tasks
from tests.integration.worker_process import eventually, running

HOUR = timedelta(hours=1)


def create_pq() -> PQ:
    """The application of these tests' workers."""
    retention = Retention(completed=HOUR, cancelled=2 * HOUR, failed=4 * HOUR)
    return PQ(tasks=[tasks.__name__], app="tests", retention=retention)


APP = f"{__name__}:create_pq"


def insert(
    connection: psycopg.Connection, status: str, hours: float, *, queue: str = "default", count: int = 1
) -> None:
    connection.execute(
        "INSERT INTO pq_tasks (name, payload, run_at, due, status, queue, completed_at)"
        " SELECT 'w.old', '{}', now(), true, %s, %s, now() - %s * interval '1 hour' FROM generate_series(1, %s)",
        (status, queue, hours, count),
    )


def left(connection: psycopg.Connection) -> dict[tuple[str, str], list[float]]:
    rows = connection.execute(
        "SELECT queue, status, array_agg(round(extract(epoch FROM now() - completed_at) / 3600, 1)::float8 ORDER BY 1)"
        " FROM (SELECT * FROM pq_tasks ORDER BY completed_at DESC) t GROUP BY queue, status"
    ).fetchall()
    return {(queue, status): sorted(ages) for queue, status, ages in rows}


def test_each_state_and_queue_is_kept_as_long_as_it_was_said(
    database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    for status in ("completed", "cancelled", "failed"):
        for queue in ("default", "short", "long", "elsewhere"):
            for hours in (0.5, 1.5, 2.5, 5.0):
                insert(connection, status, hours, queue=queue)
    connection.execute("INSERT INTO pq_tasks (name, payload, run_at, due, queue) SELECT 'x', '{}', now() - interval"
                       " '9 h', true, 'elsewhere'")  # fmt: skip
    with PQ(database) as pq:
        pq.set_retention("short", finished=timedelta(minutes=6))
        pq.set_retention("long", finished="forever", failed=3 * HOUR)

    queues = ["default", "short", "long"]
    with running(database, tmp_path, app=APP, queues=queues, prune_interval=0.1, poll_interval=0.1) as worker:
        eventually(lambda: "pruned 16 finished" in worker.text, what=worker.text)

    everything = [0.5, 1.5, 2.5, 5.0]
    assert left(connection) == {
        ("default", "completed"): [0.5],
        ("default", "cancelled"): [0.5, 1.5],
        ("default", "failed"): [0.5, 1.5, 2.5],
        ("short", "failed"): [0.5, 1.5, 2.5],
        ("long", "completed"): everything,
        ("long", "cancelled"): everything,
        ("long", "failed"): [0.5, 1.5, 2.5],
        ("elsewhere", "completed"): everything,
        ("elsewhere", "cancelled"): everything,
        ("elsewhere", "failed"): everything,
        ("elsewhere", "pending"): [],
    } | {("elsewhere", "pending"): left(connection)[("elsewhere", "pending")]}


def test_history_goes_with_its_task_and_orphans_go_too(
    database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    insert(connection, "failed", 5)
    insert(connection, "failed", 1)
    connection.execute("INSERT INTO pq_attempts (task_id, fence, number, outcome, finished_at)"
                       " SELECT id, 1, 1, 'raised', completed_at FROM pq_tasks")  # fmt: skip
    connection.execute("INSERT INTO pq_attempts (task_id, fence, number, outcome, finished_at) VALUES"
                       " (4711, 1, 1, 'raised', now() - interval '1 day'), (4712, 1, 1, 'raised', now())")  # fmt: skip

    with running(database, tmp_path, app=APP, prune_interval=0.1, poll_interval=0.1):
        eventually(lambda: connection.execute("SELECT count(*) FROM pq_attempts").fetchone() == (2,))

    rows = connection.execute("SELECT task_id, (SELECT count(*) FROM pq_tasks t WHERE t.id = task_id) FROM pq_attempts")
    assert sorted(count for _, count in rows.fetchall()) == [0, 1]
    assert connection.execute("SELECT count(*) FROM pq_attempts WHERE task_id = 4711").fetchone() == (0,)


def test_many_are_deleted_in_batches_while_tasks_run(
    database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    insert(connection, "completed", 2, count=20_000)

    with PQ(database, tasks=[tasks.__name__]) as pq:
        with running(database, tmp_path, app=APP, processes=2, prune_interval=0.1, poll_interval=0.1, prune_share=1.0):
            while connection.execute(
                "SELECT count(*) FROM pq_tasks WHERE completed_at < now() - interval '1 h'"
            ).fetchone() != (0,):
                assert pq.wait(pq.enqueue(tasks.add.call(1, 2)), timeout=30) == 3


def test_one_round_follows_another(database: str, connection: psycopg.Connection, tmp_path: Path) -> None:
    with running(database, tmp_path, app=APP, prune_interval=0.1):
        for _ in range(3):
            insert(connection, "completed", 2, count=10)
            eventually(lambda: left(connection) == {}, what="an empty table")


def test_of_several_workers_one_prunes(database: str, connection: psycopg.Connection) -> None:
    claim = Statements("public")["prune_claim"].text.replace("$1", "%s", 1)
    claim = Statements("public")["prune_claim"].text
    for number, value in (("$1", "'prune x'"), ("$2", "300"), ("$3", "{worker}")):
        claim = claim.replace(number, value)

    with psycopg.connect(database) as first, psycopg.connect(database, options="-c lock_timeout=1s") as second:
        assert first.execute(claim.format(worker=1)).fetchall() == [(1,)]  # type: ignore[call-overload]
        first.commit()
        assert second.execute(claim.format(worker=2)).fetchall() == []  # type: ignore[call-overload]
        second.commit()
        # Who has it goes on with it.
        assert first.execute(claim.format(worker=1)).fetchall() == [(1,)]  # type: ignore[call-overload]
        first.commit()
        connection.execute("UPDATE pq_chores SET next_at = now()")
        assert first.execute(claim.format(worker=1)).fetchall() == [(1,)]  # type: ignore[call-overload]
        # The first one has not committed: the second neither waits nor gets it.
        assert second.execute(claim.format(worker=2)).fetchall() == []  # type: ignore[call-overload]


def test_worker_that_lost_the_chore_deletes_nothing(connection: psycopg.Connection) -> None:
    insert(connection, "completed", 5)
    connection.execute("INSERT INTO pq_chores (name, next_at, worker_id) VALUES ('prune x', now(), 2)")
    text = Statements("public")["prune_tasks"].text
    values = ("'prune x'", "1", "300", "'completed'", "'{default}'", "60", "'-infinity'", "0", "10")
    for number, value in enumerate(values, start=1):
        text = text.replace(f"${number}", value)

    assert connection.execute(text).fetchall() == []  # type: ignore[call-overload]
    assert connection.execute("SELECT count(*) FROM pq_tasks").fetchone() == (1,)


def test_share_of_none_keeps_everything(database: str, connection: psycopg.Connection, tmp_path: Path) -> None:
    insert(connection, "completed", 5)
    with PQ(database, tasks=[tasks.__name__]) as pq:
        with running(database, tmp_path, app=APP, prune_share=0.0, prune_interval=0.01):
            for _ in range(3):
                pq.wait(pq.enqueue(tasks.add.call(1)), timeout=30)

    assert connection.execute("SELECT count(*) FROM pq_tasks WHERE name = 'w.old'").fetchone() == (1,)
    assert connection.execute("SELECT count(*) FROM pq_chores").fetchone() == (0,)


def audit(connection: psycopg.Connection, *days: int) -> None:
    connection.execute(
        "INSERT INTO pq_audit (at, actor, action) SELECT now() - d * interval '1 day', 'ada', d::text"
        " FROM unnest(%s::int[]) d",
        (list(days),),
    )


def audited(connection: psycopg.Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT action FROM pq_audit ORDER BY at DESC")]


def forgetful_create_pq() -> PQ:
    statistics.MERGE = 0.1  # seconds between two looks, in the workers of these tests
    return PQ(tasks=[tasks.__name__], retention=Retention(audit=timedelta(days=10), statistics=timedelta(days=2)))


@pytest.mark.parametrize(
    ("app", "kept"),
    [(f"{__name__}:forgetful_create_pq", ["1", "9"]), (APP, ["1", "9", "11", "399"])],
)
def test_audit_log_is_kept_as_long_as_it_was_said(
    database: str, connection: psycopg.Connection, tmp_path: Path, app: str, kept: list[str]
) -> None:
    audit(connection, 1, 9, 11, 399, 401)

    with running(database, tmp_path, app=app, prune_interval=0.1, poll_interval=0.1) as worker:
        eventually(lambda: "of the audit log" in worker.text, what=worker.text)

    assert audited(connection) == kept


def test_statistics_are_kept_as_long_as_it_was_said(
    database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    connection.execute(
        "INSERT INTO pq_statistics (minute, worker_id, queue, name, outcome, count, wait_histogram, run_histogram,"
        " memory_histogram) SELECT date_trunc('minute', now() - d * interval '1 day'), 0, 'default', d::text,"
        " 'succeeded', 1, '{}', '{}', '{}' FROM unnest('{1,3,29}'::int[]) d"
    )

    def names() -> list[str]:
        return [row[0] for row in connection.execute("SELECT name FROM pq_statistics WHERE name ~ '^[0-9]' ORDER BY 1")]

    with running(database, tmp_path, app=f"{__name__}:forgetful_create_pq", poll_interval=0.1):
        eventually(lambda: names() == ["1"])


def test_audit_log_is_pruned_by_hand(database: str, connection: psycopg.Connection) -> None:
    audit(connection, 1, 2, 3, 4)
    with PQ(database) as pq:
        assert pq.prune_audit(timedelta(days=1, hours=12), batch=2) == 3
        with pytest.raises(InvalidOption, match="older_than"):
            pq.prune_audit(timedelta(days=-1))
    assert audited(connection) == ["1"]


class SlowLink:
    """A connection whose statements take a known time, and delete all that they read, or nothing."""

    idle = True
    failures = 0
    fileno = None

    def __init__(self, clock: list[float], takes: float, *, ends_after: int = 1000, deletes: bool = True) -> None:
        self.clock = clock
        self.ends_after = ends_after
        self.deletes = deletes
        self.takes = takes
        self.sent: list[float] = []

    def next_event(self) -> None:
        return None

    def advance(self, now: float) -> None:
        pass

    def close(self) -> None:
        pass

    def send(self, statements: object, callback: object) -> None:
        self.sent.append(self.clock[0])
        self.clock[0] += self.takes
        [(_, parameters)] = statements  # type: ignore[misc]
        seen = parameters[-1] if len(self.sent) < self.ends_after else b"1"
        callback([[(seen, seen if self.deletes else b"0", b"2020-01-01", b"1")]], None)  # type: ignore[operator]


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_statements_use_no_more_than_their_share_of_time(share: float) -> None:
    clock = [1000.0]
    link = SlowLink(clock, takes=0.2)
    pruner = Pruner(
        statements=Statements("public"), retention=Retention(), queues=["a"], share=share, interval=60,
        open_link=lambda: link, clock=lambda: clock[0],  # type: ignore[arg-type,return-value]
    )  # fmt: skip
    clock[0] = pruner.next_event() or 0.0
    pruner._worker_id = 1
    pruner._claimed([[(b"1",)]], None)
    began = clock[0]

    while len(link.sent) < 20:
        pruner.advance(clock[0], link, 1)  # type: ignore[arg-type]
        clock[0] = max(clock[0], pruner.next_event() or 0.0)

    busy = 0.2 * len(link.sent)
    assert busy / (clock[0] - began) <= share * 1.01


@pytest.mark.parametrize("deletes", [True, False])
def test_round_that_deletes_what_it_reads_is_soon_followed_by_another(deletes: bool) -> None:
    clock = [1000.0]
    link = SlowLink(clock, takes=0.2, ends_after=10, deletes=deletes)
    pruner = Pruner(
        statements=Statements("public"), retention=Retention(audit=None), queues=["a"], share=0.1, interval=8,
        open_link=lambda: link, clock=lambda: clock[0],  # type: ignore[arg-type,return-value]
    )  # fmt: skip
    began = clock[0]
    pruner._claimed([[(b"1",)]], None)
    while True:
        pruner.advance(clock[0], link, 1)  # type: ignore[arg-type]
        if pruner._link is None:
            break
        clock[0] = pruner.next_event() or 0.0

    took, pause = clock[0] - began, (pruner.next_event() or 0.0) - clock[0]
    assert took > 10
    assert 5 < pause < 11 if deletes else pause > 15 * took


@pytest.mark.parametrize("given", [7, "7d", timedelta(seconds=-1)])
def test_retention_that_makes_no_sense_is_refused(given: object) -> None:
    with pytest.raises(InvalidOption):
        PQ("", retention=given)  # type: ignore[arg-type]


def test_retention_is_said_in_three_ways() -> None:
    assert retention_of(None) == KEEP_ALL
    assert retention_of(HOUR) == Retention(completed=HOUR, cancelled=HOUR, failed=HOUR)
    assert PQ("postgresql:///x").retention == Retention()
