"""What of Citus can be tested without it: what is asked of its catalog, what is made of the answers, the SQL printed.

Its catalog is stood in for by tables of the same names and columns; nothing here says how Citus itself behaves.
"""

from __future__ import annotations

import subprocess
import sys

import psycopg
import pytest

from pq_core import PQ
from pq_core.citus import FENCE, Facts, fence_sql, judge, look
from pq_core.doctor.finding import Level
from pq_core.schema import build_citus_fence, drop, migrate
from tests.integration.worker_process import ROOT

STAND_IN = """
SET allow_system_table_mods = on;
INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion)
    VALUES (99999, 'citus', 10, 'pg_catalog'::regnamespace, false, '13.2-1');
CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass, partmethod "char");
CREATE TABLE pg_catalog.pg_dist_local_group (groupid integer);
INSERT INTO pg_catalog.pg_dist_local_group VALUES (0);
RESET allow_system_table_mods;
CREATE FUNCTION citus_add_local_table_to_metadata(added regclass) RETURNS void LANGUAGE sql AS
    $$ INSERT INTO pg_catalog.pg_dist_partition VALUES (added, 'n') $$;
"""


@pytest.fixture
def standing_in(connection: psycopg.Connection) -> psycopg.Connection:
    connection.execute(STAND_IN)
    return connection


def level(connection: psycopg.Connection) -> Level:
    [found] = judge(look(connection, "public"), "public")
    return found.level


def pq(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pq_core", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    return done


def test_database_without_it_is_well_and_has_no_fence_to_build(database: str, connection: psycopg.Connection) -> None:
    assert look(connection, "public") is None
    assert level(connection) is Level.OK
    assert migrate(database).notes == ()
    assert not build_citus_fence(database)
    assert "citus is not in this database" in pq("migrate", "--dsn", database, "--citus-fence", status=2).stderr


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, Level.OK),
        ({"others": 3}, Level.WARNING),
        ({"others": 3, "fenced": True}, Level.OK),
        ({"others": 3, "coordinator": False}, Level.OK),
        ({"own": ("pq_tasks",)}, Level.PROBLEM),
        ({"own": ("pq_tasks",), "others": 3, "fenced": True}, Level.PROBLEM),
    ],
)
def test_facts_are_judged(facts: dict[str, object], expected: Level) -> None:
    given = {"version": "13.2-1", "coordinator": True, "own": (), "others": 0, "fenced": False, **facts}

    [found] = judge(Facts(**given), "jobs")  # type: ignore[arg-type]

    assert found.level is expected
    assert (found.fix == "") == (expected is Level.OK)


def test_migration_says_that_it_is_for_this_node_alone(standing_in: psycopg.Connection, database: str) -> None:
    done = pq("migrate", "--dsn", database, "--schema", "jobs")

    assert "citus.enable_ddl_propagation = off" in done.stderr
    assert "never be distributed" in done.stderr


def test_distributed_tables_are_found_and_the_fence_is_built(standing_in: psycopg.Connection, database: str) -> None:
    assert level(standing_in) is Level.OK
    standing_in.execute("CREATE TABLE orders (id integer)")
    standing_in.execute("INSERT INTO pg_dist_partition VALUES ('orders', 'h')")
    assert level(standing_in) is Level.WARNING

    for _ in range(2):
        assert pq("migrate", "--dsn", database, "--citus-fence").stdout.endswith("already\n")

    assert look(standing_in, "public") == Facts(version="13.2-1", coordinator=True, own=(), others=1, fenced=True)
    standing_in.execute("INSERT INTO pg_dist_partition VALUES ('pq_workers', 'h')")
    assert level(standing_in) is Level.PROBLEM
    doctor = pq("doctor", "--dsn", database, status=1)
    assert "tables of pq are distributed: pq_workers" in doctor.stdout


def test_each_write_of_tasks_touches_the_fence_and_locks_nothing(
    standing_in: psycopg.Connection, database: str
) -> None:
    assert build_citus_fence(database)
    standing_in.execute("CREATE TABLE touches (verb text)")
    standing_in.execute(
        f"CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN INSERT INTO public.touches VALUES (TG_OP); RETURN NULL; END $$;"
        f"CREATE TRIGGER note AFTER UPDATE ON {FENCE} FOR EACH STATEMENT EXECUTE FUNCTION note()"
    )

    with PQ(database) as client, psycopg.connect(database) as first, psycopg.connect(database) as second:
        for connection in (first, second):  # both are open at once
            connection.execute("""SELECT pq_enqueue('{"name": "a"}')""")
        second.commit()
        first.commit()
        [id_] = [task.id for task in client.list_pending(limit=1)]
        assert client.cancel(id_)

    assert standing_in.execute("SELECT count(*) FROM touches").fetchone() == (3,)


def test_script_of_a_schema_of_any_name_is_taken_and_dropped_again(
    standing_in: psycopg.Connection, database: str
) -> None:
    name = 'an "odd" $pq$ schema'
    migrate(database, name)

    standing_in.execute(fence_sql(name).encode())

    facts = look(standing_in, name)
    assert facts is not None
    assert facts.fenced
    assert drop(database, name)
    left = "SELECT count(*) FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s)"
    assert standing_in.execute(left, (name,)).fetchone() == (0,)
    assert "citus_add_local_table_to_metadata" in pq("migrate", "--sql", "--citus-fence").stdout
