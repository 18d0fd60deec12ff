"""One Postgres for all tests of a run, and a database of its own for each test, cloned from a migrated template.

The server is the one of PQ_TEST_DSN (a superuser's DSN), else an embedded one that ends with the run.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests import server_place
from tests.server_place import Place

_DIRECTORY = "PQ_TEST_SERVER_DIRECTORY"
_MIGRATIONS = Path(__file__).parent.parent / "pq_core" / "migrations"
_place = pytest.StashKey[Place]()


def pytest_configure(config: pytest.Config) -> None:
    """Choose the embedded server's place in the process that the others of the run are started from."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Shells start what is to run in the background like that, and all that the tests start would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # What the developer's shell says of a database is not for the tests.
    for name in ("PQ_DATABASE_URL", "DATABASE_URL"):
        os.environ.pop(name, None)
    if not hasattr(config, "workerinput"):
        parent = server_place.choose()
        server_place.remove_left_behind(parent)
        config.stash[_place] = place = Place(parent)
        os.environ[_DIRECTORY] = str(place.path)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the embedded server and remove it; with xdist, after every worker has ended."""
    if hasattr(config, "workerinput"):
        return
    del os.environ[_DIRECTORY]
    config.stash[_place].remove()


@pytest.fixture(scope="session")
def server() -> str:
    """Return the DSN of a superuser on a running server's database ``postgres``."""
    dsn = os.environ.get("PQ_TEST_DSN")
    if dsn:
        return dsn
    from pq_core import embedded

    return embedded.start(Path(os.environ[_DIRECTORY]) / "server", durable=False)


@pytest.fixture(scope="session")
def template(server: str) -> str:
    """Return the name of a database with the tables of pq in ``public``, made once per server and schema."""
    digest = hashlib.sha256()
    for path in sorted(_MIGRATIONS.rglob("*")):
        if path.suffix in (".sql", ".py"):
            digest.update(path.name.encode() + path.read_bytes())
    name = f"pq_template_{digest.hexdigest()[:12]}"
    with _admin(server) as admin:
        # Processes of the run, and runs on a server that stays, come here at the same time.
        admin.execute("SELECT pg_advisory_lock(hashtext('pq test template'))")
        if admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
            from pq_core.schema import migrate

            unfinished = sql.Identifier(f"{name}_unfinished")
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(unfinished))
            admin.execute(sql.SQL("CREATE DATABASE {}").format(unfinished))
            migrate(make_conninfo(server, dbname=f"{name}_unfinished"), "public")
            admin.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(unfinished, sql.Identifier(name)))
    return name


@pytest.fixture
def database(server: str, template: str) -> Iterator[str]:
    """Return the DSN of a database of the test's own, migrated in ``public``."""
    with _database(server, template) as dsn:
        yield dsn


@pytest.fixture
def empty_database(server: str) -> Iterator[str]:
    """Return the DSN of a database of the test's own without tables."""
    with _database(server, "template1") as dsn:
        yield dsn


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    """Return a connection in autocommit mode to ``database``."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@contextmanager
def _database(server: str, template: str) -> Iterator[str]:
    name = f"pq_test_{secrets.token_hex(8)}"
    with _admin(server) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
    try:
        yield make_conninfo(server, dbname=name)
    finally:
        with _admin(server) as admin:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def _admin(server: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(server, autocommit=True) as connection:
        yield connection
