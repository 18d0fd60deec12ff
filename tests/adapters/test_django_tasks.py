"""The backend of django.tasks, held against what Django's own tests expect of one."""

from __future__ import annotations

import json
import sys

import psycopg
import pytest

from tests.adapters import django_processes
from tests.adapters.django_processes import Project

migrated_project, project = django_processes.migrated_project, django_processes.project

if sys.version_info < (3, 12):
    pytest.skip("django.tasks came with Django 6.0, which needs Python 3.12", allow_module_level=True)


def rows(project: Project, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(project.dsn) as connection:
        return connection.execute(query).fetchall()  # type: ignore[arg-type]


def test_enqueue_returns_a_result_that_is_ready_and_refreshes(project: Project) -> None:
    def enqueue():
        import pytest
        from django.tasks import TaskResultStatus, default_task_backend
        from shop import mail

        assert all(
            getattr(default_task_backend, f"supports_{what}")
            for what in ("defer", "async_task", "get_result", "priority")
        )
        result = mail.add.enqueue(1, b=(2, 3)[0])
        assert (result.status, result.is_finished, result.attempts) == (TaskResultStatus.READY, False, 0)
        assert (result.args, result.kwargs, result.backend, result.errors) == ([1], {"b": 2}, "default", [])
        assert result.enqueued_at is not None
        assert result.started_at is result.finished_at is result.last_attempted_at is None
        with pytest.raises(ValueError, match="Task has not finished yet"):
            _ = result.return_value
        assert mail.heard == ["enqueued PQBackend READY add 0"]
        result.refresh()
        assert result.status == TaskResultStatus.READY
        return result.id

    result_id = project.run(enqueue)
    project.work()

    def look():
        import asyncio
        import os

        from django.tasks import TaskResultStatus
        from django.tasks.exceptions import TaskResultDoesNotExist, TaskResultMismatch
        from shop import mail
        from shop.tasks import fail, pq

        result = mail.add.get_result(os.environ["RESULT"])
        assert (result.status, result.return_value, result.attempts) == (TaskResultStatus.SUCCESSFUL, 3, 1)
        assert result.enqueued_at < result.started_at < result.finished_at
        assert result.last_attempted_at == result.started_at
        assert (result.args, result.kwargs, result.task) == ([1], {"b": 2}, mail.add)
        asyncio.run(result.arefresh())
        assert asyncio.run(mail.add.aget_result(result.id)).id == result.id
        missing = 0
        for result_id in ("0", "no number", "", str(pq.enqueue(fail.call("not Django's")))):
            try:
                mail.add.get_result(result_id)
            except TaskResultDoesNotExist:
                missing += 1
        try:
            mail.greet.get_result(result.id)
        except TaskResultMismatch:
            missing += 1
        return missing

    assert project.run(look, RESULT=result_id) == 5


def test_enqueue_joins_atomic(project: Project) -> None:
    def scenario():
        import asyncio

        from asgiref.sync import sync_to_async
        from django.db import transaction
        from shop import mail

        from pq_adapters.django import pq

        for kept in (True, False):
            try:
                with transaction.atomic():
                    mail.add.enqueue(1)
                    try:
                        with transaction.atomic():
                            mail.add.enqueue(2)
                            raise KeyError
                    except KeyError:
                        pass
                    if not kept:
                        raise KeyError
            except KeyError:
                pass

        async def asynchronous():
            await mail.add.aenqueue(3)

            def refused():
                with transaction.atomic():
                    mail.add.enqueue(4)
                    transaction.set_rollback(True)

            await sync_to_async(refused)()

        asyncio.run(asynchronous())
        return [task.payload["args"] for task in pq.list_tasks()]

    assert project.run(scenario) == [[3], [1]]
    assert project.run(scenario, PROJECT_DRIVER="psycopg2") == [[3], [1], [3], [1]]


def test_worker_runs_tasks_with_context_priority_and_queue(project: Project) -> None:
    def enqueue():
        from shop import mail

        results = [
            mail.greet.enqueue("ann"),
            mail.greet.using(priority=-100, queue_name="default").enqueue(name="bob"),
            mail.agreet.enqueue("cy"),
            mail.second_time.using(max_attempts=2).enqueue(),
            mail.add.using(backend="other", queue_name="anything", priority=100).enqueue(1),
        ]
        return [result.id for result in results]

    ids = project.run(enqueue)
    project.work("--queues", "default,mail,anything")
    assert rows(project, "SELECT priority, queue, max_attempts FROM pq_tasks ORDER BY id") == [
        (60, "mail", 1),
        (-50, "default", 1),
        (50, "default", 1),
        (50, "default", 2),
        (150, "anything", 2),
    ]

    def look():
        import json
        import os

        from django.tasks import task_backends

        found = [task_backends["default"].get_result(i) for i in json.loads(os.environ["RESULTS"])]
        return [[r.return_value, r.attempts, r.backend, r.task.priority, r.task.queue_name] for r in found]

    first = {"name": "ann", "attempt": 1, "id": ids[0], "status": "RUNNING", "priority": 10, "queue": "mail"}
    second = {"name": "bob", "attempt": 1, "id": ids[1], "status": "RUNNING", "priority": -100, "queue": "default"}
    assert project.run(look, RESULTS=json.dumps(ids)) == [
        [first | {"errors": []}, 1, "default", 10, "mail"],
        [second | {"errors": []}, 1, "default", -100, "default"],
        ["cy of 0", 1, "default", 0, "default"],
        [[2, 2, "pq_core.errors.Retry"], 2, "default", 0, "default"],
        [2, 1, "other", 100, "anything"],
    ]


def test_failures_are_told_in_the_result_and_by_signals(project: Project) -> None:
    def enqueue():
        from shop import mail

        results = [
            mail.explode.enqueue("because\nof that"),
            mail.strange_result.using(max_attempts=3).enqueue(),
            mail.give_up.enqueue(),
            mail.crash.enqueue(),
            mail.sleep.using(timeout=0.5).enqueue(60),
            mail.add.enqueue(1),
            mail.add.enqueue(),
            mail.second_time.using(max_attempts=2).enqueue(),
        ]
        return [result.id for result in results]

    ids = project.run(enqueue)
    project.work(PROJECT_NOTE_SIGNALS="1")

    def look():
        import json
        import os

        from django.tasks import task_backends

        told = []
        for result_id in json.loads(os.environ["RESULTS"]):
            result = task_backends["default"].get_result(result_id)
            [error] = result.errors
            assert issubclass(error.exception_class, BaseException)
            told.append([result.status, error.exception_class_path, error.traceback.splitlines()[-1][:30]])
        return told

    failed = [ids[0], *ids[2:5]]  # what returned something odd has done its work
    assert [found[:2] for found in project.run(look, RESULTS=json.dumps(failed))] == [
        ["FAILED", "builtins.ValueError"],
        ["FAILED", "pq_core.errors.TaskCancelled"],
        ["FAILED", "pq_core.errors.TaskFailed"],
        ["FAILED", "pq_core.errors.TaskTimeout"],
    ]
    heard = sorted(rows(project, "SELECT customer, receipt FROM shop_order"))
    assert heard == sorted(
        [
            *((f"started PQBackend RUNNING {name} 1", "") for name in ("explode", "strange_result", "give_up")),
            *((f"started PQBackend RUNNING {name} 1", "") for name in ("crash", "sleep", "add", "add", "second_time")),
            ("started PQBackend RUNNING second_time 2", "pq_core.errors.Retry"),
            ("finished PQBackend FAILED explode 1", "builtins.ValueError"),
            ("finished PQBackend SUCCESSFUL strange_result 1", ""),
            ("finished PQBackend FAILED give_up 1", "pq_core.errors.TaskCancelled"),
            ("finished PQBackend FAILED crash 1", "pq_core.errors.TaskFailed"),
            ("finished PQBackend FAILED sleep 1", "pq_core.errors.TaskTimeout"),
            ("finished PQBackend FAILED add 1", "builtins.TypeError"),
            ("finished PQBackend SUCCESSFUL add 1", ""),
            ("finished PQBackend SUCCESSFUL second_time 2", "pq_core.errors.Retry"),
        ]
    )


def test_failed_write_is_rolled_back_only_by_atomic(project: Project) -> None:
    """A task is no transaction, as in Django: what it wrote before it failed stays."""

    def enqueue():
        from shop import mail

        mail.writes_then_fails.enqueue()

    project.run(enqueue)
    project.work()
    assert rows(project, "SELECT customer FROM shop_order") == [("written",)]


def test_run_after_takes_a_moment_or_a_distance(project: Project) -> None:
    def scenario():
        from datetime import datetime, timedelta

        from django.tasks.exceptions import InvalidTask
        from django.utils import timezone
        from shop import mail

        from pq_adapters.django import pq

        moment = timezone.now() + timedelta(hours=2)
        first = mail.add.using(run_after=moment).enqueue(1)
        second = mail.add.using(run_after=timedelta(hours=3)).enqueue(1)
        third = mail.add.enqueue(1)
        assert mail.add.get_result(first.id).task.run_after == moment
        assert mail.add.get_result(third.id).task.run_after is None
        refused = 0
        for run_after in (datetime(2030, 1, 1), timedelta(seconds=-1)):
            try:
                mail.add.using(run_after=run_after)
            except InvalidTask:
                refused += 1
        hours = [
            (pq.get_task(int(r.id)).run_at - timezone.now()).total_seconds() / 3600 for r in (first, second, third)
        ]
        return [refused, *map(round, hours)]

    assert project.run(scenario) == [2, 2, 3, 0]


def test_own_options_are_taken_by_using(project: Project) -> None:
    def scenario():
        import pickle

        import django
        from django.tasks.exceptions import InvalidTask
        from shop import mail

        from pq_adapters.django import pq
        from pq_core import Backoff, DuplicateClientId, TransactionRequired

        named = mail.add.using(
            client_id="once", max_attempts=4, timeout=9, memory_limit=2**30, backoff=Backoff(base=1), headers={"a": "b"}
        )
        first = named.enqueue(1)
        record = pq.get_task(int(first.id))
        errors = []
        for attempt in (
            lambda: named.enqueue(2),
            lambda: mail.add.using(require_transaction=True).enqueue(2),
            lambda: mail.add.using(max_attempts=0),
            lambda: mail.add.using(max_attemps=2),
            lambda: mail.add.using(priority=101),
            lambda: mail.add.using(queue_name="unknown"),
            lambda: mail.add.enqueue({1, 2}),
        ):
            try:
                attempt()
            except (DuplicateClientId, TransactionRequired, InvalidTask, TypeError) as error:
                errors.append(type(error).__name__)
        again = named.using(on_duplicate="return").enqueue(2)
        assert (again.id, again.args) == (first.id, [1])
        assert pickle.loads(pickle.dumps(named)) == named
        if django.VERSION >= (6, 1):
            from django.tasks import task

            declared = task(max_attempts=7, retry_on=(OSError,))(mail.__dict__["facts"].func)
            assert declared.max_attempts == 7
        return [record.client_id, record.max_attempts, record.max_runtime_seconds, dict(record.headers), errors]

    errors = ["DuplicateClientId", "TransactionRequired", "InvalidTask", "TypeError"]
    errors += ["InvalidTask", "InvalidTask", "PayloadError"]
    assert project.run(scenario) == ["once", 4, 9.0, {"a": "b"}, errors]


def test_argument_that_is_no_json_is_refused_by_name_with_the_fix(project: Project) -> None:
    def scenario():
        from datetime import datetime
        from uuid import uuid4

        from shop import mail

        from pq_core import PayloadError

        said = []
        for args, kwargs in (((1, datetime(2030, 1, 1)), {}), ((), {"b": [{"deep": uuid4()}]}), ((b"\xff",), {})):
            try:
                mail.add.enqueue(*args, **kwargs)
            except PayloadError as error:
                said.append(str(error))
        return said

    first, second, third = project.run(scenario)

    assert "shop.mail.add.enqueue(): argument 2 is" in first
    assert "(datetime.datetime)" in first
    assert "value.isoformat()" in first
    assert "argument 'b' is, or holds" in second
    assert "argument 1 is" in third


def test_task_that_no_worker_imports_is_refused_with_the_fix(project: Project) -> None:
    def scenario():
        from django.tasks.exceptions import InvalidTask
        from shop import mail

        try:
            mail.add.enqueue(1)
        except InvalidTask as error:
            return str(error)

    assert "PQ = {'tasks': ['shop.mail']}" in project.run(scenario, PROJECT_PQ='{"tasks": []}')


def test_row_that_names_something_else_runs_nothing(project: Project) -> None:
    with psycopg.connect(project.dsn) as connection:
        for name in ("os.system", "shop.mail.os", "shop.mail.note", "django.core.management.call_command"):
            connection.execute(
                "SELECT pq_enqueue(jsonb_build_object('name', %s::text, 'args', '[\"true\"]'::jsonb))", [name]
            )

    done = project.work()

    assert rows(project, "SELECT DISTINCT status, outcome FROM pq_tasks") == [("pending", "released")], done.stderr


def test_checks_name_mistakes_in_tasks(project: Project) -> None:
    said = project.manage("check", check=False, PROJECT_TASKS_OPTIONS='{"max_attempt": 1, "timeout": -1}')

    assert said.returncode == 1
    assert "(pq.E005) TASKS['other']['OPTIONS'] has an unknown key: 'max_attempt'." in said.stderr
    assert "(pq.E006)" in said.stderr


def test_inside_a_testcase_tasks_are_seen_and_rolled_back(project: Project) -> None:
    def scenario():
        import unittest

        from django.test import TestCase
        from shop import mail

        class Tests(TestCase):
            def test_one(self):
                result = mail.add.enqueue(1)
                self.assertEqual(mail.add.get_result(result.id).status, "READY")

            test_two = test_one

        result = unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(Tests))
        from pq_adapters.django import pq

        return [result.testsRun, len(result.errors) + len(result.failures), pq.pending_count()]

    assert project.run(scenario) == [2, 0, 0]


def test_what_django_expects_of_a_backend_holds(project: Project) -> None:
    """The cases that Django holds its own backends against, in our words, on a real database."""

    def scenario():
        import asyncio
        import unittest
        from dataclasses import FrozenInstanceError
        from datetime import datetime, timedelta

        from django.tasks import TaskResultStatus, default_task_backend, task, task_backends
        from django.tasks.exceptions import (
            InvalidTask,
            InvalidTaskBackend,
            TaskResultDoesNotExist,
            TaskResultMismatch,
        )
        from django.test import TestCase
        from django.utils import timezone
        from shop import mail

        from pq_adapters.django import PQBackend, pq

        backend = task_backends["default"]

        class Backend(TestCase):
            def test_is_the_one_of_the_settings(self):
                self.assertIsInstance(backend, PQBackend)
                self.assertEqual(default_task_backend.alias, "default")
                self.assertIs(mail.add.get_backend(), backend)

            def test_invalid_tasks_are_refused(self):
                mistakes = (
                    {"priority": 101},
                    {"priority": -101},
                    {"queue_name": "nowhere"},
                    {"run_after": datetime(2030, 1, 1)},
                    {"run_after": timedelta(seconds=-1)},
                )
                for changes in mistakes:
                    with self.subTest(changes), self.assertRaises(InvalidTask):
                        mail.add.using(**changes)
                with self.assertRaises(InvalidTaskBackend):
                    mail.add.using(backend="unknown")
                with self.assertRaises(InvalidTask):
                    task()(lambda: None)
                self.assertEqual(pq.pending_count(), 0)

            def test_arguments_must_be_json(self):
                with self.assertRaises(TypeError):
                    mail.add.enqueue(object())
                with self.assertRaises(TypeError):
                    asyncio.run(mail.add.aenqueue(object()))
                self.assertEqual(pq.pending_count(), 0)

            def test_a_call_is_the_function(self):
                self.assertEqual(mail.add.call(1, b=2), 3)
                self.assertEqual(pq.pending_count(), 0)

            def test_results_are_frozen_and_found_again(self):
                result = mail.add.using(priority=-7).enqueue(1, b=2)
                with self.assertRaises(FrozenInstanceError):
                    result.id = "7"
                again = backend.get_result(result.id)
                self.assertEqual(again.task, mail.add.using(priority=-7))
                self.assertEqual((again.id, again.args, again.kwargs), (result.id, [1], {"b": 2}))
                self.assertEqual((again.attempts, again.worker_ids, again.errors), (0, [], []))
                with self.assertRaises(TaskResultMismatch):
                    mail.greet.get_result(result.id)

            def test_unknown_results_do_not_exist(self):
                for unknown in ("0", "123456789", "", "no number", "x" * 400, "9" * 30, "-1", "²"):
                    with self.subTest(unknown), self.assertRaises(TaskResultDoesNotExist):
                        backend.get_result(unknown)

            def test_a_failed_result_has_no_value_and_says_why(self):
                result = mail.explode.enqueue("no")
                [ended] = pq.run_inline()
                self.assertEqual(ended.status, "failed")
                result.refresh()
                self.assertEqual((result.status, result.is_finished), (TaskResultStatus.FAILED, True))
                with self.assertRaisesMessage(ValueError, "Task failed"):
                    _ = result.return_value
                [error] = result.errors
                self.assertIs(error.exception_class, ValueError)
                self.assertIn("ValueError: no", error.traceback)
                self.assertEqual((result.attempts, len(result.worker_ids)), (1, 1))
                self.assertLessEqual(result.enqueued_at, result.started_at)
                self.assertLessEqual(result.started_at, result.finished_at)

            def test_later_is_later(self):
                result = mail.add.using(run_after=timezone.now() + timedelta(days=1)).enqueue(1)
                self.assertEqual(pq.run_inline(), [])
                result.refresh()
                self.assertEqual(result.status, TaskResultStatus.READY)
                self.assertGreater(result.task.run_after, timezone.now())

        result = unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(Backend))
        return [result.testsRun, [words for _, words in [*result.errors, *result.failures]]]

    assert project.run(scenario) == [8, []]
