"""``pq schedules`` on the real command line, in processes of its own, against a real database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

ROOT = Path(__file__).parents[2]

APP = """
import os
from datetime import date, timedelta
from pq_core import PQ, TaskGroup

jobs = TaskGroup(prefix="shop")
pq = PQ(app="shop", tasks=["shop"])

@jobs.task(name="report")
def report(day: date = date(2026, 1, 1), *, copies: int = 1) -> str:
    return f"{day} {copies}"

if os.environ.get("NIGHTLY"):
    jobs.periodic(cron=os.environ["NIGHTLY"], timezone="Europe/Berlin", key="nightly")(report)
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def pq(tmp_path: Path, database: str) -> Run:
    (tmp_path / "shop.py").write_text(APP)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PQ_", "PG"))}

    def run(*words: object, status: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "pq_core", *map(str, words)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**kept, "PQ_DATABASE_URL": database, "PYTHONPATH": str(ROOT), **variables},
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == status, (done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    return run


def read(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


def test_life_of_a_schedule(pq: Run) -> None:
    made = read(
        pq("schedules", "add", "shop:pq", "shop.report", "2026-05-01", "copies=2", "--cron", "0 9 * * 1", "--timezone",
           "Europe/Berlin", "--key", "weekly", "--max-concurrent", 0, "--catch-up", "all", "--jitter", "5m",
           "--priority", "high", "--timeout", "1m", "--json")
    )  # fmt: skip
    [found] = read(pq("schedules", "list", "--json"))
    assert found["id"] == made["id"]
    assert found["payload"] == {"args": [{"$pq": "date", "value": "2026-05-01"}], "kwargs": {"copies": 2}}
    assert (found["max_concurrent"], found["catch_up"], found["jitter"], found["priority"]) == (None, "all", 300, 75)
    assert "every" not in pq("schedules", "list").stdout
    assert "shop.report weekly" in pq("schedules", "show", made["id"]).stdout

    pq("schedules", "pause", "shop.report", "--key", "weekly")
    assert read(pq("schedules", "show", made["id"], "--json"))["schedule"]["active"] is False
    assert "paused" in pq("schedules", "list", "--name", "shop.report", "--of-app", "shop").stdout
    pq("schedules", "resume", made["id"])
    task = read(pq("schedules", "run", made["id"], "--json"))["id"]
    pq("worker", "shop:pq", "--until-empty")
    [run] = read(pq("schedules", "show", made["id"], "--json"))["runs"]
    assert (run["id"], run["status"], run["result"]) == (task, "completed", "2026-05-01 2")
    assert "completed" in pq("schedules", "show", made["id"], "--runs", 1).stdout

    pq("schedules", "remove", made["id"])
    assert pq("schedules", "list").stdout == "there is no schedule\n"
    for command in ("show", "pause", "resume", "run", "remove"):
        assert "there is no schedule" in pq("schedules", command, "shop.report", status=1).stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--cron", "61 * * * *"], "out of range"),
        (["--every", "0"], "millisecond"),
        ([], "neither"),
        (["--every", "5m", "--cron", "@daily"], "both"),
        (["--cron", "@daily", "--timezone", "Europe/Berln"], "did you mean 'Europe/Berlin'"),
    ],
)
def test_mistakes_are_one_line(pq: Run, words: list[str], says: str) -> None:
    said = pq("schedules", "add", "shop:pq", "shop.report", *words, status=2).stderr

    assert says in said
    assert said.startswith("pq: ")
    assert len(said.splitlines()) == 1


def test_next_needs_no_database(pq: Run) -> None:
    nowhere = {"PQ_DATABASE_URL": "host=/nowhere"}
    after = ["--after", "2025-10-25T12:00:00+00:00", "--json"]
    found = read(pq("schedules", "next", 2, "--cron", "30 2 * * *", "--timezone", "Europe/Berlin", *after, **nowhere))
    assert found == [
        {"utc": "2025-10-26T00:30:00+00:00", "local": "2025-10-26T02:30:00+02:00"},
        {"utc": "2025-10-27T01:30:00+00:00", "local": "2025-10-27T02:30:00+01:00"},
    ]
    found = read(pq("schedules", "next", 2, "--every", "90", *after, **nowhere))
    assert [one["utc"] for one in found] == ["2025-10-25T12:01:30+00:00", "2025-10-25T12:03:00+00:00"]
    assert "2025-10-26T02:30:00+02:00" in pq(
        "schedules", "next", 1, "--cron", "30 2 * * *", "--timezone", "Europe/Berlin", *after[:2], **nowhere
    ).stdout  # fmt: skip
    pq("schedules", "next", 2, status=2, **nowhere)
    pq("schedules", "next", 2, "--cron", "* * * *", status=2, **nowhere)
    pq("schedules", "next", 2, "key", "--every", 5, status=2, **nowhere)


def test_next_of_what_is_stored(pq: Run, connection: psycopg.Connection) -> None:
    pq(
        "schedules",
        "add",
        "shop:pq",
        "shop.report",
        "--cron",
        "0 9 * * *",
        "--timezone",
        "Asia/Kathmandu",
        "--key",
        "a",
    )
    pq("schedules", "add", "shop:pq", "shop.report", "--every", "1h", "--key", "b")
    connection.execute("UPDATE pq_periodic SET next_run = '2100-01-01 00:00:07Z' WHERE key = 'b'")

    [daily] = read(pq("schedules", "next", 1, "a", "--json"))
    hourly = read(pq("schedules", "next", 2, "b", "--json"))

    assert daily["local"].endswith("T09:00:00+05:45")
    assert [one["utc"] for one in hourly] == ["2100-01-01T00:00:07+00:00", "2100-01-01T01:00:07+00:00"]
    assert "give the id" in pq("schedules", "next", 1, "shop.report", status=2).stderr
    assert "there is no schedule" in pq("schedules", "next", 1, "nobody", status=1).stderr


def test_sync_and_prune(pq: Run) -> None:
    assert "added 1: shop.report nightly" in pq("schedules", "sync", "shop:pq", NIGHTLY="0 2 * * *").stdout
    assert "changed 1" in pq("schedules", "sync", "shop:pq", NIGHTLY="0 3 * * *").stdout
    # Said by a person, it goes back.
    assert "changed 1" in pq("schedules", "sync", "shop:pq", NIGHTLY="0 2 * * *").stdout

    shown = pq("schedules", "sync", "shop:pq", "--prune", status=1)
    assert "to remove 1: shop.report nightly" in shown.stdout
    assert "--yes" in shown.stderr
    assert len(read(pq("schedules", "list", "--json"))) == 1

    done = read(pq("schedules", "sync", "shop:pq", "--prune", "--yes", "--json"))
    assert [one["key"] for one in done["removed"]] == ["nightly"]
    assert read(pq("schedules", "list", "--json")) == []
    pq("schedules", "sync", "shop:pq", "--prune")
