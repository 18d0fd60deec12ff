"""Rows that nobody but an intruder or a slip of the hand writes: each fails clearly, and the worker goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pq_core import PQ, TaskRecord
from tests.integration import worker_tasks as tasks
from tests.integration.worker_process import PATIENCE, WorkerProcess, cloned, eventually, memory_of, running

ADD = {"name": "w.add", "payload": '{"args": [1, 2], "kwargs": {}}'}
DEEP = "[" * 3000 + "]" * 3000


@dataclass
class Row:
    """A row by its columns, as SQL literals, and what is to come of it."""

    columns: dict[str, Any]
    status: str = "failed"
    says: str = ""


def row(status: str = "failed", says: str = "", **columns: Any) -> Row:
    return Row({**ADD, **columns}, status, says)


ROWS: dict[str, Row] = {
    "unknown task": row(says="unroutable", name="no.such"),
    "function of a module that is not allowed": row(says="unroutable", name="os:system", payload='{"args": ["true"]}'),
    "attribute of an allowed kind": row(says="unroutable", name="tests.integration.worker_tasks:os.system"),
    "name of 1,000 characters": row(says="unroutable", name="x" * 1000),
    "name with lines": row(says="unroutable", name="a\nINFO forged: line\x1b[31m"),
    "name of odd characters": row(says="unroutable", name="'; DROP TABLE pq_tasks; -- \"\\ 🦆"),
    "empty name": row(says="unroutable", name=""),
    "payload null": row(says="must be an object", payload="null"),
    "payload a number": row(says="must be an object", payload="7"),
    "payload an array": row(says="must be an object", payload="[1, 2]"),
    "payload without arguments": row(says="missing", payload="{}"),
    "arguments an object": row(says='"args" must be an array', payload='{"args": {"a": 1}}'),
    "keywords an array": row(says='"args" must be an array and "kwargs" an object', payload='{"kwargs": [1]}'),
    "an unknown tag": row(says="unknown tag", payload='{"args": [{"$pq": "eval", "value": "1"}]}'),
    "a tag without a value": row(says="PayloadDecodeError", payload='{"args": [{"$pq": "datetime"}]}'),
    "a tag that names a module": row(
        says="not loaded", payload='{"args": [{"$pq": "dataclass", "type": "antigravity:x", "value": {}}]}'
    ),
    "nested deep": row(says="Error", payload=f'{{"args": [{DEEP}, 1]}}'),
    "a number of 5,000 digits": row(says="PayloadDecodeError", payload=f'{{"args": [{"9" * 5000}]}}'),
    "too many arguments": row(says="too many", payload=json.dumps({"args": [0] * 10_000})),
    "100 MB that is no payload": row(says="must be an object", payload=json.dumps(["x" * 100_000_000])),
    "10 MB of a keyword that is not there": row(
        says="unexpected keyword", payload=json.dumps({"args": [1], "kwargs": {"z": "x" * 10_000_000}})
    ),
    "run_at infinity": row("completed", run_at="infinity"),
    "run_at -infinity": row("completed", run_at="-infinity"),
    "run_at in the last year": row("completed", run_at="294276-12-31 23:59:59.999999+00"),
    "run_at before Christ": row("completed", run_at="4713-01-01 00:00:00+00 BC"),
    "run_at at the end of Python's time": row("completed", run_at="9999-12-31 23:59:59-12"),
    "run_at at its beginning": row("completed", run_at="0001-01-01 00:00:00+12"),
    "all dates absurd": row(
        "completed",
        created_at="infinity",
        started_at="-infinity",
        completed_at="infinity",
        tick_at="4000-01-01 00:00:00+00 BC",
        schedule_id=2**62,
    ),
    "unroutable since long before": row("completed", unroutable_since="4000-01-01 00:00:00+00 BC"),
    "lowest priority": row("completed", priority=-32768),
    "highest priority": row("completed", priority=32767),
    "version negative": row("completed", version=-(2**31)),
    "version from the future": row(says="unroutable", version=2**31 - 1),
    "max_attempts negative": row("completed", max_attempts=-(2**31)),
    "attempts negative": row("completed", attempts=-(2**31)),
    "fence negative": row("completed", fence=-(2**63)),
    "timeout NaN": row(says="timed out", name="w.nap", payload='{"args": [60]}', max_runtime_seconds="NaN"),
    "timeout infinite": row("completed", max_runtime_seconds="Infinity"),
    "timeout negative": row(says="timed out", name="w.nap", payload='{"args": [60]}', max_runtime_seconds="-1"),
    "options null": row("completed", options="null"),
    "options a text": row(says="options make no sense", options='"memory"'),
    "options nested deep": row(says="options make no sense", options=DEEP),
    "unknown option": row("completed", options='{"from the future": [1]}'),
    "memory_limit a text": row(says="memory_limit", options='{"memory_limit": "much"}'),
    "memory_limit negative": row(says="memory_limit", options='{"memory_limit": -1}'),
    "memory_limit immense": row(says="memory_limit", options='{"memory_limit": 1e300}'),
    "result_limit a list": row(says="result_limit", options='{"result_limit": [1]}'),
    "grace an object": row(says="grace", options='{"grace": {}}'),
    "backoff of nonsense": row("completed", options='{"backoff": {"base": -1, "what": "?"}}'),
    "sensitive of nonsense": row("completed", options='{"sensitive": [0]}'),
    "headers not texts": row("completed", headers='{"a": 1, "b": null, "c": {"d": []}}'),
    "headers an array": row("completed", headers="[1]"),
    "headers nested deep": row("completed", headers=f'{{"a": {DEEP}}}'),
    "trace context of nonsense": row("completed", headers='{"traceparent": "\\u001b[31m", "baggage": "=;,"}'),
    "on_failure of nonsense": row(payload='{"args": ["x", 1]}', on_failure='{"name": 7}'),
    "on_failure a number": row(payload='{"args": ["x", 1]}', on_failure="7"),
}


@dataclass
class Bench:
    pq: PQ
    dsn: str
    worker: WorkerProcess
    pids: list[int]
    reuses: bool


@pytest.fixture(scope="module", params=[1, 3], ids=["process-per-task", "reused-processes"])
def bench(
    request: pytest.FixtureRequest, server: str, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("hostile")
    with cloned(server, template) as dsn, PQ(dsn, tasks=[tasks.__name__]) as pq:
        options = {"concurrency": 2, "release_delay": 0.1, "unroutable_after": 0.2, "tasks_per_child": request.param}
        with running(dsn, folder, **options) as worker:
            pids = worker.started()
            yield Bench(pq, dsn, worker, pids, reuses=request.param > 1)
            assert worker.workers == pids
            assert worker.stop() == 0, worker.text[-5000:]
            assert "Traceback" not in worker.text
            assert "forged: line" not in [line[:12] for line in worker.text.splitlines()]
            assert not any(line.startswith("INFO forged") for line in worker.text.splitlines())


def insert(dsn: str, columns: dict[str, Any]) -> int:
    given = {"run_at": "now", "due": True, **columns}
    with psycopg.connect(dsn, autocommit=True) as connection:
        names = sql.SQL(", ").join(map(sql.Identifier, given))
        places = sql.SQL(", ").join(sql.Placeholder() * len(given))
        statement = sql.SQL("INSERT INTO pq_tasks ({}) VALUES ({}) RETURNING id").format(names, places)
        found = connection.execute(statement, list(given.values())).fetchone()
        assert found is not None
        return int(found[0])


def ended(pq: PQ, task_id: int) -> TaskRecord:
    """Wait for the end; by the state alone, for the whole row may have 100 MB."""
    with psycopg.connect(str(pq.dsn), autocommit=True) as connection:
        left = "SELECT FROM pq_tasks WHERE id = %s AND status IN ('pending', 'running')"
        eventually(lambda: connection.execute(left, (task_id,)).fetchone() is None, within=PATIENCE * 2)
    record = pq.get_task(task_id)
    assert record is not None
    return record


@pytest.mark.parametrize("what", [*ROWS])
def test_the_row_ends_clearly_and_the_worker_goes_on(bench: Bench, what: str) -> None:
    if bench.reuses and "MB" in what:
        pytest.skip("what is so large has a process of its own anyway")
    hostile = ROWS[what]
    task_id = insert(bench.dsn, hostile.columns)
    after = bench.pq.enqueue(tasks.add.call(20, 22))

    record = ended(bench.pq, task_id)

    assert record.status == hostile.status, record.error
    assert hostile.says in str(record.error)
    assert bench.pq.wait(after, timeout=PATIENCE) == 42
    assert bench.worker.workers == bench.pids, bench.worker.text[-5000:]


@pytest.mark.parametrize(
    "columns",
    [
        {"status": "weird"},
        {"status": None},
        {"on_lost": "maybe"},
        {"payload": None},
        {"name": None},
        {"name": "x" * 2**20},
        {"run_at": None},
        {"due": None},
        {"client_id_unique": "sometimes"},
        {"attempts": 2**31 - 1},
        {"snoozes": 2**31 - 1},
        {"losses": 2**31 - 1},
        {"fence": 2**63 - 1},
        {"unroutable_since": "-infinity"},
        {"unroutable_since": "infinity"},
    ],
    ids=lambda columns: str(columns)[:60],
)
def test_what_no_worker_could_take_is_refused_by_the_table(database: str, columns: dict[str, Any]) -> None:
    with pytest.raises(psycopg.errors.IntegrityError):
        insert(database, {**ADD, **columns})


def test_a_version_parked_by_hand_does_not_keep_a_run_from_ending(bench: Bench) -> None:
    for parked in (
        '{"run_at": null}',
        '{"priority": 7}',
        "7",
        '{"status": "weird", "run_at": "2020-01-01", "name": "x"}',
    ):
        task_id = insert(bench.dsn, {**ADD, "name": "w.nap", "payload": '{"args": [1]}'})
        eventually(lambda task_id=task_id: bench.pq.get_task(task_id).worker_id)  # type: ignore[misc, union-attr]
        with psycopg.connect(bench.dsn, autocommit=True) as connection:
            connection.execute("UPDATE pq_tasks SET parked = %s WHERE id = %s", (parked, task_id))
        after = bench.pq.enqueue(tasks.add.call(1))
        assert bench.pq.wait(after, timeout=PATIENCE) == 1


def test_rows_that_say_they_run_are_found(bench: Bench) -> None:
    stuck = {**ADD, "status": "running", "started_at": "2020-01-01"}
    ids = [insert(bench.dsn, {**stuck, "worker_id": worker_id}) for worker_id in (None, 2**62)]
    assert [ended(bench.pq, task_id).status for task_id in ids] == ["completed"] * 2


@pytest.mark.long
def test_100_MB_do_not_stay_in_the_worker(bench: Bench) -> None:
    (pid,) = bench.pids
    before = memory_of(pid)
    payload = json.dumps({"args": [], "kwargs": {"z": "x" * 100_000_000}})
    for _ in range(3):
        ended(bench.pq, insert(bench.dsn, {**ADD, "payload": payload}))
    eventually(lambda: memory_of(pid) < before + 150 * 2**20, what=f"{memory_of(pid)} from {before}")


def test_one_row_does_not_hide_the_others(database: str) -> None:
    with PQ(database, tasks=[tasks.__name__]) as pq:
        plain = pq.enqueue(tasks.add.call(1))
        insert(database, {**ADD, "queue": "never", "run_at": "-infinity"})
        insert(database, {**ADD, "queue": "never", "payload": f'{{"args": [{"9" * 5000}]}}'})
        insert(database, {**ADD, "queue": "never", "payload": f'{{"args": [{DEEP}, "]", {{"a": 1}}]}}'})
        assert pq.stats().due == 4
        assert pq.list_tasks()[0].payload["args"][1:] == ["]", {"a": 1}]
        assert plain in [record.id for record in pq.list_tasks()]
