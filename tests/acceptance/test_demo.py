"""``pq demo`` as a newcomer runs it."""

from __future__ import annotations

import importlib.util
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

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

    assert running.wait(60) == 0
    total = 13 + LIMITED
    assert f"{total}/{total}".encode() in said
    assert b"all is well" in said
