"""The three roles of `pq migrate --roles`, each logged in as itself: what works and what is refused."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pq_core import PQ, DuplicateClientId, InvalidOption, Outcome, PQError
from pq_core.privileges import ROLES, roles_sql
from pq_core.schema import TABLES, drop, migrate
from tests.integration import worker_tasks as tasks
from tests.integration.worker_process import eventually, running, until_empty

Login = Callable[[str], str]
Rerun = Callable[[], object]

RIGHTS = """
SELECT c.relname::text, coalesce(t.attname::text, ''), coalesce(r.rolname::text, 'PUBLIC'), a.privilege_type
FROM pg_class c LEFT JOIN pg_attribute t ON t.attrelid = c.oid AND t.attacl IS NOT NULL
CROSS JOIN LATERAL (SELECT * FROM aclexplode(c.relacl) UNION SELECT * FROM aclexplode(t.attacl)) a
LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE c.relnamespace = %(schema)s::regnamespace AND c.relowner <> a.grantee
UNION
SELECT p.proname, pg_get_function_identity_arguments(p.oid), coalesce(r.rolname, 'PUBLIC'), a.privilege_type
FROM pg_proc p CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
LEFT JOIN pg_roles r ON r.oid = a.grantee
WHERE p.pronamespace = %(schema)s::regnamespace AND p.proowner <> a.grantee
"""


@pytest.fixture(params=["public", 'odd "schema"'])
def schema(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def login(empty_database: str, schema: str) -> Iterator[Login]:
    """Return what gives the DSN of a role that can log in and has one of the three."""
    migrate(empty_database, schema)
    with _logins(empty_database, schema) as (make, _):
        yield make


@pytest.fixture
def migrated_login(empty_database: str, schema: str) -> Iterator[tuple[Login, Rerun]]:
    """Return the same after a migration from revision 4, whose script was not run again; and what runs it again."""
    migrate(empty_database, schema, revision="0004")
    with _logins(empty_database, schema, script=_of_revision_4) as (make, rerun):
        migrate(empty_database, schema)
        yield make, rerun


def _of_revision_4(script: str) -> str:
    """Take out what revision 4 had not."""
    without, tables = re.subn(r', ("[^,]*")\."pq_waits"', "", script)
    without, columns = re.subn(r" *uncounted_starts, uncounted_in_a_row,\n", "", without)
    assert (tables, columns) == (2, 1), script
    return without


@contextmanager
def _logins(empty_database: str, schema: str, script: Callable[[str], str] = str) -> Iterator[tuple[Login, Rerun]]:
    """Make the three roles by the script, and give what makes logins for them and what runs it as it is now."""
    prefix = f"t {secrets.token_hex(4)}'\" "
    owner = psycopg.connect(empty_database, autocommit=True)
    made: list[str] = []

    def make(role: str) -> str:
        name = f"{prefix}login {role}"
        user, group = sql.Identifier(name), sql.Identifier(prefix + role)
        owner.execute(sql.SQL("CREATE ROLE {} LOGIN IN ROLE {}").format(user, group))
        made.append(name)
        return make_conninfo(empty_database, user=name)

    try:
        for _ in range(2):  # it can be run again
            owner.execute(script(roles_sql(schema, prefix=prefix)).encode())
        yield make, lambda: owner.execute(roles_sql(schema, prefix=prefix).encode())
    finally:
        for name in (*made, *(prefix + role for role in ROLES)):
            owner.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
            owner.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
        owner.close()


def refused(dsn: str, statement: str, schema: str) -> bool:
    with psycopg.connect(dsn, autocommit=True) as connection:
        try:
            connection.execute(sql.SQL(statement).format(s=sql.Identifier(schema)))  # type: ignore[arg-type]
        except psycopg.errors.InsufficientPrivilege:
            return True
        return False


def test_a_producer_enqueues_and_reads_nothing(login: Login, schema: str) -> None:
    dsn = login("producer")
    with PQ(dsn, schema=schema, tasks=[tasks.__name__]) as pq:
        first = pq.enqueue(tasks.add.call(1, 2), client_id="one")
        assert pq.enqueue_many([tasks.add.call(n) for n in range(3)])
        assert pq.upsert(tasks.add.call(5), client_id="two")
        with pytest.raises(DuplicateClientId) as duplicate:
            pq.enqueue(tasks.add.call(9), client_id="one")
        assert duplicate.value.existing_id == first
        with psycopg.connect(dsn) as connection:
            pq.using(connection).enqueue(tasks.add.call(4))
        for forbidden in (lambda: pq.get_task(first), lambda: pq.list_tasks(), lambda: pq.cancel(first), pq.stats):
            with pytest.raises((PQError, psycopg.errors.InsufficientPrivilege)):
                forbidden()
    for table in TABLES:
        if table != "pq_schema":
            assert refused(dsn, f"SELECT FROM {{s}}.{table}", schema), table
        for statement in (f"DELETE FROM {{s}}.{table}", f"TRUNCATE {{s}}.{table}", f"DROP TABLE {{s}}.{table}"):
            assert refused(dsn, statement, schema), statement
    for function in ("pq_enqueue_array('[]', now())", "pq_enqueue_rows('[]', now())", "pq_enqueue_problem('{{}}')"):
        assert refused(dsn, f"SELECT {{s}}.{function}", schema), function
    assert not refused(dsn, """SELECT {s}.pq_enqueue('{{"name": "x"}}')""", schema)


def test_a_worker_runs_tasks_and_changes_no_table(login: Login, schema: str, tmp_path: Path) -> None:
    dsn = login("worker")
    with PQ(dsn, schema=schema, tasks=[tasks.__name__]) as pq:
        ids = [pq.enqueue(tasks.add.call(n, 1)) for n in range(5)]
        failing = pq.enqueue(tasks.boom.options(on_failure=tasks.add.call(7)).call("no"))
        until_empty(dsn, tmp_path, app=f"{__name__}:create_pq", environment={"PQ_TEST_SCHEMA": schema})
        assert [pq.wait(i, timeout=5) for i in ids] == [n + 1 for n in range(5)]
        failed = pq.get_task(failing)
        assert failed is not None
        assert failed.outcome is Outcome.RAISED
        assert pq.attempts(failing)
        assert pq.retry(failing)
        assert pq.cancel(failing)
        assert pq.stats().due == 0
        assert pq.prune(timedelta(days=1)) == 0
        with pytest.raises((PQError, psycopg.errors.InsufficientPrivilege)):
            drop(dsn, schema)
    for statement in (
        "ALTER TABLE {s}.pq_tasks ADD COLUMN x int",
        "TRUNCATE {s}.pq_tasks",
        "CREATE TABLE {s}.more (x int)",
        "UPDATE {s}.pq_schema SET revision = 1",
        "SELECT FROM {s}.pq_keys",
        "SELECT FROM {s}.pq_audit",
        "CREATE OR REPLACE FUNCTION {s}.pq_channel(kind text) RETURNS text LANGUAGE sql AS 'SELECT 1'",
    ):
        assert refused(dsn, statement, schema), statement


def test_after_a_migration_the_roles_can_do_the_same_before_the_script_is_run_again(
    migrated_login: tuple[Login, Rerun], schema: str, empty_database: str
) -> None:
    _, rerun = migrated_login
    parameters = {"schema": sql.Identifier(schema).as_string(None)}
    with psycopg.connect(empty_database) as connection:
        migrated = connection.execute(RIGHTS, parameters).fetchall()
    assert any(row[0] == "pq_waits" for row in migrated)

    rerun()

    with psycopg.connect(empty_database) as connection:
        assert sorted(connection.execute(RIGHTS, parameters).fetchall()) == sorted(migrated)


def test_after_a_migration_workers_go_on_before_the_script_is_run_again(
    migrated_login: tuple[Login, Rerun], schema: str, tmp_path: Path
) -> None:
    login, _ = migrated_login
    dsn = login("worker")
    environment = {"PQ_TEST_SCHEMA": schema}
    with (
        PQ(dsn, schema=schema, tasks=[tasks.__name__]) as pq,
        running(dsn, tmp_path, app=f"{__name__}:create_pq", environment=environment) as worker,
    ):
        keyed = pq.enqueue(tasks.add.options(concurrency_key="k").call(1, 1))
        assert [pq.wait(one, timeout=30) for one in (pq.enqueue(tasks.add.call(1, 2)), keyed)] == [3, 2]
        delayed = pq.enqueue(tasks.add.call(2, 2), run_in=timedelta(seconds=0.5))
        assert pq.wait(delayed, timeout=30) == 4
        assert worker.stop() == 0
        assert "permission denied" not in worker.text


def test_a_worker_prunes_and_leaves_the_audit_log(
    login: Login, schema: str, empty_database: str, tmp_path: Path
) -> None:
    dsn = login("worker")
    with PQ(empty_database, schema=schema) as owner:
        owner.audit("ada", "did")
        old = sql.SQL("UPDATE {}.pq_audit SET at = now() - interval '9 years'").format(sql.Identifier(schema))
        with psycopg.connect(empty_database) as connection:
            connection.execute(old)
        environment = {"PQ_TEST_SCHEMA": schema}
        options = {"app": f"{__name__}:create_pq", "environment": environment, "prune_interval": 0.1}
        with running(dsn, tmp_path, **options) as worker:
            eventually(lambda: "the audit log is left as it is" in worker.text, what=worker.text)
            assert "broken off" not in worker.text
        assert len(owner.audit_log()) == 1
        assert owner.prune_audit(timedelta(days=400)) == 1


def create_pq() -> PQ:
    return PQ(tasks=[tasks.__name__], schema=os.environ["PQ_TEST_SCHEMA"])


def test_a_viewer_sees_what_happens_and_no_values(login: Login, schema: str, empty_database: str) -> None:
    with PQ(empty_database, schema=schema, tasks=[tasks.__name__]) as owner:
        owner.enqueue(tasks.add.call(1, 2))
        owner.run_inline()
        owner.limit_queue("mail", concurrency=2, rate="5/s")
    dsn = login("viewer")
    seen = "SELECT id, name, status, queue, error, attempts, ledger FROM {s}.pq_tasks"
    assert not refused(dsn, seen, schema)
    assert not refused(dsn, "SELECT count(*) FROM {s}.pq_tasks WHERE status = 'completed'", schema)
    for column in ("payload", "result", "output", "headers", "parked", "on_failure"):
        assert refused(dsn, f"SELECT {column} FROM {{s}}.pq_tasks", schema), column
    for statement in (
        "SELECT * FROM {s}.pq_tasks",
        "SELECT to_jsonb(t) FROM {s}.pq_tasks t",
        "SELECT payload FROM {s}.pq_periodic",
        "SELECT output FROM {s}.pq_attempts",
        "SELECT FROM {s}.pq_keys",
        "UPDATE {s}.pq_tasks SET status = 'pending'",
        "DELETE FROM {s}.pq_tasks",
        """SELECT {s}.pq_enqueue('{{"name": "x"}}')""",
    ):
        assert refused(dsn, statement, schema), statement
    with PQ(dsn, schema=schema) as pq:
        assert pq.stats().due == 0
        assert pq.workers() == []
        assert pq.pending_count() == 0
        assert [(one.name, one.allowed) for one in pq.limits()] == [("mail", 2)]


def test_every_column_that_holds_values_is_kept_from_the_viewer(connection: psycopg.Connection) -> None:
    """A column that a later revision adds has to be granted by name, so that somebody decides."""
    script = roles_sql()
    granted = script[script.index("-- The viewer sees") :]
    hidden = {"payload", "result", "output", "headers", "parked", "on_failure", "options", "definition", "superseded"}
    hidden |= {"notify_finished"}
    columns = connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public'"
        " AND table_name IN ('pq_tasks', 'pq_attempts', 'pq_periodic')"
    ).fetchall()
    for (column,) in columns:
        assert column in granted or column in hidden, f"decide whether a viewer may see {column}, in roles.sql"


@pytest.mark.parametrize("prefix", ["pg_", "a\0b", "x" * 60, "é" * 30, "$pq$; DROP TABLE x; --", "a\nb", "\ud800"])
def test_a_prefix_that_is_none_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidOption, match="role prefix"):
        roles_sql(prefix=prefix)


def test_the_command_prints_the_script_and_touches_no_database() -> None:
    command = [sys.executable, "-m", "pq_core", "migrate", "--roles", "--role-prefix", "shop_", "--schema", "jobs"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"})
    assert said.stdout == roles_sql("jobs", prefix="shop_")
    assert '"shop_producer"' in said.stdout
