"""What becomes of tasks under the same failures with pq, python-pq and Procrastinate, each by its public interface.

Each task writes a line when it begins and one when it ends, to a file that no queue knows: what is counted comes from
there. A worker that ends by itself is started again after a second, as a service manager would.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks.database import STOCK, a_database
from benchmarks.failure_report import FailureReport, Outcome
from benchmarks.machine import describe_server
from benchmarks.peers import address_of, an_environment, installed
from benchmarks.worker import ROOT, children_of
from tests.chaos.server import Server

PROGRAMS = ROOT / "benchmarks" / "peer_programs"
CRASHING = "crash"
RESTART_AFTER = 1.0
AWAY = 1.0
"""Seconds that Postgres is away when it is restarted."""


@dataclass(frozen=True, slots=True)
class System:
    """One of the compared: its program, and how its own table is read. ``refuses``: failure -> why not possible."""

    name: str
    program: str
    states: str
    finals: frozenset[str]
    refuses: dict[str, str]


SYSTEMS = (
    System(
        "pq",
        "pq_toolkit",
        "SELECT lower(status::text), count(*) FROM pq_tasks GROUP BY 1",
        frozenset({"completed", "failed", "cancelled"}),
        {},
    ),
    System(
        "python-pq",
        "python_pq",
        "SELECT lower(status::text), count(*) FROM pq_tasks GROUP BY 1",
        frozenset({"completed", "failed"}),
        {"rollback": "its enqueue() takes neither connection nor session, and commits a transaction of its own"},
    ),
    System(
        "Procrastinate",
        "procrastinate",
        "SELECT status::text, count(*) FROM procrastinate_jobs WHERE task_name = 'step' GROUP BY 1",
        frozenset({"succeeded", "failed", "cancelled", "aborted"}),
        {},
    ),
)


class Stage:
    """One system, one database, one log and at most one worker at a time."""

    def __init__(self, system: System, python: str, server: Server, dsn: str, folder: Path) -> None:
        self.system, self.server, self.dsn = system, server, dsn
        self.log = folder / "marks"
        self.said = folder / "said"
        self.ends: list[int] = []
        self._command = [python, str(PROGRAMS / f"fail_{system.program}.py")]
        ours = f"{ROOT}{os.pathsep}{PROGRAMS}" if system.program == "pq_toolkit" else str(PROGRAMS)
        self._variables = {
            **os.environ,
            **address_of(dsn),
            "PQ_DATABASE_URL": dsn,
            "PQ_BENCH_LOG": str(self.log),
            "PYTHONPATH": ours,
        }
        self._worker: subprocess.Popen[bytes] | None = None

    def call(self, *words: str) -> None:
        """Run the system's program to its end."""
        done = subprocess.run([*self._command, *words], env=self._variables, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{self.system.name}: {words[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}")

    def start(self) -> None:
        """Start a worker in a process group of its own."""
        with self.said.open("ab") as said:
            self._worker = subprocess.Popen(
                [*self._command, "work"], env=self._variables, stdout=said, stderr=said, start_new_session=True
            )

    @property
    def pids(self) -> list[int]:
        """The worker that was started, and every process below it."""
        assert self._worker is not None
        found = [self._worker.pid]
        for pid in found:
            found += children_of(pid)
        return found

    @property
    def alive(self) -> bool:
        return self._worker is not None and self._worker.poll() is None

    def tend(self) -> None:
        """Start the worker again if it has ended."""
        if self._worker is not None and self._worker.poll() is not None:
            self.ends.append(self._worker.returncode)
            time.sleep(RESTART_AFTER)
            self.start()

    def kill(self, pids: list[int]) -> None:
        """Kill these, all stopped first so that none can act on the death of another."""
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue

    def end(self) -> None:
        """Kill what still runs."""
        if self._worker is not None and self._worker.poll() is None:
            self.kill(self.pids)
            self._worker.wait()

    def marks(self) -> list[tuple[str, str, int]]:
        """Return the log: key, begin or end, nanoseconds."""
        if not self.log.exists():
            return []
        lines = (line.split() for line in self.log.read_text().splitlines())
        return [(key, which, int(at)) for key, which, _, at in lines]

    def states(self) -> dict[str, int]:
        """Return how many tasks the system's table has in which state."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            return {str(status): int(count) for status, count in connection.execute(self.system.states).fetchall()}


def kill_worker(stage: Stage) -> None:
    """Kill the process that claims tasks: ours is below its keeper."""
    pids = stage.pids
    stage.kill([children_of(pids[0])[0] if stage.system.program == "pq_toolkit" else pids[0]])


def kill_all(stage: Stage) -> None:
    """Kill everything, as when a container goes."""
    stage.kill(stage.pids)


def cut(stage: Stage) -> None:
    """End all sessions of the worker."""
    stage.server.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
        (psycopg.conninfo.conninfo_to_dict(stage.dsn)["dbname"],),
    )


def restart(stage: Stage) -> None:
    """Stop Postgres without a goodbye and start it again."""
    stage.server.stop("immediate")
    time.sleep(AWAY)
    stage.server.start()


FAILURES: dict[str, tuple[str, Callable[[Stage], None] | None]] = {
    "worker": ("the worker's process is killed", kill_worker),
    "all": ("all of the worker's processes are killed at once", kill_all),
    "crash": ("SIGSEGV inside one task", None),
    "sessions": ("all its sessions are ended by `pg_terminate_backend`", cut),
    "restart": ("Postgres restarted, immediate", restart),
    "rollback": ("every other enqueuing transaction is rolled back", None),
}
"""Name on the command line -> in the table, and what is done while tasks run."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this benchmark takes."""
    names = [system.name for system in SYSTEMS]
    parser.add_argument("--tasks", type=int, default=60, help="in each failure and system [60]")
    parser.add_argument("--seconds", type=float, default=0.1, help="that a task takes [0.1]")
    parser.add_argument("--bound", type=float, default=120.0, help="seconds after which a task counts as lost [120]")
    parser.add_argument("--only", default=",".join(FAILURES), help=f"of {','.join(FAILURES)}")
    parser.add_argument("--systems", default=",".join(names), help=f"of {','.join(names)}")
    parser.add_argument("--python", default=sys.executable, help="at least 3.13, for python-pq")
    parser.add_argument("--environment", type=Path, help="a virtual environment that has them; by default a new one")
    parser.set_defaults(rounds=1)


def run(given: argparse.Namespace) -> FailureReport:
    """Install, break, count and report. ``--dsn`` is not used: each system has a server that can be restarted."""
    wanted = given.systems.split(",")
    chosen = [system for system in SYSTEMS if system.name in wanted]
    settings = {"tasks": given.tasks, "seconds": given.seconds, "bound": given.bound, "rounds": given.rounds}
    report = FailureReport("failures", settings)
    with _peers(given, chosen) as python:
        if python != sys.executable:
            report.versions |= installed(python)
        with ThreadPoolExecutor(len(chosen)) as threads:
            found = list(threads.map(lambda system: _suffer(given, system, python, report), chosen))
    report.outcomes = [outcome for row in zip(*found, strict=True) for outcome in row]
    report.note("each system has a Postgres of its own and four tasks at once; otherwise its defaults")
    report.note("Procrastinate with the periodic retry of stalled jobs that its documentation advises, each minute")
    report.note("python-pq fails a task whose worker died, without running it again, after an hour: its default")
    return report


@contextmanager
def _peers(given: argparse.Namespace, chosen: list[System]) -> Iterator[str]:
    if [system.name for system in chosen] == ["pq"]:
        yield sys.executable
        return
    with an_environment(given) as python:
        yield python


def _suffer(given: argparse.Namespace, system: System, python: str, report: FailureReport) -> list[Outcome]:
    found = []
    with tempfile.TemporaryDirectory(prefix="pq-bench-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)  # Postgres refuses to run as root: whoever it runs as must get at its data
        server = Server(Path(name) / "server", **STOCK, fsync="on").create().start()
        try:
            report.server = describe_server(server.dsn)
            for number in range(given.rounds):
                for failure in given.only.split(","):
                    folder = Path(name) / f"{failure}-{number}"
                    folder.mkdir()
                    with a_database(server.dsn, tables=False) as dsn:
                        interpreter = sys.executable if system.program == "pq_toolkit" else python
                        stage = Stage(system, interpreter, server, dsn, folder)
                        found.append(_outcome(given, stage, failure))
                    print("    " + " | ".join(found[-1].cells()), file=sys.stderr, flush=True)
        finally:
            server.stop()
    return found


def _outcome(given: argparse.Namespace, stage: Stage, failure: str) -> Outcome:
    title, harm = FAILURES[failure]
    if failure in stage.system.refuses:
        why = f"not possible: {stage.system.refuses[failure]}"
        return Outcome(failure=title, system=stage.system.name, on_record=why)
    keys = [f"t{number}" for number in range(given.tasks)]
    if failure == "crash":
        keys.insert(given.tasks // 3, CRASHING)
    with psycopg.connect(stage.dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (key text PRIMARY KEY)")
    stage.call("transactions" if failure == "rollback" else "enqueue", str(given.seconds), *keys)
    committed = {key for number, key in enumerate(keys) if failure != "rollback" or number % 2 == 0}
    stage.start()
    try:
        _until_some_ran(stage, given)
        since = time.monotonic_ns()
        if harm is not None:
            harm(stage)
        _until_done(stage, committed, given.bound)
        return _judge(stage, title, since, committed, harm in (kill_worker, kill_all))
    finally:
        stage.end()


def _until_some_ran(stage: Stage, given: argparse.Namespace) -> None:
    """Wait until a sixth of the tasks has ended and others run."""
    until = time.monotonic() + given.bound
    while time.monotonic() < until:
        stage.tend()
        counted = Counter(which for _, which, _ in stage.marks())
        if counted["end"] >= given.tasks // 6 and counted["begin"] > counted["end"]:
            time.sleep(given.seconds / 2)  # in the midst of tasks, not just when some have ended and none has said so
            return
        time.sleep(0.01)
    raise RuntimeError(f"{stage.system.name}: no tasks ran:\n{stage.said.read_text()[-2000:]}")


def _until_done(stage: Stage, committed: set[str], bound: float) -> None:
    """Wait until all is done and on record as done, at most for so many seconds."""
    until = time.monotonic() + bound
    while time.monotonic() < until:
        stage.tend()
        ended = {key for key, which, _ in stage.marks() if which == "end"}
        if committed - {CRASHING} <= ended and stage.states().keys() <= stage.system.finals:
            return
        time.sleep(0.2)


def _judge(stage: Stage, title: str, since: int, committed: set[str], killed: bool) -> Outcome:
    ended: dict[str, int] = {}
    again = set()
    marks = stage.marks()
    for key, which, at in marks:
        if which == "begin" and key in ended:
            again.add(key)
        elif which == "end":
            ended[key] = at
    starts = sum(key == CRASHING for key, which, _ in marks if which == "begin")
    lost = committed - {CRASHING} - ended.keys()
    ran = {key for key, _, _ in marks}
    own = len(stage.ends) - (1 if killed and stage.ends else 0)
    new = "killed; a new one" if killed and stage.ends else "it"
    return Outcome(
        failure=title,
        system=stage.system.name,
        enqueued=len(committed),
        never_finished=len(lost),
        again=len(again),
        uncommitted=len(ran - committed) if title == FAILURES["rollback"][0] else None,
        starts=starts if CRASHING in committed else None,
        seconds=None if lost else max(0.0, (max(ended.values()) - since) / 1e9),
        on_record=", ".join(f"{count} {state}" for state, count in sorted(stage.states().items())),
        worker=f"{new} runs" if not own and stage.alive else f"ended by itself, {own} times; started again",
    )
