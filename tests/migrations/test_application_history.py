"""pq in an application's own Alembic history: a real environment, its command line, a real database."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import sqlalchemy
from psycopg.conninfo import conninfo_to_dict

from pq_core import PQ
from pq_core.errors import SchemaIncompatible, UnsupportedConnection
from pq_core.migrations import runner
from pq_core.schema import CODE_REVISION, check, check_whole, migrate, migrate_within, migration_sql

ROOT = Path(__file__).parents[2]
INI = "[alembic]\nscript_location = %(here)s/history\npath_separator = os\n"
ENV = """
import os
from alembic import context
from sqlalchemy import MetaData, create_engine
{head}

if context.is_offline_mode():
    context.configure(dialect_name="postgresql", target_metadata=MetaData())
    with context.begin_transaction():
        context.run_migrations()
else:
    engine = create_engine(os.environ["SHOP_URL"])
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=MetaData(), {options})
        with context.begin_transaction():
            {body}
"""
REVISION = """
import os
from pathlib import Path
import sqlalchemy as sa
from alembic import op
from pq_core import PQ

revision = "{number}"
down_revision = {before}


def upgrade():
    op.create_table("shop_{number}", sa.Column("id", sa.Integer, primary_key=True))
    {what}
    op.create_index("shop_{number}_index", "shop_{number}", ["id"])
    {then}


def downgrade():
    op.drop_table("shop_{number}")
"""
RUN = 'PQ(os.environ["PQ_DATABASE_URL"]).run_db_migrations()'
SCRIPT = 'op.get_bind().connection.cursor().execute(Path(__file__).with_name("pq.sql").read_text())'


@pytest.fixture
def history(tmp_path: Path) -> Path:
    pytest.importorskip("alembic")
    (tmp_path / "history" / "versions").mkdir(parents=True)
    (tmp_path / "history" / "script.py.mako").write_text(
        "from alembic import op\nimport sqlalchemy as sa\n${imports if imports else ''}\n"
        "revision = ${repr(up_revision)}\ndown_revision = ${repr(down_revision)}\n"
        "def upgrade():\n    ${upgrades if upgrades else 'pass'}\n"
    )
    (tmp_path / "alembic.ini").write_text(INI)
    env(tmp_path)
    return tmp_path


def env(folder: Path, *, head: str = "", options: str = "", body: str = "context.run_migrations()") -> None:
    (folder / "history" / "env.py").write_text(ENV.format(head=head, options=options, body=body))


def revision(folder: Path, number: str, before: str | None, what: str, then: str = "pass") -> None:
    text = REVISION.format(number=number, before=repr(before), what=what, then=then)
    (folder / "history" / "versions" / f"revision_{number}.py").write_text(text)


def url(dsn: str, driver: str = "psycopg") -> str:
    said = conninfo_to_dict(dsn)
    query = {"host": str(said["host"])}
    return sqlalchemy.URL.create(
        f"postgresql+{driver}", said["user"], database=said["dbname"], query=query
    ).render_as_string(hide_password=False)


def alembic(folder: Path, dsn: str, *words: str, driver: str = "psycopg") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SHOP_URL": url(dsn, driver), "PQ_DATABASE_URL": dsn, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "alembic", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )


def tables(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        return {name for [name] in rows}


def whole(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        check(connection)
        check_whole(connection)
    with PQ(dsn) as pq:
        assert pq.stats().due == 0


def test_a_revision_makes_the_tables_in_its_own_transaction(history: Path, empty_database: str) -> None:
    revision(history, "1", None, RUN)
    revision(history, "2", "1", RUN)  # nothing to do

    done = alembic(history, empty_database, "upgrade", "head")

    assert done.returncode == 0, done.stderr
    assert {"shop_1", "shop_2", "pq_tasks", "alembic_version", "pq_alembic_version"} <= tables(empty_database)
    whole(empty_database)


def test_a_revision_that_fails_takes_pq_back_too(history: Path, empty_database: str) -> None:
    revision(history, "1", None, RUN, then='raise RuntimeError("after all")')

    done = alembic(history, empty_database, "upgrade", "head")

    assert done.returncode != 0
    assert "RuntimeError: after all" in done.stderr
    assert tables(empty_database) == set()


def test_older_tables_are_brought_up_with_the_indexes_of_a_small_one(history: Path, empty_database: str) -> None:
    migrate(empty_database, revision="0001")
    revision(history, "1", None, RUN)

    done = alembic(history, empty_database, "upgrade", "head")

    assert done.returncode == 0, done.stderr
    whole(empty_database)


def test_env_may_call_it_before_its_own_revisions(history: Path, empty_database: str) -> None:
    revision(history, "1", None, "pass")
    env(history, head="from pq_core import PQ", body=f"{RUN}\n            context.run_migrations()")

    done = alembic(history, empty_database, "upgrade", "head")

    assert done.returncode == 0, done.stderr
    assert "shop_1" in tables(empty_database)
    whole(empty_database)


def test_another_driver_gets_a_connection_of_pqs_own(history: Path, empty_database: str) -> None:
    pytest.importorskip("psycopg2")
    revision(history, "1", None, RUN)

    done = alembic(history, empty_database, "upgrade", "head", driver="psycopg2")

    assert done.returncode == 0, done.stderr
    assert "shop_1" in tables(empty_database)
    whole(empty_database)


def test_offline_it_says_what_to_do(history: Path, empty_database: str) -> None:
    revision(history, "1", None, RUN)

    done = alembic(history, empty_database, "upgrade", "head", "--sql")

    assert done.returncode != 0
    assert "pq migrate --sql --since N" in done.stderr


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_revision_may_hold_the_sql(history: Path, empty_database: str, driver: str) -> None:
    pytest.importorskip(driver)
    flags = [["--since", "0", "--to", "3"], ["--since", "3"]]
    for number, words in enumerate(flags, 1):
        said = subprocess.run(
            [sys.executable, "-m", "pq_core", "migrate", "--sql", *words],
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
        ).stdout  # fmt: skip
        lines = said.splitlines()
        assert not {"BEGIN;", "COMMIT;"} & set(lines)
        assert "CONCURRENTLY" not in said
        (history / "history" / "versions" / f"pq_{number}.sql").write_text(said)
        revision(
            history, str(number), str(number - 1) if number > 1 else None, SCRIPT.replace("pq.sql", f"pq_{number}.sql")
        )

    done = alembic(history, empty_database, "upgrade", "head", driver=driver)

    assert done.returncode == 0, done.stderr
    whole(empty_database)


def test_flags_that_go_together(empty_database: str) -> None:
    for words in (["--since", "3"], ["--sql", "--to", "3"], ["--sql", "--since", "9000"]):
        done = subprocess.run(
            [sys.executable, "-m", "pq_core", "migrate", *words], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        assert done.returncode != 0
        assert "Traceback" not in done.stderr


def test_what_can_not_be_done_within_is_refused(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = sqlalchemy.create_engine(url(empty_database))
    with engine.connect() as connection:
        with pytest.raises(UnsupportedConnection, match="no transaction"):
            migrate_within(connection)
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection, connection.begin():
        with pytest.raises(UnsupportedConnection, match="no transaction"):
            migrate_within(connection)
    with pytest.raises(UnsupportedConnection, match="psycopg 3"):
        migrate_within(object())

    migrate(empty_database, revision="0001")
    monkeypatch.setattr(runner, "BUILT_AT_ONCE", 0)
    with psycopg.connect(empty_database) as rows:
        rows.execute("""SELECT pq_enqueue('{"name": "x"}')""")
    with engine.connect() as connection, connection.begin():
        with pytest.raises(SchemaIncompatible, match="Run `pq migrate` before"):
            migrate_within(connection)
    engine.dispose()


def test_the_settings_of_the_transaction_stay(empty_database: str) -> None:
    engine = sqlalchemy.create_engine(url(empty_database))
    with engine.connect() as connection, connection.begin():
        connection.execute(sqlalchemy.text("SET LOCAL statement_timeout = '7s'"))
        result = migrate_within(connection)
        timeout = connection.execute(sqlalchemy.text("SHOW statement_timeout")).scalar_one()
    engine.dispose()

    assert (result.before, result.after, timeout) == (None, CODE_REVISION, "7s")
    whole(empty_database)


def test_autogenerate_with_alembic_utils_drops_nothing_of_pq(history: Path, empty_database: str) -> None:
    pytest.importorskip("alembic_utils")
    migrate(empty_database)
    with psycopg.connect(empty_database) as connection:
        connection.execute("CREATE TABLE theirs (id int)")
        connection.execute("CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'")
        connection.execute("CREATE TRIGGER theirs BEFORE INSERT ON theirs FOR EACH ROW EXECUTE FUNCTION theirs()")
    head = (
        "from alembic_utils.pg_function import PGFunction\n"
        "from alembic_utils.pg_trigger import PGTrigger\n"
        "from alembic_utils.replaceable_entity import register_entities\n"
        "from pq_adapters.sqlalchemy import exclude_pq_tables\n"
        "register_entities([], schemas=['public'], entity_types=[PGFunction, PGTrigger])\n"
    )

    def generated(options: str) -> str:
        env(history, head=head, options=options)
        done = alembic(history, empty_database, "revision", "--autogenerate", "-m", "what")
        assert done.returncode == 0, done.stderr
        (made,) = (history / "history" / "versions").glob("*.py")
        text = made.read_text()
        made.unlink()
        return text

    assert "pq_enqueue" in generated("")
    found = generated("include_name=exclude_pq_tables")
    assert "pq_" not in found
    assert "theirs" in found


def test_script_for_a_transaction_is_that_of_psql_without_its_commands() -> None:
    def line(text: str) -> list[str]:
        return [one for one in text.splitlines() if one.strip()]

    plain = [one for one in line(migration_sql("jobs")) if one not in ("BEGIN;", "COMMIT;")]

    assert line(migration_sql("jobs", within=True)) == plain
