"""Connections: pools with threads, event loops and forks, and the non-blocking start."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.pq import ConnStatus, PollingStatus

from pq_core import embedded
from pq_core.database import (
    AsyncConnection,
    AsyncConnectionPool,
    Connection,
    ConnectionPool,
    aconnect,
    connect,
    start_connection,
)
from pq_core.errors import DatabaseUnavailable

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "s3cr3t"


@pytest.fixture(scope="module")
def dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("pool") / "pq"
    yield embedded.start(folder, durable=False)
    embedded.stop(folder)


@pytest.fixture
def pool(dsn: str) -> Iterator[ConnectionPool]:
    with_name = ConnectionPool(dsn)
    yield with_name
    with_name.close()


def session(connection: Connection) -> int:
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


async def asession(connection: AsyncConnection) -> int:
    row = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
    assert row is not None
    return int(row[0])


def sessions_named(dsn: str, name: str) -> list[int]:
    with connect(dsn) as observer:
        rows = observer.execute("SELECT pid FROM pg_stat_activity WHERE application_name = %s", (name,)).fetchall()
    return [row[0] for row in rows]


def end_session(dsn: str, pid: int) -> None:
    with connect(dsn) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))


def in_forked_child(work: Callable[[], object]) -> str:
    """Return what ``work`` returns, or how it fails, in a real child."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            said = str(work())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return text


# Sync ------------------------------------------------------------------------------------------------------------


def test_opens_nothing_before_it_is_used() -> None:
    ConnectionPool("host=/nonexistent").close()


def test_the_last_one_used_is_used_again(pool: ConnectionPool) -> None:
    with pool.connection() as first, pool.connection() as second:
        assert session(first) != session(second)
        used_last = first
        assert first.autocommit
        assert first.info.parameter_status("application_name") == "pq"
    with pool.connection() as again:
        assert again is used_last


def test_name_and_timeouts_of_the_dsn_win(dsn: str) -> None:
    with connect(make_conninfo(dsn, application_name="mine", connect_timeout=3)) as connection:
        assert connection.info.parameter_status("application_name") == "mine"
        assert connection.info.get_parameters()["connect_timeout"] == "3"


def test_threads_get_connections_of_their_own_and_few_are_kept(dsn: str) -> None:
    pool = ConnectionPool(dsn, application_name="threads", max_idle=2)
    together = threading.Barrier(8)
    seen: list[int] = []

    def use() -> None:
        with pool.connection() as connection:
            seen.append(session(connection))
            together.wait()

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(seen)) == 8
    wait_until(lambda: len(sessions_named(dsn, "threads")) == 2)
    pool.close()


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(250):
        if condition():
            return
        threading.Event().wait(0.02)
    assert condition()


def test_an_open_transaction_is_rolled_back(pool: ConnectionPool) -> None:
    with pool.connection() as connection:
        first = session(connection)
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE gone ()")
    with pool.connection() as connection:
        connection.execute("BEGIN")
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1/0")
    with pool.connection() as connection:
        assert session(connection) == first
        assert connection.execute("SELECT to_regclass('gone')").fetchone() == (None,)


def test_a_connection_left_in_the_middle_of_a_statement_is_not_used_again(pool: ConnectionPool) -> None:
    with pool.connection() as connection:
        first = session(connection)
        connection.pgconn.send_query(b"SELECT 1")
    with pool.connection() as connection:
        assert session(connection) != first


def test_a_connection_that_lost_autocommit_is_not_used_again(pool: ConnectionPool) -> None:
    with pool.connection() as connection:
        connection.autocommit = False
    with pool.connection() as connection:
        assert connection.autocommit


def test_idle_connections_that_the_server_ended_are_replaced(dsn: str, pool: ConnectionPool) -> None:
    with pool.connection() as one, pool.connection() as two:
        ended = [session(one), session(two)]
    for pid in ended:
        end_session(dsn, pid)

    with pool.connection() as connection:
        assert session(connection) not in ended


def test_idle_connection_that_was_notified_is_still_good(dsn: str, pool: ConnectionPool) -> None:
    with pool.connection() as connection:
        first = session(connection)
        connection.execute("LISTEN news")
    with connect(dsn) as other:
        other.execute("NOTIFY news")
    with pool.connection() as connection:
        assert session(connection) == first


def test_a_connection_lost_in_use_is_dropped(dsn: str, pool: ConnectionPool) -> None:
    with pool.connection() as connection:
        end_session(dsn, session(connection))
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pool.connection() as connection:
        connection.execute("SELECT 1")


def test_close_ends_what_is_idle_at_once_and_the_rest_when_it_comes_back(dsn: str) -> None:
    pool = ConnectionPool(dsn, application_name="closing")
    with pool.connection() as used:
        with pool.connection() as idle:
            pass
        pool.close()
        assert idle.closed
        session(used)
    assert used.closed
    with pool.connection() as later:
        session(later)
    pool.close()
    wait_until(lambda: sessions_named(dsn, "closing") == [])


def test_a_pool_that_is_dropped_closes_its_connections(dsn: str) -> None:
    pool = ConnectionPool(dsn, application_name="dropped")
    with pool.connection() as connection:
        pass
    del pool
    gc.collect()

    assert connection.closed


def test_a_program_that_forgets_to_close_ends_without_a_word(dsn: str) -> None:
    script = """
import sys
from pq_core.database import ConnectionPool
pool = ConnectionPool(sys.argv[1])
with pool.connection() as connection: connection.execute("SELECT 1")
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, dsn], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")


# Forks -----------------------------------------------------------------------------------------------------------


def test_a_forked_child_opens_its_own_and_the_parent_s_session_lives_on(pool: ConnectionPool) -> None:
    with pool.connection() as connection:
        parents = session(connection)

    def work() -> int:
        with pool.connection() as connection:
            return session(connection)

    childs = in_forked_child(work)

    assert childs.isdecimal()
    assert int(childs) != parents
    with pool.connection() as connection:
        assert session(connection) == parents


def test_a_fork_while_a_connection_is_in_use(pool: ConnectionPool) -> None:
    with pool.connection() as connection:
        parents = session(connection)
        connection.execute("BEGIN")

        def work() -> int:
            pool.close()
            with pool.connection() as own:
                return session(own)

        assert in_forked_child(work).isdecimal()
        assert session(connection) == parents
        connection.execute("COMMIT")


def test_a_child_that_leaves_the_block_of_its_parent_harms_nobody(dsn: str) -> None:
    pool = ConnectionPool(dsn)
    reader, writer = os.pipe()
    with pool.connection() as connection:
        parents = session(connection)
        pid = os.fork()
    if not pid:
        with pool.connection() as connection:
            os.write(writer, b"ok" if session(connection) != parents else b"shared")
        pool.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert os.read(reader, 10) == b"ok"
    with pool.connection() as connection:
        assert session(connection) == parents
    pool.close()
    os.close(reader)
    os.close(writer)


def test_a_fork_while_another_thread_is_in_the_pool(pool: ConnectionPool) -> None:
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            with pool.connection():
                pass

    threads = [threading.Thread(target=churn) for _ in range(2)]
    for thread in threads:
        thread.start()

    def work() -> int:
        with pool.connection() as connection:
            return session(connection)

    try:
        assert all(in_forked_child(work).isdecimal() for _ in range(10))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_child_that_ends_like_a_program_leaves_the_parent_s_session(dsn: str) -> None:
    script = """
import os, sys
from pq_core.database import ConnectionPool
pool = ConnectionPool(sys.argv[1])
with pool.connection() as connection: connection.execute("SELECT 1")
if os.fork() == 0:
    sys.exit(0)
os.wait()
with pool.connection() as again:
    assert again is connection
    again.execute("SELECT 1")
"""
    subprocess.run([sys.executable, "-c", script, dsn], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


# Failing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "host=/nonexistent dbname=d",
        "host=127.0.0.1,127.0.0.1 port=1,2 dbname=d",
        f"postgresql://u:{PASSWORD}@127.0.0.1:1/d?sslmode=nonsense",
        f"host=127.0.0.1 port=99999 password={PASSWORD}",
        f"service=no_such_service password={PASSWORD}",
        f"host=name.invalid password={PASSWORD}",
    ],
)
def test_unreachable_is_one_line_without_the_password(target: str) -> None:
    for attempt in (
        lambda: connect(target),
        lambda: asyncio.run(aconnect(target)),
        lambda: ConnectionPool(target).connection().__enter__(),
    ):
        with pytest.raises(DatabaseUnavailable, match="can't connect to") as refused:
            attempt()
        assert "\n" not in str(refused.value)
        assert PASSWORD not in str(refused.value)
        assert isinstance(refused.value.__cause__, psycopg.Error)
        assert PASSWORD not in str(refused.value.__cause__)


def test_a_server_that_accepts_and_stays_silent_is_given_up(dsn: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(DatabaseUnavailable, match="timeout"):
            connect(f"host=127.0.0.1 port={port} user=u dbname=d connect_timeout=2 sslmode=disable")


def test_dsn_callable_is_asked_for_every_connection(dsn: str) -> None:
    asked: list[str] = []

    def token() -> str:
        asked.append(dsn)
        return dsn

    pool = ConnectionPool(token)
    with pool.connection(), pool.connection():
        pass
    with pool.connection():
        pass
    pool.close()

    assert len(asked) == 2


def test_pool_outlives_a_crash_of_the_embedded_server(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "pq"
    embedded.start(folder, durable=False)
    pool = ConnectionPool(f"embedded:{folder}")
    try:
        with pool.connection() as connection:
            idle = session(connection)
        for victim in ("server_pid", "holder_pid"):
            os.kill(getattr(embedded.status(folder), victim), signal.SIGKILL)
            wait_until(lambda pid=idle: not is_running(pid))  # type: ignore[misc]
            with pool.connection() as connection:
                idle = session(connection)
    finally:
        pool.close()
        embedded.stop(folder)


# Non-blocking ----------------------------------------------------------------------------------------------------


def test_a_started_connection_is_driven_by_the_caller(dsn: str) -> None:
    pgconn = start_connection(dsn, application_name="driven", options="-c statement_timeout=1234")
    try:
        status = pgconn.connect_poll()
        while status not in (PollingStatus.OK, PollingStatus.FAILED):
            reading = status == PollingStatus.READING
            select.select([pgconn.socket] if reading else [], [] if reading else [pgconn.socket], [], 5)
            status = pgconn.connect_poll()

        assert status == PollingStatus.OK
        assert pgconn.status == ConnStatus.OK
        assert pgconn.nonblocking
        assert pgconn.parameter_status(b"application_name") == b"driven"
        assert pgconn.exec_(b"SHOW statement_timeout").get_value(0, 0) == b"1234ms"
    finally:
        pgconn.finish()


# Async -----------------------------------------------------------------------------------------------------------


def test_async_pool_reuses_replaces_and_rolls_back(dsn: str) -> None:
    async def main() -> None:
        pool = AsyncConnectionPool(dsn)
        async with pool.connection() as connection:
            first = await asession(connection)
            assert connection.autocommit
            await connection.execute("BEGIN")
            await connection.execute("CREATE TABLE gone ()")
        async with pool.connection() as connection:
            assert await asession(connection) == first
            cursor = await connection.execute("SELECT to_regclass('gone')")
            assert await cursor.fetchone() == (None,)
        await asyncio.to_thread(end_session, dsn, first)
        async with pool.connection() as connection, pool.connection() as other:
            assert len({first, await asession(connection), await asession(other)}) == 3
        await pool.aclose()
        assert connection.closed

    asyncio.run(main())


def test_async_pool_keeps_the_loops_apart_and_drops_those_of_closed_loops(dsn: str) -> None:
    pool = AsyncConnectionPool(dsn)
    seen: list[AsyncConnection] = []

    async def use(pool: AsyncConnectionPool) -> None:
        async with pool.connection() as connection:
            await asession(connection)
            seen.append(connection)

    asyncio.run(use(pool))
    assert not seen[0].closed
    asyncio.run(use(pool))

    assert seen[0].closed
    assert not seen[1].closed
    del pool
    gc.collect()
    assert seen[1].closed


def test_a_cancelled_task_leaves_no_busy_connection(dsn: str) -> None:
    async def main() -> None:
        pool = AsyncConnectionPool(dsn)
        used: list[AsyncConnection] = []

        async def sleep() -> None:
            async with pool.connection() as connection:
                used.append(connection)
                await connection.execute("BEGIN")
                await connection.execute("SELECT pg_sleep(30)")

        task = asyncio.create_task(sleep())
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5), pool.connection() as connection:
            await connection.execute("SELECT 1")
        await pool.aclose()

    asyncio.run(main())


def test_async_pool_after_a_fork(dsn: str) -> None:
    pool = AsyncConnectionPool(dsn)

    async def use() -> int:
        async with pool.connection() as connection:
            return await asession(connection)

    loop = asyncio.new_event_loop()
    parents = loop.run_until_complete(use())

    childs = in_forked_child(lambda: asyncio.run(use()))

    assert childs.isdecimal()
    assert int(childs) != parents
    assert loop.run_until_complete(use()) == parents
    loop.run_until_complete(pool.aclose())
    loop.close()
