"""The processes under attack: keepers with their workers and children, and the enqueuers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tests.chaos import record

ROOT = Path(__file__).parents[2]
STOP_WITHIN = 40.0


def kill(pid: int, number: int) -> bool:
    """Send a signal; False if the process is gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def children_of(pid: int) -> list[int]:
    """Return the processes that ``pid`` is the parent of."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def processes_of(worker: int) -> list[int]:
    """Return the processes that a worker has for its tasks: its fork server is their parent."""
    return [found for server in children_of(worker) for found in children_of(server)]


def _leads_group(pid: int) -> bool:
    try:
        return os.getpgid(pid) == pid and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class Place:
    """Where a keeper runs: its variables, and what puts it on another host."""

    environment: dict[str, str]
    enter: Callable[[], None] | None = None


class Keeper:
    """One ``pq worker``."""

    def __init__(self, folder: Path, number: int, place: Place, lease: float, concurrency: int) -> None:
        self.log = folder / f"keeper-{number}.log"
        command = [sys.executable, "-m", "pq_core", "worker", "tests.chaos.app:create_pq", "--factory"]
        options = ["--lease", f"{lease:g}", "--concurrency", str(concurrency), "--poll-interval", "0.5"]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, *options, "--drain-timeout", "10"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=ROOT, env=place.environment,
                preexec_fn=place.enter,
            )  # fmt: skip

    @property
    def workers(self) -> list[int]:
        """The worker processes that are alive."""
        return [pid for pid in children_of(self.process.pid) if _leads_group(pid)]

    @property
    def ready(self) -> bool:
        """True once a worker of it has had its lease."""
        return b" started: queues" in self.log.read_bytes()


class Fleet:
    """Some keepers, kept at their number, and enqueuers. ``kills`` counts the workers killed."""

    def __init__(self, folder: Path, *, lease: float, concurrency: int) -> None:
        self.folder = folder
        self.lease = lease
        self.concurrency = concurrency
        self.keepers: list[Keeper] = []
        self.load: list[subprocess.Popen[bytes]] = []
        self.kills = 0
        self._places: list[Place] = []
        self._numbers = 0

    def environment(self, dsn: str, **more: str) -> dict[str, str]:
        """Return the variables of a process of the run that uses this database."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "PQ_", "PYTEST"))}
        own = {
            "PQ_DATABASE_URL": dsn,
            record.FOLDER: str(self.folder),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }
        return {**inherited, **own, **more}

    def start(self, *places: Place) -> None:
        """Start one keeper for each, and wait until they work."""
        for place in places:
            self._numbers += 1
            self.keepers.append(Keeper(self.folder, self._numbers, place, self.lease, self.concurrency))
            self._places.append(place)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until every keeper has had a worker with a lease."""
        until = time.monotonic() + 60
        while not all(keeper.ready for keeper in self.keepers):
            for keeper in self.keepers:
                if keeper.process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"a keeper does not start:\n{keeper.log.read_text()[-2000:]}")
            time.sleep(0.05)

    def start_load(self, dsn: str, *, enqueuers: int, rate: float) -> None:
        """Start enqueuers that enqueue ``rate`` tasks a second together."""
        with (self.folder / "load.log").open("ab") as output:
            for number in range(enqueuers):
                words = [f"load{number}", f"{rate / enqueuers:g}", str(number)]
                command = [sys.executable, "-m", "tests.chaos.load", *words]
                self.load.append(self._enqueuer(command, dsn, output))

    def _enqueuer(self, command: list[str], dsn: str, output: BinaryIO) -> subprocess.Popen[bytes]:
        environment = self.environment(dsn)
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=ROOT, env=environment
        )

    @property
    def workers(self) -> list[int]:
        """All worker processes that are alive."""
        return [pid for keeper in self.keepers for pid in keeper.workers]

    @property
    def children(self) -> list[int]:
        """All processes that run tasks."""
        return [child for worker in self.workers for child in processes_of(worker)]

    def kill_worker(self, pid: int) -> None:
        """End a worker without warning."""
        self.kills += kill(pid, signal.SIGKILL)

    def kill_keeper(self, keeper: Keeper) -> None:
        """End a keeper and its workers without warning, and start another, as a service manager would."""
        workers = keeper.workers
        keeper.process.kill()
        for pid in workers:
            self.kill_worker(pid)
        keeper.process.wait()
        self.replace(keeper)

    def replace(self, keeper: Keeper) -> None:
        """Start another keeper in the place of one that has ended."""
        index = self.keepers.index(keeper)
        self._numbers += 1
        self.keepers[index] = Keeper(self.folder, self._numbers, self._places[index], self.lease, self.concurrency)

    def ensure(self) -> None:
        """Start another keeper for each that has ended."""
        for keeper in list(self.keepers):
            if keeper.process.poll() is not None:
                self.replace(keeper)

    def stop_load(self) -> None:
        """Let the enqueuers end their transactions."""
        for process in self.load:
            process.terminate()
        for process in self.load:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.returncode:
                raise RuntimeError(f"an enqueuer failed:\n{(self.folder / 'load.log').read_text()[-2000:]}")
        self.load.clear()

    def stop(self) -> list[str]:
        """Have all workers drain; return what went wrong with that."""
        problems = []
        for keeper in self.keepers:
            kill(keeper.process.pid, signal.SIGTERM)
        for keeper in self.keepers:
            try:
                status = keeper.process.wait(STOP_WITHIN)
            except subprocess.TimeoutExpired:
                problems.append(f"a keeper did not end within {STOP_WITHIN:g} s of SIGTERM")
                continue
            if status:
                problems.append(f"a keeper ended with status {status}: {keeper.log.read_text()[-300:]!r}")
        return problems

    def close(self) -> None:
        """End everything that is left, now."""
        for process in self.load:
            process.kill()
            process.wait()
        for keeper in self.keepers:
            # Children and workers of a keeper that is killed end by themselves, unless they were stopped.
            family = [keeper.process.pid, *keeper.workers]
            family += [server for worker in keeper.workers for server in children_of(worker)]
            family += [child for worker in keeper.workers for child in processes_of(worker)]
            if keeper.process.poll() is None:
                keeper.process.kill()
            keeper.process.wait()
            for pid in family[1:]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
