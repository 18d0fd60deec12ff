"""Every check of the doctor, with the fault made on a real Postgres, and without it."""

from __future__ import annotations

import shutil
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pq_adapters.cli.doctor import _notified, _pooler, examine
from pq_core import PQ, TaskGroup
from pq_core.doctor import database as checks
from pq_core.doctor import machine
from pq_core.doctor.finding import Finding, Level
from pq_core.schema import migrate
from tests.chaos.server import Server
from tests.integration.worker_process import eventually

jobs = TaskGroup(prefix="d")


@jobs.task(name="known", version=2)
def known() -> None:
    """Do nothing."""


def levels(found: Iterator[Finding]) -> list[Level]:
    return [finding.level for finding in found]


def one(found: Iterator[Finding]) -> Finding:
    [finding] = list(found)
    return finding


# --- the database


def test_fresh_database_is_well(connection: psycopg.Connection) -> None:
    for check in (checks.schema_version, checks.indexes, checks.dead_rows, checks.long_transactions, checks.names,
                  checks.running):  # fmt: skip
        assert levels(check(connection, "public")) == [Level.OK], check


def test_tables_that_are_missing_are_a_problem(empty_database: str) -> None:
    with psycopg.connect(empty_database) as connection:
        found = one(checks.schema_version(connection, "public"))

    assert found.level is Level.PROBLEM
    assert "pq migrate" in found.fix


def test_tables_of_an_older_revision_are_a_problem(empty_database: str) -> None:
    migrate(empty_database, revision="0001")

    with psycopg.connect(empty_database) as connection:
        assert one(checks.schema_version(connection, "public")).level is Level.PROBLEM


@pytest.mark.parametrize("name", sorted(checks.index_definitions()))
def test_missing_index_comes_back_by_the_fix(connection: psycopg.Connection, name: str) -> None:
    connection.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(name)))

    found = one(checks.indexes(connection, "public"))

    assert found.level is Level.PROBLEM
    assert name in found.text
    connection.execute(found.fix)  # type: ignore[call-overload]
    assert one(checks.indexes(connection, "public")).level is Level.OK


def test_definitions_are_those_of_the_database(connection: psycopg.Connection) -> None:
    present = {row["name"] for row in checks.ask(connection, "public", "indexes", tables=checks.TABLES)}

    assert checks.index_definitions().keys() <= present
    assert len(checks.index_definitions()) > 8


def test_index_that_a_broken_build_left_is_rebuilt_by_the_fix(connection: psycopg.Connection) -> None:
    connection.execute("INSERT INTO pq_workers (expires_at, lease, pid, concurrency, name, host, pq_version, queues)"
                       " SELECT now(), '1 s', 1, 1, 'same', 'h', '1', '{}' FROM generate_series(1, 2)")  # fmt: skip
    with pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute("CREATE UNIQUE INDEX CONCURRENTLY pq_workers_broken ON pq_workers (name)")

    found = one(checks.indexes(connection, "public"))

    assert (found.level, "pq_workers_broken is invalid" in found.text) == (Level.PROBLEM, True)
    connection.execute("DELETE FROM pq_workers")
    connection.execute(found.fix)  # type: ignore[call-overload]
    assert one(checks.indexes(connection, "public")).level is Level.OK


def test_dead_rows_are_found_and_gone_after_the_fix(connection: psycopg.Connection) -> None:
    connection.execute("ALTER TABLE pq_workers SET (autovacuum_enabled = false)")
    connection.execute("INSERT INTO pq_workers (expires_at, lease, pid, concurrency, name, host, pq_version, queues)"
                       " SELECT now(), '1 s', 1, 1, 'w', 'h', '1', '{}' FROM generate_series(1, 200)")  # fmt: skip
    connection.execute("DELETE FROM pq_workers")
    connection.execute("SELECT pg_stat_force_next_flush()")

    off, dead = list(checks.dead_rows(connection, "public", least=100))

    assert (off.level, "autovacuum is off for pq_workers" in off.text) == (Level.PROBLEM, True)
    assert (dead.level, "pq_workers has 200 dead rows" in dead.text) == (Level.WARNING, True)
    for finding in (off, dead):
        connection.execute(finding.fix.partition(";")[0])  # type: ignore[call-overload]
    connection.execute("SELECT pg_stat_force_next_flush()")
    eventually(lambda: levels(checks.dead_rows(connection, "public", least=100)) == [Level.OK])


def test_open_transaction_is_found_with_its_process(connection: psycopg.Connection, database: str) -> None:
    with psycopg.connect(database, application_name="slow report") as other:
        other.execute("SELECT 1")

        found = one(checks.long_transactions(connection, "public", seconds=0))

        assert found.level is Level.WARNING
        assert f"pg_terminate_backend({other.info.backend_pid})" in found.fix
        assert "slow report" in found.text
    assert levels(checks.long_transactions(connection, "public", seconds=0)) == [Level.OK]


def test_task_that_starts_and_starts_is_found(connection: psycopg.Connection) -> None:
    connection.execute(
        "INSERT INTO pq_tasks (name, payload, run_at, due, uncounted_in_a_row)"
        " SELECT 'd.known', '{}', now(), true, n FROM unnest(ARRAY[4, 5, 7]) n"
    )

    found = one(checks.starts(connection, "public"))

    assert (found.level, "2 unfinished task(s) d.known" in found.text, "7 times" in found.text) == (
        Level.WARNING, True, True,
    )  # fmt: skip
    connection.execute("DELETE FROM pq_tasks WHERE uncounted_in_a_row > 4")
    assert one(checks.starts(connection, "public")).level is Level.OK


def test_task_that_nobody_runs_is_found(connection: psycopg.Connection) -> None:
    connection.execute(
        "INSERT INTO pq_workers (id, expires_at, lease, pid, concurrency, name, host, pq_version, queues)"
        " SELECT n, now() + (n - 1) * interval '1 min', '1 s', 1, 1, 'w' || n, 'h', '1', '{}'"
        " FROM generate_series(0, 2) n"
    )
    connection.execute(
        "INSERT INTO pq_tasks (name, payload, run_at, due, status, worker_id, started_at)"
        " SELECT 'd.known', '{}', now(), true, 'running', n, now() - interval '1 h' FROM unnest(ARRAY[0, 2, 3]) n"
    )

    ended, none = list(checks.running(connection, "public"))

    assert (ended.level, "1 task(s)" in ended.text, "worker 0 (w0) lost its lease 60 s ago" in ended.text) == (
        Level.PROBLEM, True, True,
    )  # fmt: skip
    assert "worker 3 has no lease" in none.text


@pytest.fixture
def rare_server() -> Iterator[psycopg.Connection]:
    """A connection to a server of its own, which prepares transactions and replicates what tables hold."""
    folder = Path(tempfile.mkdtemp(prefix="pq-doctor-"))
    server = Server(folder, wal_level="logical", max_prepared_transactions="2").create().start()
    try:
        migrate(server.dsn, "public")
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            yield connection
    finally:
        server.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)


def test_slots_and_prepared_transactions_that_nobody_ends_are_found(rare_server: psycopg.Connection) -> None:
    rare_server.execute("SELECT pg_create_logical_replication_slot('pq_forgotten', 'pgoutput')")
    slot = one(checks.long_transactions(rare_server, "public"))
    rare_server.execute("BEGIN")
    rare_server.execute("SELECT FROM pq_tasks")
    rare_server.execute("PREPARE TRANSACTION 'forgotten'")
    prepared, _ = checks.long_transactions(rare_server, "public", seconds=0)
    for finding in (prepared, slot):
        assert finding.level is Level.WARNING
    assert "ROLLBACK PREPARED 'forgotten'" in prepared.fix

    rare_server.execute("ROLLBACK PREPARED 'forgotten'")
    rare_server.execute(slot.fix.partition(" if ")[0])  # type: ignore[arg-type]
    assert levels(checks.long_transactions(rare_server, "public", seconds=0)) == [Level.OK]


def server_facts(connection: psycopg.Connection) -> dict[str, int]:
    [facts] = checks.ask(connection, "public", "server")
    return facts


def test_few_connections_are_told(connection: psycopg.Connection, database: str) -> None:
    name = sql.Identifier(conninfo_to_dict(database)["dbname"])  # type: ignore[arg-type]
    assert one(checks.connections(server_facts(connection), workers=1, concurrency=2, share=1)).level is Level.OK

    connection.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 10").format(name))
    few = one(checks.connections(server_facts(connection), workers=2, concurrency=20, share=1))
    connection.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 1").format(name))
    full = one(checks.connections(server_facts(connection), workers=0, concurrency=0))

    assert (few.level, "may need 24 connections, the database's limit is 10" in few.text) == (Level.WARNING, True)
    assert (full.level, "1 of 1 connections are in use" in full.text) == (Level.WARNING, True)


def test_names_that_nobody_runs_are_told(connection: psycopg.Connection, database: str) -> None:
    pq = PQ(database, tasks=[__name__])
    connection.execute("INSERT INTO pq_workers (expires_at, lease, pid, concurrency, name, host, pq_version, queues)"
                       " VALUES (now() + interval '1 hour', '1 h', 1, 1, 'w', 'h', '1', '{default}')")  # fmt: skip
    connection.execute("""SELECT pq_enqueue('[{"name": "d.known"}, {"name": "d.known", "version": 2}]')""")
    assert levels(checks.names(connection, "public", pq.registry)) == [Level.OK]

    connection.execute("""SELECT pq_enqueue('[{"name": "d.gone"}, {"name": "d.known", "version": 3},
        {"name": "d.known", "queue": "nobody"}, {"name": "d.refused"}]')""")
    connection.execute("UPDATE pq_tasks SET unroutable_since = now() WHERE name = 'd.refused'")
    found = list(checks.names(connection, "public", pq.registry))

    assert {finding.level for finding in found} == {Level.PROBLEM}
    told = {finding.text.split()[3]: finding for finding in found}
    assert "no task is called 'd.gone'" in told["d.gone"].text
    assert "refused by a worker" in told["d.refused"].text
    texts = [finding.text for finding in found if "d.known" in finding.text]
    assert any("version 3 is newer" in text for text in texts)
    assert any("no live worker serves the queue" in text for text in texts)
    assert len(list(checks.names(connection, "public"))) == 2


def test_old_and_missing_workers_are_told() -> None:
    from pq_core.version import __version__

    assert levels(checks.worker_versions([(1, "a", __version__)])) == [Level.OK]
    assert levels(checks.worker_versions([(1, "a", __version__), (2, "b", "0.0.0")])) == [Level.WARNING]
    assert levels(checks.worker_versions([])) == [Level.PROBLEM]


# --- poolers: a proxy that speaks the protocol, with a key of its own and, in transaction mode, no notifications


class Proxy:
    """What PgBouncer does that can be noticed from outside."""

    def __init__(self, target: tuple[str, str], *, drops_notifications: bool) -> None:
        self.target = target
        self.drops = drops_notifications
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sockets: list[socket.socket] = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            host, port = self.target
            if host.startswith("/"):
                server = socket.socket(socket.AF_UNIX)
                server.connect(f"{host}/.s.PGSQL.{port}")
            else:
                server = socket.create_connection((host, int(port)))
            self.sockets += [client, server]
            threading.Thread(target=self.copy, args=(client, server), daemon=True).start()
            threading.Thread(target=self.answers, args=(server, client), daemon=True).start()

    def copy(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def answers(self, server: socket.socket, client: socket.socket) -> None:
        reader = server.makefile("rb")
        try:
            while head := reader.read(5):
                (length,) = struct.unpack("!i", head[1:])
                body = reader.read(length - 4)
                if head[:1] == b"K":
                    body = struct.pack("!i", 7) + body[4:]
                if not (head[:1] == b"A" and self.drops):
                    client.sendall(head + body)
        except OSError:
            return

    def close(self) -> None:
        for sock in [self.listener, *self.sockets]:
            sock.close()


@contextmanager
def pooled(dsn: str, *, drops_notifications: bool) -> Iterator[str]:
    parts = conninfo_to_dict(dsn)
    target = (str(parts.get("host") or "127.0.0.1"), str(parts.get("port") or "5432"))
    proxy = Proxy(target, drops_notifications=drops_notifications)
    try:
        yield make_conninfo(dsn, host="127.0.0.1", port=proxy.port, sslmode="disable", gssencmode="disable")
    finally:
        proxy.close()


def pooler_finding(dsn: str) -> Finding:
    with psycopg.connect(dsn, autocommit=True) as hearing, psycopg.connect(dsn, autocommit=True) as other:
        return one(checks.pooler(hearing, lambda: _notified(hearing, other)))


def test_direct_way_is_told_from_poolers(database: str) -> None:
    assert pooler_finding(database).level is Level.OK
    with pooled(database, drops_notifications=False) as dsn:
        assert pooler_finding(dsn).level is Level.WARNING
    with pooled(database, drops_notifications=True) as dsn:
        found = pooler_finding(dsn)
        assert found.level is Level.PROBLEM
        assert "listen_dsn" in found.fix


# --- machine and whole


def test_way_of_workers_that_leads_nowhere_is_told(database: str) -> None:
    with PQ(database, listen_dsn=make_conninfo(database, host="127.0.0.1", port=1)) as pq:
        found = one(_pooler(pq))
    assert (found.level, found.check) == (Level.PROBLEM, "pooler")
    assert "listen_dsn" in found.fix


def test_clocks_apart_are_told() -> None:
    now = time.time()

    assert one(machine.clock(now, before=now - 1, after=now + 1)).level is Level.OK
    found = one(machine.clock(now - 60, before=now, after=now))
    assert (found.level, "60.0 s apart" in found.text) == (Level.WARNING, True)
    assert one(machine.clock(now + 60, before=now, after=now)).level is Level.WARNING


def test_old_servers_and_standbys_are_told() -> None:
    assert one(machine.server_version(140011)).level is Level.PROBLEM
    assert one(machine.server_version(150004)).level is Level.OK
    assert one(machine.server_version(150004, standby=True)).level is Level.PROBLEM


def test_container_that_dies_as_a_whole_is_told(tmp_path: Path) -> None:
    assert one(machine.memory(tmp_path)).level is Level.OK
    (tmp_path / "memory.oom.group").write_text("1\n")
    assert one(machine.memory(tmp_path)).level is Level.WARNING


def test_threads_and_sockets_before_the_fork_are_told() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="telemetry")
    thread.start()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        try:
            told = one(machine.threads())
            left = one(machine.sockets())
        finally:
            stop.set()
            thread.join()

    assert (told.level, "telemetry" in told.text) == (Level.WARNING, True)
    assert left.level is Level.WARNING


def test_every_check_answers_for_a_real_database(database: str) -> None:
    found = list(examine(None, False, database, None))

    assert {finding.check for finding in found} == {
        "memory", "server", "clock", "schema", "citus", "indexes", "bloat", "transactions", "running", "starts",
        "names", "versions", "connections", "pooler",
    }  # fmt: skip
    assert [finding.check for finding in found if finding.level is Level.PROBLEM] == ["versions"]
    assert all(finding.fix for finding in found if finding.level is not Level.OK)
