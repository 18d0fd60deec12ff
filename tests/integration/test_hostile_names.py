"""Names, queues and keys of any kind: accepted and found again as they are, or refused clearly; never interpolated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pq_adapters.cli.root import root
from pq_core import PQ, InvalidOption, InvalidTask, TaskGroup
from tests.integration.worker_process import cloned

ODD = [
    "'",
    '"',
    "''; DROP TABLE pq_tasks; --",
    '"; DROP TABLE pq_tasks; --',
    "$$",
    "$pq$",
    "%s",
    "%(x)s",
    "{schema}",
    "{0}",
    "\\",
    "\\'; --",
    "🦆🐘",
    "é",
    "\u202egnirts",
    "a\0b",
    "\ud800",
    "line\nbreak",
    "\x1b[31m",
    "",
    " ",
    " padded ",
    "null",
    "../../etc/passwd",
    "x" * 255,
    "x" * 256,
    "x" * 10_000,
    "🦆" * 10_000,
]
texts = st.one_of(st.sampled_from(ODD), st.text(st.characters(), max_size=300))
property_test = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture(scope="module")
def pq(server: str, template: str) -> Iterator[PQ]:
    with cloned(server, template) as dsn, PQ(dsn, app="odd", tasks=[]) as pq:
        yield pq
        assert pq.pending_count() >= 0  # the tables are there still


def declared(pq: PQ, name: str) -> TaskGroup:
    group = TaskGroup()
    group.task(name=name)(lambda: None)
    return group


@property_test
@given(texts, texts, texts)
def test_through_the_client(pq: PQ, name: str, queue: str, client_id: str) -> None:
    with PQ(pq.dsn) as own:
        try:
            group = declared(own, name)
            own.include(group)
            (task,) = group.tasks
            task_id = own.enqueue(task.options(queue=queue, client_id=client_id, on_duplicate="return").call())
        except (InvalidTask, InvalidOption):
            return
        record = own.get_task(task_id)
        assert record is not None
        assert record.client_id == client_id
        if record.name == name and record.queue == queue:
            assert task_id in [found.id for found in own.list_tasks(queue=queue, name=name, client_id=client_id)]
        found = own.get_task_by_client_id(client_id)
        assert found is not None
        assert found.id == task_id


@property_test
@given(texts, texts)
def test_through_keys_of_schedules(pq: PQ, name: str, key: str) -> None:
    with PQ(pq.dsn) as own:
        try:
            group = declared(own, name)
            own.include(group)
            (task,) = group.tasks
            own.schedule(task.call(), run_every=timedelta(hours=1), key=key)
        except (InvalidTask, InvalidOption):
            return
        found = own.get_schedule(task, key=key)
        assert found is not None
        assert (found.name, found.key) == (name, key)
        assert own.unschedule(task, key=key)


@property_test
@given(texts, texts, texts)
def test_through_sql(pq: PQ, name: str, queue: str, client_id: str) -> None:
    spec = json.dumps({"name": name, "queue": queue, "client_id": client_id})
    with psycopg.connect(str(pq.dsn), autocommit=True) as connection:
        try:
            row = connection.execute("SELECT id FROM pq_enqueue(%s::jsonb)", (spec,)).fetchone()
        except psycopg.errors.DataError:  # NUL and lone surrogates are no jsonb; the others are said in words
            return
        assert row is not None
        found = connection.execute("SELECT client_id FROM pq_tasks WHERE id = %s", row).fetchone()
        assert found == (client_id,)


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_through_the_command_line(pq: PQ, text: str) -> None:
    environment = {"PQ_DATABASE_URL": str(pq.dsn)}
    for command in (
        ["tasks", "list", "--queue", text],
        ["tasks", "list", "--name", text],
        ["schedules", "show", text, "--key", text],
        ["tasks", "list", "--client-id", text],
        ["stats", "--schema", text],
    ):
        result = CliRunner().invoke(root, command, env=environment)
        assert result.exception is None or isinstance(result.exception, SystemExit), (command, result.exception)
        assert "Traceback" not in result.output
