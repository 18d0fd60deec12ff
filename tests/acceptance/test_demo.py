"""``pq demo`` as a newcomer runs it."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.extras import needs
from tests.integration.worker_process import eventually

ROOT = Path(__file__).parents[2]
# Webhooks are part of it where httpx is installed: six that arrive, one that is refused.
WEBHOOKS = 7 if importlib.util.find_spec("httpx") is not None else 0
LIMITED = 20 + WEBHOOKS


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PQ_", "PG"))}
    return {**kept, "PYTHONPATH": str(ROOT), **variables}


def demo(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pq_core", "demo", *words],
        cwd=folder,
        env=environment(TMPDIR=str(folder), **variables),
        capture_output=True,
        text=True,
        timeout=100,
        stdin=subprocess.DEVNULL,
    )


def schemas(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as connection:
        return [name for (name,) in connection.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ 'demo'")]


def test_demo_agrees_with_a_direct_count_in_spite_of_three_that_misbehave(database: str, tmp_path: Path) -> None:
    done = demo(tmp_path, "--files", "40", "--dsn", database)

    assert done.returncode == 0, (done.stdout, done.stderr)
    assert re.search(rf"{43 + LIMITED} tasks in \d+\.\d s: \d+ tasks/s", done.stdout)
    outcomes = re.search(r"outcomes: (.*)", done.stdout)
    assert outcomes is not None
    counts = {name: count for count, name in (words.split() for words in outcomes[1].split(", "))}
    expected = {"succeeded": 40 + LIMITED, "crashed": 1, "out_of_memory": 1, "timed_out": 1}
    expected |= {"succeeded": 40 + LIMITED - 1, "raised": 1} if WEBHOOKS else {}
    assert counts == {name: str(count) for name, count in expected.items()}
    assert done.stdout.count("; the worker goes on") == 3 + bool(WEBHOOKS)
    assert "limits: 4 keys with 5 tasks each" in done.stdout
    if WEBHOOKS:
        assert re.search(r"webhooks: 6 orders .* limited to 2 at once: at most [12] at once", done.stdout)
        assert "/latest/meta-data was refused" in done.stdout
    else:
        assert "webhooks: left out" in done.stdout
    assert "demo.memory_hog" in done.stdout.partition("most memory")[2]
    assert "the table: 40 files" in done.stdout
    assert done.stdout.endswith("all is well\n")
    assert schemas(database) == []


def test_demo_brings_its_own_database(tmp_path: Path) -> None:
    # Never the one that is meant for something else.
    done = demo(tmp_path, "--files", "5", DATABASE_URL="host=127.0.0.1 port=1 dbname=production")

    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "embedded Postgres" in done.stderr
    assert (tmp_path / ".pq").is_dir()


def test_demo_keeps_its_tables_when_asked_and_replaces_them_next_time(database: str, tmp_path: Path) -> None:
    kept = [demo(tmp_path, "--files", files, "--dsn", database, "--keep") for files in ("3", "4")]

    assert [done.returncode for done in kept] == [0, 0], [done.stderr for done in kept]
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM pq_demo.demo_files").fetchone() == (4,)


def test_demo_leaves_a_schema_of_somebody_else_alone(database: str, tmp_path: Path) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("CREATE SCHEMA pq_demo")

    done = demo(tmp_path, "--files", "3", "--dsn", database)

    assert done.returncode == 2
    assert done.stderr.startswith('pq: the database has a schema "pq_demo" that no pq demo made')
    assert schemas(database) == ["pq_demo"]


def test_second_demo_in_the_same_database_is_refused(database: str, tmp_path: Path) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (0x70712064656D6F,))

        assert "another pq demo" in demo(tmp_path, "--files", "3", "--dsn", database).stderr


def of_folder(folder: Path) -> set[int]:
    """Return the processes that work in a folder, or name it: the demo's own, wherever they hang."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes()
                if str(folder).encode() in words or (entry / "cwd").readlink().is_relative_to(folder):
                    found.add(int(entry.name))
    return found


def overview(client: Any) -> bool:
    answer = client.get("/")
    return answer.status_code == 200 and "<h1>Overview</h1>" in answer.text


@pytest.mark.long
@needs("starlette", "jinja2", "uvicorn", "httpx")
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_dashboard_of_the_demo_stays_until_ctrl_c_and_leaves_nothing_running(tmp_path: Path) -> None:
    import httpx

    asked = subprocess.run(["make", "-n", "demo", "DASHBOARD=1"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "demo --dashboard" in asked.stdout
    running = subprocess.Popen(
        [sys.executable, "-m", "pq_core", "demo", "--dashboard", "--files", "5"], cwd=tmp_path,
        env=environment(TMPDIR=str(tmp_path), PYTHONUNBUFFERED="1"), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert running.stdout is not None
        said = ""
        while "the dashboard stays up" not in said:
            line = running.stdout.readline()
            assert line, said
            said += line
        address = re.search(r"dashboard: (http://localhost:\d+)/", said)
        assert address, said
        with httpx.Client(base_url=address[1], timeout=30, trust_env=False) as client:
            assert overview(client)  # open to this machine, for there is no key
            assert client.get("/api/v1/tasks/count").json() == {"count": 8 + LIMITED, "more": False}
            assert "killed by signal 11 (SIGSEGV)" in client.get("/failures").text
            dsn = f"embedded:{tmp_path / '.pq'}"
            made = subprocess.run(
                [sys.executable, "-m", "pq_core", "keys", "create", "--role", "viewer", "--name", "me", "--schema",
                 "pq_demo", "--dsn", dsn, "--json"], cwd=tmp_path, env=environment(), capture_output=True, text=True,
                check=True,
            )  # fmt: skip
            eventually(lambda: not overview(client))
            client.post("/login", data={"key": json.loads(made.stdout)["key"]})
            assert overview(client)
        before = of_folder(tmp_path)
        assert running.pid in before

        os.killpg(running.pid, signal.SIGINT)  # as a terminal does: the command and the dashboard get it

        rest = running.stdout.read()
        assert running.wait(30) == 0, said + rest
        assert rest.strip() == ""
        eventually(lambda: not of_folder(tmp_path), what=f"{before} have ended")
    finally:
        running.kill()
        running.wait()
        assert running.stdout is not None
        running.stdout.close()
        for pid in of_folder(tmp_path):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_worker_that_dies_is_told_with_its_log(database: str, tmp_path: Path) -> None:
    done = demo(tmp_path, "--files", "200", "--dsn", database, PYTHONPATH=f"{broken_worker(tmp_path)}:{ROOT}")

    assert done.returncode == 1
    assert "WRONG: the worker ended with" in done.stderr
    assert "no such luck" in done.stderr


def broken_worker(folder: Path) -> Path:
    """Return a folder whose sitecustomize ends the worker at its start, and leaves other processes alone."""
    site = folder / "site"
    site.mkdir()
    site.joinpath("sitecustomize.py").write_text(
        "import os, sys\nif 'pq_core.worker' in sys.orig_argv:\n    sys.stderr.write('no such luck\\n'); os._exit(3)\n"
    )
    return site


def test_interrupted_demo_leaves_no_worker_behind(database: str, tmp_path: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "pq_core", "demo", "--dsn", database], cwd=tmp_path, env=environment(),
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert running.stdout is not None
    while not running.stdout.readline().strip().endswith("done"):
        assert running.poll() is None

    running.send_signal(signal.SIGINT)
    running.stdout.close()

    assert running.wait(30) == 1
    with psycopg.connect(database) as connection:
        left = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pq w%' AND datname = current_database()"
        )
        until = time.monotonic() + 10
        while connection.execute(left).fetchone() != (0,):
            assert time.monotonic() < until
            time.sleep(0.1)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminals here")
def test_terminal_gets_a_bar(database: str, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, "-m", "pq_core", "demo", "--files", "10", "--dsn", database],
        cwd=tmp_path, env=environment(TERM="xterm", COLUMNS="100"), stdout=theirs, stderr=theirs, stdin=theirs,
    )  # fmt: skip
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not part:
            break
        said += part
    os.close(ours)

    assert running.wait(60) == 0, said.decode(errors="replace")
    total = 13 + LIMITED
    assert f"{total}/{total}".encode() in said
    assert b"all is well" in said
