"""Fixtures for the tests of an application that uses pq; pytest loads this module wherever pq is installed.

So it imports nothing but pytest: what a fixture needs is imported when a test asks for the fixture.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pq_adapters.pytest_plugin.databases import Databases
    from pq_adapters.pytest_plugin.enqueued import AssertEnqueued
    from pq_adapters.pytest_plugin.running import RunInline, RunWorker
    from pq_core import PQ

__all__ = ["assert_enqueued", "pq_app", "pq_override", "pq_prepare", "pq_worker", "run_inline"]

_THREADS = pytest.StashKey[frozenset[int]]()
_RAN = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Know the option ``pq_app``."""
    parser.addini("pq_app", "the application's PQ, or a function that returns it, as module:object", default="")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Note the threads of the test run itself: they are not the application's."""
    session.config.stash[_THREADS] = frozenset(thread.ident or 0 for thread in threading.enumerate())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Note that a test ran: where its setup failed or was skipped, there may be no test database."""
    item.stash[_RAN] = True
    yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Empty pq's tables after a test of Django's that commits: the worker of the next one would run what it left."""
    try:
        ran = item.stash.get(_RAN, False)
        if ran and "django.test" in sys.modules and "pq_adapters.django.client" in sys.modules:
            from pq_adapters.pytest_plugin import transactional

            if transactional.commits(item):
                transactional.empty(item.config)
    finally:
        yield


@pytest.fixture(scope="session")
def pq_app(pytestconfig: pytest.Config) -> PQ:
    """Return the application's PQ: what the option ``pq_app`` names. Override it to make one in another way."""
    reference = str(pytestconfig.getini("pq_app"))
    if not reference:
        raise pytest.UsageError('say where the PQ of the application is: pq_app = "module:object", or a fixture pq_app')
    from pq_core.app import load_app

    return load_app(reference)


@pytest.fixture(scope="session")
def pq_prepare() -> Callable[[str], None] | None:
    """Return None, or a function that is given the DSN of a database with pq's tables and adds the application's.

    Override it for tests that need those. It is called once in a run, and has to close its connections.
    """
    return None


@pytest.fixture(scope="session")
def pq_databases(pytestconfig: pytest.Config, pq_prepare: Callable[[str], None] | None) -> Iterator[Databases]:
    """Return what makes databases on the server of PQ_TEST_DSN, PQ_DATABASE_URL, or an embedded one of the project."""
    from pq_adapters.pytest_plugin.databases import Databases, server_dsn

    databases = Databases(server_dsn(os.environ, pytestconfig.rootpath), prepare=pq_prepare)
    yield databases
    databases.drop_templates()


@pytest.fixture
def pq_override(request: pytest.FixtureRequest, pq_app: PQ) -> Iterator[PQ]:
    """Send the application's PQ to an empty database of this test's own, for the whole process; return the PQ."""
    from pq_adapters.pytest_plugin.running import is_framework_bound

    if is_framework_bound(pq_app):
        # Its framework has a test database of its own.
        yield pq_app
        return
    databases: Databases = request.getfixturevalue("pq_databases")
    with databases.clone(pq_app.schema) as dsn, pq_app.override(dsn, everywhere=True):
        yield pq_app


@pytest.fixture
def assert_enqueued(pq_app: PQ) -> AssertEnqueued:
    """Return a function that fails the test unless a task is enqueued."""
    from pq_adapters.pytest_plugin.enqueued import AssertEnqueued

    return AssertEnqueued(pq_app)


@pytest.fixture
def run_inline(pq_app: PQ) -> RunInline:
    """Return a function that runs what is due in this process."""
    from pq_adapters.pytest_plugin.running import RunInline

    return RunInline(pq_app)


@pytest.fixture
def pq_worker(pytestconfig: pytest.Config, pq_override: PQ) -> RunWorker:
    """Return a function that runs what is due by a real worker, each task in a process of its own."""
    from pq_adapters.pytest_plugin.running import RunWorker

    return RunWorker(pq_override, known_threads=pytestconfig.stash[_THREADS])
