"""Signs of life: the health file of a real worker, what systemd is told, and what `pq health --live` makes of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pq_core import PQ, TaskStatus
from pq_core.worker.vitals import Notifier, Vitals, read, write
from tests.integration import worker_tasks as tasks
from tests.integration.worker_process import ROOT, WorkerProcess, alive, eventually, running


class Systemd:
    """A socket as systemd's, and all that was said to it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.setblocking(False)
        self._said: list[str] = []

    @property
    def said(self) -> list[str]:
        try:
            while True:
                self._said += self.socket.recv(4096).decode().splitlines()
        except BlockingIOError:
            return self._said


@contextmanager
def systemd(address: str) -> Iterator[Systemd]:
    manager = Systemd(address)
    try:
        yield manager
    finally:
        manager.socket.close()


def health(file: Path, *words: str, kind: str = "--live") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pq_core", "health", kind, "--file", str(file), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)


# --- the health file


def test_one_file_speaks_for_all_processes(database: str, tmp_path: Path) -> None:
    file = tmp_path / "health"
    with running(database, tmp_path, processes=3, health_file=str(file)) as worker:
        sign = eventually(lambda: file.exists() and (found := json.loads(file.read_text()))["workers"] == 3 and found)

        assert sign["pid"] == worker.keeper
        said = health(file)
        assert said.returncode == 0, said.stderr
        assert "3 worker(s) at work" in said.stdout
        assert [path.name for path in tmp_path.glob("health*")] == ["health"]


def test_file_ages_while_the_keeper_is_stopped(database: str, tmp_path: Path) -> None:
    file = tmp_path / "health"
    with running(database, tmp_path, health_file=str(file)) as worker:
        eventually(file.exists)
        worker.signal(signal.SIGSTOP)
        try:
            eventually(lambda: (read(str(file)).age or 0.0) > 1.0)
            said = health(file, "--max-age", "1")
        finally:
            worker.signal(signal.SIGCONT)

    assert said.returncode == 1
    assert "more than 1 s" in said.stderr


def test_file_stays_fresh_while_there_is_no_database(tmp_path: Path) -> None:
    file = tmp_path / "health"
    dsn = "host=127.0.0.1 port=9 user=nobody dbname=nowhere"
    worker = WorkerProcess(dsn, tmp_path / "log", health_file=str(file))
    try:
        eventually(lambda: "connection is lost" in worker.text)
        eventually(file.exists)

        assert json.loads(file.read_text())["workers"] == 0
        assert health(file).returncode == 0
        said = health(file, kind="--here")
        assert said.returncode == 1
        assert "1 must hold a lease" in said.stderr
    finally:
        worker.kill()


def test_here_asks_for_a_lease_of_this_machine_until_the_drain(database: str, tmp_path: Path) -> None:
    file = tmp_path / "health"
    with (
        PQ(database, tasks=[tasks.__name__]) as pq,
        running(database, tmp_path, processes=2, lease=6, drain_timeout=60, health_file=str(file)) as worker,
    ):
        eventually(lambda: health(file, "--min-workers", "2", kind="--here").returncode == 0)
        assert "3 must hold a lease" in health(file, "--min-workers", "3", kind="--here").stderr
        id_ = pq.enqueue(tasks.nap.call(60.0))
        eventually(lambda: (task := pq.get_task(id_)) and task.status is TaskStatus.RUNNING)

        worker.signal(signal.SIGTERM)

        eventually(lambda: "about to end" in health(file, kind="--here").stderr)
        assert health(file).returncode == 0
        # The database is told by the next heartbeat.
        command = [sys.executable, "-m", "pq_core", "health", "--ready", "--dsn", database]

        def ready() -> str:
            return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60).stderr

        eventually(lambda: "0 worker(s) alive, and " in ready())
        pq.cancel(id_)


def test_worker_without_a_keeper_writes_it_itself(database: str, tmp_path: Path) -> None:
    file = tmp_path / "health"
    program = (
        "from tests.integration.worker_tasks import create_pq\n"
        f"create_pq().run_worker(concurrency=1, poll_interval=0.1, health_file={str(file)!r})\n"
    )
    environment = {**os.environ, "PQ_DATABASE_URL": database, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, cwd=ROOT)
    try:
        sign = eventually(lambda: file.exists() and json.loads(file.read_text()))
        process.send_signal(signal.SIGTERM)

        assert sign["pid"] == process.pid
        assert process.wait(30) == 0
    finally:
        process.kill()


def test_missing_broken_and_old_files_are_not_live(tmp_path: Path) -> None:
    file = tmp_path / "health"

    assert health(file).returncode == 1
    file.write_text("4711\n")
    assert health(file).returncode == 1
    write(str(file), {"monotonic": time.monotonic() - 31, "pid": 1, "workers": 1})
    assert health(file).returncode == 1
    assert health(file, "--max-age", "5m").returncode == 0
    write(str(file), {"monotonic": time.monotonic() + 1e6, "pid": 1, "workers": 1})
    assert "from before the machine's last start" in health(file).stderr


def test_live_without_a_file_is_a_mistake() -> None:
    command = [sys.executable, "-m", "pq_core", "health", "--live"]

    said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)

    assert said.returncode == 2
    assert "--file" in said.stderr


@pytest.mark.parametrize("kind", ["--live", "--here"])
def test_a_look_at_the_file_loads_neither_driver_nor_application(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "health"
    write(str(file), {"monotonic": time.monotonic(), "pid": 1, "workers": 1})
    program = (
        "import sys\nfrom pq_adapters.cli.root import root\n"
        f"root(['health', '{kind}', '--file', {str(file)!r}], standalone_mode=False)\n"
        "print({'psycopg', 'sqlalchemy', 'rich', 'pluggy', 'pq_core.client'} & set(sys.modules))"
    )

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)

    assert said.stdout.splitlines()[-1] == "set()"


# --- systemd


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_systemd_hears_of_ready_watchdog_and_stopping(database: str, tmp_path: Path, abstract: bool) -> None:
    address = f"@pq-test-{os.getpid()}-{tmp_path.name}" if abstract else str(tmp_path / "notify")
    with systemd(address) as manager:
        environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "600000"}
        with running(database, tmp_path, processes=2, environment=environment) as worker:
            eventually(lambda: "READY=1" in manager.said)
            eventually(lambda: manager.said.count("WATCHDOG=1") > 2)
            assert "STOPPING=1" not in manager.said
            assert worker.stop() == 0

        assert manager.said.count("READY=1") == 1
        assert manager.said.count("STOPPING=1") == 1


def test_no_watchdog_sign_while_a_worker_hangs(database: str, tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with systemd(address) as manager:
        environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "300000"}
        with running(database, tmp_path, lease=3, environment=environment) as worker:
            eventually(lambda: "WATCHDOG=1" in manager.said)
            [hung] = worker.workers
            worker.signal(signal.SIGSTOP, hung)
            # The keeper is the nearer watchdog: it replaces the worker, and goes on giving signs.
            eventually(lambda: not alive(hung))
            heard = len(manager.said)
            eventually(lambda: len(manager.said) > heard)


def test_tasks_do_not_inherit_the_socket(database: str, tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with systemd(address), PQ(database, tasks=[tasks.__name__]) as pq:
        environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "60000000"}
        with running(database, tmp_path, environment=environment):
            seen = pq.wait(pq.enqueue(tasks.variables.call()), timeout=30)

    assert "PQ_DATABASE_URL" in seen
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & set(seen)


def test_variables_are_taken_out_and_only_meant_for_their_process() -> None:
    environment = {"NOTIFY_SOCKET": "@a", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1", "HOME": "/"}

    notifier = Notifier.take(environment)

    assert environment == {"HOME": "/"}
    assert notifier is not None
    assert notifier.watchdog == 0.0


def test_nobody_at_the_socket_is_no_error(tmp_path: Path) -> None:
    assert not Notifier(str(tmp_path / "nobody")).say("READY=1")


def test_file_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    said: list[str] = []
    vitals = Vitals(health_file=str(tmp_path / "no" / "health"), notifier=None, log=said.append)

    vitals.sign(workers=1, now=100.0)
    vitals.sign(workers=1, now=200.0)

    assert len(said) == 1
