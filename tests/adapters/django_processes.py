"""A Django project on a database of the test's own, spoken to through processes: django.setup() is once and for all."""

from __future__ import annotations

import inspect
import json
import os
import secrets
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

PROJECT = Path(__file__).parent / "django_project"
PATIENCE = 60.0
_START = """
import json, os
os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
import django
django.setup()
"""


@dataclass(frozen=True, slots=True)
class Project:
    """The project in ``django_project`` with its database; keyword arguments are more of the environment."""

    dsn: str

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of its processes."""
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("PQ_", "PROJECT_", "DJANGO"))
        }
        return {**clean, "PROJECT_DSN": self.dsn, "PYTHONDONTWRITEBYTECODE": "1", "PQ_LOG_LEVEL": "WARNING", **more}

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of ``manage.py``."""
        return [sys.executable, "-W", "error", "manage.py", *arguments]

    def manage(self, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run ``manage.py`` to its end."""
        return self._run(self.command(*arguments), check=check, **environment)

    def work(self, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a worker until nothing is left to do."""
        return self.manage(
            "pq_worker", "--until-empty", "--concurrency", "2", "--poll-interval", "0.1", *flags, **environment
        )

    def run(self, scenario: Callable[[], Any], **environment: str) -> Any:
        """Run the function's text in a process of the project and return what it returns, through JSON."""
        text = textwrap.dedent(inspect.getsource(scenario))
        code = f"{_START}\n{text}\nprint(json.dumps({scenario.__name__}()))"
        return json.loads(self._run([sys.executable, "-W", "error", "-c", code], **environment).stdout.splitlines()[-1])

    def _run(self, command: list[str], *, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=PROJECT, env=self.environment(**environment), capture_output=True, text=True, timeout=PATIENCE
        )
        if check:
            assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
        return done


@contextmanager
def copy_of(server: str, template: str, name: str) -> Iterator[str]:
    """Create a database from a template; drop it in the end."""
    with psycopg.connect(server, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
    try:
        yield make_conninfo(server, dbname=name)
    finally:
        with psycopg.connect(server, autocommit=True) as admin:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def migrated_project(server: str, template: str) -> Iterator[str]:
    """Return the name of a database after the project's ``migrate``; ``pq migrate`` had been there before."""
    name = f"pq_test_django_{secrets.token_hex(8)}"
    with copy_of(server, template, name) as dsn:
        Project(dsn).manage("migrate")
        yield name


@pytest.fixture
def project(server: str, migrated_project: str) -> Iterator[Project]:
    """Return the project on a migrated database of the test's own."""
    with copy_of(server, migrated_project, f"pq_test_{secrets.token_hex(8)}") as dsn:
        yield Project(dsn)
