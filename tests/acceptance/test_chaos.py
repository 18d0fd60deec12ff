"""The chaos suite: its short form passes, and its checker finds what is wrong when something is."""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from tests.chaos import checker, history, network, record
from tests.chaos.checker import Checker, Findings
from tests.chaos.stage import TABLES

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")


@pytest.mark.timeout(400)
def test_short_form_passes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--short"], cwd=ROOT, capture_output=True, text=True, timeout=390
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "workers killed" in done.stdout


def test_checker_has_nothing_of_the_code_under_test() -> None:
    for module in (checker, history, record):
        tree = ast.parse(Path(module.__file__ or "").read_text())
        names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert not {name for name in names if name and name.startswith("pq_")}
        assert {name for name in names if name and name.startswith("tests")} <= {"tests.chaos"}


class Scene:
    """A run in which all is well, to be spoiled. Times of the log are seconds of no particular clock."""

    def __init__(self, connection: psycopg.Connection, folder: Path) -> None:
        self.connection = connection
        self.folder = folder
        os.environ[record.FOLDER] = str(folder)
        self.ids: dict[str, int] = {}
        for kind in ("plain", "effect", "once"):
            self.task(kind, f"a-{kind}")
            self.order(kind, f"a-{kind}")
            self.ran("start", f"a-{kind}")
            self.ran("end", f"a-{kind}")
        connection.execute("INSERT INTO chaos_effects VALUES ('a-effect', %s, 1)", (self.ids["a-effect"],))
        self.task("doomed", "a-doomed", status="failed")
        self.task("mourn", "a-doomed")
        self.ran("end", "a-doomed")
        self.order("doomed", "a-doomed")
        self.task("version", "a-client", second="7")
        self.ran("start", "a-client")
        self.ran("end", "a-client", extra="7")
        self.order("version", "a-version", client="a-client", number=7)
        connection.execute(
            "INSERT INTO pq_periodic (name, payload, run_every, next_run)"
            " VALUES ('chaos.tick', '{}', '1 s', '2030-01-01')"
        )
        for second in (58, 59):
            self.task("tick", f"tick-{second}", schedule=1, tick=f"2029-12-31 23:59:{second}")
            self.ran("end", f"tick-{second}")

    def task(
        self, kind: str, key: str, *, status: str = "completed", second: str | None = None, schedule: int | None = None,
        tick: str | None = None,
    ) -> None:  # fmt: skip
        row = self.connection.execute(
            "INSERT INTO pq_tasks (name, payload, status, run_at, due, fence, attempts, schedule_id, tick_at)"
            " VALUES (%s, jsonb_build_object('args', jsonb_build_array(%s::text, %s::text)), %s, now(), true, 1, 1, %s,"
            " %s) RETURNING id",
            (f"chaos.{kind}", key, second, status, schedule, tick),
        ).fetchone()
        assert row is not None
        self.ids[key] = row[0]

    def order(self, kind: str, key: str, *, client: str | None = None, number: int | None = None) -> None:
        self.connection.execute("INSERT INTO chaos_orders VALUES (%s, %s, %s, %s)", (key, kind, client, number))
        record.append(record.ORDERS, "committed", key)

    def ran(self, what: str, key: str, *, fence: int = 1, extra: str = "-") -> None:
        record.note(what, task=self.ids[key], fence=fence, attempt=1, key=key, extra=extra)

    def run(self, statement: str, *keys: str) -> None:
        self.connection.execute(statement, [self.ids[key] for key in keys])

    def check(self, dsn: str) -> Findings:
        return Checker(dsn, self.folder).check()


@pytest.fixture
def scene(connection: psycopg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setenv(record.FOLDER, str(tmp_path))
    connection.execute(TABLES)
    return Scene(connection, tmp_path)


def test_checker_is_content_with_what_is_right(scene: Scene, database: str) -> None:
    found = scene.check(database)

    assert found.problems == []
    assert (found.tasks, found.effects, found.ticks, found.starts) == (8, 1, 2, 4)


TWICE = "INSERT INTO chaos_effects VALUES ('a-effect', %s, 1)"
SPOILED: dict[str, tuple[str, Callable[[Scene], object]]] = {
    "a task is gone": ("lost", lambda s: s.run("DELETE FROM pq_tasks WHERE id = %s", "a-plain")),
    "a transaction is gone": ("lost", lambda s: record.append(record.ORDERS, "committed", "another")),
    "a rolled back task is there": ("wrong", lambda s: record.append(record.ORDERS, "rolled-back", "a-plain")),
    "a task without an order": ("wrong", lambda s: s.task("plain", "stray", status="failed")),
    "a task twice": ("duplicated", lambda s: (s.task("plain", "a-plain"), s.ran("end", "a-plain"))),
    "left running": ("stuck", lambda s: s.run("UPDATE pq_tasks SET status = 'running' WHERE id = %s", "a-plain")),
    "left pending": ("stuck", lambda s: s.run("UPDATE pq_tasks SET status = 'pending' WHERE id = %s", "a-plain")),
    "failed": ("lost", lambda s: s.run("UPDATE pq_tasks SET status = 'failed' WHERE id = %s", "a-plain")),
    "completed by an attempt that did not end": (
        "lost",
        lambda s: s.run("UPDATE pq_tasks SET fence = 2 WHERE id = %s", "a-plain"),
    ),
    "given up too early": (
        "lost",
        lambda s: s.run(
            "UPDATE pq_tasks SET status = 'failed', error = 'suspect of killing' WHERE id = %s", "a-plain"
        ),
    ),
    "started twice under one fence": ("duplicated", lambda s: s.ran("start", "a-plain")),
    "ran without a record": ("wrong", lambda s: s.ran("start", "a-plain", fence=3)),
    "an effect twice": ("duplicated", lambda s: s.run(TWICE, "a-effect")),
    "no effect": ("lost", lambda s: s.run("DELETE FROM chaos_effects")),
    "the effect of another attempt": ("lost", lambda s: s.run("UPDATE chaos_effects SET fence = 2")),
    "started twice though it must not": ("duplicated", lambda s: s.ran("start", "a-once", fence=2)),
    "no consequence": ("lost", lambda s: s.run("DELETE FROM pq_tasks WHERE name = 'chaos.mourn'")),
    "an old version": ("lost", lambda s: s.order("version", "later", client="a-client", number=8)),
    "a tick twice": (
        "duplicated",
        lambda s: s.run("UPDATE pq_tasks SET schedule_id = NULL WHERE id = %s", "tick-59")
        or (s.connection.execute("DROP INDEX pq_tasks_tick")
        and s.task("tick", "again", schedule=1, tick="2029-12-31 23:59:58")),
    ),
    "a tick left out": ("lost", lambda s: s.run("DELETE FROM pq_tasks WHERE id = %s", "tick-59")),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILED)
def test_checker_finds(scene: Scene, database: str, what: str) -> None:
    kind, spoil = SPOILED[what]

    spoil(scene)

    found = scene.check(database)
    assert getattr(found, kind), found


def test_checker_measures_how_long_two_attempts_live(scene: Scene, database: str) -> None:
    scene.ran("overlap", "a-plain")
    scene.ran("parted", "a-plain")

    (seconds,) = scene.check(database).overlaps
    assert seconds >= 0


class LostHistory:
    """A scene of which the last part was lost, all well so far: ``a-once`` ran then, ``b-once`` waited, and the id of a
    task ``gone`` is another's now."""

    def __init__(self, scene: Scene, dsn: str) -> None:
        self.scene = scene
        self.dsn = dsn
        scene.run("UPDATE pq_tasks SET started_at = clock_timestamp() - interval '1 hour'")
        scene.task("once", "b-once")
        scene.order("once", "b-once")
        scene.run("UPDATE pq_tasks SET status = 'running', fence = 2 WHERE id = %s", "a-once")
        scene.run("UPDATE pq_tasks SET status = 'pending' WHERE id = %s", "b-once")
        orders, tasks = history.look(dsn)
        scene.run("UPDATE pq_tasks SET status = 'failed' WHERE id = %s", "a-once")
        scene.task("plain", "new")
        record.append(record.ORDERS, "committed", "gone", "first")
        record.note("start", task=scene.ids["new"], fence=1, attempt=1, key="gone")
        self.ended = time.monotonic()
        history.note(
            scene.folder,
            history.Switch(
                began=self.ended, ended=self.ended, until=self.ended + 60, servers=["first"], orders=orders, tasks=tasks
            ),
        )
        record.note("end", task=scene.ids["new"], fence=1, attempt=1, key="gone")
        scene.order("plain", "new")
        for key in ("new", "b-once"):
            self.claim(key)
            scene.ran("start", key)
            scene.ran("end", key)

    def claim(self, key: str) -> None:
        self.scene.run("UPDATE pq_tasks SET status = 'completed', started_at = clock_timestamp() WHERE id = %s", key)

    def check(self) -> Findings:
        return self.scene.check(self.dsn)


@pytest.fixture
def lost(scene: Scene, database: str) -> LostHistory:
    return LostHistory(scene, database)


def test_checker_tells_what_was_lost_with_a_history_from_what_must_be_there(lost: LostHistory) -> None:
    found = lost.check()

    assert found.problems == []
    assert (found.gone, found.reused) == (1, 1)


LATE = "UPDATE pq_tasks SET started_at = clock_timestamp() + interval '1 minute' WHERE id = %s"
OTHERS = "INSERT INTO chaos_effects VALUES ('gone', %s, 1)"
SPOILED_AFTER: dict[str, tuple[str, Callable[[Scene], object]]] = {
    "completed by an attempt of the lost history": ("lost", lambda s: s.run(LATE, "new")),
    "the effect of a lost task": ("wrong", lambda s: s.run(OTHERS, "new")),
    "what ran is started again": ("duplicated", lambda s: s.ran("start", "a-once", fence=3)),
    "what survived is gone": ("lost", lambda s: s.connection.execute("DELETE FROM chaos_orders WHERE key = 'a-plain'")),
    "a task that survived is gone": ("lost", lambda s: s.run("UPDATE pq_tasks SET id = 900 WHERE id = %s", "a-plain")),
    "acknowledged afterwards, and gone": (
        "lost",
        lambda s: record.append(record.ORDERS, "committed", "another", "second"),
    ),
}


@pytest.mark.parametrize("what", SPOILED_AFTER)
def test_checker_finds_after_a_lost_history(lost: LostHistory, what: str) -> None:
    kind, spoil = SPOILED_AFTER[what]

    spoil(lost.scene)

    found = lost.check()
    assert getattr(found, kind), found


def test_checker_counts_one_start_in_each_history(lost: LostHistory) -> None:
    scene = lost.scene
    scene.ran("start", "a-client")  # as before the history was lost, and again nothing is on record of it
    scene.ran("end", "a-client", extra="6")
    scene.run("UPDATE pq_tasks SET fence = 2, started_at = clock_timestamp() WHERE id = %s", "a-client")
    scene.ran("start", "a-client", fence=2)
    scene.ran("end", "a-client", fence=2, extra="7")

    assert lost.check().problems == []


def test_checker_finds_what_runs_on_of_a_lost_history(lost: LostHistory) -> None:
    path = lost.scene.folder / history.SWITCHES
    (switch,) = history.switches(lost.scene.folder)
    path.unlink()
    history.note(lost.scene.folder, replace(switch, until=switch.ended))

    assert any("of a lost history" in words for words in lost.check().wrong)


NO_HOSTS = network.missing()
ECHO = """
import socket
server = socket.create_server(("", 4000))
print("ready", flush=True)
connection, _ = server.accept()
while data := connection.recv(100):
    connection.sendall(data)
"""


@pytest.mark.skipif(NO_HOSTS is not None, reason=str(NO_HOSTS))
def test_host_that_is_cut_off_says_nothing_until_it_is_back() -> None:
    with network.Network() as net:
        host = net.add("a")
        with subprocess.Popen(
            [sys.executable, "-c", ECHO], stdout=subprocess.PIPE, preexec_fn=host.enter
        ) as process, socket.socket() as connection:  # fmt: skip
            assert process.stdout is not None
            process.stdout.readline()
            connection.settimeout(60)
            connection.connect((host.address, 4000))
            connection.sendall(b"one")
            assert connection.recv(100) == b"one"
            host.cut()
            connection.sendall(b"two")
            connection.settimeout(0.5)
            with pytest.raises(TimeoutError):
                connection.recv(100)
            host.heal()
            connection.settimeout(60)
            assert connection.recv(100) == b"two"
            process.kill()
