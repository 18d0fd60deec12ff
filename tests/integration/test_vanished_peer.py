"""A peer that vanished without a word: every connection of ours notices it, also with a statement under way."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from pq_core import PQ
from pq_core.schema import migrate
from pq_core.worker.host import Host
from pq_core.worker.options import WorkerOptions
from tests.chaos.server import Server
from tests.integration import worker_tasks as tasks
from tests.integration.worker_process import PATIENCE, running

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system has no TCP_USER_TIMEOUT")


@pytest.fixture(scope="module")
def dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the DSN of a migrated database that is reached by TCP."""
    folder = tmp_path_factory.mktemp("server")
    for parent in (folder, *folder.parents):
        if parent.stat().st_mode & 0o777 == 0o700:
            parent.chmod(0o755)
    server = Server(folder).create().start()
    try:
        migrate(server.dsn, "public")
        yield server.dsn
    finally:
        server.stop("immediate")


def user_timeout(fileno: int) -> int:
    return tasks.option_of(fileno, socket.TCP_USER_TIMEOUT)


def test_connections_of_a_client_have_it_unless_the_dsn_says_otherwise(dsn: str) -> None:
    async def asked(pq: PQ) -> int:
        async with pq.asession() as connection:
            found = user_timeout(connection.fileno())
        await pq.aclose()
        return found

    with PQ(dsn) as pq, pq.session() as connection:
        assert user_timeout(connection.fileno()) == 30_000
        assert tasks.option_of(connection.fileno(), socket.TCP_KEEPIDLE) == 10
    assert asyncio.run(asked(PQ(dsn))) == 30_000
    with PQ(make_conninfo(dsn, tcp_user_timeout=1234)) as pq, pq.session() as connection:
        assert user_timeout(connection.fileno()) == 1234


def test_connections_of_a_worker_have_it(dsn: str) -> None:
    with PQ(dsn) as pq, PQ(make_conninfo(dsn, tcp_user_timeout=1234)) as other:
        for client, work, watch in ((pq, 30_000, 10_000), (other, 1234, 1234)):
            host = Host(pq=client, options=WorkerOptions(lease=20), name="one")
            for connect, expected in ((host.connect_work, work), (host.connect_watch, watch)):
                pgconn = connect()
                assert user_timeout(pgconn.socket) == expected
                pgconn.finish()


def test_connection_that_a_task_borrows_has_it(dsn: str, tmp_path: Path) -> None:
    with PQ(dsn, tasks=[tasks.__name__]) as pq, running(dsn, tmp_path):
        task_id = pq.enqueue(tasks.option_of_own_connection.call(socket.TCP_USER_TIMEOUT))
        assert pq.wait(task_id, timeout=PATIENCE) == 30_000


VANISHING = """
import subprocess, sys
from pathlib import Path

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)  # of this network namespace
from pq_core import PQ, database
from pq_core.errors import DatabaseUnavailable
from pq_core.schema import migrate
from tests.chaos.server import Server
from tests.integration import worker_tasks as tasks

database.NOTICE_WITHIN = 2.0
server = Server(Path(sys.argv[1])).create().start()
try:
    migrate(server.dsn, "public")
    with PQ(server.dsn, tasks=[tasks.__name__]) as pq:
        pq.enqueue(tasks.add.call(1, 1))
        subprocess.run(["ip", "link", "set", "lo", "down"], check=True)
        try:
            pq.enqueue(tasks.add.call(2, 2))
        except DatabaseUnavailable as error:
            print(error)
finally:
    server.stop("immediate")
"""


def test_enqueue_does_not_hang_on_a_peer_that_vanished(tmp_path: Path) -> None:
    """In a network of its own, whose only link goes down: what was sent is repeated by the kernel, unacknowledged."""
    if subprocess.run(["unshare", "--net", "ip", "link", "set", "lo", "up"], capture_output=True).returncode:
        pytest.skip("no network namespace can be made here: that takes root, unshare and ip")
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_mode & 0o777 == 0o700:
            parent.chmod(0o755)
    (tmp_path / "vanishing.py").write_text(VANISHING)
    command = ["unshare", "--net", sys.executable, tmp_path / "vanishing.py", tmp_path / "server"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    assert "Connection timed out" in ended.stdout, ended.stderr
