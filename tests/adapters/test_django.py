"""pq in a Django project, on every supported Django: transactions, migrations, workers, commands, the admin."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from pq_core.schema import CODE_REVISION, migrate
from tests.adapters import django_processes
from tests.adapters.django_processes import PATIENCE, PROJECT, Project

migrated_project, project = django_processes.migrated_project, django_processes.project

DRIVERS = ["psycopg", "psycopg2"]


def rows(project: Project, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(project.dsn) as connection:
        return connection.execute(query).fetchall()  # type: ignore[arg-type]


def eventually(condition: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.05)


# --- transactions


@pytest.mark.parametrize("driver", DRIVERS)
def test_enqueue_joins_atomic_and_its_savepoints(project: Project, driver: str) -> None:
    def scenario():
        from django.db import DatabaseError, connection, connections, transaction
        from shop.models import Order
        from shop.tasks import fail

        from pq_adapters.django import executor_for, pq
        from pq_core import DuplicateClientId

        def failing(block):
            try:
                with transaction.atomic():
                    block()
                    raise KeyError
            except KeyError:
                return

        def orders_and_tasks(name):
            Order.objects.create(customer=name)
            pq.enqueue(fail.options(client_id=name).call(name))

        failing(lambda: orders_and_tasks("rolled back"))
        with transaction.atomic():
            orders_and_tasks("kept")
            failing(lambda: orders_and_tasks("savepoint"))
            failing(lambda: pq.using(connection).enqueue(fail.call("bound")))
            try:
                pq.enqueue(fail.options(client_id="kept").call("again"))
            except DuplicateClientId:
                orders_and_tasks("after a duplicate")
            pq.using(connections["default"]).enqueue_many(fail.call(str(i)) for i in range(1000))
            assert pq.enqueue(fail.options(require_transaction=True).call("x"))
            assert executor_for(connection).in_transaction()
        try:
            with transaction.atomic():
                orders_and_tasks("lost")
                with connection.cursor() as cursor:
                    cursor.execute("SELECT nonsense")
        except DatabaseError:
            pass
        assert not executor_for(connection).in_transaction()
        assert executor_for(object()) is None
        names = [task.client_id for task in pq.list_tasks(limit=5000) if task.client_id]
        driver = type(connection.connection).__module__.partition(".")[0]
        return [sorted(names), sorted(Order.objects.values_list("customer", flat=True)), pq.pending_count(), driver]

    names = ["after a duplicate", "kept"]
    assert project.run(scenario, PROJECT_DRIVER=driver) == [names, names, 1003, driver]


def test_transaction_of_another_alias_is_warned_of(project: Project) -> None:
    def scenario():
        import logging

        from django.db import transaction
        from shop.tasks import fail

        from pq_adapters.django import pq

        said = []
        handler = logging.Handler()
        handler.emit = lambda record: said.append(record.getMessage())
        logging.getLogger("pq.django").addHandler(handler)
        pq.enqueue(fail.call("no transaction at all"))
        with transaction.atomic(using="second"):
            pq.enqueue(fail.call("its own"))
        before = len(said)
        for _ in range(2):
            try:
                with transaction.atomic():
                    pq.enqueue(fail.call("another's"))
                    assert pq.pending_count()
                    raise KeyError
            except KeyError:
                pass
        return [before, said, pq.pending_count()]

    before, said, pending = project.run(scenario, PROJECT_SECOND="1", PROJECT_PQ='{"alias": "second"}')

    assert (before, len(said), pending) == (0, 1, 4)
    assert "atomic() of 'default'" in said[0]
    assert "pq's tables are in 'second'" in said[0]


def test_no_connection_but_djangos_is_opened(project: Project) -> None:
    def scenario():
        from django.db import connection
        from shop.tasks import fail

        from pq_adapters.django import pq

        task_id = pq.enqueue(fail.call("x"))
        pq.upsert(fail, "x", client_id="once")
        assert pq.cancel(task_id)
        assert pq.retry(task_id)
        with pq.session() as session:
            assert session.in_atomic_block
        try:
            pq.wait(task_id, timeout=0.1)
        except TimeoutError:
            pass
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
            return cursor.fetchone()[0]

    assert project.run(scenario) == 1


def test_wait_in_a_transaction_is_refused(project: Project) -> None:
    def scenario():
        from django.db import transaction
        from shop.tasks import fail

        from pq_adapters.django import pq
        from pq_core import UnsupportedConnection

        with transaction.atomic():
            try:
                pq.wait(pq.enqueue(fail.call("x")))
            except UnsupportedConnection as error:
                return str(error)

    assert "after the atomic() block" in project.run(scenario)


def test_testcase_sees_and_rolls_back_what_was_enqueued(project: Project) -> None:
    def scenario():
        import unittest

        from django.test import TestCase
        from shop.tasks import fail, pq

        class Tests(TestCase):
            def test_one(self):
                fail.enqueue("one")
                self.assertEqual(pq.pending_count(), 1)

            def test_two(self):
                self.assertEqual(pq.pending_count(), 0)
                with self.assertNumQueries(1):
                    pq.enqueue(fail, "two")

        result = unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(Tests))
        return [result.testsRun, len(result.errors) + len(result.failures), pq.pending_count()]

    assert project.run(scenario) == [2, 0, 0]


def test_view_writes_and_enqueues_in_one_transaction(project: Project) -> None:
    def scenario():
        from django.test import Client
        from shop.models import Order

        client = Client(raise_request_exception=False)
        done = client.get("/orders/?customer=ann").json()
        refused = client.get("/orders/refused/?customer=bob").status_code
        later = client.get("/orders/async/?customer=cy").json()
        return [sorted(done), refused, later["status"], list(Order.objects.values_list("customer", flat=True))]

    assert project.run(scenario) == [["order", "task"], 500, "pending", ["ann", "cy"]]
    project.work()
    assert rows(project, "SELECT receipt FROM shop_order ORDER BY id") == [("for ann",), ("for cy",)]
    assert rows(project, "SELECT status, result FROM pq_tasks ORDER BY id") == [
        ("completed", "for ann"),
        ("completed", "for cy"),
    ]


def test_dashboard_beside_django_knows_its_staff(project: Project) -> None:
    def scenario():
        import asyncio

        import httpx
        from django.contrib.auth.models import User
        from django.test import Client
        from project.asgi import application

        def cookie(name, **more):
            client = Client()
            client.force_login(User.objects.create_user(name, **more))
            return {"sessionid": client.cookies["sessionid"].value}

        ann = cookie("ann", is_staff=True, is_superuser=True)
        bob, cy = cookie("bob", is_staff=True), cookie("cy")

        async def ask():
            transport = httpx.ASGITransport(application)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                made = (await client.get("/orders/?customer=dan")).json()
                codes = []
                for cookies in (None, cy, bob, ann):
                    client.cookies = httpx.Cookies(cookies)
                    page = await client.get("/ops/tasks/tasks")
                    cancel = await client.post(f"/ops/tasks/api/v1/tasks/{made['task']}/cancel", json={})
                    codes.append([page.status_code, cancel.status_code, "write_receipt" in page.text])
                [entry] = (await client.get("/ops/tasks/api/v1/audit")).json()["items"]
                return [*codes, entry["actor"], entry["action"]]

        return asyncio.run(ask())

    assert project.run(scenario) == [
        [303, 401, False],
        [303, 401, False],
        [200, 403, True],
        [200, 200, True],
        "ann",
        "task.cancel",
    ]


def test_importing_the_adapter_loads_no_django() -> None:
    code = "import sys, pq_adapters.django; sys.exit('django' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_tables_are_named_with_djangos_command(project: Project) -> None:
    def scenario():
        from pq_adapters.django import pq

        try:
            pq.stats()
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    said = project.run(scenario, PROJECT_PQ='{"schema": "nowhere"}')
    assert said.startswith("NotMigrated: ")
    assert said.endswith("run `manage.py migrate`")


# --- migrations


def test_migrations_bring_the_tables_and_agree_with_pq_migrate(empty_database: str) -> None:
    project = Project(empty_database)
    variables = {"PROJECT_PQ": '{"schema": "my jobs"}'}

    project.manage("migrate", "pq", **variables)
    tables = rows(project, "SELECT count(*) FROM pg_tables WHERE schemaname = 'my jobs'")
    version = rows(project, 'SELECT version_num FROM "my jobs".pq_alembic_version')
    assert not migrate(empty_database, "my jobs").changed
    assert "already" in project.manage("pq_migrate", **variables).stdout
    assert tables > [(7,)]
    assert version == [(f"{CODE_REVISION:04}",)]

    project.manage("migrate", "pq", "zero", **variables)
    assert rows(project, "SELECT count(*) FROM pg_tables WHERE schemaname = 'my jobs'") == [(0,)]
    assert project.manage("pq_migrate", **variables).stdout == f"schema my jobs: to revision {CODE_REVISION:04}\n"
    project.manage("migrate", **variables)
    assert rows(project, 'SELECT version_num FROM "my jobs".pq_alembic_version') == version


def test_models_need_no_further_migration_whatever_the_schema(project: Project) -> None:
    project.manage("makemigrations", "--check", "--dry-run")
    project.manage("makemigrations", "--check", "--dry-run", PROJECT_PQ='{"schema": "100% \\"odd\\""}')
    assert "CREATE TABLE public.pq_tasks" in project.manage("sqlmigrate", "pq", "0001").stdout.replace('"', "")
    assert "pq_enqueue" in project.manage("pq_migrate", "--sql").stdout


def test_models_read_an_odd_schema_and_refuse_to_write(project: Project) -> None:
    odd = '100% "odd"'
    migrate(project.dsn, odd)

    def scenario():
        from shop.tasks import fail, pq

        from pq_adapters.django.models import Attempt, Task, Worker

        pq.enqueue(fail.options(queue="q").call("100%"))
        refused = 0
        for change in (
            lambda: Task.objects.create(),
            lambda: Task.objects.update(queue="x"),
            lambda: Task.objects.all().delete(),
            lambda: Task.objects.get().delete(),
            lambda: Task.objects.get().save(),
        ):
            try:
                change()
            except TypeError:
                refused += 1
        task = Task.objects.filter(name__contains="fail", queue="q").get()
        return [refused, task.payload, Attempt.objects.filter(task=task).count(), Worker.objects.count()]

    found = project.run(scenario, PROJECT_PQ=json.dumps({"schema": odd}))
    assert found == [5, {"args": ["100%"], "kwargs": {}}, 0, 0]


def test_fixtures_hold_no_tasks(project: Project, tmp_path: Path) -> None:
    def scenario():
        from shop.models import Order
        from shop.tasks import fail, pq

        Order.objects.create(customer="ada")
        return pq.enqueue(fail.call("once"))

    task_id = project.run(scenario)
    project.work()
    [before] = rows(project, "SELECT status, fence FROM pq_tasks")
    dumped = json.loads(project.manage("dumpdata").stdout)
    assert {one["model"] for one in dumped} & {"shop.order", "pq.task", "pq.attempt"} == {"shop.order"}

    fields = {"name": "shop.fail", "status": "pending", "queue": "default", "priority": 50, "attempts": 0, "fence": 0}
    fixture = tmp_path / "old.json"
    fixture.write_text(json.dumps([*dumped, {"model": "pq.task", "pk": task_id, "fields": fields}]))
    project.manage("loaddata", str(fixture))
    assert rows(project, "SELECT status, fence FROM pq_tasks") == [before]


def test_migrate_does_not_ask_for_migrate(empty_database: str) -> None:
    done = Project(empty_database).manage("migrate")
    assert "pq.W001" not in done.stderr + done.stdout


# --- the worker


@pytest.mark.parametrize("kept", [{}, {"PROJECT_CONN_MAX_AGE": "600"}, {"PROJECT_POOL": "1"}])
@pytest.mark.parametrize("per_child", ["1", "3"])
def test_every_child_has_connections_of_its_own(project: Project, kept: dict[str, str], per_child: str) -> None:
    def scenario():
        from shop.tasks import backend_pid, count_orders, leave_transaction_open, pq

        pq.enqueue(leave_transaction_open)
        pq.enqueue(count_orders)
        pq.enqueue_many(backend_pid.call() for _ in range(6))

    project.run(scenario)
    done = project.work("--tasks-per-child", per_child, "--strict", PROJECT_QUERY_AT_IMPORT="1", **kept)

    assert "Error" not in done.stderr
    assert rows(project, "SELECT count(*) FROM shop_order") == [(0,)]
    assert rows(project, "SELECT DISTINCT status FROM pq_tasks") == [("completed",)]
    seen = [found[0] for found in rows(project, "SELECT result FROM pq_tasks WHERE name = 'shop.backend_pid'")]
    processes = {pid for pid, _ in seen}
    if per_child == "1":
        assert len({backend for _, backend in seen}) == len(processes) == 6
    else:
        assert len(processes) < 6


def test_kept_child_survives_the_end_of_its_session(project: Project) -> None:
    def scenario():
        from shop.tasks import backend_pid, end_own_session, pq

        pq.enqueue(end_own_session)
        pq.enqueue_many(backend_pid.call() for _ in range(2))

    project.run(scenario)
    done = project.work("--tasks-per-child", "10", "--concurrency", "1", PROJECT_CONN_MAX_AGE="600")

    assert rows(project, "SELECT DISTINCT status FROM pq_tasks") == [("completed",)], done.stderr


@pytest.mark.parametrize("pool", ["", "1"])
def test_child_leaves_the_session_of_its_parent_alone(project: Project, pool: str) -> None:
    def scenario():
        import warnings

        from django.db import connection, transaction
        from shop.tasks import backend_pid, count_orders, fail, pq

        warnings.simplefilter("ignore", DeprecationWarning)  # a pool has threads, and here it is open at the fork

        def session():
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_backend_pid()")
                return cursor.fetchone()[0]

        ids = pq.enqueue_many([backend_pid.call(), count_orders.call(), fail.call("x")])
        with transaction.atomic():
            before = session()
            for _ in ids:
                assert pq.run_worker_once()
            assert session() == before
        ended = [pq.get_task(task_id) for task_id in ids]
        assert ended[0].result[1] != before
        return [task.status for task in ended]

    assert project.run(scenario, PROJECT_POOL=pool) == ["completed", "completed", "failed"]


def test_completion_and_write_are_one_transaction(project: Project) -> None:
    def scenario():
        from shop.tasks import complete_with_order

        complete_with_order.enqueue("ann")

    project.run(scenario)
    project.work()

    assert rows(project, "SELECT customer FROM shop_order") == [("ann",)]
    assert rows(project, "SELECT status, result FROM pq_tasks") == [("completed", "ann")]


def test_worker_stops_at_sigterm_and_puts_its_task_back(project: Project) -> None:
    def scenario():
        from shop.tasks import nap

        nap.enqueue(600)

    project.run(scenario)
    command = project.command("pq_worker", "--drain-timeout", "0.2", "--concurrency", "1")
    with subprocess.Popen(command, cwd=PROJECT, env=project.environment()) as worker:
        try:
            eventually(lambda: rows(project, "SELECT status FROM pq_tasks") == [("running",)])
        finally:
            worker.send_signal(signal.SIGTERM)
    assert worker.returncode == 0
    assert rows(project, "SELECT status, attempts FROM pq_tasks") == [("pending", 0)]


def test_worker_finds_the_project_from_any_folder(project: Project, tmp_path: Path) -> None:
    command = [*project.command("pq_worker", "--check")]
    command[3] = str(PROJECT / "manage.py")

    done = subprocess.run(command, cwd=tmp_path, env=project.environment(), capture_output=True, text=True, check=True)

    assert "shop.write_receipt" in done.stdout
    assert "threads besides the main one: none" in done.stdout


def test_reload_starts_the_worker_anew_when_a_file_changes(project: Project, tmp_path: Path) -> None:
    module = tmp_path / "extra.py"
    module.write_text("import pq_core\njobs = pq_core.TaskGroup()\n@jobs.task(name='answer')\ndef answer(): return 1\n")
    project_pq = json.dumps({"tasks": ["extra"]})
    environment = project.environment(PYTHONPATH=str(tmp_path), PROJECT_PQ=project_pq, PROJECT_BASE_DIR=str(tmp_path))

    def enqueue():
        import extra

        from pq_adapters.django import pq

        pq.enqueue(extra.answer)

    def results() -> list[tuple[object, ...]]:
        return rows(project, "SELECT result FROM pq_tasks WHERE status = 'completed' ORDER BY id")

    command = project.command("pq_worker", "--reload", "--concurrency", "1", "--poll-interval", "0.1")
    with subprocess.Popen(command, cwd=PROJECT, env=environment) as worker:
        try:
            project.run(enqueue, PYTHONPATH=str(tmp_path), PROJECT_PQ=project_pq)
            eventually(lambda: results() == [(1,)])
            module.write_text("this is no Python")
            time.sleep(1.5)
            module.write_text(
                "import pq_core\njobs = pq_core.TaskGroup()\n@jobs.task(name='answer')\ndef answer(): return 22\n"
            )
            project.run(enqueue, PYTHONPATH=str(tmp_path), PROJECT_PQ=project_pq)
            eventually(lambda: results() == [(1,), (22,)])
        finally:
            worker.send_signal(signal.SIGINT)
    assert worker.returncode == 0
    eventually(lambda: rows(project, "SELECT count(*) FROM pq_workers") == [(0,)])


# --- commands and checks


def test_prune_deletes_what_ended_long_ago(project: Project) -> None:
    def scenario():
        from shop.tasks import count_orders

        count_orders.enqueue()

    project.run(scenario)
    project.work()

    assert project.manage("pq_prune", "--older-than", "1h").stdout == "deleted 0\n"
    assert project.manage("pq_prune", "--older-than", "0s", "--status", "completed").stdout == "deleted 1\n"
    assert "no age" in project.manage("pq_prune", "--older-than", "soon", check=False).stderr


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"shema": "x"}, "(pq.E001) settings.PQ: there is no key 'shema'; did you mean 'schema'?"),
        ({"alias": "elsewhere"}, "(pq.E002)"),
        ({"defaults": {"max_attempts": 0}}, "(pq.E001)"),
        ({"tasks": "shop.mail"}, "(pq.E001) settings.PQ['tasks']: give a list"),
    ],
)
def test_checks_name_mistakes_in_settings(project: Project, settings: dict[str, object], told: str) -> None:
    said = project.manage("check", check=False, PROJECT_PQ=json.dumps(settings))

    assert said.returncode == 1
    assert told in said.stderr
    assert "HINT" in said.stderr


def test_check_of_the_database_names_missing_tables(project: Project) -> None:
    said = project.manage("check", "--database", "default", PROJECT_PQ='{"schema": "nowhere"}')

    assert "pq.W001" in said.stderr
    assert "manage.py migrate" in said.stderr


def test_sqlmigrate_prints_each_revision_alone(empty_database: str) -> None:
    project = Project(empty_database)
    variables = {"PROJECT_PQ": '{"schema": "my jobs"}'}

    first = project.manage("sqlmigrate", "pq", "0001", **variables).stdout
    second = project.manage("sqlmigrate", "pq", "0002", **variables).stdout
    third = project.manage("sqlmigrate", "pq", "0003", **variables).stdout
    fourth = project.manage("sqlmigrate", "pq", "0004", **variables).stdout

    assert 'CREATE TABLE "my jobs".pq_tasks (' in first
    assert 'CREATE TABLE "my jobs".pq_tasks (' not in second
    assert 'CREATE TABLE "my jobs".pq_keys (' in second
    assert "CREATE SCHEMA" in first
    assert "CREATE SCHEMA" not in second
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(first)  # type: ignore[call-overload]
    assert migrate(empty_database, "my jobs").before == 1
    assert "CREATE INDEX CONCURRENTLY" in third
    assert 'DROP INDEX CONCURRENTLY IF EXISTS "my jobs"."pq_tasks_finished"' in fourth


# --- the admin


def test_admin_shows_tasks_and_what_they_died_of(project: Project) -> None:
    def enqueue():
        from django.contrib.auth.models import User
        from shop.tasks import count_orders, fail, pq

        User.objects.create_superuser("root", password="x")
        pq.enqueue(fail.options(client_id="bad <one>").call("<b>because</b>"))
        pq.enqueue(count_orders)
        pq.enqueue(count_orders.options(queue="never").call())

    def look():
        from django.contrib.auth.models import User
        from django.db import connection
        from django.test import Client
        from django.utils.html import escape

        from pq_adapters.django.models import Task

        client = Client()
        client.force_login(User.objects.get())
        failed = Task.objects.get(status="failed")

        def text(path):
            answer = client.get(path)
            assert answer.status_code == 200, path
            return answer.content.decode()

        page = text(f"/admin/pq/task/{failed.pk}/change/")
        assert escape("ValueError: <b>because</b>") in page
        assert page.count("Traceback") == 2  # the task's and its attempt's
        assert "<b>because" not in page
        assert "/admin/pq/task/" in text("/admin/")
        found = {
            "all": text("/admin/pq/task/"),
            "failed": text("/admin/pq/task/?status__exact=failed"),
            "queue": text("/admin/pq/task/?queue=never"),
            "outcome": text("/admin/pq/task/?outcome=succeeded"),
            "id": text(f"/admin/pq/task/?q={failed.pk}"),
            "client_id": text("/admin/pq/task/?q=bad+%3Cone%3E"),
            "name": text("/admin/pq/task/?q=shop.count"),
        }
        for path in ("schedule", "worker"):
            text(f"/admin/pq/{path}/")
        assert client.get("/admin/pq/task/add/").status_code == 403
        assert client.post(f"/admin/pq/task/{failed.pk}/delete/").status_code == 403
        # Arguments and result of a sensitive task are not shown; what is left of its error was decided by its child.
        with connection.cursor() as cursor:
            values = ['"because"', '{"sensitive": true}']
            cursor.execute("UPDATE pq_tasks SET error = NULL, result = %s, options = %s", values)
            cursor.execute("DELETE FROM pq_attempts")
        hidden = text(f"/admin/pq/task/{failed.pk}/change/")
        assert hidden.count("(hidden: the task is sensitive)") == 2
        assert "because" not in hidden
        return {name: page.count('class="action-select"') for name, page in found.items()}

    project.run(enqueue)
    project.work("--queues", "default")
    assert project.run(look) == {
        "all": 3, "failed": 1, "queue": 1, "outcome": 1, "id": 1, "client_id": 1, "name": 2,
    }  # fmt: skip


def test_admin_actions_retry_and_cancel_for_those_who_may(project: Project) -> None:
    def scenario():
        from django.contrib.auth.models import Permission, User
        from django.test import Client
        from shop.tasks import fail, pq

        from pq_adapters.django.models import Task

        ids = pq.enqueue_many(fail.call(str(i)) for i in range(2))
        pq.cancel(ids[0])
        boss = Client()
        boss.force_login(User.objects.create_superuser("boss", password="x"))
        reader = User.objects.create_user("reader", password="x", is_staff=True)
        reader.user_permissions.add(Permission.objects.get(codename="view_task", content_type__app_label="pq"))
        guest = Client()
        guest.force_login(reader)

        def act(client, action):
            client.post("/admin/pq/task/", {"action": action, "_selected_action": [str(i) for i in ids]})
            return [Task.objects.get(pk=i).status for i in ids]

        return [act(guest, "retry_tasks"), act(boss, "retry_tasks"), act(boss, "cancel_tasks")]

    assert project.run(scenario) == [["cancelled", "pending"], ["pending", "pending"], ["cancelled", "cancelled"]]


def test_admin_page_has_buttons_to_retry_and_cancel_for_those_who_may(project: Project) -> None:
    def scenario():
        import re

        from django.contrib.auth.models import Permission, User
        from django.test import Client
        from shop.tasks import fail, pq

        from pq_adapters.django.models import Task

        task = pq.enqueue(fail.call("once"))
        home = f"/admin/pq/task/{int(task)}"
        boss = Client(enforce_csrf_checks=True)
        boss.force_login(User.objects.create_superuser("boss", password="x"))
        reader = User.objects.create_user("reader", password="x", is_staff=True)
        reader.user_permissions.add(Permission.objects.get(codename="view_task", content_type__app_label="pq"))
        guest = Client()
        guest.force_login(reader)

        def press(client, label):
            page = client.get(f"{home}/change/").content.decode()
            form = r'<form method="post" action="([^"]+)">.*?value="([^"]+)"[^>]*><input type="submit" value="([^"]+)"'
            forms = re.findall(form, page)
            [(url, token, _)] = [found for found in forms if found[2] == label]
            answer = client.post(url, {"csrfmiddlewaretoken": token}, follow=True)
            return re.findall(r'<li class="(?:success|warning)">(.*?)</li>', answer.content.decode())

        def labels(client):
            return re.findall(r'<input type="submit" value="([^"]+)">', client.get(f"{home}/change/").content.decode())

        told = [labels(boss), press(boss, "Cancel"), labels(boss), press(boss, "Run again"), labels(guest)]
        told += [guest.post(f"{home}/cancel/").status_code, boss.get(f"{home}/cancel/").status_code]
        told += [boss.post(f"{home}/cancel/").status_code]  # without a token
        lenient = Client()
        lenient.force_login(User.objects.get(username="boss"))
        told += [lenient.post("/admin/pq/task/99999/retry/").status_code]
        told += [Client().post(f"{home}/cancel/").headers["Location"].partition("?")[0]]
        return [*told, Task.objects.get().status]

    assert project.run(scenario) == [
        *[["Cancel"], ["Task 1 is cancelled."], ["Run again"], ["Task 1 runs again."], []],
        *[403, 405, 403, 404, "/admin/login/", "pending"],
    ]
