"""The query of the autoscaler as it stands in deploy/: run as SQL, it counts what waits and what runs."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import psycopg
import yaml
from psycopg import sql

from pq_core import PQ, TaskStatus
from pq_core.privileges import roles_sql
from tests.integration import worker_tasks as tasks
from tests.integration.worker_process import eventually, running

MANIFEST = Path(__file__).parents[2] / "deploy" / "kubernetes" / "keda" / "scaledobject.yaml"


def query() -> str:
    [scaled] = [one for one in yaml.safe_load_all(MANIFEST.read_text()) if one["kind"] == "ScaledObject"]
    [trigger] = scaled["spec"]["triggers"]
    assert trigger["type"] == "postgresql"
    return str(trigger["metadata"]["query"])


def counted(connection: psycopg.Connection) -> int:
    cursor = connection.execute(query().encode())
    assert [column.type_display for column in cursor.description or ()] == ["int8"]
    [(value,)] = cursor.fetchall()
    return int(value)


def test_what_waits_and_what_runs_is_counted(database: str, connection: psycopg.Connection, tmp_path: Path) -> None:
    with PQ(database, tasks=[tasks.__name__]) as pq:
        assert counted(connection) == 0
        ids = pq.enqueue_many(tasks.nap.call(60.0) for _ in range(3))
        pq.enqueue(tasks.nap.options(run_in=timedelta(hours=1)).call(1.0))
        pq.enqueue(tasks.nap.options(queue="paused").call(1.0))
        pq.pause_queue("paused")
        assert counted(connection) == 3
        # Limited by itself; due since just now, and nobody has looked yet; lost twice.
        pq.enqueue(tasks.nap.options(concurrency_key="one").call(1.0))
        late = pq.enqueue(tasks.nap.options(run_in=timedelta(hours=1)).call(1.0))
        connection.execute("UPDATE pq_tasks SET run_at = now() - interval '1 s' WHERE id = %s", (late,))
        connection.execute("UPDATE pq_tasks SET losses = 2 WHERE id = %s", (ids[2],))
        assert counted(connection) == 5

        with running(database, tmp_path, concurrency=2):
            eventually(lambda: pq.list_tasks(status=TaskStatus.RUNNING))
            assert counted(connection) == 5


def test_a_viewer_may_ask(database: str, connection: psycopg.Connection) -> None:
    prefix = f"pq_{connection.info.backend_pid}_"
    connection.execute(roles_sql(prefix=prefix).encode())
    try:
        connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(f"{prefix}viewer")))

        assert counted(connection) == 0
    finally:
        connection.execute("RESET ROLE")
        for role in ("producer", "worker", "viewer"):
            name = sql.Identifier(f"{prefix}{role}")
            connection.execute(sql.SQL("DROP OWNED BY {}").format(name))
            connection.execute(sql.SQL("DROP ROLE {}").format(name))
