"""Sentry's plugin, with the real SDK, against an endpoint that reads its envelopes."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from pq_core.types import ClaimedTask

pytest.importorskip("opentelemetry.proto")
pytest.importorskip("sentry_sdk")

from tests.adapters.collector import Endpoint, endpoint, run

PROGRAM = "tests.adapters.sentry_program"


@pytest.fixture
def sentry() -> Iterator[Endpoint]:
    with endpoint() as made:
        yield made


def enqueue(sentry: Endpoint, database: str) -> None:
    where = {"SENTRY": f"127.0.0.1:{sentry.port}", "PQ_DATABASE_URL": database}
    run(PROGRAM, "enqueue", environment=where)


def work(sentry: Endpoint, database: str, *options: str, set_up: str = "before") -> str:
    where = {"SENTRY": f"127.0.0.1:{sentry.port}", "PQ_DATABASE_URL": database, "SET_UP": set_up}
    return run(PROGRAM, "work", *options, environment=where)


def outcomes(database: str) -> Counter[str]:
    with psycopg.connect(database) as connection:
        return Counter(dict(connection.execute("SELECT status, count(*) FROM pq_tasks GROUP BY 1").fetchall()))


def enqueue_tick(database: str, *, headers: dict[str, str], **kwargs: Any) -> None:
    """Enqueue as a schedule does."""
    moment = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    task = {"name": "Nightly: report", "queue": "mail", "args": [], "kwargs": kwargs, "headers": headers}
    with psycopg.connect(database) as connection:
        connection.execute("SELECT pq_enqueue(%s)", [Jsonb({**task, "schedule_id": 3, "tick_at": moment})])


def data_of(span: dict[str, Any]) -> dict[str, Any]:
    """Return a span's data of messaging."""
    return {name: value for name, value in span.get("data", {}).items() if name.startswith("messaging.")}


OWN, SHARED = (), ("tasks_per_child=10",)


@pytest.mark.parametrize(
    ("set_up", "options"),
    [
        pytest.param("after", OWN, id="after-own"),
        pytest.param("busy", SHARED, id="busy-shared"),
        pytest.param("before", OWN, id="before-own"),
        *(
            pytest.param(set_up, options, id=f"{set_up}-{name}", marks=pytest.mark.long)
            for set_up, options, name in (
                ("after", SHARED, "shared"),
                ("before", SHARED, "shared"),
                ("busy", OWN, "own"),
            )
        ),
    ],
)
def test_every_event_arrives_once(sentry: Endpoint, database: str, set_up: str, options: tuple[str, ...]) -> None:
    enqueue(sentry, database)

    work(sentry, database, *options, set_up=set_up)

    with psycopg.connect(database) as connection:
        connection.execute("UPDATE pq_tasks SET run_at = now() WHERE name = 'fail'")
    work(sentry, database, *options, set_up=set_up)
    assert outcomes(database) == {"completed": 20, "failed": 2, "pending": 1, "cancelled": 1}
    transactions = Counter(each["transaction"] for each in sentry.of_type("transaction"))
    assert transactions == {"request": 1, "letter": 20, "fail": 2, "later": 1, "never": 1}
    ids = [each["event_id"] for each in sentry.of_type("transaction") + sentry.of_type("event")]
    assert len(set(ids)) == len(ids)
    events = Counter(
        each["exception"]["values"][0]["type"] if "exception" in each else each["message"]
        for each in sentry.of_type("event")
    )
    parents = {f"parent {number}": 2 for number in range(5)} if set_up == "busy" else {}
    assert events == {"LookupError": 2, "crashed": 1, **parents}


def test_processing_continues_the_trace_with_the_documented_keys(sentry: Endpoint, database: str) -> None:
    enqueue(sentry, database)

    work(sentry, database)

    transactions = sentry.of_type("transaction")
    (request,) = [each for each in transactions if each["transaction"] == "request"]
    published = [span for span in request["spans"] if span["op"] == "queue.publish"]
    assert len(published) == 24
    assert data_of(published[0]) == {"messaging.system": "pq", "messaging.destination.name": "mail"}
    (boom,) = [span for span in published if span["description"] == "crash"]
    assert data_of(boom)["messaging.message.id"] == "boom"
    letters = [each for each in transactions if each["transaction"] == "letter"]
    traces = [each["contexts"]["trace"] for each in letters]
    assert {trace["trace_id"] for trace in traces} == {request["contexts"]["trace"]["trace_id"]}
    assert {trace["parent_span_id"] for trace in traces} <= {span["span_id"] for span in published}
    assert {(trace["op"], trace["status"]) for trace in traces} == {("queue.task.pq", "ok")}
    (span,) = letters[0]["spans"]
    assert (span["op"], span["description"]) == ("queue.process", "letter")
    data = data_of(span)
    assert 0 <= data.pop("messaging.message.receive.latency") < 60_000
    assert int(data.pop("messaging.message.id")) in range(1, 21)
    assert data == {
        "messaging.system": "pq",
        "messaging.destination.name": "mail",
        "messaging.message.retry.count": 0,
    }


def test_errors_tell_of_their_task(sentry: Endpoint, database: str) -> None:
    enqueue(sentry, database)

    work(sentry, database)

    by_level = {each["level"]: each for each in sentry.of_type("event")}
    error, crash = by_level["error"], by_level["fatal"]
    assert error["tags"] == {"pq.task": "fail", "pq.queue": "mail", "pq.attempt": 1}
    assert error["exception"]["values"][0]["mechanism"] == {"type": "pq", "handled": False}
    told = error["contexts"]["pq task"]
    assert (told["name"], told["attempt"], told["max_attempts"]) == ("fail", 1, 2)
    assert error["transaction"] == "fail"
    assert crash["transaction"] == "crash"
    assert crash["contexts"]["pq attempt"]["signal"] == 11
    assert crash["contexts"]["pq task"]["client_id"] == "boom"
    assert crash["exception"]["values"][0]["type"] == "crashed"
    assert "SIGSEGV" in crash["exception"]["values"][0]["value"]
    (request,) = [each for each in sentry.of_type("transaction") if each["transaction"] == "request"]
    assert {each["contexts"]["trace"]["trace_id"] for each in (error, crash)} == {
        request["contexts"]["trace"]["trace_id"]
    }


def test_schedules_check_in_with_their_monitor(sentry: Endpoint, database: str) -> None:
    headers = {"pq-schedule-cron": "0 9 * * 1", "pq-schedule-timezone": "Europe/Berlin"}
    enqueue_tick(database, headers=headers)

    work(sentry, database)

    began, ended = sentry.of_type("check_in")
    assert began["check_in_id"] == ended["check_in_id"]
    assert [began["status"], ended["status"]] == ["in_progress", "ok"]
    assert ended["duration"] >= 0
    assert began["monitor_slug"] == "nightly-report"
    assert began["monitor_config"] == {
        "schedule": {"type": "crontab", "value": "0 9 * * 1"},
        "timezone": "Europe/Berlin",
    }
    assert began["environment"] == "test"


def test_real_schedules_say_their_rhythm(sentry: Endpoint, database: str) -> None:
    run(PROGRAM, "schedule", environment={"SENTRY": "127.0.0.1:1", "PQ_DATABASE_URL": database})

    work(sentry, database)

    checks = {(each["monitor_slug"], each["status"]): each["monitor_config"] for each in sentry.of_type("check_in")}
    every = {"schedule": {"type": "interval", "value": 2, "unit": "hour"}}
    weekly = {"schedule": {"type": "crontab", "value": "0 9 * * 1"}, "timezone": "Europe/Berlin"}
    assert checks == {
        ("nightly-report-eu", "in_progress"): every,
        ("nightly-report-eu", "ok"): every,
        ("nightly-report-weekly", "in_progress"): weekly,
        ("nightly-report-weekly", "ok"): weekly,
    }
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT headers FROM pq_tasks WHERE headers ? 'tenant'").fetchall()
    assert rows == [
        (
            {
                "tenant": "7",
                "pq-schedule-cron": "0 9 * * 1",
                "pq-schedule-timezone": "Europe/Berlin",
                "pq-schedule-key": "weekly",
            },
        )
    ]


def test_dead_child_checks_in_as_an_error(sentry: Endpoint, database: str) -> None:
    enqueue_tick(database, headers={"pq-schedule-every": "7200", "pq-schedule-key": "EU"}, crash=True)

    work(sentry, database)

    checks = sentry.of_type("check_in")
    # What a killed child was about to send may be lost with it; the end is told by another.
    assert checks[-1]["status"] == "error"
    assert len({each["check_in_id"] for each in checks}) == 1
    assert checks[-1]["monitor_slug"] == "nightly-report-eu"
    assert checks[-1]["monitor_config"] == {"schedule": {"type": "interval", "value": 2, "unit": "hour"}}


def claimed(**given: Any) -> ClaimedTask:
    """Return a task as a worker holds it."""
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    ordinary: dict[str, Any] = {
        "id": 7, "name": "report", "queue": "mail", "priority": 50, "fence": 2, "number": 1, "max_attempts": 1,
        "payload": "{}", "headers": {}, "version": 1, "run_at": moment, "created_at": moment, "started_at": moment,
        "schedule_id": 3,
    }  # fmt: skip
    return ClaimedTask(**{**ordinary, **given})


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"pq-schedule-cron": "*/5 * * * *"}, {"type": "crontab", "value": "*/5 * * * *"}),
        ({"pq-schedule-cron": "@daily"}, {"type": "crontab", "value": "@daily"}),
        ({"pq-schedule-cron": "0 0 L * *#2"}, None),
        ({"pq-schedule-cron": "0 0 * * * 30"}, None),
        ({"pq-schedule-every": "86400.0"}, {"type": "interval", "value": 1, "unit": "day"}),
        ({"pq-schedule-every": "90"}, None),
    ],
)
def test_schedules_that_sentry_can_express(headers: dict[str, str], expected: dict[str, Any] | None) -> None:
    from pq_hooks.sentry_monitors import monitor_of

    config = monitor_of(claimed(headers=headers), True).config

    assert (config or {}).get("schedule") == expected


def test_monitors_are_chosen_and_set_by_task() -> None:
    from pq_hooks.sentry_monitors import monitor_of

    own = {"report": {"checkin_margin": 5}, "quiet": None}
    daily = {"pq-schedule-cron": "@daily"}

    assert monitor_of(claimed(schedule_id=None), True).slug is None
    assert monitor_of(claimed(), False).slug is None
    assert monitor_of(claimed(name="quiet"), own).slug is None
    assert monitor_of(claimed(headers=daily), own).config == {
        "schedule": {"type": "crontab", "value": "@daily"},
        "timezone": "UTC",
        "checkin_margin": 5,
    }
    long = monitor_of(claimed(name="x" * 80), True).slug
    assert long is not None
    assert len(long) == 50


def test_endpoint_that_is_down_changes_no_outcome(database: str) -> None:
    with endpoint() as sentry:
        enqueue(sentry, database)

    work(Endpoint(1), database)

    assert outcomes(database)["completed"] == 20


def test_missing_sdk_is_an_error_that_names_the_extra() -> None:
    code = "import sys; sys.modules['sentry_sdk'] = None; import pq_hooks.sentry"

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2]
    )

    assert 'ImportError: pq_hooks.sentry needs the SDK: pip install "pq-toolkit[sentry]"' in done.stderr


def test_nothing_of_a_sensitive_task_is_sent(sentry: Endpoint, database: str) -> None:
    card = "4000-8811-2233"
    task = {"name": "secret", "queue": "mail", "args": [card], "sensitive": True}
    with psycopg.connect(database) as connection:
        connection.execute("SELECT pq_enqueue(%s)", [Jsonb(task)])

    work(sentry, database)

    (event,) = sentry.of_type("event")
    (error,) = event["exception"]["values"]
    assert error["type"] == "LookupError"
    assert "in secret" in error["value"]
    assert sentry.posts
    assert not any(card.encode() in body for _, body in sentry.posts)
