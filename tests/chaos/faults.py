"""The faults: what each needs, changes before the workers start, does to them, and leaves behind."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from tests.chaos import pooler
from tests.chaos.failover import Isolate, Lag, Promote, Restore
from tests.chaos.fault import PAUSE, Fault
from tests.chaos.fleet import children_of, kill, processes_of
from tests.chaos.hosts import DatabaseHost, WorkerHosts
from tests.chaos.proxy import Mode, Proxy
from tests.chaos.stage import ROLE, Stage

FAKETIME = "/usr/lib/*/faketime/libfaketime.so.1"


class KillChildren(Fault):
    name = "kill-children"
    title = "SIGKILL to the children"

    def blow(self, stage: Stage) -> int:
        return sum(kill(pid, signal.SIGKILL) for pid in stage.fleet.children)


class KillForkServer(Fault):
    name = "kill-fork-server"
    title = "SIGKILL to the processes that fork the children"

    def blow(self, stage: Stage) -> int:
        servers = [server for worker in stage.fleet.workers for server in children_of(worker)]
        return sum(kill(pid, signal.SIGKILL) for pid in servers)


class KillWorker(Fault):
    name = "kill-worker"
    title = "SIGKILL to one worker"

    def blow(self, stage: Stage) -> int:
        workers = stage.fleet.workers
        if not workers:
            return 0
        stage.fleet.kill_worker(random.choice(workers))
        return 1


class KillAll(Fault):
    name = "kill-all"
    title = "SIGKILL to all workers at once"

    def blow(self, stage: Stage) -> int:
        workers = stage.fleet.workers
        for pid in workers:
            stage.fleet.kill_worker(pid)
        time.sleep(2 * PAUSE)
        return len(workers)


class KillKeeper(Fault):
    name = "kill-keeper"
    title = "SIGKILL to a keeper and its workers"

    def blow(self, stage: Stage) -> int:
        stage.fleet.kill_keeper(random.choice(stage.fleet.keepers))
        time.sleep(2 * PAUSE)
        return 1


class Stop(Fault):
    name = "stop-worker"
    title = "SIGSTOP to a worker for two leases, then SIGCONT"

    def inject(self, stage: Stage, seconds: float) -> int:
        # Long enough to live when it is over, few enough for others to have room for what is taken from the stopped.
        stage.order_long(stage.size.workers, 4 * stage.size.lease)
        stopped = sorted(stage.fleet.workers, key=lambda pid: len(processes_of(pid)))[1:]
        for pid in stopped:
            kill(pid, signal.SIGSTOP)
        time.sleep(2 * stage.size.lease)
        for pid in stopped:
            kill(pid, signal.SIGCONT)
        return len(stopped)


class StopBriefly(Fault):
    name = "stop-briefly"
    title = "SIGSTOP to workers for less than a lease, then SIGCONT"

    def blow(self, stage: Stage) -> int:
        workers = stage.fleet.workers
        for pid in workers:
            kill(pid, signal.SIGSTOP)
        time.sleep(stage.size.lease / 4)
        for pid in workers:
            kill(pid, signal.SIGCONT)
        return len(workers)


class StopKeeper(Fault):
    name = "stop-keeper"
    title = "SIGSTOP to a keeper and its worker for two leases, then SIGCONT"
    promise = "database"

    def inject(self, stage: Stage, seconds: float) -> int:
        stage.order_long(stage.size.workers, 4 * stage.size.lease)
        keeper = max(stage.fleet.keepers, key=lambda keeper: sum(len(processes_of(pid)) for pid in keeper.workers))
        family = [keeper.process.pid, *keeper.workers]
        for pid in family:
            kill(pid, signal.SIGSTOP)
        time.sleep(2 * stage.size.lease)
        for pid in reversed(family):
            kill(pid, signal.SIGCONT)
        return 1


class Restart(Fault):
    """Postgres goes down and comes back."""

    def __init__(self, how: str, *, down: float = 1.0) -> None:
        self.how = how
        self.down = down
        self.name = f"restart-{how}"
        self.title = f"Postgres restarted, {how}"

    def blow(self, stage: Stage) -> int:
        stage.server.stop(self.how)
        time.sleep(self.down)
        stage.server.start()
        time.sleep(2)
        return 1


class Outage(Fault):
    name = "outage"
    title = "Postgres away for longer than a lease"

    def inject(self, stage: Stage, seconds: float) -> int:
        stage.order_long(stage.size.workers, 3 * stage.size.lease)
        stage.server.stop("immediate")
        time.sleep(1.5 * stage.size.lease)
        stage.server.start()
        return 1


class Terminate(Fault):
    name = "terminate"
    title = "single sessions ended by `pg_terminate_backend`"

    def blow(self, stage: Stage) -> int:
        rows = stage.server.execute(
            "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity"
            " WHERE usename = %s ORDER BY random() LIMIT 3) s",
            (ROLE,),
        )
        return len(rows)


class Network(Fault):
    """The way to the database misbehaves; for workers, and for what tasks write."""

    def __init__(self, mode: Mode, title: str, *, shares: tuple[float, float], promise: str = "processes") -> None:
        self.mode = mode
        self.name = f"network-{mode.value}"
        self.title = title
        self.promise = promise
        self.bad, self.good = shares

    @contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        self.proxy = Proxy(stage.server.port)
        stage.via = make_conninfo(host="127.0.0.1", port=self.proxy.port, connect_timeout=3)
        stage.load_via = make_conninfo(host="127.0.0.1", port=stage.server.port, connect_timeout=3)
        try:
            yield
        finally:
            self.proxy.close()

    def blow(self, stage: Stage) -> int:
        self.proxy.set(self.mode)
        time.sleep(self.bad)
        self.proxy.set(Mode.PASS)
        time.sleep(self.good)
        return 1


class Full(Fault):
    name = "full"
    title = "`max_connections` reached, workers' sessions ended"

    def blow(self, stage: Stage) -> int:
        held: list[psycopg.Connection] = []
        try:
            with suppress(psycopg.OperationalError):
                while True:
                    held.append(psycopg.connect(stage.plain))
            # What they had goes to us, before they come back for it.
            stage.server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s AND pid <> ALL (%s)",
                (ROLE, [connection.info.backend_pid for connection in held]),
            )
            with suppress(psycopg.OperationalError):
                while True:
                    held.append(psycopg.connect(stage.plain))
            time.sleep(2)
        finally:
            for connection in held:
                connection.close()
        time.sleep(1)
        return 1


class Timeouts(Fault):
    name = "timeouts"
    title = "`statement_timeout` 40 ms and `idle_in_transaction_session_timeout` 100 ms, with locks held"

    def inject(self, stage: Stage, seconds: float) -> int:
        for name, value in (("statement_timeout", "40ms"), ("idle_in_transaction_session_timeout", "100ms")):
            stage.server.execute(f"ALTER DATABASE {stage.database} SET {name} = '{value}'")
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s"
        count = len(stage.server.execute(ended, (ROLE,)))
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            # Whoever wants to write waits for longer than it may.
            with psycopg.connect(stage.direct) as connection:
                connection.execute("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0")
                connection.execute("LOCK TABLE pq_tasks IN SHARE ROW EXCLUSIVE MODE")
                time.sleep(0.3)
            count += 1
            time.sleep(PAUSE)
        for name in ("statement_timeout", "idle_in_transaction_session_timeout"):
            stage.server.execute(f"ALTER DATABASE {stage.database} RESET {name}")
        stage.server.execute(ended, (ROLE,))
        return count


class Pooled(Fault):
    name = "pgbouncer"
    title = "all through PgBouncer in transaction mode, one worker killed, server sessions ended"

    def missing(self) -> str | None:
        return None if pooler.program() else "PgBouncer is not installed (Debian: apt-get install pgbouncer)"

    @contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        bouncer = pooler.Pooler(stage.folder / "pgbouncer", stage.server.port)
        stage.via = bouncer.dsn
        try:
            yield
        finally:
            bouncer.close()

    def blow(self, stage: Stage) -> int:
        KillWorker().blow(stage)
        Terminate().blow(stage)
        time.sleep(1)
        return 2


class Clock(Fault):
    name = "clock"
    title = "two workers' clocks hours ahead and behind, one worker killed"

    def missing(self) -> str | None:
        return None if _library() else "libfaketime is not installed (Debian: apt-get install faketime)"

    @contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        skews = ("+5h", "-7h")
        # The monotonic clock of a machine is right however wrong its calendar is.
        real = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
        for place, skew in enumerate(skews[: len(stage.extra)]):
            stage.extra[place] = {"LD_PRELOAD": str(_library()), "FAKETIME": skew, **real}
        yield

    def blow(self, stage: Stage) -> int:
        return KillWorker().blow(stage)


def _library() -> Path | None:
    return next(iter(sorted(Path("/").glob(FAKETIME[1:]))), None)


class Held(Fault):
    name = "held"
    title = "a transaction held open throughout, workers killed"

    def inject(self, stage: Stage, seconds: float) -> int:
        with psycopg.connect(stage.direct) as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            connection.execute("SELECT count(*) FROM pq_tasks")
            return super().inject(stage, seconds)

    def blow(self, stage: Stage) -> int:
        return KillWorker().blow(stage)


class Storm(Fault):
    name = "storm"
    title = "workers, keepers, children, sessions and Postgres itself, by chance"

    def blow(self, stage: Stage) -> int:
        weights: dict[Fault, int] = {
            KillWorker(): 6,
            KillAll(): 1,
            KillKeeper(): 2,
            KillChildren(): 3,
            KillForkServer(): 1,
            Terminate(): 3,
            StopBriefly(): 1,
        }
        chosen: Fault = random.choices(list(weights), list(weights.values()))[0]
        if random.random() < 0.05:
            chosen = Restart("immediate")
        return chosen.blow(stage)


def all_faults() -> list[Fault]:
    """Return every fault, in the order of the table."""
    return [
        KillChildren(),
        KillForkServer(),
        KillWorker(),
        KillAll(),
        KillKeeper(),
        StopBriefly(),
        Stop(),
        StopKeeper(),
        Restart("fast"),
        Restart("immediate"),
        Outage(),
        Terminate(),
        Promote(),
        Isolate(),
        Lag(),
        Restore(
            "restore-files",
            "files of 3 s ago put back, same timeline, workers running and two killed",
            new_timeline=False,
            begin_anew=True,
        ),
        Restore(
            "restore-timeline",
            "restored to 3 s ago, new timeline, workers running",
            new_timeline=True,
            begin_anew=False,
        ),
        WorkerHosts(),
        DatabaseHost(),
        Network(Mode.CUT, "connections cut", shares=(1.0, 1.5)),
        Network(Mode.DELAY, "each packet 200 ms late", shares=(3.0, 1.0)),
        Network(Mode.HALF_OPEN, "connections half-open for longer than a lease", shares=(8.0, 6.0)),
        Network(Mode.SWALLOW, "answers lost after the commit, then the connection cut", shares=(0.6, 1.5)),
        Full(),
        Timeouts(),
        Pooled(),
        Clock(),
        Held(),
        Storm(),
    ]
