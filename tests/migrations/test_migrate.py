"""Migrating: what it makes, that it may be repeated and raced, and what it refuses."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from pq_core import schema as pq_schema
from pq_core.errors import DatabaseUnavailable, InvalidOption, NotMigrated, SchemaIncompatible
from pq_core.migrations import runner

ODD_SCHEMAS = [
    "jobs",
    "we\"ird: %s sch'ema",
    "b{r}a{{ce}}s 100%",
    "%(name)s :name",
    "ünïcødé ☃",
    "a.b",
    "back\\slash",
    "x;--",
    "SELECT",
    "new\nline",
    "a$pq$; SELECT $pq_$b",
    "x" * 63,
]


@pytest.fixture
def empty(empty_database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        yield connection


def enqueue(connection: psycopg.Connection, schema: str) -> int:
    task = sql.Literal('{"name": "a", "client_id": "once"}')
    row = connection.execute(
        sql.SQL("SELECT id FROM {}.pq_enqueue({})").format(sql.Identifier(schema), task)
    ).fetchone()
    assert row is not None
    return int(row[0])


def contents(connection: psycopg.Connection, schema: str) -> list[tuple[str, str]]:
    """Everything of a schema that drop() must take away."""
    return connection.execute(
        "SELECT 'relation', relname::text FROM pg_class WHERE relnamespace = to_regnamespace(%(s)s)"
        " UNION ALL SELECT 'function', proname::text FROM pg_proc WHERE pronamespace = to_regnamespace(%(s)s)"
        " UNION ALL SELECT 'type', typname::text FROM pg_type WHERE typnamespace = to_regnamespace(%(s)s)",
        {"s": sql.Identifier(schema).as_string(connection)},
    ).fetchall()


def test_first_migration_creates_everything(empty_database: str, empty: psycopg.Connection) -> None:
    result = pq_schema.migrate(empty_database)

    assert (result.before, result.after, result.changed) == (None, pq_schema.CODE_REVISION, True)
    pq_schema.check(empty)
    assert enqueue(empty, "public") == 1


def test_second_migration_changes_nothing(database: str, connection: psycopg.Connection) -> None:
    enqueue(connection, "public")

    result = pq_schema.migrate(database)

    assert (result.changed, result.newer) == (False, False)
    assert connection.execute("SELECT count(*) FROM pq_tasks").fetchone() == (1,)


@pytest.mark.parametrize("name", ODD_SCHEMAS)
def test_any_schema_name_works(empty_database: str, empty: psycopg.Connection, name: str) -> None:
    assert pq_schema.migrate(empty_database, name).after == pq_schema.CODE_REVISION

    pq_schema.check(empty, name)
    assert enqueue(empty, name) == enqueue(empty, name)
    assert pq_schema.drop(empty_database, name)
    assert contents(empty, name) == []
    with pytest.raises(NotMigrated):
        pq_schema.check(empty, name)


@pytest.mark.parametrize("name", ["public", *ODD_SCHEMAS])
def test_script_does_the_same_as_migrating(empty_database: str, empty: psycopg.Connection, name: str) -> None:
    empty.execute(pq_schema.migration_sql(name).encode())

    pq_schema.check(empty, name)
    assert not pq_schema.migrate(empty_database, name).changed
    by_script = contents(empty, name)
    pq_schema.drop(empty_database, name)
    pq_schema.migrate(empty_database, name)
    assert sorted(by_script) == sorted(contents(empty, name))


def test_migration_that_ended_between_its_parts_goes_on(empty_database: str, empty: psycopg.Connection) -> None:
    pq_schema.migrate(empty_database, revision="0001")
    empty.execute(runner.render("0002_lanes.sql", "public"))
    empty.execute("CREATE INDEX pq_tasks_held ON pq_tasks (queue, lane) WHERE false")

    assert pq_schema.migrate(empty_database).after == pq_schema.CODE_REVISION
    assert enqueue(empty, "public") == 1


@pytest.mark.parametrize("name", ["", "\0", "x" * 64, "ü" * 32, "pg_jobs", "\ud800"])
def test_impossible_schema_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidOption, match="schema="):
        pq_schema.migrate("host=nowhere.invalid", name)


def test_schemas_are_independent(empty_database: str, empty: psycopg.Connection) -> None:
    pq_schema.migrate(empty_database, "one")
    pq_schema.migrate(empty_database, "two")

    enqueue(empty, "one")

    assert empty.execute("SELECT count(*) FROM one.pq_tasks").fetchone() == (1,)
    assert empty.execute("SELECT count(*) FROM two.pq_tasks").fetchone() == (0,)
    pq_schema.drop(empty_database, "one")
    pq_schema.check(empty, "two")


def test_moved_search_path_changes_nothing(empty_database: str, empty: psycopg.Connection) -> None:
    empty.execute("CREATE SCHEMA elsewhere")
    empty.execute(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = elsewhere', current_database()); END $$"
    )

    pq_schema.migrate(empty_database)

    assert contents(empty, "elsewhere") == []
    assert not pq_schema.migrate(empty_database).changed


def test_migrating_needs_no_right_to_create_schemas(empty_database: str, empty: psycopg.Connection) -> None:
    user = f"pq_test_user_{time.monotonic_ns()}"
    identifier = sql.Identifier(user)
    empty.execute(sql.SQL("CREATE ROLE {} LOGIN").format(identifier))
    try:
        empty.execute(sql.SQL("CREATE SCHEMA jobs AUTHORIZATION {}").format(identifier))
        as_user = psycopg.conninfo.make_conninfo(empty_database, options=f"-c role={user}")

        assert pq_schema.migrate(as_user, "jobs").after == pq_schema.CODE_REVISION
    finally:
        empty.execute(sql.SQL("DROP OWNED BY {i} CASCADE; DROP ROLE {i}").format(i=identifier))


def test_ten_processes_migrating_at_once_succeed(empty_database: str, empty: psycopg.Connection) -> None:
    program = (
        "import sys; from pq_core.schema import migrate; sys.stdin.readline();"
        "print(migrate(sys.argv[1], 'jobs').changed)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, empty_database],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(10)
    ]  # fmt: skip

    said = [process.communicate("go\n", timeout=100) for process in processes]

    assert sorted(out.strip() for out, _ in said) == ["False"] * 9 + ["True"], said
    pq_schema.check(empty, "jobs")
    assert empty.execute("SELECT count(*) FROM jobs.pq_alembic_version").fetchone() == (1,)


def test_threads_of_one_process_migrate_two_schemas(empty_database: str, empty: psycopg.Connection) -> None:
    names = ["one", "two", "three"]
    threads = [threading.Thread(target=pq_schema.migrate, args=(empty_database, name)) for name in names]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    for name in names:
        pq_schema.check(empty, name)


def test_killed_migration_leaves_nothing_half_done(empty_database: str, empty: psycopg.Connection) -> None:
    # Killed when its SQL has run and is not committed yet.
    empty.execute("CREATE SCHEMA jobs")
    program = (
        "import os, sys; from pq_core.migrations import runner; from pq_core.schema import migrate;"
        "run = runner.run_file;"
        "runner.run_file = lambda name: (run(name), os.kill(os.getpid(), 9));"
        "migrate(sys.argv[1], 'jobs')"
    )
    killed = subprocess.run([sys.executable, "-c", program, empty_database], check=False, timeout=60)
    assert killed.returncode == -9

    assert pq_schema.migrate(empty_database, "jobs").changed
    pq_schema.check(empty, "jobs")


def test_waits_for_another_migration_no_longer_than_told(empty_database: str, empty: psycopg.Connection) -> None:
    empty.execute("SELECT pg_advisory_lock(%s)", (pq_schema._lock_key("jobs"),))

    with pytest.raises(DatabaseUnavailable, match="another migration"):
        pq_schema.migrate(empty_database, "jobs", wait=0.2)
    assert pq_schema.migrate(empty_database, "other", wait=0.2).changed


def test_lock_of_the_application_is_waited_for_in_rounds(empty_database: str, empty: psycopg.Connection) -> None:
    # The first thing a migration writes is Alembic's table; whoever holds a lock on it stops the migration.
    empty.execute("CREATE TABLE pq_alembic_version (version_num varchar(32) PRIMARY KEY)")

    def hold() -> None:
        with psycopg.connect(empty_database) as holder:
            holder.execute("LOCK TABLE pq_alembic_version IN ROW EXCLUSIVE MODE")
            holder.execute("LOCK TABLE pq_alembic_version IN SHARE MODE")
            locked.set()
            refused.wait(60)

    locked, refused = threading.Event(), threading.Event()
    thread = threading.Thread(target=hold)
    thread.start()
    locked.wait()

    with pytest.raises(DatabaseUnavailable, match="did not get its locks"):
        pq_schema.migrate(empty_database, wait=0)
    threading.Timer(0.5, refused.set).start()  # while the next one waits
    assert pq_schema.migrate(empty_database).changed
    thread.join()


PYTHON_PQ = """
    CREATE TYPE task_status AS ENUM ('PENDING', 'RUNNING', 'COMPLETED', 'FAILED');
    CREATE TABLE pq_tasks (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, name varchar(255) NOT NULL,
        payload jsonb NOT NULL, priority smallint NOT NULL, status task_status NOT NULL, run_at timestamptz NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(), started_at timestamptz, completed_at timestamptz, error text,
        attempts integer NOT NULL, client_id varchar(255), max_runtime_seconds double precision);
    CREATE TABLE pq_periodic (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, name varchar(255) NOT NULL,
        payload jsonb NOT NULL, priority smallint NOT NULL, run_every interval, cron varchar(100),
        next_run timestamptz NOT NULL, last_run timestamptz);
    INSERT INTO pq_tasks (name, payload, priority, status, run_at, attempts)
        VALUES ('a:b', '{}', 50, 'PENDING', now(), 0);
"""


@pytest.mark.parametrize(
    ("statements", "named"),
    [
        (PYTHON_PQ, r"python-pq's tables \(pq_periodic, pq_tasks\)"),
        (PYTHON_PQ + "CREATE TABLE pq_alembic_version AS SELECT 'aee3e8e7e647' AS version_num", "python-pq's tables"),
        ("CREATE TABLE pq_alembic_version AS SELECT 'aee3e8e7e647' AS version_num", "another program"),
        ("CREATE VIEW pq_queues AS SELECT 1", "another program"),
    ],
)
def test_tables_of_others_are_refused_and_left_alone(
    empty_database: str, empty: psycopg.Connection, statements: str, named: str
) -> None:
    empty.execute(statements.encode())
    before = contents(empty, "public")

    for attempt in (
        lambda: pq_schema.migrate(empty_database),
        lambda: pq_schema.check(empty),
        lambda: pq_schema.drop(empty_database),
    ):
        with pytest.raises(SchemaIncompatible, match=named) as refused:
            attempt()
        assert 'PQ(schema="jobs")' in str(refused.value)

    assert contents(empty, "public") == before
    # The way out that the message names.
    assert pq_schema.migrate(empty_database, "jobs").changed


def test_old_code_goes_on_with_a_newer_compatible_schema(database: str, connection: psycopg.Connection) -> None:
    connection.execute("UPDATE pq_schema SET revision = 99, oldest_code = 1")
    connection.execute("UPDATE pq_alembic_version SET version_num = '0099'")

    pq_schema.check(connection)
    result = pq_schema.migrate(database)

    assert (result.newer, result.changed, result.after) == (True, False, 99)
    with pytest.raises(SchemaIncompatible, match="newer than this pq"):
        pq_schema.drop(database)


def test_old_code_refuses_a_newer_incompatible_schema(database: str, connection: psycopg.Connection) -> None:
    connection.execute("UPDATE pq_schema SET revision = 99, oldest_code = 98")
    connection.execute("UPDATE pq_alembic_version SET version_num = '0099'")

    with pytest.raises(SchemaIncompatible, match="install a newer pq-toolkit"):
        pq_schema.check(connection)
    with pytest.raises(SchemaIncompatible, match="install a newer pq-toolkit"):
        pq_schema.migrate(database)


def test_lost_version_row_is_refused(database: str, connection: psycopg.Connection) -> None:
    connection.execute("DELETE FROM pq_alembic_version")

    with pytest.raises(SchemaIncompatible, match="pq_alembic_version says None"):
        pq_schema.migrate(database)


def test_check_names_the_command_and_keeps_the_transaction(empty_database: str) -> None:
    with psycopg.connect(empty_database) as connection:
        with pytest.raises(NotMigrated, match=r"run `pq migrate --schema 'my jobs'`"):
            pq_schema.check(connection, "my jobs")
        with pytest.raises(NotMigrated, match="run `pq migrate`"):
            pq_schema.check(connection)
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_check_revision_compares_numbers() -> None:
    code = pq_schema.CODE_REVISION
    pq_schema.check_revision(code, code)
    pq_schema.check_revision(code + 5, code)
    with pytest.raises(NotMigrated, match="no tables"):
        pq_schema.check_revision(None, None)
    with pytest.raises(NotMigrated, match=f"needs {code}"):
        pq_schema.check_revision(code - 1, 0)
    with pytest.raises(SchemaIncompatible):
        pq_schema.check_revision(code + 5, code + 1)


def test_unknown_revision_is_an_invalid_option(empty_database: str) -> None:
    with pytest.raises(InvalidOption, match="revision='0777'"):
        pq_schema.migrate(empty_database, revision="0777")
    with pytest.raises(InvalidOption, match="revision='0777'"):
        pq_schema.migration_sql(revision="0777")


def test_drop_without_tables_is_no_error(empty_database: str) -> None:
    assert pq_schema.drop(empty_database, "nowhere") is False
    assert pq_schema.drop(empty_database) is False


def test_revisions_agree_with_the_code(connection: psycopg.Connection) -> None:
    files = sorted(Path(pq_schema.__file__).parent.glob("migrations/versions/revision_*.py"))
    latest = max(int(re.sub(r"\D", "", file.stem)) for file in files)

    row = connection.execute("SELECT revision, (SELECT version_num FROM pq_alembic_version) FROM pq_schema").fetchone()

    assert row == (pq_schema.CODE_REVISION, f"{pq_schema.CODE_REVISION:04}")
    assert latest == pq_schema.CODE_REVISION


def test_checking_imports_no_alembic() -> None:
    program = "import sys, pq_core.schema; print({'alembic', 'sqlalchemy', 'mako'} & set(sys.modules))"

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert said.stdout.strip() == "set()"
