"""Django's tests with real commits: what one of them enqueued must not be run by the worker of another."""

from __future__ import annotations

import sys
from collections.abc import Container
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

COMMITTING_FIXTURES = frozenset({"transactional_db", "django_db_reset_sequences", "live_server"})
"""Fixtures of pytest-django with which a test commits."""


def commits(item: pytest.Item) -> bool:
    """Tell whether a test is one of Django's that may use pq's database, which is emptied after it, not rolled back."""
    from django.test import TestCase, TransactionTestCase

    made = getattr(item, "cls", None)
    if isinstance(made, type) and issubclass(made, TransactionTestCase):
        return not issubclass(made, TestCase) and _may_use(getattr(made, "databases", ("default",)))
    marker = item.get_closest_marker("django_db")
    said = {} if marker is None else marker.kwargs
    if not _may_use(said.get("databases") or ("default",)):
        return False
    if marker is not None and (said.get("transaction") or said.get("reset_sequences") or marker.args[:1] == (True,)):
        return True
    return bool(COMMITTING_FIXTURES & set(getattr(item, "fixturenames", ())))


def _may_use(databases: Container[str]) -> bool:
    return databases == "__all__" or sys.modules["pq_adapters.django.client"].pq.alias in databases


def is_for_tests(connection: Any) -> bool:
    """Tell whether a connection leads to a database that Django made for its tests, and to no other."""
    from django.db.backends.base.creation import TEST_DATABASE_PREFIX

    said = connection.settings_dict
    begins: str = (said.get("TEST") or {}).get("NAME") or TEST_DATABASE_PREFIX
    return str(said["NAME"]).startswith(begins)


def empty(config: pytest.Config) -> None:
    """Empty pq's tables in the test database, as Django empties those of its models; never in another one."""
    from django.db import connections

    from pq_core.schema import FILLED_TABLES

    pq = sys.modules["pq_adapters.django.client"].pq  # adapters don't import each other
    connection = connections[pq.alias]
    if not is_for_tests(connection):
        return
    quote = connection.ops.quote_name
    tables = [f"{quote(pq.schema)}.{quote(table)}" for table in FILLED_TABLES]
    with _unblocked(config), connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [tables[0]])
        if cursor.fetchone()[0]:
            cursor.execute(f"TRUNCATE {', '.join(tables)}")


def _unblocked(config: pytest.Config) -> AbstractContextManager[None]:
    """Let the database be used, which pytest-django blocks where no test asked for it."""
    plugin = sys.modules.get("pytest_django.plugin")
    blocker = None if plugin is None else config.stash.get(plugin.blocking_manager_key, None)
    return nullcontext() if blocker is None else blocker.unblock()
