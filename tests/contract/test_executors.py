"""One exercise that the executor of every kind of connection must pass."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pq_core import PQ, DuplicateClientId, NotMigrated, TaskGroup, TransactionRequired
from pq_core.schema import migrate
from tests.extras import needs

_spec = importlib.util.spec_from_file_location("pq_contract_connections", Path(__file__).with_name("connections.py"))
assert _spec is not None
assert _spec.loader is not None
connections = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = connections
_spec.loader.exec_module(connections)

ODD_SCHEMA = "100%: \"a\" 'b' %s :name {x} \\ ü"
ODD_TEXT = "%s %(x)s :name $1 \\ '\" {} ü 漢 \U0001f418"
jobs = TaskGroup()


@jobs.task(name="echo")
def echo(text: object) -> object:
    return text


@pytest.fixture(
    params=[
        pytest.param(open_, id=kind, marks=needs(*connections.modules_for(kind)))
        for kind, open_ in connections.KINDS.items()
    ]
)
def voice(request: pytest.FixtureRequest, database: str) -> Iterator[connections.Voice]:
    with request.param(database) as voice:
        yield voice


@pytest.fixture
def pq(database: str) -> Iterator[PQ]:
    with PQ(database) as pq:
        pq.include(jobs)
        yield pq


def test_task_exists_after_the_commit_and_not_before(pq: PQ, voice: connections.Voice) -> None:
    task_id = voice.call(pq, "enqueue", echo.call("x"))

    assert voice.call(pq, "get_task", task_id).payload == {"args": ["x"], "kwargs": {}}
    assert pq.get_task(task_id) is None
    voice.commit()
    assert pq.get_task(task_id) is not None


def test_rollback_takes_the_task_along(pq: PQ, voice: connections.Voice) -> None:
    task_id = voice.call(pq, "enqueue", echo.call("x"))
    voice.rollback()

    assert pq.get_task(task_id) is None


def test_duplicate_leaves_the_transaction_usable(pq: PQ, voice: connections.Voice) -> None:
    first = voice.call(pq, "enqueue", echo.options(client_id="a").call(1))

    with pytest.raises(DuplicateClientId) as caught:
        voice.call(pq, "enqueue", echo.options(client_id="a").call(2))
    second = voice.call(pq, "enqueue", echo.options(client_id="b").call(3))
    voice.commit()

    assert caught.value.existing_id == first
    assert [task.id for task in pq.list_tasks()] == [second, first]


def test_duplicate_in_a_batch_keeps_all_of_it_out_and_the_transaction_usable(pq: PQ, voice: connections.Voice) -> None:
    first = voice.call(pq, "enqueue", echo.options(client_id="a").call(1))

    with pytest.raises(DuplicateClientId):
        voice.call(pq, "enqueue_many", [echo.options(client_id=name).call(2) for name in "zab"])
    voice.commit()

    assert [task.id for task in pq.list_tasks()] == [first]


def test_every_character_passes(pq: PQ, voice: connections.Voice) -> None:
    task_id = voice.call(pq, "enqueue", echo.options(client_id=ODD_TEXT, queue="ü:%s").call(ODD_TEXT))

    task = voice.call(pq, "get_task_by_client_id", ODD_TEXT)
    assert (task.id, task.payload["args"], task.queue) == (task_id, [ODD_TEXT], "ü:%s")
    assert [found.id for found in voice.call(pq, "list_tasks", queue="ü:%s", status="pending")] == [task_id]


def test_schema_may_have_any_name(database: str, voice: connections.Voice) -> None:
    migrate(database, ODD_SCHEMA)
    with PQ(database, schema=ODD_SCHEMA) as pq:
        pq.include(jobs)

        ids = voice.call(pq, "enqueue_many", [echo.call(i) for i in range(3)])
        assert voice.call(pq, "cancel", ids[0])
        assert voice.call(pq, "retry", ids[0])
        assert voice.call(pq, "reschedule", ids[1], priority=3)
        assert voice.call(pq, "pending_count") == 3
        assert voice.call(pq, "stats").due == 3
        voice.commit()
        assert pq.wait is not None
        assert len(pq.list_pending()) == 3


def test_rolling_back_to_a_savepoint_takes_what_came_after_it(pq: PQ, voice: connections.Voice) -> None:
    kept = voice.call(pq, "enqueue", echo.call("before"))
    roll_back = voice.savepoint()
    lost = voice.call(pq, "enqueue_many", [echo.call(i) for i in range(3)])
    roll_back()
    after = voice.call(pq, "enqueue", echo.call("after"))
    voice.commit()

    assert [task.id for task in pq.list_tasks()] == [after, kept]
    assert [pq.get_task(task_id) for task_id in lost] == [None] * 3


def test_error_after_a_savepoint_costs_no_more_than_that(pq: PQ, voice: connections.Voice) -> None:
    kept = voice.call(pq, "enqueue", echo.call("before"))
    roll_back = voice.savepoint()
    with pytest.raises(NotMigrated):
        voice.call(PQ(schema="nowhere"), "stats")
    roll_back()
    voice.commit()

    assert [task.id for task in pq.list_tasks()] == [kept]


def test_upsert_and_cancel_wait_for_the_commit(pq: PQ, voice: connections.Voice) -> None:
    upserted, cancelled = pq.enqueue_many([echo.options(client_id="a").call("old"), echo.call(2)])

    assert voice.call(pq, "upsert", echo.options(client_id="a").call("new")) == upserted
    assert voice.call(pq, "cancel", cancelled)
    before = [(task.payload["args"], task.status) for task in pq.list_tasks()]
    voice.commit()

    assert before == [([2], "pending"), (["old"], "pending")]
    assert [(task.payload["args"], task.status) for task in pq.list_tasks()] == [
        ([2], "cancelled"),
        (["new"], "pending"),
    ]


def test_schedule_waits_for_the_commit(pq: PQ, voice: connections.Voice) -> None:
    schedule_id = voice.call(pq, "schedule", echo.call(1), cron="0 9 * * 1", timezone="Europe/Berlin", key="weekly")
    before = pq.periodic_count()
    voice.commit()

    assert before == 0
    assert [(found.id, found.key) for found in pq.list_schedules()] == [(schedule_id, "weekly")]
    assert voice.call(pq, "unschedule", "echo", key="weekly")
    voice.rollback()
    assert pq.periodic_count() == 1


def test_ten_thousand_in_one_statement_keep_their_order(pq: PQ, voice: connections.Voice) -> None:
    ids = voice.call(pq, "enqueue_many", (echo.call(i) for i in range(10_000)))
    voice.commit()

    assert ids == sorted(set(ids))
    with pq.session() as connection:
        rows = connection.execute("SELECT (payload -> 'args' -> 0)::int FROM pq_tasks ORDER BY id").fetchall()
    assert [row[0] for row in rows] == list(range(10_000))


def test_open_transaction_satisfies_require_transaction(pq: PQ, voice: connections.Voice) -> None:
    call = echo.options(require_transaction=True).call(1)

    assert voice.call(pq, "enqueue", call)
    with pytest.raises(TransactionRequired):
        pq.enqueue(call)


def test_missing_tables_are_named_with_the_fix(database: str, voice: connections.Voice) -> None:
    pq = PQ(database, schema="nowhere")

    with pytest.raises(NotMigrated, match="pq migrate --schema nowhere") as caught:
        voice.call(pq, "stats")
    assert caught.value.__cause__ is not None


def test_failed_transaction_stays_the_drivers_error(pq: PQ, voice: connections.Voice) -> None:
    with pytest.raises(NotMigrated):
        voice.call(PQ(schema="nowhere"), "stats")

    with pytest.raises(Exception, match="current transaction is aborted") as caught:
        voice.call(pq, "stats")
    assert not isinstance(caught.value, NotMigrated)
    causes = [caught.value, caught.value.__cause__, getattr(caught.value, "orig", None)]
    states = [getattr(cause, name, None) for cause in causes for name in ("sqlstate", "pgcode")]
    assert "25P02" in states, "in_failed_sql_transaction"
