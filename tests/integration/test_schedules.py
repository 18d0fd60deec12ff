"""Schedules through the client: what is stored, what an operator's hand keeps, what a declaration may change."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pq_core import PQ, InvalidOption, ScheduleNotFound, ScheduleRecord, TaskGroup, TaskOptions
from pq_core.errors import (
    DuplicateClientId,
    InvalidTask,
    PayloadError,
    TaskNotAllowed,
    TransactionRequired,
    UseAsync,
)

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)

jobs = TaskGroup("shop", queue="reports")


@jobs.task(max_attempts=3, timeout=30)
def report(region: str | None = "eu", *, copies: int = 1) -> str:
    return (region or "") * copies


@jobs.task(memory_limit=64 * 2**20, on_lost="fail", on_failure=report)
def careful() -> None: ...


@jobs.task
def clashing(key: str) -> None: ...


def plain(n: int) -> int:
    return n


def periodic(n: int) -> int:
    return n


@pytest.fixture
def pq(database: str) -> Iterator[PQ]:
    with PQ(database, app="shop", allow=[__name__]) as pq:
        pq.include(jobs)
        yield pq


def stored(pq: PQ, target: Any = report, key: str = "") -> ScheduleRecord:
    found = pq.get_schedule(target, key=key)
    assert found is not None
    return found


def now(connection: psycopg.Connection) -> datetime:
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    moment: datetime = row[0]
    return moment


# --- what is stored -------------------------------------------------------------------------------------------------


def test_call_with_everything(pq: PQ) -> None:
    start, end = datetime(2030, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)

    schedule_id = pq.schedule(
        report.call("us", copies=2),
        cron="0 9 * * 1",
        timezone="Europe/Berlin",
        key="weekly",
        max_concurrent=2,
        active=False,
        priority=75,
        queue="slow",
        client_id="c-1",
        timeout=5,
        max_attempts=2,
        jitter=timedelta(seconds=90),
        start_at=start,
        end_at=end,
        catch_up="all",
        catch_up_limit=7,
    )

    found = stored(pq, schedule_id)
    assert found == pq.get_periodic_by_client_id("c-1") == stored(pq, "shop.report", "weekly") == stored(pq, found)
    assert (found.name, found.key, found.cron, found.timezone) == (
        "shop.report",
        "weekly",
        "0 9 * * 1",
        "Europe/Berlin",
    )
    assert found.payload == {"args": ["us"], "kwargs": {"copies": 2}}
    assert (found.priority, found.queue, found.max_runtime_seconds, found.max_attempts) == (75, "slow", 5, 2)
    assert (found.max_concurrent, found.active, found.jitter) == (2, False, timedelta(seconds=90))
    assert (found.catch_up, found.catch_up_limit, found.start_at, found.end_at) == ("all", 7, start, end)
    assert (found.app, found.declared_by) == ("shop", "call")
    assert found.next_run == datetime(2030, 1, 7, 8, tzinfo=UTC)


def test_python_pqs_form(pq: PQ) -> None:
    pq.schedule(
        report,
        "us",
        run_every=HOUR,
        key="k",
        max_concurrent=None,
        active=False,
        priority=0,
        client_id="c-2",
        max_runtime_seconds=9,
        copies=3,
    )

    found = stored(pq, report, "k")
    assert found.payload == {"args": ["us"], "kwargs": {"copies": 3}}
    assert (found.run_every, found.max_concurrent, found.active, found.priority) == (HOUR, None, False, 0)
    assert (found.client_id, found.max_runtime_seconds, found.max_attempts) == ("c-2", 9, 3)
    assert pq.periodic_count() == 1
    assert pq.unschedule("shop.report", key="k") is True
    assert pq.unschedule(report, key="k") is False
    assert pq.periodic_count() == 0


def test_options_of_the_task_and_plain_functions(pq: PQ) -> None:
    pq.schedule(report.options(queue="slow", headers={"a": "b"}), "us", cron="@daily", priority=3)
    pq.schedule(plain, 7, cron="@daily")

    assert (stored(pq).queue, stored(pq).priority) == ("slow", 3)
    assert stored(pq, plain).name == f"{__name__}:plain"


def test_interval_begins_now_and_with_start_at_there(pq: PQ, connection: psycopg.Connection) -> None:
    before = now(connection)
    pq.schedule(report, run_every=HOUR)
    pq.schedule(report.call(), run_every=HOUR, key="later", start_at=before + MINUTE)
    pq.schedule(report.call(), run_every=HOUR, key="long ago", start_at=before - 90 * MINUTE)

    first = stored(pq).next_run
    assert first is not None
    assert before <= first <= now(connection)
    assert stored(pq, report, "later").next_run == before + MINUTE
    assert stored(pq, report, "long ago").next_run == before + 30 * MINUTE


def test_a_tick_has_all_that_a_task_has(pq: PQ, connection: psycopg.Connection) -> None:
    pq.schedule(careful.call().options(headers={"a": "b"}), cron="@daily", jitter=5, timeout=3)

    task = pq.get_task(pq.run_schedule_now(careful))

    assert task is not None
    headers = {"a": "b", "pq-schedule-cron": "@daily"}
    assert (task.name, task.queue, task.headers, task.max_runtime_seconds) == ("shop.careful", "reports", headers, 3)
    assert task.schedule_id == stored(pq, careful).id
    assert task.tick_at is not None
    row = connection.execute("SELECT on_lost, on_failure ->> 'name', options FROM pq_tasks").fetchone()
    assert row == ("fail", "shop.report", {"memory_limit": 64 * 2**20})
    assert pq.schedule_runs(stored(pq, careful).id) == [task]


def test_arguments_that_are_null_stay(pq: PQ) -> None:
    pq.schedule(report.call(region=None), cron="@daily")

    task = pq.get_task(pq.run_schedule_now(report))

    assert task is not None
    assert task.payload == {"args": [], "kwargs": {"region": None}}


# --- what registering again keeps -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rhythm", [{"run_every": HOUR}, {"cron": "0 0 1 1 *"}], ids=["interval", "cron"])
def test_unchanged_keeps_its_next_tick(pq: PQ, connection: psycopg.Connection, rhythm: dict[str, Any]) -> None:
    first = pq.schedule(report.call(), **rhythm)
    connection.execute("UPDATE pq_periodic SET next_run = now() - interval '3 min'")
    before = stored(pq)

    again = pq.schedule(report.call("us"), priority=99, **rhythm)

    assert first == again
    assert stored(pq).next_run == before.next_run
    assert (stored(pq).payload["args"], stored(pq).priority) == (["us"], 99)


def test_changed_rhythm_is_worked_out_anew(pq: PQ, connection: psycopg.Connection) -> None:
    pq.schedule(report, run_every=HOUR)

    pq.schedule(report, run_every=MINUTE)
    moved = stored(pq).next_run
    assert moved is not None
    assert timedelta(0) < moved - now(connection) <= MINUTE

    pq.schedule(report.call(), cron="0 0 1 1 *")
    assert (stored(pq).run_every, stored(pq).cron) == (None, "0 0 1 1 *")
    in_utc = stored(pq).next_run
    assert in_utc is not None

    pq.schedule(report.call(), cron="0 0 1 1 *", timezone="Asia/Kathmandu")
    assert stored(pq).next_run == in_utc - timedelta(hours=5, minutes=45)


def test_pause_survives_registering_again(pq: PQ) -> None:
    pq.schedule(report, run_every=HOUR)
    assert pq.pause_schedule(report) is True

    pq.schedule(report, run_every=HOUR)
    assert stored(pq).active is False
    pq.schedule(report, run_every=MINUTE)
    assert stored(pq).active is False

    pq.schedule(report, run_every=MINUTE, active=True)
    assert stored(pq).active is True


def test_resuming_makes_up_for_nothing_and_keeps_the_rhythm(pq: PQ, connection: psycopg.Connection) -> None:
    pq.schedule(report, run_every=HOUR)
    pq.schedule(report.call(), cron="@hourly", key="cron")
    pq.pause_schedule(report)
    pq.pause_schedule(report, key="cron")
    connection.execute("UPDATE pq_periodic SET next_run = now() - interval '150 min'")
    before = stored(pq).next_run
    assert before is not None

    assert pq.resume_schedule(report) is True
    assert pq.resume_schedule(report, key="cron") is True

    assert stored(pq).next_run == before + 3 * HOUR
    assert stored(pq, report, "cron").next_run is None  # a worker plans it
    assert pq.resume_schedule("nobody") is pq.pause_schedule("nobody") is False


def test_pausing_twice_and_resuming_what_is_active_change_nothing(pq: PQ) -> None:
    pq.schedule(report.call(), cron="0 0 1 1 *")
    before = stored(pq).next_run
    pq.resume_schedule(report)
    pq.pause_schedule(report)
    pq.pause_schedule(report)
    pq.resume_schedule(report)
    assert stored(pq).next_run == before


def test_run_now_of_nothing(pq: PQ) -> None:
    with pytest.raises(ScheduleNotFound, match=r"shop\.report with the key 'x'"):
        pq.run_schedule_now(report, key="x")


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "neither"),
        ({"run_every": HOUR, "cron": "@daily"}, "both"),
        ({"run_every": timedelta(0)}, "millisecond"),
        ({"run_every": -HOUR}, "millisecond"),
        ({"run_every": 60}, r"timedelta\(seconds=60\)"),
        ({"cron": "61 * * * *"}, "out of range"),
        ({"cron": "0 0 31 2 *"}, "no such date"),
        ({"cron": 5}, "give text"),
        ({"cron": "@daily", "timezone": "Europe/Berln"}, "did you mean 'Europe/Berlin'"),
        ({"cron": "@daily", "max_concurrent": 0}, "at least 1"),
        ({"cron": "@daily", "catch_up": "some"}, "'latest', 'all' or 'skip'"),
        ({"cron": "@daily", "catch_up_limit": 0}, "100,000"),
        ({"cron": "@daily", "jitter": -1}, "0 or more"),
        ({"cron": "@daily", "active": 1}, "True, False"),
        ({"cron": "@daily", "key": "a\0"}, "key"),
        ({"cron": "@daily", "start_at": datetime(2030, 1, 1)}, "timezone"),
        (
            {
                "cron": "@daily",
                "start_at": datetime(2030, 1, 2, tzinfo=UTC),
                "end_at": datetime(2030, 1, 1, tzinfo=UTC),
            },
            "before start_at",
        ),
        ({"cron": "@daily", "crn": 1}, "no option 'crn'"),
        ({"cron": "@daily", "timeout": -1}, "timeout"),
        ({"cron": "@daily", "run_in": HOUR}, "a schedule says itself"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(pq: PQ, given: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidOption, match=says):
        pq.schedule(report.call(), **given)

    assert pq.periodic_count() == 0


def test_other_mistakes(pq: PQ) -> None:
    with pytest.raises(InvalidTask):
        pq.schedule(clashing, cron="@daily")
    with pytest.raises(InvalidTask):
        pq.schedule(report, 1, 2, 3, cron="@daily")
    with pytest.raises(PayloadError):
        pq.schedule(report.call(object()), cron="@daily")  # type: ignore[arg-type]
    with pytest.raises(TaskNotAllowed):
        pq.schedule(textwrap.dedent, "a", cron="@daily")
    with pytest.raises(InvalidOption):
        pq.pause_schedule(True)
    with pytest.raises(TransactionRequired):
        pq.schedule(report.call().options(require_transaction=True), cron="@daily")
    assert pq.periodic_count() == 0


def test_client_id_that_is_taken_leaves_the_transaction_usable(pq: PQ, database: str) -> None:
    first = pq.schedule(report.call(), cron="@daily", client_id="mine")

    with psycopg.connect(database) as connection:
        bound = pq.using(connection)
        with pytest.raises(DuplicateClientId, match=f"schedule {first}") as caught:
            bound.schedule(report.call(), cron="@daily", key="other", client_id="mine")
        bound.schedule(report.call(), cron="@daily", key="third")

    assert caught.value.existing_id == first
    assert [one.key for one in pq.list_schedules()] == ["", "third"]


# --- whose transaction ------------------------------------------------------------------------------------------------


def test_in_the_callers_transaction(pq: PQ, database: str) -> None:
    with psycopg.connect(database) as connection:
        pq.using(connection).schedule(report, run_every=HOUR)
        connection.rollback()
    assert pq.periodic_count() == 0
    with psycopg.connect(database) as connection:
        bound = pq.using(connection)
        bound.schedule(report, run_every=HOUR)
        assert bound.periodic_count() == 1
        assert bound.pause_schedule(report)
        assert bound.run_schedule_now(report)
    assert stored(pq).active is False


def test_async_twins(pq: PQ, database: str) -> None:
    async def all_of_them(target: Any) -> None:
        schedule_id = await target.aschedule(report, run_every=HOUR, client_id="c")
        assert (await target.aget_schedule(report)).id == schedule_id
        assert (await target.aget_periodic_by_client_id("c")).id == schedule_id
        assert await target.aperiodic_count() == 1
        assert await target.apause_schedule(report)
        assert await target.aresume_schedule(report)
        task_id = await target.arun_schedule_now(report)
        assert [task.id for task in await target.aschedule_runs(schedule_id)] == [task_id]
        assert [one.id for one in await target.alist_schedules(active=True)] == [schedule_id]
        assert await target.async_schedules() == await target.aprune_schedules() == []
        assert await target.aunschedule(report)

    async def run() -> None:
        await all_of_them(pq)
        async with await psycopg.AsyncConnection.connect(database) as connection:
            await all_of_them(pq.using(connection))
            with pytest.raises(UseAsync, match="aschedule"):
                pq.using(connection).schedule(report, run_every=HOUR)  # type: ignore[attr-defined]
        await pq.aclose()

    asyncio.run(run())


# --- declared in code -------------------------------------------------------------------------------------------------


def application(database: str, *declare: Callable[[TaskGroup], Any], app: str = "shop") -> PQ:
    """Return one version of an application."""
    group = TaskGroup("code")
    for each in declare:
        each(group)
    pq = PQ(database, app=app)
    pq.include(group)
    return pq


def daily(cron: str, name: str = "daily", **options: Any) -> Callable[[TaskGroup], Any]:
    def declare(group: TaskGroup) -> None:
        @group.periodic(cron=cron, **options)
        @group.task(name=name)
        def task(n: int = 0) -> None: ...

    return declare


def starts(pq: PQ) -> list[str]:
    """Do what a worker does about schedules when it starts; return what came of each."""
    return [one.action for one in pq.sync_schedules(force=False)]


def test_decorator_declares_alone_or_above_task(database: str) -> None:
    group = TaskGroup("code", defaults=TaskOptions(max_attempts=4))

    task = group.periodic(run_every=HOUR, kwargs={"n": 2}, options={"priority": 80})(periodic)
    same = group.periodic(cron="@daily", timezone="Europe/Berlin", key="a", args=[1])(task)

    assert same is task
    assert task(3) == 3
    with PQ(database, app="shop") as pq:
        pq.include(group)
        assert starts(pq) == ["added", "added"]
        one, other = pq.list_schedules()
    assert (one.payload["kwargs"], one.priority, one.max_attempts) == ({"n": 2}, 80, 4)
    assert (other.payload["args"], other.timezone, other.declared_by) == ([1], "Europe/Berlin", "code")


def test_decorator_refuses_at_once() -> None:
    group = TaskGroup("code")
    with pytest.raises(InvalidOption):
        group.periodic(cron="61 * * * *")(report)
    with pytest.raises(InvalidTask):
        group.periodic(cron="@daily")(clashing)
    group.periodic(cron="@daily")(report)
    with pytest.raises(InvalidTask, match="key"):
        group.periodic(cron="@hourly")(report)


def test_older_code_does_not_undo_newer(database: str) -> None:
    older, newer = application(database, daily("0 1 * * *")), application(database, daily("0 2 * * *"))

    assert [starts(one) for one in (older, newer, older, newer)] == [["added"], ["changed"], ["older"], ["unchanged"]]
    assert [one.cron for one in newer.list_schedules()] == ["0 2 * * *"]

    # Said explicitly, it goes back; then the other one is the older.
    assert [one.action for one in older.sync_schedules()] == ["changed"]
    assert starts(newer) == ["older"]
    assert starts(older) == ["unchanged"]
    older.close()
    newer.close()


def test_code_changes_only_what_its_own_application_declared(database: str) -> None:
    mine = application(database, daily("0 1 * * *"), daily("0 1 * * *", "by hand"), daily("0 1 * * *", "called"))
    others = application(database, daily("0 5 * * *"), app="other")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("INSERT INTO pq_periodic (name, payload, cron) VALUES ('code.by hand', '{}', '0 6 * * *')")
    starts(others)
    mine.schedule(mine.registry.resolve("code.called").call(), cron="0 7 * * *")

    assert starts(mine) == ["foreign", "foreign", "foreign"]
    assert [one.action for one in mine.sync_schedules()] == ["foreign"] * 3
    assert mine.prune_schedules(remove=True) == []

    assert {one.name: one.cron for one in mine.list_schedules()} == {
        "code.daily": "0 5 * * *",
        "code.by hand": "0 6 * * *",
        "code.called": "0 7 * * *",
    }
    mine.close()
    others.close()


def test_code_leaves_what_an_operator_did(database: str) -> None:
    pq = application(database, daily("0 1 * * *"))
    starts(pq)
    before = pq.list_schedules()[0]
    pq.pause_schedule("code.daily")

    assert starts(pq) == ["unchanged"]
    assert pq.list_schedules()[0].active is False

    newer = application(database, daily("0 1 * * *", kwargs={"n": 3}))
    assert starts(newer) == ["changed"]
    after = pq.list_schedules()[0]
    assert (after.active, after.next_run, after.payload["kwargs"]) == (False, before.next_run, {"n": 3})
    pq.close()
    newer.close()


def test_prune_removes_what_is_no_longer_declared_and_older_code_does_not_bring_it_back(database: str) -> None:
    both = application(database, daily("0 1 * * *"), daily("0 1 * * *", "gone"))
    newer = application(database, daily("0 1 * * *"))
    starts(both)
    starts(newer)

    assert newer.periodic_count() == 2  # only when asked
    assert [one.name for one in newer.prune_schedules()] == ["code.gone"]
    assert newer.periodic_count() == 2
    assert [one.name for one in newer.prune_schedules(remove=True)] == ["code.gone"]

    assert [one.name for one in newer.list_schedules()] == ["code.daily"]
    assert newer.periodic_count() == 1
    assert newer.get_schedule("code.gone") is None
    assert newer.resume_schedule("code.gone") is newer.unschedule("code.gone") is False
    assert starts(both) == ["unchanged", "older"]
    assert newer.periodic_count() == 1

    # A new definition of that name is a new one; a call needs no leave.
    again = application(database, daily("0 3 * * *", "gone"))
    assert starts(again) == ["added"]
    assert again.list_schedules()[1].active is True
    for one in (both, newer, again):
        one.close()


def test_definition_does_not_depend_on_the_process(database: str) -> None:
    """Sets have another order in every process: that must not look like a change."""
    program = (
        "import sys; from pq_core import PQ, TaskGroup; group = TaskGroup('code')\n"
        "@group.periodic(cron='@daily', args=[set('abcdefgh'), {'x': frozenset('xyz')}])\n"
        "@group.task(name='t')\n"
        "def task(letters, more): ...\n"
        "pq = PQ(sys.argv[1]); pq.include(group); print(pq.sync_schedules(force=False)[0].action)"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", program, database],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    ]

    assert said == ["added", "unchanged"]


def test_many_processes_that_start_at_once_agree(database: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    versions = [application(database, *(daily("0 1 * * *", f"t{n}") for n in range(20))) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(starts, versions))

    assert versions[0].periodic_count() == 20
    assert {action for one in found for action in one} <= {"added", "unchanged"}
    for one in versions:
        one.close()
