"""Workers make ticks of schedules into tasks: each once, on time, whatever happens to them."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pq_core import PQ, ScheduleRecord, TaskRecord, TaskStatus
from pq_core.worker.claiming import Statements
from tests.integration import schedule_tasks as tasks
from tests.integration.test_worker_claims import transactions_in
from tests.integration.worker_process import WorkerProcess, eventually, running, until_empty

APP = f"{tasks.__name__}:create_pq"
HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
FAR = "0 0 1 1 *"


@pytest.fixture
def pq(database: str) -> Iterator[PQ]:
    with PQ(database, tasks=[tasks.__name__], app="ticks") as pq:
        pq.registry.load()
        yield pq


def work(database: str, folder: Path, **options: Any) -> WorkerProcess:
    """Run a worker until nothing is due."""
    return until_empty(database, folder, app=APP, **options)


def worker(database: str, folder: Path, **options: Any) -> AbstractContextManager[WorkerProcess]:
    return running(database, folder, app=APP, **options)


def stored(pq: PQ, schedule_id: int) -> ScheduleRecord:
    found = pq.get_schedule(schedule_id)
    assert found is not None
    return found


def back(connection: psycopg.Connection, schedule_id: int, ago: timedelta) -> datetime:
    """Move the next tick into the past and return it."""
    row = connection.execute(
        "UPDATE pq_periodic SET next_run = clock_timestamp() - %s WHERE id = %s RETURNING next_run", (ago, schedule_id)
    ).fetchone()
    assert row is not None
    due: datetime = row[0]
    return due.astimezone(UTC)


def ticks(pq: PQ, schedule_id: int) -> list[datetime]:
    return [task.tick_at for task in reversed(pq.schedule_runs(schedule_id, limit=5000)) if task.tick_at]


# --- each tick once -------------------------------------------------------------------------------------------------


def test_each_of_500_ticks_is_one_task_while_workers_are_killed(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    with worker(database, tmp_path, processes=8, concurrency=1, poll_interval=0.5) as process:
        start = datetime.now(tz=UTC) + SECOND
        step = timedelta(milliseconds=60)
        schedules = {
            pq.schedule(
                tasks.quick.call(),
                run_every=step,
                start_at=start,
                end_at=start + 99 * step,
                key=str(n),
                max_concurrent=None,
                catch_up="all",
            )
            for n in range(5)
        }
        killed = 0
        chance = random.Random(7)
        while datetime.now(tz=UTC) < start + 99 * step:
            time.sleep(0.15)
            if victims := process.workers:
                with suppress(ProcessLookupError):
                    os.kill(chance.choice(victims), signal.SIGKILL)
                    killed += 1
        eventually(lambda: all(stored(pq, one).ended_at for one in schedules), what="all schedules ended")
        eventually(lambda: pq.counts()[TaskStatus.COMPLETED] == 500, within=60, what="500 tasks done")

    assert killed > 10
    expected = [start + n * step for n in range(100)]
    for one in schedules:
        assert ticks(pq, one) == expected


def test_a_thousand_ticks_do_not_drift(pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection) -> None:
    step = timedelta(seconds=433.3)  # so that none comes due while a busy machine starts the worker
    one = pq.schedule(tasks.unserved.call(), run_every=step, catch_up="all", max_concurrent=None)
    due = back(connection, one, 999 * step + SECOND)

    work(database, tmp_path, queues=["default"])

    assert ticks(pq, one) == [due + n * step for n in range(1000)]
    assert stored(pq, one).next_run == due + 1000 * step


def test_many_that_are_due_at_once_are_shared(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    for n in range(250):
        pq.schedule(tasks.unserved.call(), run_every=HOUR, key=str(n))
    connection.execute("UPDATE pq_periodic SET next_run = now() - interval '1 s'")

    with worker(database, tmp_path, processes=3, queues=["default"]):
        eventually(lambda: pq.pending_count() == 250, what="250 ticks")
        time.sleep(0.3)

    assert pq.pending_count() == 250
    assert {one.unfinished for one in pq.list_schedules()} == {1}


# --- on time --------------------------------------------------------------------------------------------------------


def test_an_idle_worker_starts_ticks_on_time_without_polling(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    with worker(database, tmp_path, poll_interval=60):
        time.sleep(0.5)  # asleep
        start = datetime.now(tz=UTC) + 0.5 * SECOND
        every = timedelta(milliseconds=200)
        end = start + 24 * every
        one = pq.schedule(
            tasks.quick.call(), run_every=every, start_at=start, end_at=end, catch_up="all", max_concurrent=None
        )
        eventually(lambda: pq.counts()[TaskStatus.COMPLETED] == 25, what="25 runs")
        seconds = pq.schedule(tasks.quick.call(1), cron="* * * * * *", key="cron")
        eventually(lambda: len(pq.schedule_runs(seconds)) >= 3, what="3 runs of the cron schedule")

    for schedule in (one, seconds):
        late = [(task.started_at - task.tick_at).total_seconds() for task in pq.schedule_runs(schedule, limit=50)
                if task.started_at and task.tick_at]  # fmt: skip
        assert min(late) > 0


def test_a_schedule_that_is_created_moved_or_resumed_wakes_the_worker(pq: PQ, database: str, tmp_path: Path) -> None:
    with worker(database, tmp_path, poll_interval=60):
        time.sleep(0.5)
        began = time.monotonic()
        one = pq.schedule(tasks.quick.call(), run_every=HOUR)
        eventually(lambda: pq.counts()[TaskStatus.COMPLETED] == 1, what="the first tick")
        pq.schedule(tasks.quick.call(), run_every=timedelta(seconds=0.3), end_at=datetime.now(tz=UTC) + 0.5 * SECOND)
        eventually(lambda: pq.counts()[TaskStatus.COMPLETED] == 2, what="a tick of the new rhythm")
        pq.schedule(tasks.quick.call(), cron=FAR, active=True)
        pq.pause_schedule(one)
        pq.schedule(tasks.quick.call(), cron="* * * * * *")
        pq.resume_schedule(one)
        eventually(lambda: pq.counts()[TaskStatus.COMPLETED] >= 3, what="a tick after the pause")

    assert time.monotonic() - began < 10


def test_a_worker_without_a_free_slot_still_makes_ticks(pq: PQ, database: str, tmp_path: Path) -> None:
    pq.enqueue(tasks.slow.call(20))
    with worker(database, tmp_path, concurrency=1, poll_interval=0.3):
        eventually(lambda: pq.counts()[TaskStatus.RUNNING] == 1)
        one = pq.schedule(tasks.quick.call(), run_every=timedelta(seconds=0.5), max_concurrent=None)

        eventually(lambda: len(pq.schedule_runs(one)) >= 3, what="three ticks", within=5)


def test_a_hand_in_the_database_needs_no_notification(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    with worker(database, tmp_path, poll_interval=0.3):
        connection.execute(
            "INSERT INTO pq_periodic (name, payload, run_every, next_run) VALUES ('s.quick', '{}', '1 day', now())"
        )
        connection.execute(
            "INSERT INTO pq_periodic (name, key, payload, cron) VALUES ('s.quick', 'new', '{}', '* * * * * *')"
        )
        eventually(lambda: {one.key for one in pq.list_schedules() if one.last_run} == {"", "new"}, what="both ran")

    planned = pq.get_schedule("s.quick")
    assert planned is not None
    assert planned.next_run is not None
    assert planned.last_run is not None
    assert timedelta(hours=23) < planned.next_run - planned.last_run <= timedelta(days=1)


def test_run_worker_once_runs_what_a_schedule_is_about_to_make(pq: PQ, database: str, tmp_path: Path) -> None:
    pq.schedule(tasks.quick.call(), run_every=HOUR)

    work(database, tmp_path, once=True, concurrency=1)

    assert pq.counts()[TaskStatus.COMPLETED] == 1


def test_idle_workers_ask_once_a_poll_interval(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    for n in range(20):
        pq.schedule(tasks.quick.call(), cron=FAR, key=str(n))
    with worker(database, tmp_path, poll_interval=0.2):
        # Twenty looks, a heartbeat, and what Postgres does by itself.
        assert transactions_in(database, 4.0) < 32


# --- missed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("catch_up", ["latest", "all", "skip"])
@pytest.mark.parametrize("down", [59 * MINUTE, timedelta(hours=23, minutes=59)], ids=["an hour", "a day"])
def test_missed_ticks(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection, catch_up: Any, down: timedelta
) -> None:
    one = pq.schedule(tasks.unserved.call(), run_every=10 * MINUTE, catch_up=catch_up, max_concurrent=None)
    due = back(connection, one, down)
    count = down // (10 * MINUTE) + 1

    work(database, tmp_path, queues=["default"])

    every = [due + n * 10 * MINUTE for n in range(count)]
    expected: dict[str, list[datetime]] = {"latest": every[-1:], "all": every, "skip": []}
    assert ticks(pq, one) == expected[catch_up]
    assert stored(pq, one).missed == count - len(expected[catch_up])
    assert stored(pq, one).next_run == due + count * 10 * MINUTE


def test_all_is_bounded_with_a_warning(pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection) -> None:
    one = pq.schedule(tasks.unserved.call(), run_every=MINUTE, catch_up="all", max_concurrent=None)
    back(connection, one, timedelta(days=1) - 30 * SECOND)  # half a minute until there is one more

    said = work(database, tmp_path, queues=["default"]).text

    assert len(ticks(pq, one)) == 1000
    assert stored(pq, one).missed == 440
    assert "440 tick(s) or more left out" in said


def test_all_runs_each_one_after_another(pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection) -> None:
    one = pq.schedule(tasks.slow.call(0.05), run_every=MINUTE, catch_up="all")
    due = back(connection, one, 5 * MINUTE + SECOND)

    work(database, tmp_path, concurrency=4)

    runs = list(reversed(pq.schedule_runs(one)))
    assert [task.tick_at for task in runs] == [due + n * MINUTE for n in range(6)]
    for earlier, later in pairwise(runs):
        assert earlier.completed_at is not None
        assert later.created_at > earlier.completed_at
    assert stored(pq, one).skipped == 0


def test_all_goes_on_when_somebody_else_frees_the_place(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    one = pq.schedule(tasks.unserved.call(), run_every=HOUR, catch_up="all")
    back(connection, one, HOUR + SECOND)
    with worker(database, tmp_path, queues=["default"], poll_interval=0.3):
        eventually(lambda: len(ticks(pq, one)) == 1)
        time.sleep(0.5)
        assert len(ticks(pq, one)) == 1

        pq.cancel(pq.schedule_runs(one)[0].id)

        eventually(lambda: len(ticks(pq, one)) == 2, within=15, what="the tick that waited")


# --- overlap --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 3, None])
def test_a_tick_is_skipped_while_too_many_runs_are_unfinished(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection, most: int | None
) -> None:
    one = pq.schedule(tasks.unserved.call(), run_every=HOUR, max_concurrent=most)
    due = []
    for _ in range(5):
        due.append(back(connection, one, SECOND))
        work(database, tmp_path, queues=["default"])

    made = most or 5
    found = stored(pq, one)
    assert ticks(pq, one) == due[:made]
    assert (found.unfinished, found.skipped) == (made, 5 - made)
    assert found.last_skipped_at == (due[-1] if most else None)
    assert found.next_run == due[-1] + HOUR


def test_every_end_frees_the_place(pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection) -> None:
    one = pq.schedule(tasks.unserved.call(), run_every=HOUR)
    work(database, tmp_path, queues=["default"])
    task_id = pq.schedule_runs(one)[0].id
    for status in ("completed", "failed", "cancelled"):
        connection.execute("UPDATE pq_tasks SET status = %s, completed_at = now() WHERE id = %s", (status, task_id))
        back(connection, one, SECOND)
        work(database, tmp_path, queues=["default"])
        assert stored(pq, one).skipped == 0
        task_id = max(task.id for task in pq.schedule_runs(one))
    # And one that is retried takes it again.
    connection.execute("UPDATE pq_tasks SET status = 'failed', completed_at = now() WHERE id = %s", (task_id,))
    pq.retry(task_id)
    back(connection, one, SECOND)
    work(database, tmp_path, queues=["default"])
    assert stored(pq, one).skipped == 1


def test_a_run_whose_worker_died_frees_its_place_when_it_is_rescued(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    one = pq.schedule(tasks.once.call(60), run_every=HOUR)
    with worker(database, tmp_path, concurrency=2, poll_interval=0.5) as process:

        def first() -> TaskRecord | None:
            return next(iter(pq.schedule_runs(one)), None)

        eventually(lambda: (found := first()) and found.status is TaskStatus.RUNNING, what="the run has begun")
        back(connection, one, SECOND)
        eventually(lambda: stored(pq, one).skipped == 1, what="a tick was skipped")

        process.signal(signal.SIGKILL, process.workers[0])
        eventually(lambda: (found := first()) and found.status is TaskStatus.FAILED, what="the run is lost")
        back(connection, one, SECOND)

        eventually(lambda: len(pq.schedule_runs(one)) == 2, what="the next tick has a place")


# --- the rest of a life -----------------------------------------------------------------------------------------------


def test_paused_and_ended_schedules_rest(pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection) -> None:
    paused = pq.schedule(tasks.quick.call(), run_every=HOUR, key="paused", active=False)
    ended = pq.schedule(tasks.quick.call(), run_every=HOUR, key="ended", end_at=datetime.now(tz=UTC) + MINUTE)
    over = pq.schedule(tasks.quick.call(), run_every=HOUR, key="over", end_at=datetime.now(tz=UTC) - MINUTE)
    back(connection, paused, SECOND)

    work(database, tmp_path)

    assert [len(ticks(pq, one)) for one in (paused, ended, over)] == [0, 1, 0]
    for one in (ended, over):
        assert (stored(pq, one).active, stored(pq, one).next_run) == (False, None)
        assert stored(pq, one).ended_at is not None

    # Registered again as it was it stays so, with a later end it lives again.
    again = stored(pq, ended).end_at
    pq.schedule(tasks.quick.call(), run_every=HOUR, key="ended", end_at=again)
    assert stored(pq, ended).active is False
    pq.schedule(tasks.quick.call(), run_every=HOUR, key="ended", end_at=datetime(2100, 1, 1, tzinfo=UTC))
    assert stored(pq, ended).active is True
    assert stored(pq, ended).next_run is not None


def test_rows_broken_by_hand_are_reported_and_the_others_go_on(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    broken = {
        "cron": "cron = '61 * * * *'",
        "never": "cron = '0 0 30 2 *'",
        "zone": "timezone = 'Europe/Nowhere'",
        "zero": "cron = NULL, run_every = '0'",
        "payload": "payload = '[1]'",
        "args": """payload = '{"args": 5}'""",
        "options": """options = '{"nonsense": 1}'""",
        "name": "name = ''",
        "null": "payload = 'null'",
    }
    ids = {key: pq.schedule(tasks.quick.call(), cron="@daily", key=key) for key in broken}
    for key, change in broken.items():
        connection.execute(f"UPDATE pq_periodic SET {change} WHERE id = %s", (ids[key],))  # type: ignore[arg-type]
    old = pq.schedule(tasks.quick.call(), cron="@daily", key="long ago")
    sound = [pq.schedule(tasks.quick.call(), cron="@daily", key=f"sound {n}") for n in range(3)]
    connection.execute("UPDATE pq_periodic SET next_run = clock_timestamp() - interval '1 s'")
    connection.execute("UPDATE pq_periodic SET next_run = '-infinity' WHERE id = %s", (old,))

    said = work(database, tmp_path).text

    for one in sound:
        assert len(ticks(pq, one)) == 1
    for key, one in ids.items():
        found = stored(pq, one)
        assert found.error, key
        assert ticks(pq, one) == []
        assert found.next_run is not None
        assert found.next_run > datetime.now(tz=UTC)
        assert f"schedule {one} (" in said
    assert stored(pq, old).next_run is not None
    assert ticks(pq, old) == []

    # Mended, it is worked out anew, and what was never due does not run.
    connection.execute("UPDATE pq_periodic SET cron = '@yearly', next_run = now() WHERE id = %s", (ids["cron"],))
    pq.schedule(tasks.quick.call(), cron="@yearly", key="zone")
    work(database, tmp_path)
    assert stored(pq, ids["cron"]).error is stored(pq, ids["zone"]).error is None
    assert ticks(pq, ids["cron"]) == []


def test_jitter_delays_the_run_and_not_the_rhythm(
    pq: PQ, database: str, tmp_path: Path, connection: psycopg.Connection
) -> None:
    one = pq.schedule(tasks.unserved.call(), run_every=MINUTE, jitter=30, catch_up="all", max_concurrent=None)
    due = back(connection, one, 20 * MINUTE)

    work(database, tmp_path, queues=["default"])

    runs = list(reversed(pq.schedule_runs(one, limit=100)))
    delays = [(task.run_at - task.tick_at).total_seconds() for task in runs if task.tick_at]
    assert [task.tick_at for task in runs] == [due + n * MINUTE for n in range(len(runs))]
    assert 0 <= min(delays) < max(delays) <= 30
    assert len(set(delays)) > 10


def test_a_starting_worker_stores_what_its_code_declares(pq: PQ, database: str, tmp_path: Path) -> None:
    def start(cron: str) -> str:
        return work(database, tmp_path, environment={"PQ_TEST_DECLARES": cron}).text

    assert "added" in start("0 3 1 1 *")
    found = pq.get_schedule("s.quick")
    assert found is not None
    assert (found.cron, found.timezone, found.app, found.declared_by) == ("0 3 1 1 *", "Europe/Berlin", "ticks", "code")
    pq.pause_schedule(found)

    assert "changed" in start("0 4 1 1 *")
    assert "newer code" in start("0 3 1 1 *")
    assert stored(pq, found.id).cron == "0 4 1 1 *"
    assert stored(pq, found.id).active is False


def test_a_worker_refuses_a_declaration_that_makes_no_sense(pq: PQ, database: str, tmp_path: Path) -> None:
    process = WorkerProcess(database, tmp_path / "log", app=APP, environment={"PQ_TEST_DECLARES": "61 * * * *"})
    try:
        assert process.wait() == 2
        assert "out of range" in process.text
    finally:
        process.kill()


# --- cost -----------------------------------------------------------------------------------------------------------


def test_croniter_is_loaded_only_for_cron_schedules(pq: PQ, database: str, tmp_path: Path) -> None:
    pq.schedule(tasks.quick.call(), run_every=HOUR)
    first = pq.enqueue(tasks.loaded.call())
    work(database, tmp_path)
    task = pq.get_task(first)
    assert task is not None
    assert task.result is False


def explained(connection: psycopg.Connection, name: str, *parameters: Any) -> dict[str, Any]:
    """Run one of the worker's statements as a worker does, and return its plan."""
    text = Statements("public")[name].text
    for n in range(len(parameters), 0, -1):
        text = text.replace(f"${n}", psycopg.sql.Literal(parameters[n - 1]).as_string(connection))
    with connection.transaction():
        connection.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL jit = off")
        row = connection.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}".encode()).fetchone()
    assert row is not None
    plan = row[0] if isinstance(row[0], list) else json.loads(row[0])
    found: dict[str, Any] = plan[0]["Plan"]
    return found


def test_ten_thousand_schedules_cost_what_ten_do(connection: psycopg.Connection) -> None:
    fill = """INSERT INTO pq_periodic (name, key, payload, cron, next_run, max_concurrent)
        SELECT 's.quick', n::text, '{}', '@daily', now() + n * interval '1 min', 1
        FROM generate_series(%s::int, %s::int) n"""
    pages: list[tuple[int, int]] = []
    for first, last in ((1, 10), (11, 10_000)):
        connection.execute(fill, (first, last))
        connection.execute("UPDATE pq_periodic SET next_run = now() - interval '1 s' WHERE key IN ('3', '4')")
        connection.execute("VACUUM ANALYZE pq_periodic")
        due = explained(connection, "schedule_due", 100, "{}")
        following = explained(connection, "schedule_next", "{}")
        assert due["Actual Rows"] == 2
        assert json.dumps(due).count("pq_periodic_due") == json.dumps(following).count("pq_periodic_due") == 2
        pages.append(tuple(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] for plan in (due, following)))

    # One more level of the tree, for each of the two scans.
    assert pages[1][0] <= pages[0][0] + 6
    assert pages[1][1] <= pages[0][1] + 6


def test_unfinished_runs_are_counted_by_an_index(connection: psycopg.Connection) -> None:
    connection.execute(
        """INSERT INTO pq_tasks (run_at, due, name, payload, status, schedule_id, tick_at, completed_at)
        SELECT now(), true, 's.quick', '{}', CASE WHEN n <= 3 THEN 'pending' ELSE 'completed' END, 1,
            now() + n * interval '1 min', now() FROM generate_series(1, 20000) n"""
    )
    connection.execute(
        "INSERT INTO pq_periodic (name, payload, cron, next_run, max_concurrent) VALUES ('a', '{}', '@daily', now(), 9)"
    )
    connection.execute("VACUUM ANALYZE pq_tasks")
    row = connection.execute("SELECT id, next_run::text, updated_at::text, next_run FROM pq_periodic").fetchone()
    assert row is not None
    decision = [
        {
            "id": row[0],
            "seen": row[1],
            "updated": row[2],
            "ticks": [row[1]],
            "next_run": row[1],
            "missed": 0,
            "wait": False,
        }
    ]

    plan = json.dumps(explained(connection, "schedule_tick", json.dumps(decision)))

    assert "pq_tasks_schedule" in plan
    assert connection.execute("SELECT count(*) FROM pq_tasks WHERE schedule_id = %s", (row[0],)).fetchone() == (
        1 + 20000 * (row[0] == 1),
    )
