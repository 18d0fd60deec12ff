"""The commands of those who operate: queues, workers, health, top, doctor, check, on a real database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg

from pq_core import PQ, TaskStatus
from tests.acceptance.test_cli import Run, environment, folder, pq, printed
from tests.integration.worker_process import eventually, running

__all__ = ["environment", "folder", "pq"]


def test_paused_queue_starts_nothing_until_it_is_resumed(pq: Run, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, app="shop:pq", path=tmp_path, poll_interval=0.2) as worker:
        assert pq("queues", "pause", "orders", "--by", "ada").stdout == "paused 1 of 1\n"
        task_id = int(pq("enqueue", "shop:pq", "shop.receipt", "7").stdout)
        [listed] = [one for one in printed(pq("queues", "list", "--json")) if one["name"] == "orders"]
        shown = pq("queues").stdout

        assert (listed["paused_by"], listed["due"]) == ("ada", 1)
        assert "by ada" in shown
        assert printed(pq("tasks", "show", task_id, "--json"))["task"]["status"] == "pending"

        assert printed(pq("queues", "resume", "orders", "--json")) == {"resumed": ["orders"], "refused": []}
        eventually(lambda: printed(pq("tasks", "show", task_id, "--json"))["task"]["status"] == "completed")
        assert worker.stop() == 0


def test_pausing_twice_is_a_negative_answer(pq: Run) -> None:
    pq("queues", "pause", "orders")

    said = pq("queues", "pause", "orders", "mail", status=1)

    assert "queue orders is paused already" in said.stderr
    assert pq("queues", "resume", "nobody", status=1).stdout == "resumed 0 of 1\n"


def test_limits_of_a_queue_are_set_shown_and_lifted(pq: Run) -> None:
    assert pq("queues", "limit", "orders", "--concurrency", "5", "--rate", "10/s").stdout == "orders: 5 at once, 10/s\n"
    assert "0 of 5 at once, 10/s" in pq("queues").stdout
    [listed] = [one for one in printed(pq("queues", "list", "--json")) if one["name"] == "orders"]
    assert (listed["concurrency_limit"], listed["rate_limit"]) == (5, 10)
    assert pq("queues", "limit", "orders", "--none").stdout == "orders: no limits\n"
    assert pq("queues", "limit", "orders", "--none", status=1).stdout == "orders: no limits, as before\n"
    assert "'fast' is no rate" in pq("queues", "limit", "orders", "--rate", "fast", status=2).stderr
    assert "--none to lift" in pq("queues", "limit", "orders", status=2).stderr


def test_limits_in_use_are_shown(pq: Run) -> None:
    assert pq("limits").stdout == "nothing runs or waits under a limit\n"
    pq("queues", "limit", "orders", "--rate", "100/m")
    pq("queues", "pause", "mail", "--by", "ada")

    assert [line.split() for line in pq("limits").stdout.splitlines()] == [
        ["OF", "NAME", "RUNNING", "ALLOWED", "RATE", "WAITING", "STATE"],
        ["queue", "mail", "0", "-", "-", "0", "paused"],
        ["queue", "orders", "0", "-", "100/m", "0", "open"],
    ]
    [mail] = printed(pq("limits", "--reached", "--json"))
    assert (mail["kind"], mail["name"], mail["paused"], mail["reached"]) == ("queue", "mail", True, True)


def test_drained_worker_ends_and_is_not_replaced(pq: Run, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, app="shop:pq", path=tmp_path) as worker:
        [found] = printed(pq("workers", "list", "--json"))

        assert printed(pq("workers", "drain", found["id"], "--json")) == {"drained": [found["id"]], "refused": []}
        assert worker.wait() == 0

    assert printed(pq("workers", "--json")) == []
    assert "no live worker" in pq("workers", "drain", "4711", status=1).stderr
    assert pq("workers", "drain", status=2)


def test_stopped_worker_leaves_at_once(pq: Run, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, app="shop:pq", path=tmp_path, lease=600) as worker:
        [found] = printed(pq("workers", "list", "--json"))

        assert printed(pq("workers", "stop", found["id"], "--json")) == {"stopped": [found["id"]], "refused": []}
        assert worker.wait() == 0
        assert "are interrupted and put back" in worker.text

    assert printed(pq("workers", "--json")) == []
    assert "no live worker" in pq("workers", "stop", "4711", status=1).stderr
    assert pq("workers", "stop", status=2)


def test_all_workers_of_an_application_are_drained(pq: Run, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, app="shop:pq", path=tmp_path, processes=2) as worker:
        assert pq("workers", "drain", "--of-app", "other", status=1).stdout == "told 0 of 0\n"
        assert pq("workers", "drain", "--of-app", "shop").stdout == "told 2 of 2\n"
        assert worker.wait() == 0


def test_readiness_asks_for_workers_and_waits(pq: Run, database: str, tmp_path: Path) -> None:
    assert "0 worker(s) alive" in pq("health", "--ready", status=1).stderr
    assert pq("health", "--min-workers", "0").returncode == 0
    with running(database, tmp_path, app="shop:pq", path=tmp_path, poll_interval=0.2):
        assert pq("health", "--ready", "--queues", "orders").returncode == 0
        assert "serves the queue mail" in pq("health", "--queues", "orders,mail", status=1).stderr
        pq("queues", "pause", "orders")
        pq("enqueue", "shop:pq", "shop.receipt", "7")
        # Nobody waits for what is paused.
        assert pq("health", "--max-wait", "0").returncode == 0
        pq("enqueue", "shop:pq", "shop.receipt", "8", "--queue", "nobody")
        late = printed(pq("health", "--max-wait", "0", "--json", status=1))

    assert late["healthy"] is False
    assert "in the queue nobody" in late["problems"][0]


def test_readiness_without_tables_or_database_is_a_negative_answer(pq: Run, empty_database: str) -> None:
    assert "pq migrate" in pq("health", PQ_DATABASE_URL=empty_database, status=1).stderr
    gone = "host=127.0.0.1 port=9 dbname=nowhere"
    assert "can't connect" in pq("health", PQ_DATABASE_URL=gone, status=1).stderr


def test_top_prints_one_picture_without_a_terminal(pq: Run, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, app="shop:pq", path=tmp_path):
        pq("enqueue", "shop:pq", "shop.receipt", "7", "--wait", "30")

        text = pq("top", "--once").stdout
        data = printed(pq("top", "--json"))

    assert "1 worker(s), 0 running, 0 due" in text
    assert "nothing runs" in text
    assert [worker["alive"] for worker in data["workers"]] == [True]
    assert data["ended"].keys() == {"completed", "failed", "cancelled"}
    with PQ(database) as client:
        assert client.pace(3600)[TaskStatus.COMPLETED] == 1


def test_top_draws_on_a_terminal_until_interrupted(folder: Path, environment: dict[str, str]) -> None:
    import pty

    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "pq_core", "top", "--interval", "0.2"]
    process = subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, cwd=folder, env={**environment, "TERM": "xterm"},
        start_new_session=True,
    )  # fmt: skip
    os.close(follower)
    seen = b""
    try:
        while b"WORKERS" not in seen or seen.count(b"worker(s)") < 2:
            seen += os.read(leader, 65536)
        process.send_signal(signal.SIGINT)
        while True:
            try:
                if not os.read(leader, 65536):
                    break
            except OSError:
                break  # the terminal is gone: so is the process
        assert process.wait(20) == 0
    finally:
        process.kill()
        os.close(leader)


def test_doctor_says_each_fix_and_its_status_says_if_there_is_one(pq: Run, database: str, tmp_path: Path) -> None:
    with running(database, tmp_path, app="shop:pq", path=tmp_path):
        well = printed(pq("doctor", "shop:pq", "--json"))
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("DROP INDEX pq_tasks_ready")
        bad = pq("doctor", "shop:pq", status=1)

    assert {finding["check"] for finding in well} >= {"threads", "sockets", "indexes", "pooler", "names"}
    assert [finding for finding in well if finding["level"] == "problem"] == []
    assert "problem  indexes: the index pq_tasks_ready is missing" in bad.stdout
    assert 'fix: CREATE INDEX CONCURRENTLY pq_tasks_ready ON "public".pq_tasks' in bad.stdout


def test_doctor_of_a_database_that_is_away_says_so(pq: Run) -> None:
    said = pq("doctor", "--json", PQ_DATABASE_URL="host=127.0.0.1 port=9 dbname=nowhere", status=1)

    assert [finding["check"] for finding in json.loads(said.stdout) if finding["level"] == "problem"] == ["database"]


def test_check_of_a_database_finds_what_this_code_cannot_run(pq: Run, database: str) -> None:
    pq("enqueue", "shop:pq", "shop.receipt", "7")
    pq("schedules", "add", "shop:pq", "shop.fails", "--every", "1h")
    assert pq("check", "shop:pq", "--database").returncode == 0

    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("""SELECT pq_enqueue('[{"name": "shop.gone"}, {"name": "shop.receipt", "version": 2}]')""")
        connection.execute("UPDATE pq_periodic SET name = 'shop.former'")
    problems = printed(pq("check", "shop:pq", "--database", "--json", status=1))["problems"]

    assert len(problems) == 3
    assert "1 pending task(s) shop.gone can't run with this code" in problems[0]
    assert "version 2 is newer than this code's 1" in problems[1]
    assert "the schedule shop.former can't run with this code" in problems[2]


def test_readiness_of_a_schema_of_its_own(pq: Run) -> None:
    assert "no tables of pq" in pq("health", "--schema", "jobs", status=1).stderr
