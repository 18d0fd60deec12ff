"""``pq keys``, ``pq dashboard`` and ``pq demo --dashboard`` as commands."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pq_core import PQ, embedded
from tests.dashboard import dashboard_tasks as tasks
from tests.dashboard.serving import client
from tests.integration.worker_process import eventually

ROOT = Path(__file__).parents[2]
APP = f"{tasks.__name__}:create_pq"


def pq_command(*words: str, dsn: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PQ_DATABASE_URL": dsn}
    command = [sys.executable, "-m", "pq_core", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=100)


@contextmanager
def dashboard(dsn: str, log: Path, *words: str, command: str = "dashboard") -> Iterator[tuple[Any, str]]:
    """Run the command; yield its process and the address that it prints."""
    environment = {**os.environ, "PQ_DATABASE_URL": dsn, "PYTHONUNBUFFERED": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pq_core", command, *words], stdout=output, stderr=output, cwd=ROOT, env=environment
        )
    try:
        found = eventually(lambda: re.search(r"http://\S+", log.read_text()) or process.poll() is not None, within=60)
        assert found is not True, log.read_text()
        yield process, found[0].rstrip("/")
    finally:
        process.kill()
        process.wait()


def test_key_is_printed_once(database: str) -> None:
    made = pq_command("keys", "create", "--role", "viewer", "--name", "ada", "--expires", "30d", dsn=database)
    assert re.fullmatch(r"pq_[\w-]{43}\n", made.stdout)
    listed = pq_command("keys", "list", "--json", dsn=database).stdout
    (key,) = json.loads(listed)
    assert (key["name"], key["role"], key["active"]) == ("ada", "viewer", True)
    assert made.stdout.strip() not in listed

    assert pq_command("keys", "revoke", str(key["id"]), dsn=database).returncode == 0
    assert pq_command("keys", "revoke", str(key["id"]), dsn=database).returncode == 1

    log = [(one.action, one.target) for one in PQ(database).audit_log()]
    assert log == [("key.revoke", str(key["id"])), ("key.create", str(key["id"]))]
    wrong = pq_command("keys", "create", "--role", "viewer", "--name", "ada", "--expires", "soon", dsn=database)
    assert wrong.returncode == 2


def test_serves_an_application_until_it_is_told_to_stop(database: str, tmp_path: Path) -> None:
    with dashboard(database, tmp_path / "log", APP, "--port", "0") as (process, address):
        eventually(lambda: "open to everybody on this machine" in (tmp_path / "log").read_text())
        with client(address) as one:
            made = one.post("/api/v1/tasks", json={"task": "shop.greet", "args": ["Ada"]})
            assert made.status_code == 201, made.text
            assert one.get("/api/v1/tasks", headers={"Host": "evil.example"}).status_code == 400
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_needs_a_key_off_loopback(database: str, tmp_path: Path) -> None:
    refused = pq_command("dashboard", "--host", "0.0.0.0", "--port", "0", dsn=database)
    assert refused.returncode == 2
    assert "pq keys create" in refused.stderr

    key = PQ(database).create_key("me", role="viewer").key
    with dashboard(database, tmp_path / "log", "--host", "0.0.0.0", "--port", "0") as (_, address):
        local = address.replace("0.0.0.0", "127.0.0.1")
        with client(local) as one:
            assert one.get("/api/v1/tasks").status_code == 401
        with client(local, key) as one:
            assert one.get("/api/v1/tasks").status_code == 200


def test_says_what_is_wrong_in_one_line(empty_database: str) -> None:
    unmigrated = pq_command("dashboard", "--port", "0", dsn=empty_database)

    assert unmigrated.returncode == 2
    assert "pq migrate" in unmigrated.stderr
    assert "Traceback" not in unmigrated.stderr


def test_embedded_database_needs_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    try:
        # Twice: the first one makes the folder, the server and the tables, the second one finds them.
        for made in (True, False):
            with dashboard(f"embedded:{folder}", tmp_path / "log", APP, "--port", "0") as (process, address):
                assert ("tables in schema public: revision" in (tmp_path / "log").read_text()) is made
                assert (folder / "PG_VERSION").exists() or list(folder.glob("*/PG_VERSION"))
                with client(address, follow_redirects=True) as one:
                    for path in ("/", "/tasks", "/failures", "/schedules", "/queues", "/workers", "/functions"):
                        answer = one.get(path)
                        assert (answer.status_code, "<h1>" in answer.text) == (200, True), path
                    assert one.post("/api/v1/tasks", json={"task": "shop.greet", "args": ["Ada"]}).status_code == 201
                process.send_signal(signal.SIGTERM)
                process.wait(30)
        assert PQ(f"embedded:{folder}").pending_count() == 2

        key = pq_command("keys", "create", "--role", "viewer", "--name", "me", dsn=f"embedded:{folder}").stdout.strip()
        words = ("--dsn", f"embedded:{folder}", "--port", "0")
        with dashboard("postgresql://nobody@nowhere.invalid/x", tmp_path / "log", *words) as (_, address):
            with client(address, follow_redirects=True) as one:
                assert "Log in" in one.get("/tasks").text
                shown = one.post("/login", data={"key": key}, headers={"Origin": address})
                assert shown.status_code == 200
                assert "shop.greet" in one.get("/tasks").text
    finally:
        embedded.stop(folder)


def test_missing_extra_is_named() -> None:
    program = "import sys; sys.modules['starlette'] = None; import pq_adapters.dashboard"

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)

    assert "pip install 'pq-toolkit[dashboard]'" in said.stderr


@pytest.mark.parametrize("embedded", [False])
def test_demo_keeps_its_dashboard_until_the_end(empty_database: str, tmp_path: Path, embedded: bool) -> None:
    words = ("--files", "2", "--dsn", empty_database, "--dashboard", "--concurrency", "1")
    with dashboard(empty_database, tmp_path / "log", *words, command="demo") as (process, address):
        eventually(lambda: "the dashboard stays up" in (tmp_path / "log").read_text(), within=90)
        with client(address) as one:
            items = one.get("/api/v1/tasks").json()["items"]
            queues = {queue["name"]: queue for queue in one.get("/api/v1/queues").json()["items"]}
        assert {item["name"] for item in items} >= {"demo.segfault", "demo.endless_loop", "demo.turn", "pq.webhook"}
        assert queues["web"]["concurrency_limit"] == 2
        process.send_signal(signal.SIGINT)
        process.wait(60)
    with pytest.raises(Exception, match=r"connect|refused"):
        client(address).get("/healthz")
