"""As many workers are woken as there are tasks: chosen among those that sleep, and each answers for what it is told."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.integration import limit_tasks as tasks
from tests.integration.test_limits import APP, client, finished
from tests.integration.worker_process import eventually, running

SLEEPER = (
    "INSERT INTO pq_workers (id, name, expires_at, lease, pid, concurrency, host, pq_version, queues, sleeping,"
    " wake_channel) SELECT n, 'w', now() + interval '1 h', '1 h', 1, 9, 'here', '1', '{default}', true, 'own_' || n"
    " FROM generate_series(%s::int, %s::int) n"
)

EXECUTED = re.compile(r"\[(\d+)\].*execute pq_([a-z_]+)_[0-9a-f]{12}")


@pytest.fixture
def hearing(database: str) -> Iterator[psycopg.Connection]:
    """Return a connection that hears the channels of six workers, and the common one."""
    with psycopg.connect(database, autocommit=True) as own:
        for n in range(1, 7):
            own.execute(f"LISTEN own_{n}")  # type: ignore[call-overload]
        own.execute("DO $$ BEGIN EXECUTE 'LISTEN ' || pq_channel('wake'); END $$")
        yield own


def heard(connection: psycopg.Connection) -> list[tuple[str, str]]:
    """Return channel and payload of what was notified before now."""
    connection.execute("SELECT pg_notify('own_1', 'end')")
    found = []
    for notification in connection.notifies(timeout=30):
        if notification.payload == "end":
            return found
        found.append((notification.channel, notification.payload))
    raise AssertionError(found)


def test_one_sleeper_is_woken_for_each_task(
    database: str, connection: psycopg.Connection, hearing: psycopg.Connection
) -> None:
    connection.execute(SLEEPER, (1, 6))
    with client(database) as pq:
        pq.enqueue(tasks.work, "", "t")
        assert [words for _, words in heard(hearing)] == ["t"]

        pq.enqueue_many(tasks.work.call("", str(n)) for n in range(4))
        found = heard(hearing)
        assert [words for _, words in found] == ["t"] * 4
        assert len({channel for channel, _ in found}) == 4

        pq.enqueue_many(tasks.work.call("", str(n)) for n in range(50))
        assert len(heard(hearing)) == 6


def test_all_have_their_turn(database: str, connection: psycopg.Connection, hearing: psycopg.Connection) -> None:
    connection.execute(SLEEPER, (1, 4))
    with client(database) as pq:
        for n in range(60):
            pq.enqueue(tasks.work, "", str(n))

    found = heard(hearing)

    assert len(found) == 60
    assert {channel for channel, _ in found} == {f"own_{n}" for n in range(1, 5)}


def test_only_who_may_run_it_is_woken(
    database: str, connection: psycopg.Connection, hearing: psycopg.Connection
) -> None:
    connection.execute(SLEEPER, (1, 6))
    connection.execute("UPDATE pq_workers SET queues = '{other}' WHERE id = 1")
    connection.execute("UPDATE pq_workers SET bands = '{[76,32767]}' WHERE id = 2")
    connection.execute("UPDATE pq_workers SET draining = true WHERE id = 3")
    connection.execute("UPDATE pq_workers SET expires_at = now() - interval '1 s' WHERE id = 4")
    connection.execute("UPDATE pq_workers SET sleeping = false WHERE id = 5")
    with client(database) as pq:
        for n in range(12):
            pq.enqueue(tasks.work, "", str(n))

    assert heard(hearing) == [("own_6", "t")] * 12


def test_word_says_what_waits(database: str, connection: psycopg.Connection, hearing: psycopg.Connection) -> None:
    connection.execute(SLEEPER, (1, 6))
    with client(database) as pq:
        pq.enqueue(tasks.work.options(concurrency_key="k").call("", "limited"))
        pq.enqueue_many(tasks.work.options(run_in=timedelta(hours=1)).call("", f"later {n}") for n in range(5))
        assert [words for _, words in heard(hearing)] == ["l", "d"]


def test_worker_of_older_code_is_told_as_before(
    database: str, connection: psycopg.Connection, hearing: psycopg.Connection
) -> None:
    connection.execute(SLEEPER, (1, 2))
    connection.execute("UPDATE pq_workers SET wake_channel = NULL WHERE id = 1")
    with client(database) as pq:
        pq.enqueue(tasks.work, "", "t")

    found = sorted(words for _, words in heard(hearing))

    assert found == ["default", "t"]


def test_full_worker_passes_on_what_it_is_woken_for(
    database: str, connection: psycopg.Connection, hearing: psycopg.Connection, tmp_path: Path
) -> None:
    with client(database) as pq, running(database, tmp_path, app=APP, concurrency=1):
        pq.enqueue(tasks.work, str(tmp_path / "log"), "long", 3600.0)
        eventually(lambda: connection.execute("SELECT FROM pq_tasks WHERE status = 'running'").fetchone() is not None)
        eventually(lambda: connection.execute("SELECT FROM pq_workers WHERE sleeping").fetchone() is None)
        pq.enqueue(tasks.work, "", "left")  # nobody sleeps: nobody is told
        connection.execute(SLEEPER, (1001, 1001))
        connection.execute("UPDATE pq_workers SET wake_channel = 'own_2' WHERE id = 1001")
        assert heard(hearing) == []

        connection.execute("SELECT pg_notify(wake_channel, 't') FROM pq_workers WHERE id <> 1001")

        assert next((n.channel, n.payload) for n in hearing.notifies(timeout=30)) == ("own_2", "t")


def test_one_of_the_idle_workers_claims_what_is_enqueued(
    database: str, connection: psycopg.Connection, tmp_path: Path
) -> None:
    if os.environ.get("PQ_TEST_DSN"):
        pytest.skip("reads the log of the embedded server")
    log = Path(os.environ["PQ_TEST_SERVER_DIRECTORY"]) / "server" / "postgres.log"
    name = conninfo_to_dict(database)["dbname"]
    connection.execute(
        sql.SQL("ALTER DATABASE {} SET log_min_duration_statement = 0").format(sql.Identifier(str(name)))
    )
    with client(database) as pq, running(database, tmp_path, app=APP, processes=3, concurrency=2, poll_interval=60):
        asleep = "SELECT count(*) = 3 FROM pq_workers WHERE sleeping"
        eventually(lambda: connection.execute(asleep).fetchone() == (True,))
        time.sleep(0.5)  # the second looks of falling asleep
        begin = log.stat().st_size

        pq.enqueue(tasks.work, str(tmp_path / "log"), "t")
        eventually(lambda: finished(connection, 1))
        eventually(lambda: connection.execute(asleep).fetchone() == (True,))

        with log.open("rb") as file:
            file.seek(begin)
            lines = file.read().decode(errors="replace").splitlines()
        own = {
            str(pid) for (pid,) in connection.execute("SELECT pid FROM pg_stat_activity WHERE datname = %s", (name,))
        }
        executed = [pair for line in lines for pair in EXECUTED.findall(line) if pair[0] in own]
        assert len({pid for pid, what in executed if what == "claim_one_queue"}) == 1, executed
        assert "claim_limited" not in {what for _, what in executed}
