"""A deploy in the middle: workers and clients of the revision before beside this code, on the migrated schema.

The older code is taken out of the repository's own history: what stood before a revision was added.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pq_core import PQ, TaskStatus
from pq_core.schema import CODE_REVISION, migrate
from tests.integration.worker_process import ROOT, alive, children_of, descendants_of, eventually

REVISIONS = {1: "0002_operations.sql", 3: "0004_workers.sql", 4: "0005_revision.sql"}
"""The revision of the older code, and a file of the one after it."""

APP = """
import os, time
from pathlib import Path
from pq_core import PQ, TaskGroup

jobs = TaskGroup(prefix="two")
pq = PQ(app="two")
pq.include(jobs)

@jobs.task(name="who")
def who(number: int = 0) -> str:
    return os.environ["WHO"]

@jobs.task(name="slow")
def slow(path: str, seconds: float) -> str:
    with Path(path).open("a") as file:
        file.write(os.environ["WHO"] + "\\n")
    time.sleep(seconds)
    return os.environ["WHO"]
"""


def git(*words: str) -> bytes:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, timeout=60)
    if done.returncode:
        pytest.skip(f"no history to take the older code from: {done.stderr.decode(errors='replace').strip()[:100]}")
    return done.stdout


@pytest.fixture(scope="module", params=REVISIONS, ids="code of revision {}".format)
def older(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """Return a revision, and a folder with the packages as they were before the one after it."""
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    file = f"pq_core/migrations/versions/{REVISIONS[request.param]}"
    added = git("log", "--diff-filter=A", "--format=%H", "--", file).decode().split()
    if not added:
        pytest.skip(f"the history does not say when {file} was added")
    archive = git("archive", "--format=tar", f"{added[-1]}^", "--", "pq_core", "pq_hooks", "pq_adapters")
    folder = tmp_path_factory.mktemp("older")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return request.param, folder


class Version:
    """One of the two versions, with the same application."""

    def __init__(self, name: str, code: Path, folder: Path, dsn: str) -> None:
        self.name = name
        self.folder = folder
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("PQ_", "COV"))},
            "PQ_DATABASE_URL": dsn,
            "PYTHONPATH": os.pathsep.join([str(code), str(folder)]),
            "WHO": name,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / f"{name}.log"

    def run(self, program: str) -> Any:
        """Run a program with this version, and return what it prints as JSON."""
        program = f"import json\nfrom two import pq, who, slow\n{program}"
        done = subprocess.run(
            [sys.executable, "-c", program], env=self.environment, cwd=self.folder, capture_output=True, timeout=60
        )
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout or b"null")

    def enqueue(self, call: str, **options: Any) -> int:
        return int(self.run(f"print(pq.enqueue({call}, **{options!r}))"))

    def start(self, *, queues: list[str] | None = None, lease: float = 30) -> None:
        options = {"concurrency": 2, "lease": lease, "poll_interval": 0.2, "queues": queues}
        spec = {"app": "two:pq", "factory": False, "processes": 1, "options": options}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pq_core.worker", json.dumps(spec)],
                env=self.environment, cwd=self.folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        eventually(lambda: b"started: queues" in self.log.read_bytes(), what=self.log.read_text())

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(40) == 0, self.log.read_text()

    def kill(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        below = descendants_of(self.process.pid)
        for pid in (self.process.pid, *below):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def versions(older: tuple[int, Path], empty_database: str, tmp_path: Path) -> Iterator[tuple[Version, Version]]:
    (tmp_path / "two.py").write_text(APP)
    revision, code = older
    old = Version("old", code, tmp_path, empty_database)
    new = Version("new", ROOT, tmp_path, empty_database)
    assert old.run("from pq_core.schema import CODE_REVISION\nprint(CODE_REVISION)") == revision
    old.run("pq.run_db_migrations()")
    try:
        yield old, new
    finally:
        for version in (old, new):
            version.kill()


@pytest.fixture
def pq(empty_database: str) -> Iterator[PQ]:
    with PQ(empty_database) as pq:
        yield pq


def revision(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT revision FROM pq_schema").fetchone()
    assert row is not None
    return int(row[0])


def test_old_workers_and_clients_go_on_while_and_after_the_schema_is_upgraded(
    versions: tuple[Version, Version], empty_database: str, pq: PQ
) -> None:
    old, new = versions
    old.start()
    before = old.enqueue("who.call(1)")
    running = old.enqueue(f"slow.call({str(old.folder / 'runs')!r}, 3.0)")
    eventually((old.folder / "runs").exists)

    migrate(empty_database)

    assert revision(empty_database) == CODE_REVISION
    after = [old.enqueue("who.call(2)"), new.enqueue("who.call(3)")]
    assert [pq.wait(id_, timeout=40) for id_ in (before, running, *after)] == ["old"] * 4
    assert (old.folder / "runs").read_text() == "old\n"
    # One that starts only now is old code on the newer schema, as after a rollback.
    old.stop()
    old.start()
    assert pq.wait(new.enqueue("who.call(4)"), timeout=40) == "old"
    old.stop()


def test_both_versions_share_queues_and_schedules(
    versions: tuple[Version, Version], empty_database: str, pq: PQ
) -> None:
    old, new = versions
    migrate(empty_database)
    old.start()
    new.start()
    schedule = old.run(
        "from datetime import timedelta\nprint(pq.schedule(who.call(9), run_every=timedelta(seconds=1), key='both'))"
    )

    many = "pq.enqueue_many([slow.call('runs', 0.3) for _ in range(10)])"
    ids = [id_ for version in (old, new) for id_ in version.run(f"print(json.dumps([int(i) for i in {many}]))")]

    assert {pq.wait(id_, timeout=40) for id_ in ids} == {"old", "new"}
    with psycopg.connect(empty_database, autocommit=True) as connection:
        ticks = "SELECT count(*), count(DISTINCT tick_at) FROM pq_tasks WHERE schedule_id = %s AND status = 'completed'"
        count, different = eventually(
            lambda: (row := connection.execute(ticks, (schedule,)).fetchone()) and row[0] > 2 and row
        )
        assert count == different
    old.stop()
    new.stop()


@pytest.mark.parametrize("dies", ["old", "new"])
def test_each_version_rescues_the_tasks_of_the_other(
    versions: tuple[Version, Version], empty_database: str, pq: PQ, dies: str
) -> None:
    old, new = versions
    migrate(empty_database)
    victim, survivor = (old, new) if dies == "old" else (new, old)
    victim.start(lease=3)
    runs = old.folder / "runs"
    id_ = survivor.enqueue(f"slow.call({str(runs)!r}, 1.0)")
    assert victim.process is not None
    eventually(runs.exists)
    assert children_of(victim.process.pid)
    victim.kill()

    survivor.start(lease=3)

    eventually(lambda: (task := pq.get_task(id_)) and task.status is TaskStatus.COMPLETED)
    assert runs.read_text().split() == [victim.name, survivor.name]
    assert [attempt.outcome.value for attempt in pq.attempts(id_)] == ["lost", "succeeded"]
    survivor.stop()


def test_pause_and_drain_of_this_version_are_obeyed_by_the_other(
    versions: tuple[Version, Version], empty_database: str, pq: PQ
) -> None:
    old, _ = versions
    migrate(empty_database)
    old.start()

    pq.pause_queue("default")
    id_ = old.enqueue("who.call(1)")
    [worker] = pq.workers()
    assert (task := pq.get_task(id_)) is not None
    assert task.status is TaskStatus.PENDING
    pq.resume_queue("default")
    assert pq.wait(id_, timeout=40) == "old"

    assert pq.drain_worker(worker.id)
    assert old.process is not None
    assert old.process.wait(40) == 0


def test_old_worker_that_is_to_stop_drains_or_puts_back_what_it_runs(
    versions: tuple[Version, Version], older: tuple[int, Path], empty_database: str, pq: PQ, tmp_path: Path
) -> None:
    old, _ = versions
    migrate(empty_database)
    old.start()
    runs = tmp_path / "runs"
    id_ = old.enqueue(f"slow.call({str(runs)!r}, 2.0)")
    eventually(runs.exists)
    [worker] = pq.workers()

    assert pq.stop_worker(worker.id)

    assert old.process is not None
    assert old.process.wait(40) == 0
    if older[0] < 4:
        assert pq.wait(id_, timeout=5) == "old"
    else:  # it knows of stop_requested
        assert (task := pq.get_task(id_)) is not None
        assert task.status is TaskStatus.PENDING


def test_new_code_refuses_the_older_schema(versions: tuple[Version, Version], older: tuple[int, Path]) -> None:
    _, new = versions

    said = subprocess.run(
        [sys.executable, "-m", "pq_core", "health", "--ready"], env=new.environment, capture_output=True, timeout=60
    )

    assert said.returncode == 1
    assert f"is at revision {older[0]}, this code needs".encode() in said.stderr
