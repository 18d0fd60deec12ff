"""A schema that says it is up to date and lacks something: found by whoever looks, and mended where it can be."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import psycopg
import pytest

from pq_core.errors import SchemaDamaged
from pq_core.needed import missing, needed
from pq_core.schema import migrate
from tests.integration.worker_process import ROOT, eventually, running

TWO = "pq_core/migrations/versions/0002_operations.sql"

CATALOG = """
SELECT 'column', c.relname || '.' || a.attname, format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull,
    coalesce(pg_get_expr(d.adbin, d.adrelid), '')
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'function', p.proname, pg_get_functiondef(p.oid), coalesce(p.proacl::text, '') FROM pg_proc p
WHERE p.pronamespace = 'public'::regnamespace
UNION ALL
SELECT 'index', i.indexname, i.indexdef, '' FROM pg_indexes i WHERE i.schemaname = 'public'
UNION ALL
SELECT 'constraint', c.conname, pg_get_constraintdef(c.oid), c.convalidated::text FROM pg_constraint c
WHERE c.connamespace = 'public'::regnamespace
UNION ALL
SELECT 'trigger', t.tgname, pg_get_triggerdef(t.oid), '' FROM pg_trigger t WHERE NOT t.tgisinternal
"""


def catalog(connection: psycopg.Connection) -> set[tuple[str, ...]]:
    return set(connection.execute(CATALOG).fetchall())


def git(*words: str) -> bytes:
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, timeout=60)
    if done.returncode:
        pytest.skip(f"no history to take the older code from: {done.stderr.decode(errors='replace').strip()[:100]}")
    return done.stdout


def early_forms() -> dict[str, str]:
    """Return the commits with the first form of revision 2, with one in the middle, and with the last but one."""
    commits = git("log", "--reverse", "--format=%H", "--", TWO).decode().split()
    texts = {commit: git("show", f"{commit}:{TWO}").decode() for commit in commits}
    early = [commit for commit, text in texts.items() if "pq_lane(" not in text]
    if not early or early[-1] == commits[-1]:
        pytest.skip("the history does not reach back to those forms")
    middle = next(commit for commit in early if "pq_chores" in texts[commit])
    return {"first": early[0], "middle": middle, "last": early[-1]}


@pytest.mark.parametrize("form", ["first", "middle", "last"])
def test_database_of_an_early_revision_2_is_brought_to_what_a_fresh_one_is(
    connection: psycopg.Connection, empty_database: str, tmp_path: Path, form: str
) -> None:
    archive = git("archive", "--format=tar", early_forms()[form], "--", "pq_core", "pq_hooks")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(tmp_path, filter="data")
    program = f"from pq_core.schema import migrate; migrate({empty_database!r})"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, timeout=60)
    with psycopg.connect(empty_database, autocommit=True) as early:
        assert missing(early, "public")
        early.execute('SELECT pq_enqueue(\'{"name": "kept"}\')')

        assert migrate(empty_database).changed

        assert missing(early, "public") == []
        assert early.execute("SELECT name FROM pq_tasks").fetchall() == [("kept",)]
        assert catalog(early) == catalog(connection)


def test_what_is_needed_is_what_a_migration_makes(connection: psycopg.Connection) -> None:
    found = catalog(connection)

    names = {(kind, name) for kind, name, _, _ in found}
    columns = {name for kind, name in names if kind == "column" and not name.startswith("pq_alembic_version.")}
    assert {f"{table}.{name}" for table, name in needed().columns} == columns
    assert needed().functions == {name for kind, name in names if kind == "function"}
    assert {name for _, name in needed().triggers} == {name for kind, name in names if kind == "trigger"}
    assert missing(connection, "public") == []


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("ALTER TABLE pq_workers DROP COLUMN stop_requested", "the column pq_workers.stop_requested"),
        ("DROP TABLE pq_limits", "the table pq_limits:"),
        ("DROP FUNCTION pq_channel CASCADE", "the function pq_channel:"),
        ("DROP TRIGGER pq_hold ON pq_tasks", "the trigger pq_hold on pq_tasks:"),
    ],
)
def test_what_is_missing_is_named_with_the_fix(
    database: str, connection: psycopg.Connection, damage: str, says: str
) -> None:
    connection.execute(damage.encode())

    with pytest.raises(SchemaDamaged, match="run `pq migrate`") as refusal:
        migrate(database)
    assert says.removesuffix(":") in str(refusal.value)
    command = [sys.executable, "-m", "pq_core", "doctor", "--dsn", database]
    doctor = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert doctor.returncode == 1
    assert says.removesuffix(":") in doctor.stdout


def test_worker_ends_over_a_column_that_stays_away_and_says_the_fix(
    database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    with running(database, tmp_path, processes=2) as worker:
        connection.execute("ALTER TABLE pq_tasks DROP COLUMN progress_message")
        connection.execute('SELECT pq_enqueue(\'{"name": "w.add"}\')')

        assert worker.wait(60) == 2

    assert "lacks the column pq_tasks.progress_message: run `pq migrate`" in worker.text
    assert "Traceback" not in worker.text


def test_worker_waits_for_a_column_that_comes_back(
    database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    with running(database, tmp_path, poll_interval=0.2) as worker:
        connection.execute("ALTER TABLE pq_tasks RENAME COLUMN progress_message TO away")
        id_ = connection.execute('SELECT id FROM pq_enqueue(\'{"name": "w.add", "args": [1]}\')').fetchone()
        eventually(lambda: "does not exist" in worker.text)

        connection.execute("ALTER TABLE pq_tasks RENAME COLUMN away TO progress_message")

        def status() -> str:
            row = connection.execute("SELECT status FROM pq_tasks WHERE id = %s", id_).fetchone()
            assert row is not None
            return str(row[0])

        eventually(lambda: status() == "completed")
        assert len(worker.workers) == 1
        assert worker.stop() == 0
