"""Signed pickles and encrypted payloads: through every way in and out, and what becomes of forgeries."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pq_core import (
    PQ,
    InvalidOption,
    KeysNotConfigured,
    PayloadDecodeError,
    PayloadError,
    PayloadTooLarge,
    TaskFailed,
    TaskGroup,
    TaskOptions,
    TaskStatus,
)
from pq_core.sealing import Seals
from tests.integration import sealed_tasks as tasks
from tests.integration.sealed_tasks import Bomb, Shape
from tests.integration.worker_process import PATIENCE, running, until_empty

OLD, NEW = "old-key-" * 5, "new-key-" * 5
DAY = datetime.date(2030, 1, 31)
CARD = "4000-1234-5678"


@pytest.fixture
def pq(database: str) -> Iterator[PQ]:
    with PQ(database, tasks=[tasks.__name__], keys=[OLD]) as pq:
        yield pq


def stored(connection: psycopg.Connection, task_id: int) -> Any:
    row = connection.execute("SELECT payload FROM pq_tasks WHERE id = %s", (task_id,)).fetchone()
    assert row is not None
    return row[0]


def forge(connection: psycopg.Connection, name: str, payload: Any, **columns: Any) -> int:
    row = connection.execute(
        "INSERT INTO pq_tasks (name, payload, run_at, due, version) VALUES (%s, %s, now(), true, %s) RETURNING id",
        (name, json.dumps(payload), columns.get("version", 1)),
    ).fetchone()
    assert row is not None
    return int(row[0])


# --- the way through


def test_a_pickle_arrives_as_it_was_and_so_does_its_result(pq: PQ, connection: psycopg.Connection) -> None:
    task_id = pq.enqueue(tasks.turn.call(Shape(3), by=2))
    payload = stored(connection, task_id)
    (sealed,) = payload["args"]
    assert sealed["$pq"] == "pickle"
    assert payload["kwargs"] == {}
    (ended,) = pq.run_inline()
    assert ended.result == Shape(5)
    assert pq.wait(task_id, timeout=5) == Shape(5)


def test_an_encrypted_payload_can_be_read_by_nobody_without_the_key(pq: PQ, connection: psycopg.Connection) -> None:
    task_id = pq.enqueue(tasks.charge.call(CARD, when=DAY))
    pq.run_inline()
    assert pq.wait(task_id, timeout=5) == {"card": CARD, "when": DAY}
    (row,) = connection.execute("SELECT row_to_json(t)::text FROM pq_tasks t WHERE id = %s", (task_id,)).fetchone()  # type: ignore[misc]
    assert CARD not in row
    assert '"$pq": "encrypted"' in row or '"$pq":"encrypted"' in row


def test_get_task_shows_what_is_encrypted_to_those_who_have_the_key(pq: PQ, database: str) -> None:
    task_id = pq.enqueue(tasks.charge.call(CARD, when=DAY), client_id="one")
    pq.run_inline()
    shown = pq.get_task(task_id)
    assert shown is not None
    assert shown.payload["args"] == [CARD]
    assert shown.result["card"] == CARD
    assert pq.get_task_by_client_id("one") == shown
    for keys in ([NEW], []):
        with PQ(database, tasks=[tasks.__name__], keys=keys) as stranger:
            hidden = stranger.get_task(task_id)
            assert hidden is not None
            assert CARD not in repr(hidden)
            with pytest.raises((PayloadDecodeError, KeysNotConfigured)):
                stranger.wait(task_id, timeout=5)


def test_get_task_never_unpickles(pq: PQ, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    task_id = pq.enqueue(tasks.turn.call(Bomb(str(mark))))  # type: ignore[arg-type]
    assert pq.get_task(task_id) is not None
    assert not mark.exists()


def test_every_way_in(pq: PQ, connection: psycopg.Connection) -> None:
    many = pq.enqueue_many([tasks.turn.call(Shape(1)), tasks.charge.call(CARD, when=DAY), tasks.plain.call("x")])
    once = pq.upsert(tasks.charge.call("first", when=DAY), client_id="c")
    assert pq.upsert(tasks.charge.call("second", when=DAY), client_id="c") == once
    failing = pq.enqueue(tasks.plain.options(on_failure=tasks.charge.call(CARD, when=DAY)).call("y"))
    ends = {ended.id: ended for ended in pq.run_inline()}
    assert [ends[i].result for i in many] == [Shape(2), {"card": CARD, "when": DAY}, "x"]
    assert ends[once].result["card"] == "second"
    assert CARD not in str(connection.execute("SELECT on_failure FROM pq_tasks WHERE id = %s", (failing,)).fetchone())
    assert pq.retry(many[1])
    (again,) = pq.run_inline()
    assert again.result == {"card": CARD, "when": DAY}


async def arun(pq: PQ) -> Any:
    async with pq:
        task_id = await pq.aenqueue(tasks.charge.call(CARD, when=DAY))
        await pq.arun_inline()
        return await pq.await_(task_id, timeout=5)


def test_async_twins(database: str) -> None:
    import asyncio

    assert asyncio.run(arun(PQ(database, tasks=[tasks.__name__], keys=[OLD]))) == {"card": CARD, "when": DAY}


def test_a_schedule_keeps_its_encrypted_arguments_and_is_not_changed_by_being_declared_again(
    pq: PQ, connection: psycopg.Connection
) -> None:
    for _ in range(2):
        pq.schedule(tasks.charge.call(CARD, when=DAY), run_every=timedelta(hours=1), key="k")
    found = connection.execute("SELECT count(*), min(payload::text), min(cardinality(superseded)) FROM pq_periodic")
    count, payload, superseded = found.fetchone()  # type: ignore[misc]
    assert (count, superseded) == (1, 0)
    assert CARD not in payload
    task_id = pq.run_schedule_now(tasks.charge, key="k")
    pq.run_inline()
    assert pq.wait(task_id, timeout=5)["card"] == CARD


def test_through_a_real_worker_with_retries_and_reused_children(database: str, tmp_path: Path) -> None:
    variables = {"PQ_KEYS": f" {NEW} ,{OLD}"}
    with PQ(database, tasks=[tasks.__name__], keys=[OLD]) as pq:
        ids = [pq.enqueue(tasks.again.call(f"word{n}")) for n in range(4)]
        shape = pq.enqueue(tasks.turn.call(Shape(7)))
        until_empty(
            database,
            tmp_path,
            app=f"{tasks.__name__}:create_pq",
            environment=variables,
            tasks_per_child=3,
            concurrency=2,
        )
        # The worker sealed the results with its first key, which this process does not have.
        with pytest.raises(PayloadDecodeError, match="none of the keys"):
            pq.wait(ids[0], timeout=5)
    with PQ(database, tasks=[tasks.__name__], keys=[NEW, OLD]) as pq:
        assert [pq.wait(i, timeout=5) for i in ids] == [f"WORD{n}" for n in range(4)]
        assert pq.wait(shape, timeout=5) == Shape(8)


# --- forgeries


def failure_of(pq: PQ, task_id: int) -> str:
    pq.run_inline()
    record = pq.get_task(task_id)
    assert record is not None
    assert record.status is TaskStatus.FAILED, record
    assert record.error is not None
    return record.error


def test_a_forged_signature_fails_the_task_without_unpickling(
    pq: PQ, connection: psycopg.Connection, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    forged = Seals([NEW]).arguments(
        "pickle", (Bomb(str(mark)),), {}, name="s.turn", version=1, signature=None, limit=10**6
    )
    task_id = forge(connection, "s.turn", forged)
    assert "signature is missing or does not fit" in failure_of(pq, task_id)
    assert not mark.exists()


@pytest.mark.parametrize("signature", [None, "", 7, "é", "0" * 64, ["a"]])
def test_a_missing_signature_fails_the_task_without_unpickling(
    pq: PQ, connection: psycopg.Connection, tmp_path: Path, signature: Any
) -> None:
    mark = tmp_path / "mark"
    payload = pq.registry.seals.arguments(
        "pickle", (Bomb(str(mark)),), {}, name="s.turn", version=1, signature=None, limit=10**6
    )
    payload["args"][0]["signature"] = signature
    assert "nothing was unpickled" in failure_of(pq, forge(connection, "s.turn", payload))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("source", "target", "version"),
    [
        (tasks.turn.call(Shape(3)), "s.other", 1),
        (tasks.turn.call(Shape(3)), "s.plain", 1),
        (tasks.charge.call(CARD, when=DAY), "s.refund", 1),
        (tasks.charge.call(CARD, when=DAY), "s.plain", 1),
        (tasks.charge.call(CARD, when=DAY), "s.turn", 1),
        (tasks.turn.call(Shape(3)), "s.charge", 1),
        (tasks.turn.call(Shape(3)), "s.turn", 0),
    ],
)
def test_a_sealed_payload_can_not_be_moved_to_another_task(
    pq: PQ, connection: psycopg.Connection, source: Any, target: str, version: int
) -> None:
    payload = stored(connection, pq.enqueue(source, run_at=datetime.datetime(2040, 1, 1, tzinfo=datetime.UTC)))
    error = failure_of(pq, forge(connection, target, payload, version=version))
    assert "PayloadDecodeError" in error
    assert CARD not in error


def test_a_result_can_not_be_moved_to_another_task(pq: PQ, connection: psycopg.Connection) -> None:
    one, two = pq.enqueue(tasks.turn.call(Shape(1))), pq.enqueue(tasks.turn.call(Shape(2)))
    pq.run_inline()
    connection.execute(
        "UPDATE pq_tasks SET result = (SELECT result FROM pq_tasks WHERE id = %s) WHERE id = %s", (one, two)
    )
    with pytest.raises(PayloadDecodeError, match="does not fit the result of task"):
        pq.wait(two, timeout=5)


def test_a_payload_that_is_not_sealed_is_refused_where_the_task_says_it_is(
    pq: PQ, connection: psycopg.Connection
) -> None:
    for name in ("s.turn", "s.charge"):
        error = failure_of(pq, forge(connection, name, {"args": ["x"], "kwargs": {"when": "2030-01-31"}}))
        assert "not written by code that has the key" in error


def test_a_pickle_is_refused_by_a_task_that_did_not_opt_in(
    pq: PQ, connection: psycopg.Connection, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    payload = pq.registry.seals.arguments(
        "pickle", (Bomb(str(mark)),), {}, name="s.plain", version=1, signature=None, limit=10**6
    )
    assert "the task s.plain does not say" in failure_of(pq, forge(connection, "s.plain", payload))
    assert not mark.exists()


def test_an_argument_that_looks_sealed_is_an_argument(pq: PQ) -> None:
    looks = {"$pq": "pickle", "value": "gASVBQ==", "signature": ""}
    group = TaskGroup(prefix="looks")
    seen = []

    @group.task(name="look")
    def look(value: object) -> object:
        seen.append(value)
        return value

    pq.include(group)
    pq.enqueue(look.call(looks))
    (ended,) = pq.run_inline()
    assert seen == [looks]
    assert ended.result == looks


# --- keys


def test_without_a_key_nothing_is_enqueued(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PQ_KEYS", raising=False)
    with PQ(database, tasks=[tasks.__name__]) as pq:
        for call in (tasks.turn.call(Shape(1)), tasks.charge.call(CARD, when=DAY)):
            with pytest.raises(KeysNotConfigured, match="PQ_KEYS"):
                pq.enqueue(call)
        assert pq.pending_count() == 0


def test_a_worker_without_the_key_puts_the_task_back(database: str, tmp_path: Path) -> None:
    with PQ(database, tasks=[tasks.__name__], keys=[OLD]) as pq:
        task_id = pq.enqueue(tasks.turn.call(Shape(1)))
        app = f"{tasks.__name__}:create_pq"
        with running(database, tmp_path, app=app, unroutable_after=0.1, release_delay=0.2):
            with pytest.raises(TaskFailed):
                pq.wait(task_id, timeout=PATIENCE)
        record = pq.get_task(task_id)
        assert record is not None
        assert "unroutable" in str(record.error)
        assert "PQ_KEYS" in str(record.error)


@pytest.mark.parametrize("keys", [["short"], "short", ["x" * 40, 7], [b"x" * 40], f"{'x' * 40},tiny", [""]])
def test_a_key_that_is_none_is_refused_without_saying_it(keys: Any) -> None:
    with pytest.raises(InvalidOption) as refused:
        PQ(keys=keys)
    assert "short" not in str(refused.value)
    assert "tiny" not in str(refused.value)


def test_keys_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    pq = PQ(keys=[OLD])
    assert OLD not in repr(pq) + repr(pq.registry.seals)


def test_rotation(pq: PQ, database: str) -> None:
    ids = [pq.enqueue(tasks.turn.call(Shape(1))), pq.enqueue(tasks.charge.call(CARD, when=DAY))]
    with PQ(database, tasks=[tasks.__name__], keys=f"{NEW},{OLD}") as rotated:
        assert [ended.id for ended in rotated.run_inline() if ended.error is None] == ids
        assert rotated.wait(ids[1], timeout=5)["card"] == CARD


# --- limits and options


def test_what_can_not_be_pickled_or_is_too_large_is_refused_at_enqueue(database: str) -> None:
    with PQ(database, tasks=[tasks.__name__], keys=[OLD], payload_limit=1000) as pq:
        with pytest.raises(PayloadError, match="can't be pickled"):
            pq.enqueue(tasks.turn.call(lambda: 1))  # type: ignore[arg-type]
        with pytest.raises(PayloadTooLarge, match="once sealed"):
            pq.enqueue(tasks.turn.call("x" * 900))  # type: ignore[arg-type]
        with pytest.raises(PayloadTooLarge, match="once sealed"):
            pq.enqueue(tasks.charge.call("x" * 900, when=DAY))


def test_a_call_can_not_say_what_belongs_to_the_task() -> None:
    for name in ("payload", "sensitive"):
        with pytest.raises(InvalidOption, match="say it at the task's definition"):
            tasks.plain.options(**{name: True})  # type: ignore[arg-type]
    group = TaskGroup(prefix="bad")
    with pytest.raises(InvalidOption, match="'json' or 'pickle' or 'encrypted'"):
        group.task(name="x", payload="yaml")(lambda: None)  # type: ignore[arg-type]


def test_a_default_encrypts_all_tasks(database: str) -> None:
    with PQ(database, tasks=[tasks.__name__], keys=[OLD], defaults=TaskOptions(payload="encrypted")) as pq:
        task_id = pq.enqueue(tasks.plain.call(CARD))
        with psycopg.connect(database) as connection:
            assert CARD not in json.dumps(stored(connection, task_id))
        assert [ended.result for ended in pq.run_inline()] == [CARD]
