"""A server that takes no writes any more and keeps its sessions: nobody of ours stays with it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from pq_core import PQ
from pq_core.errors import DatabaseUnavailable
from pq_core.schema import migrate
from tests.chaos.server import Server
from tests.integration import worker_tasks as tasks
from tests.integration.worker_process import PATIENCE, WorkerProcess, eventually, running

DATABASE = "demoted"


@pytest.fixture
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a server of the test's own, with pq's tables, that can be set to read only with its sessions kept."""
    folder = tmp_path_factory.mktemp("first")
    for parent in (folder, *folder.parents):
        if parent.stat().st_mode & 0o777 == 0o700:
            parent.chmod(0o755)
    server = Server(folder / "server").create().start()
    try:
        server.execute(f"CREATE DATABASE {DATABASE}")
        migrate(dsn_of(server), "public")
        yield server
    finally:
        server.stop("immediate")


@pytest.fixture
def second(first: Server) -> Iterator[Server]:
    """Run a standby of the first server."""
    standby = first.copy_to(first.folder.parent / "second")
    try:
        yield standby
    finally:
        standby.stop("immediate")


def dsn_of(*servers: Server) -> str:
    return make_conninfo(
        servers[0].dsn,
        host=",".join("127.0.0.1" for _ in servers),
        port=",".join(str(server.port) for server in servers),
        dbname=DATABASE,
    )


def set_read_only(server: Server, word: str = "on") -> None:
    server.execute(f"ALTER SYSTEM SET default_transaction_read_only = {word}")
    server.execute("SELECT pg_reload_conf()")
    eventually(lambda: server.execute("SHOW default_transaction_read_only") == [(word,)])


def hand_over(first: Server, second: Server) -> None:
    """Make the second the primary. The first has its sessions still, as behind a proxy that keeps them."""
    last = first.execute("SELECT pg_current_wal_lsn()")[0][0]
    eventually(lambda: second.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (last,)) == [(True,)])
    set_read_only(first)
    assert second.execute("SELECT pg_promote()") == [(True,)]


def test_worker_goes_where_it_can_write(first: Server, second: Server, tmp_path: Path) -> None:
    """What ran there begins again, and whoever waits meanwhile waits on."""
    both, path = dsn_of(first, second), tmp_path / "pids"
    with (
        PQ(both, tasks=[tasks.__name__]) as pq,
        running(both, tmp_path, lease=20) as worker,
        ThreadPoolExecutor(1) as waiting,
    ):
        task_id = pq.enqueue(tasks.nap.call(2, str(path)))
        eventually(lambda: path.exists() and path.read_text())
        told = waiting.submit(pq.wait, task_id, 4 * PATIENCE)
        before = worker.workers
        hand_over(first, second)

        assert told.result() == "rested"
        with PQ(dsn_of(second), tasks=[tasks.__name__]) as there:
            assert there.wait(there.enqueue(tasks.add.call(1, 1)), timeout=PATIENCE) == 2
        assert worker.workers == before


def test_idle_worker_does_not_read_on_where_nothing_will_come(first: Server, second: Server, tmp_path: Path) -> None:
    """It asks for work without writing anything, and is answered there as well."""
    with running(dsn_of(first, second), tmp_path, lease=3) as worker:
        hand_over(first, second)
        with PQ(dsn_of(second), tasks=[tasks.__name__]) as there:
            assert there.wait(there.enqueue(tasks.add.call(1, 1)), timeout=PATIENCE) == 2
        assert worker.stop() == 0


def pauses_of(worker: WorkerProcess) -> list[float]:
    found = re.findall(r"work connection is lost: .*read-only.* next try in ([\d.]+)", worker.text)
    return [float(pause) for pause in found]


def test_worker_with_nowhere_else_to_go_tries_less_and_less_often(first: Server, tmp_path: Path) -> None:
    with PQ(dsn_of(first), tasks=[tasks.__name__]) as pq, running(dsn_of(first), tmp_path, lease=60) as worker:
        pq.enqueue(tasks.nap.call(0.5))
        set_read_only(first)
        eventually(lambda: max(pauses_of(worker), default=0.0) >= 0.5)
        set_read_only(first, "off")

        assert pq.wait(pq.enqueue(tasks.add.call(1, 1)), timeout=PATIENCE) == 2
        assert worker.text.count("started: queues") == 1


def test_client_hands_out_no_connection_of_such_a_server(first: Server, second: Server) -> None:
    with PQ(dsn_of(first, second), tasks=[tasks.__name__]) as pq:
        with pq.session(), pq.session():
            pass  # two that are idle now
        hand_over(first, second)

        with pytest.raises(DatabaseUnavailable, match=r"takes no writes .* read-only transaction"):
            pq.enqueue(tasks.add.call(1, 1))
        pq.enqueue(tasks.add.call(1, 1))
        assert second.execute("SELECT count(*) FROM pq_tasks", database=DATABASE) == [(1,)]


def test_client_of_an_event_loop_hands_out_none_either(first: Server, second: Server) -> None:
    async def go() -> None:
        pq = PQ(dsn_of(first, second), tasks=[tasks.__name__])
        async with pq.asession(), pq.asession():
            pass
        await asyncio.to_thread(hand_over, first, second)

        with pytest.raises(DatabaseUnavailable, match=r"takes no writes .* read-only transaction"):
            await pq.aenqueue(tasks.add.call(1, 1))
        await pq.aenqueue(tasks.add.call(1, 1))
        assert second.execute("SELECT count(*) FROM pq_tasks", database=DATABASE) == [(1,)]
        await pq.aclose()

    asyncio.run(go())
