"""The pytest plugin, in test runs of its own: what a user's tests and their failures look like."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import psycopg
import pytest

from pq_core.embedded import stop
from tests.acceptance.pages import ROOT, write_files
from tests.adapters.django_processes import PROJECT, Project

pytest_plugins = ["pytester"]

APP = """
import os, signal, time
from datetime import timedelta
from pq_core import PQ, Backoff, current_attempt

pq = PQ("host=127.0.0.1 port=1 connect_timeout=1", schema="jobs")

def create_pq():
    return pq

@pq.task(name="receipt")
def send_receipt(order, *, copy=False):
    return [order, copy]

@pq.task(name="nothing")
def nothing(): ...

@pq.task(name="pid")
def pid():
    print("from the child")
    return os.getpid()

@pq.task(name="dies")
def dies():
    os.kill(os.getpid(), signal.SIGKILL)

@pq.task(name="flaky", max_attempts=2, backoff=Backoff(base=0))
def flaky():
    if current_attempt().number == 1:
        raise ValueError("once")
    nothing.enqueue()

@pq.task(name="sleeps")
def sleeps():
    time.sleep(60)
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, server: str) -> pytest.Pytester:
    """A project with an application and the plugin, loaded by hand: this checkout may not be installed."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(pytester.path)]))
    monkeypatch.setenv("PQ_TEST_DSN", server)
    pytester.makepyprojecttoml(
        """
        [tool.pytest.ini_options]
        addopts = "-p pq_adapters.pytest_plugin -p no:cacheprovider"
        filterwarnings = ["error"]
        pq_app = "app:pq"
        """
    )
    pytester.makepyfile(app=APP)
    return pytester


def passes(project: pytest.Pytester, source: str, **counts: int) -> pytest.RunResult:
    project.makepyfile(test_it=source)
    result = project.runpytest_subprocess("-q", timeout=100)
    result.assert_outcomes(**(counts or {"passed": 1}))
    return result


def test_it_is_found_by_pytest() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert project["entry-points"]["pytest11"] == {"pq": "pq_adapters.pytest_plugin"}


def test_start_up_loads_neither_a_driver_nor_pq(project: pytest.Pytester) -> None:
    passes(
        project,
        """
        import sys
        def test_it(request):
            assert request.config.pluginmanager.hasplugin("pq_adapters.pytest_plugin")
            ours = ("pq_core", "pq_hooks", "psycopg", "sqlalchemy")
            assert [name for name in sys.modules if name.split(".")[0] in ours] == []
        """,
    )


def test_the_application_is_sent_to_a_database_of_the_test(project: pytest.Pytester, server: str) -> None:
    passes(
        project,
        """
        import threading
        import pytest
        import app

        def enqueue(n):
            app.send_receipt.enqueue(n)

        @pytest.mark.parametrize("n", [1, 2])
        def test_it(pq_override, n):
            assert pq_override is app.pq
            assert "pq_test_" in app.pq.dsn
            thread = threading.Thread(target=enqueue, args=[n])
            thread.start()
            thread.join()
            enqueue(n)
            assert app.pq.pending_count() == 2
            with open("names", "a") as names:
                print(app.pq.dsn.rpartition("dbname=")[2].split()[0], file=names)

        def test_after():
            assert "port=1 " in app.pq.dsn
        """,
        passed=3,
    )

    names = (project.path / "names").read_text().split()
    assert len(set(names)) == 2
    with psycopg.connect(server) as connection:
        left = connection.execute("SELECT count(*) FROM pg_database WHERE datname = ANY (%s)", [names]).fetchone()
    assert left == (0,)


def test_an_app_can_be_made_by_a_fixture_and_tables_added(project: pytest.Pytester) -> None:
    project.makepyprojecttoml("[tool.pytest.ini_options]\naddopts = '-p pq_adapters.pytest_plugin'\n")
    project.makeconftest(
        """
        import psycopg, pytest
        from pq_core import PQ

        @pytest.fixture(scope="session")
        def pq_app():
            return PQ("host=127.0.0.1 port=1", app="made")

        @pytest.fixture(scope="session")
        def pq_prepare():
            def prepare(dsn):
                with psycopg.connect(dsn) as connection:
                    connection.execute("CREATE TABLE orders (id int)")
            return prepare
        """
    )
    passes(
        project,
        """
        import psycopg
        def test_it(pq_override):
            assert pq_override.app == "made"
            with psycopg.connect(pq_override.dsn) as connection:
                assert connection.execute("SELECT count(*) FROM orders").fetchone() == (0,)
        """,
    )


def test_no_app_is_said(project: pytest.Pytester) -> None:
    project.makepyprojecttoml("[tool.pytest.ini_options]\naddopts = '-p pq_adapters.pytest_plugin'\n")

    result = passes(project, "def test_it(pq_override): ...", errors=1)

    result.stdout.fnmatch_lines(["*say where the PQ of the application is*"])


def test_what_is_enqueued_is_found(project: pytest.Pytester) -> None:
    passes(
        project,
        """
        from datetime import timedelta
        import psycopg, pytest
        from app import nothing, pq, send_receipt

        def test_it(pq_override, assert_enqueued):
            assert_enqueued(send_receipt, times=0)
            first = send_receipt.enqueue(7)
            second = send_receipt.options(client_id="x", queue="mail", run_in=timedelta(hours=1), priority=9,
                headers={"a": "b", "c": "d"}, timeout=5).enqueue(order=7, copy=True)

            assert [found.id for found in assert_enqueued(send_receipt.call(7))] == [first]
            assert_enqueued(send_receipt.call(order=7, copy=False), times=1, status="pending")
            assert_enqueued(send_receipt, times=2)
            wanted = send_receipt.call(7, copy=True)
            assert_enqueued(wanted.options(client_id="x", queue="mail", run_in=timedelta(hours=1), priority=9), times=1)
            assert_enqueued(wanted.options(headers={"a": "b"}, timeout=5, max_attempts=1, unique="retained"))
            for other in (wanted.options(queue="default"), wanted.options(headers={"a": "x"}), send_receipt.call(8)):
                assert_enqueued(other, times=0)
            with pytest.raises(ValueError, match="can't tell memory_limit"):
                assert_enqueued(wanted.options(memory_limit=2**20))
            with psycopg.connect(pq.dsn) as connection:
                pq.using(connection).enqueue(nothing.call())
                assert_enqueued(nothing, using=connection)
                connection.rollback()
            assert_enqueued(nothing, times=0)
        """,
    )


def test_what_is_not_enqueued_fails_with_what_is_there(project: pytest.Pytester) -> None:
    result = passes(
        project,
        """
        from app import nothing, send_receipt

        def test_none(pq_override, assert_enqueued):
            assert_enqueued(nothing)

        def test_others(pq_override, assert_enqueued):
            send_receipt.enqueue(8)
            nothing.enqueue()
            assert_enqueued(send_receipt.call(7))

        def test_unsafe(assert_enqueued, run_inline):
            assert_enqueued(nothing)
        """,
        failed=3,
    )

    result.stdout.fnmatch_lines(
        [
            "*<Task nothing> is enqueued 0 times, expected at least once",
            "nothing is enqueued at all",
            "*<Call receipt(7)> is enqueued 0 times, expected at least once",
            "of this name there are:",
            "  1 receipt(8): pending in 'default'",
            "others, the newest:",
            "  2 nothing(): pending in 'default'",
            "*assert_enqueued() would look into the database of the application's own settings: *",
        ]
    )


def test_tasks_run_inline(project: pytest.Pytester) -> None:
    passes(
        project,
        """
        import os
        import psycopg
        from app import flaky, pid, pq

        def test_database(pq_override, run_inline):
            flaky.enqueue()
            pid.enqueue()
            ended = run_inline()
            assert [(one.name, one.outcome.value) for one in ended] == [
                ("flaky", "raised"), ("pid", "succeeded"), ("flaky", "succeeded"), ("nothing", "succeeded")]
            assert ended[1].result == os.getpid()

        def test_transaction(pq_override, run_inline):
            with psycopg.connect(pq.dsn) as connection:
                pq.using(connection).enqueue(flaky.call())
                assert len(run_inline(using=connection, limit=2)) == 2
                connection.rollback()
            assert pq.pending_count() == 0
        """,
        passed=2,
    )


def test_a_real_worker_runs_what_is_due(project: pytest.Pytester) -> None:
    passes(
        project,
        """
        import os
        from app import dies, flaky, pid, pq, sleeps

        def test_it(pq_override, pq_worker, capfd):
            pid.options(priority=100).enqueue()
            dies.enqueue()
            flaky.enqueue()

            ended = pq_worker(strict=True)

            assert [(one.name, one.number, one.outcome.value, one.status.value) for one in ended] == [
                ("pid", 1, "succeeded", "completed"),
                ("dies", 1, "crashed", "failed"),
                ("flaky", 1, "raised", "pending"),
                ("flaky", 2, "succeeded", "completed"),
                ("nothing", 1, "succeeded", "completed"),
            ]
            assert ended[0].result != os.getpid()
            assert ended[0].output == "from the child\\n"
            assert "from the child" in capfd.readouterr().out
            assert "ValueError: once" in ended[2].error
            assert pq_worker() == []

        def test_options(pq_override, pq_worker):
            sleeps.enqueue()
            (ended,) = pq_worker(max_runtime=0.1)
            assert ended.outcome == "timed_out"
        """,
        passed=2,
    )


def test_a_worker_that_fails_or_hangs_fails_the_test(project: pytest.Pytester) -> None:
    result = passes(
        project,
        """
        import socket, threading
        import pytest
        from app import sleeps

        def test_option(pq_worker):
            pq_worker(nonsense=1)

        def test_hangs(pq_worker):
            sleeps.enqueue()
            pq_worker(timeout=1)

        def test_threads_and_sockets(pq_worker):
            stop = threading.Event()
            thread = threading.Thread(target=stop.wait, name="poller")
            thread.start()
            with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
                try:
                    pq_worker()
                    pq_worker(strict=True)
                finally:
                    stop.set()
                    thread.join()
        """,
        failed=3,
    )

    result.stdout.fnmatch_lines(
        [
            "*InvalidOption: run_worker() has no option 'nonsense'*",
            "*the worker did not end within 1 s*",
            "*at the fork there are threads: poller; open connections: descriptor *",
        ]
    )


def test_the_server_may_be_embedded() -> None:
    with tempfile.TemporaryDirectory(prefix="pq-tests-") as name:
        folder = Path(name)
        # Postgres refuses to run as root: whoever it runs as then has to get at its data.
        folder.chmod(0o755)
        (folder / "app.py").write_text(APP)
        (folder / "test_it.py").write_text(
            "from app import send_receipt\n"
            "def test_it(pq_override, run_inline):\n"
            "    send_receipt.enqueue(1)\n"
            "    assert len(run_inline()) == 1\n"
        )

        said = run_in(folder, {})

        assert "1 passed" in said
        assert (folder / ".pq" / "pytest").is_dir()
        stop(folder / ".pq" / "pytest")


def run_in(folder: Path, more: dict[str, str]) -> str:
    """Run the tests of a folder that is no part of this run, and return what that printed."""
    (folder / "pytest.ini").write_text("[pytest]\npq_app = app:pq\naddopts = -p pq_adapters.pytest_plugin\n")
    unsaid = ("PQ_TEST_DSN", "PQ_DATABASE_URL", "DATABASE_URL")
    environment = {name: value for name, value in os.environ.items() if name not in unsaid}
    environment |= {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **more}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_on_testing_runs(tmp_path: Path, server: str) -> None:
    write_files(ROOT / "docs" / "testing.md", tmp_path)

    assert "6 passed" in run_in(tmp_path, {"PQ_TEST_DSN": server})


DJANGO = """
from django.db import connection
from django.test import TestCase, TransactionTestCase
from pq_adapters.django import pq
from pq_adapters.pytest_plugin.enqueued import AssertEnqueued
from pq_adapters.pytest_plugin.running import RunInline, RunWorker
from shop.models import Order
from shop.tasks import fail, write_receipt


class InTransaction(TestCase):
    def test_inline(self):
        order = Order.objects.create(customer="Ada")
        write_receipt.enqueue(order.pk)
        fail.enqueue("no")
        AssertEnqueued(pq)(write_receipt.call(order.pk), times=1)

        first, second = RunInline(pq)()

        self.assertEqual((first.result, second.outcome), ("for Ada", "raised"))
        order.refresh_from_db()
        self.assertEqual(order.receipt, "for Ada")

    def test_nothing_is_left(self):
        self.assertEqual(pq.counts()["completed"], 0)
        write_receipt.enqueue(1)
        (ended,) = pq.run_inline(using=connection)
        self.assertEqual((ended.status, type(ended.exception).__name__), ("failed", "DoesNotExist"))


class Committed(TransactionTestCase):
    def test_worker(self):
        order = Order.objects.create(customer="Ada")
        write_receipt.enqueue(order.pk)
        (ended,) = RunWorker(pq, known_threads=frozenset())()
        self.assertEqual(ended.result, "for Ada")
        order.refresh_from_db()
        self.assertEqual(order.receipt, "for Ada")
"""


def test_inside_the_test_cases_of_django(tmp_path: Path, empty_database: str) -> None:
    pytest.importorskip("django")
    (tmp_path / "test_django_it.py").write_text(DJANGO)
    project = Project(empty_database)

    done = project.manage("test", str(tmp_path), check=False, PYTHONPATH=str(ROOT))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ran 3 tests" in done.stderr


COMMITTING = """
import pytest
from django.test import TransactionTestCase
from pq_adapters.django import pq
from shop.tasks import fail


class Committed(TransactionTestCase):
    def test_one(self):
        assert pq.counts()["pending"] == 0
        fail.enqueue("by a class")
        pq.pause_queue("default")

    def test_two(self):
        self.test_one()


@pytest.mark.django_db(transaction=True)
def test_by_a_mark(pq_worker):
    fail.enqueue("by a mark")
    assert [one.name for one in pq_worker()] == [fail.name]


def test_by_a_fixture(transactional_db, pq_worker):
    assert pq_worker() == []
    fail.enqueue("by a fixture")


@pytest.mark.django_db
def test_rolled_back():
    assert pq.counts()["pending"] == pq.counts()["failed"] == 0
    assert not any(queue.paused for queue in pq.queues())
    fail.enqueue("rolled back")


def test_without_a_database():
    pass
"""


@pytest.mark.parametrize("alone", [False, True], ids=["pytest-django", "pytest alone"])
def test_what_a_committing_test_of_django_left_is_deleted(tmp_path: Path, empty_database: str, alone: bool) -> None:
    pytest.importorskip("pytest_django")
    text, flags = COMMITTING, "-p pytest_django.plugin"
    if alone:
        head, _, rest = COMMITTING.partition("@pytest.mark.django_db(transaction=True)")
        assert rest
        text, flags = head, ""
        (tmp_path / "conftest.py").write_text(
            "import django\n"
            "django.setup()\n"
            "from django.test.utils import setup_databases, setup_test_environment\n"
            "setup_test_environment()\n"
            "setup_databases(0, False)\n"
        )
    (tmp_path / "test_it.py").write_text(text)
    (tmp_path / "pytest.ini").write_text(
        f"[pytest]\npq_app = pq_adapters.django:pq\naddopts = -p pq_adapters.pytest_plugin {flags}\n"
    )
    project = Project(empty_database)
    environment = project.environment(
        PYTHONPATH=os.pathsep.join([str(ROOT), str(PROJECT)]),
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
        DJANGO_SETTINGS_MODULE="project.settings",
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]

    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)

    assert done.returncode == 0, done.stdout + done.stderr
    assert ("2 passed" if alone else "6 passed") in done.stdout


SKIPPED = """
import pytest
from django.db import connection


@pytest.mark.skip
@pytest.mark.django_db(transaction=True)
def test_skipped():
    raise AssertionError
"""


def test_the_real_database_is_never_emptied(tmp_path: Path, database: str) -> None:
    """Of a test that was skipped there may be no test database: the connection still leads to the settings' own."""
    pytest.importorskip("pytest_django")
    (tmp_path / "test_it.py").write_text(SKIPPED)
    (tmp_path / "conftest.py").write_text("import pq_adapters.django.client\nfrom shop import tasks\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p pq_adapters.pytest_plugin -p pytest_django.plugin\n")
    with psycopg.connect(database) as connection:
        connection.execute("""SELECT pq_enqueue('{"name": "precious"}')""")
    environment = Project(database).environment(
        PYTHONPATH=os.pathsep.join([str(ROOT), str(PROJECT)]),
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
        DJANGO_SETTINGS_MODULE="project.settings",
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]

    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)

    assert "1 skipped" in done.stdout, done.stdout + done.stderr
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT name FROM pq_tasks").fetchall() == [("precious",)]
