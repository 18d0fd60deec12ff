"""Databases for tests: a template with the tables, made once, cloned for each test."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from psycopg import sql
from psycopg.conninfo import make_conninfo

from pq_core.database import Connection, connect
from pq_core.dsn import find_dsn
from pq_core.schema import migrate

VARIABLES = ("PQ_TEST_DSN", "PQ_DATABASE_URL")


def server_dsn(environment: Mapping[str, str], root: Path) -> str:
    """Return the DSN of a server where databases can be made; an embedded one below ``root`` where none is named."""
    for variable in VARIABLES:
        if given := environment.get(variable):
            return find_dsn(given)
    from pq_core import embedded

    return embedded.start(root / ".pq" / "pytest", durable=False)


class Databases:
    """Makes databases on one server. Nothing of those that are there already is touched.

    ``prepare``: adds to a template what the application needs beside pq's tables.
    """

    def __init__(self, server: str, *, prepare: Callable[[str], None] | None = None) -> None:
        self.server = server
        self._prepare = prepare
        self._templates: dict[str, str] = {}
        self._own: list[str] = []

    @contextmanager
    def clone(self, schema: str) -> Iterator[str]:
        """Make a database with pq's tables in ``schema``, yield its DSN, drop it."""
        if schema not in self._templates:
            self._templates[schema] = self._template(schema)
        name = f"pq_test_{secrets.token_hex(8)}"
        with self._admin() as admin:
            admin.execute(_statement("CREATE DATABASE {} TEMPLATE {}", name, self._templates[schema]))
        try:
            yield make_conninfo(self.server, dbname=name)
        finally:
            self._drop(name)

    def drop_templates(self) -> None:
        """Drop the templates that are of use to this run alone."""
        while self._own:
            self._drop(self._own.pop())

    def _template(self, schema: str) -> str:
        # What an application prepares may change from run to run: then the template is this run's own.
        own = self._prepare is not None
        name = f"pq_template_{secrets.token_hex(8) if own else _digest(schema)}"
        with self._admin() as admin:
            # Processes of one run come here at the same time.
            admin.execute("SELECT pg_advisory_lock(hashtext('pq pytest template'))")
            if admin.execute("SELECT FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
                self._make(admin, name, schema)
        if own:
            self._own.append(name)
        return name

    def _make(self, admin: Connection, name: str, schema: str) -> None:
        unfinished = f"{name}_unfinished"
        admin.execute(_statement("DROP DATABASE IF EXISTS {} WITH (FORCE)", unfinished))
        admin.execute(_statement("CREATE DATABASE {}", unfinished))
        dsn = make_conninfo(self.server, dbname=unfinished)
        migrate(dsn, schema)
        if self._prepare is not None:
            self._prepare(dsn)
        admin.execute(_statement("ALTER DATABASE {} RENAME TO {}", unfinished, name))

    def _drop(self, name: str) -> None:
        with self._admin() as admin:
            admin.execute(_statement("DROP DATABASE IF EXISTS {} WITH (FORCE)", name))

    @contextmanager
    def _admin(self) -> Iterator[Connection]:
        with connect(self.server, application_name="pq pytest") as connection:
            yield connection


def _statement(text: str, *names: str) -> sql.Composed:
    return sql.SQL(text).format(*map(sql.Identifier, names))


def _digest(schema: str) -> str:
    """Return what a template is called by: the same for the same migrations and schema."""
    digest = hashlib.sha256(schema.encode())
    for name, content in _migrations(files("pq_core") / "migrations"):
        digest.update(name.encode() + content)
    return digest.hexdigest()[:16]


def _migrations(folder: Traversable) -> Iterator[tuple[str, bytes]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _migrations(entry)
        elif entry.name.endswith((".sql", ".py")):
            yield entry.name, entry.read_bytes()
