"""Order holds whoever looks on: a wait takes no lock that a claim meets, and a lane waits for its first."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from pq_core.psycopg_executor import PsycopgExecutor
from pq_core.store import Store
from tests.integration import limit_tasks as tasks
from tests.integration.test_limits import APP, begun, client
from tests.integration.worker_process import running

CLAIM = "SELECT id, next_in FROM pq_claim_limited(7, '{default}', '{-32768}', '{32767}', 9, false)"


@pytest.fixture
def lease(connection: psycopg.Connection) -> None:
    connection.execute(
        "INSERT INTO pq_workers (id, name, expires_at, lease, pid, concurrency, host, pq_version, queues)"
        " VALUES (7, 'w', now() + interval '1 h', '1 h', 1, 9, 'here', '1', '{default}')"
    )


def test_wait_takes_no_lock_on_the_task(database: str, connection: psycopg.Connection) -> None:
    with client(database) as pq, psycopg.connect(database) as waiting:
        task_id = pq.enqueue(tasks.work, "", "t")
        request = Store("public").watch(task_id)
        executor = PsycopgExecutor(waiting)

        watched = request.parse(executor.execute(request.statement, request.parameters))

        assert watched is not None
        locked = "SELECT id FROM pq_tasks WHERE id = %s FOR UPDATE SKIP LOCKED"
        assert connection.execute(locked, (task_id,)).fetchall() == [(task_id,)]


def test_what_is_waited_for_runs_in_its_order(database: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with client(database) as pq, running(database, tmp_path, app=APP, concurrency=1):
        for _ in range(12):
            path.unlink(missing_ok=True)
            calls = [tasks.work.options(priority=50).call(str(path), str(n)) for n in range(3)]
            ids = pq.enqueue_many([*calls, tasks.work.options(priority=100).call(str(path), "best")])
            pq.wait(ids[-1], timeout=30)
            for task_id in ids:
                pq.wait(task_id, timeout=30)
            assert begun(path) == ["best", "0", "1", "2"]


def test_tasks_of_one_key_run_in_order_while_the_first_is_waited_for(database: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with client(database) as pq, running(database, tmp_path, app=APP, concurrency=2):
        for round_ in range(12):
            path.unlink(missing_ok=True)
            keyed = tasks.work.options(concurrency_key=f"k{round_}")
            ids = pq.enqueue_many(keyed.call(str(path), str(n)) for n in range(8))
            pq.wait(ids[0], timeout=30)
            pq.wait(ids[-1], timeout=30)
            assert begun(path) == [str(n) for n in range(8)]


@pytest.mark.usefixtures("lease")
@pytest.mark.parametrize("limited", ["key", "key of three", "queue"])
def test_lane_whose_first_is_locked_waits_for_it(database: str, connection: psycopg.Connection, limited: str) -> None:
    with client(database) as pq, psycopg.connect(database) as holding:
        if limited == "queue":
            pq.limit_queue("default", concurrency=1)
            calls = [tasks.work.call("", str(n)) for n in range(3)]
        else:
            at_once = 1 if limited == "key" else 3
            keyed = tasks.work.options(concurrency_key="k", concurrency_limit=at_once)
            calls = [keyed.call("", str(n)) for n in range(3)]
        ids = pq.enqueue_many(calls)
        holding.execute("SELECT FROM pq_tasks WHERE id = %s FOR UPDATE", (ids[0],))

        assert connection.execute(CLAIM).fetchall() == [(None, 0.05)]

        holding.rollback()
        claimed = [row[0] for row in connection.execute(CLAIM).fetchall() if row[0] is not None]
        assert sorted(claimed) == (ids if limited == "key of three" else ids[:1])


@pytest.mark.usefixtures("lease")
def test_first_that_was_cancelled_lets_the_others_pass(database: str, connection: psycopg.Connection) -> None:
    with client(database) as pq, psycopg.connect(database) as holding:
        ids = pq.enqueue_many(tasks.work.options(concurrency_key="k").call("", str(n)) for n in range(3))
        pq.using(holding).cancel(ids[0])
        assert connection.execute(CLAIM).fetchall() == [(None, 0.05)]

        holding.commit()

        assert connection.execute(CLAIM).fetchall()[0][0] == ids[1]


def test_nothing_is_left_of_waits(database: str, connection: psycopg.Connection, tmp_path: Path) -> None:
    path = tmp_path / "log"
    with client(database) as pq, running(database, tmp_path, app=APP, concurrency=2):
        for _ in range(5):
            pq.wait(pq.enqueue(tasks.work, str(path), "t"), timeout=30)

        assert connection.execute("SELECT count(*) FROM pq_waits").fetchone() == (0,)
