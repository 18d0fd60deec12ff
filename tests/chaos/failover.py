"""Faults in which another server, or an earlier state of it, takes the database's place."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from psycopg.conninfo import make_conninfo

from tests.chaos import history
from tests.chaos.fault import Fault
from tests.chaos.network import Host
from tests.chaos.proxy import Mode, Proxy
from tests.chaos.server import Server
from tests.chaos.stage import Stage, prepare

LOST = 3.0
"""Seconds of history that are lost."""
SLOTS = 5
"""Tasks at a time for each worker: the tasks of these faults are long, and others are to go on beside them."""


class Promote(Fault):
    name = "promote"
    title = "primary killed, synchronous standby promoted, multi-host DSN"

    @contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        with pair(stage) as (primary, standby):
            self.primary, self.standby = primary, standby
            stage.via = hosts(primary.port, standby.port)
            yield

    def inject(self, stage: Stage, seconds: float) -> int:
        self.primary.stop("immediate")
        promote(self.standby)
        stage.server = self.standby
        return 1


class Isolate(Fault):
    name = "isolate"
    title = "primary falls silent (half-open), standby promoted, multi-host DSN"

    @contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        with pair(stage) as (primary, standby):
            self.standby = standby
            self.proxy = Proxy(primary.port)
            stage.via = hosts(self.proxy.port, standby.port)
            try:
                yield
            finally:
                self.proxy.close()

    def inject(self, stage: Stage, seconds: float) -> int:
        self.proxy.set(Mode.HALF_OPEN)
        promote(self.standby)
        stage.server = self.standby
        return 1


class Lag(Fault):
    name = "lag"
    title = "primary killed, asynchronous standby promoted that was 3 s behind, multi-host DSN"
    promise = "database"
    loses = True

    @contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        stage.fleet.concurrency = SLOTS
        with pair(stage, synchronous=False) as (primary, standby):
            self.primary, self.standby = primary, standby
            stage.via = hosts(primary.port, standby.port)
            yield

    def inject(self, stage: Stage, seconds: float) -> int:
        begin_before(stage)
        self.standby.set("primary_conninfo", "")
        until(lambda: not self.standby.execute("SELECT 1 FROM pg_stat_wal_receiver"), "the standby still follows")
        work_in_vain(stage)
        lost = [self.primary.started]
        began = time.monotonic()
        self.primary.stop("immediate")
        self.standby.set("default_transaction_read_only", "on")
        promote(self.standby)
        stage.server = self.standby
        take_over(stage, began, lost)
        return 1


class Restore(Fault):
    """The server is stopped and comes back with the files that it had some seconds before.

    ``begin_anew``: a worker begins its life in the part that is lost, another one afterwards, under the same id.
    """

    promise = "database"
    loses = True

    def __init__(self, name: str, title: str, *, new_timeline: bool, begin_anew: bool) -> None:
        self.name = name
        self.title = title
        self.new_timeline = new_timeline
        self.begin_anew = begin_anew

    @contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        stage.fleet.concurrency = SLOTS
        with alone(stage) as server:
            stage.via = hosts(server.port)
            yield

    def inject(self, stage: Stage, seconds: float) -> int:
        server, saved = stage.server, stage.folder / "saved"
        with server.saving(saved):
            begin_before(stage)
        if self.begin_anew:
            stage.fleet.kill_worker(stage.fleet.workers[0])
        work_in_vain(stage)
        lost = [server.started]
        began = time.monotonic()
        server.stop("immediate")
        if self.begin_anew:
            stage.fleet.kill_worker(stage.fleet.workers[-1])
        server.restore(saved)
        server.preset(default_transaction_read_only="on")
        if self.new_timeline:
            server.preset(restore_command="false")
            (server.data / "recovery.signal").touch()
        server.start()
        until(lambda: not server.execute("SELECT pg_is_in_recovery()")[0][0], "the server is still in recovery")
        take_over(stage, began, lost)
        return 1


def begin_before(stage: Stage) -> None:
    """Begin tasks that survive as running, and end, or complete themselves, in the part that is lost."""
    arguments = [[LOST / 2], [LOST / 2], [3 * LOST]]
    stage.order("once", "once", arguments, at_least=3, on_lost="fail", max_attempts=1)
    stage.order("lingering", "effect", [[LOST / 3, 2 * LOST]] * 2, at_least=2)


def work_in_vain(stage: Stage) -> None:
    """Let the time pass that will be lost, and begin tasks in it whose ids will be those of others."""
    began = time.monotonic()
    count = "SELECT (SELECT max(id) FROM pq_tasks), (SELECT count(*) FROM chaos_orders WHERE key LIKE 'load%%')"

    def counts() -> tuple[int, int]:
        ((last, orders),) = stage.server.execute(count, (), database=stage.database)
        return last, orders

    before = counts()
    # A sequence goes on up to 32 further than what was taken from it when its server dies.
    until(lambda: counts()[0] > before[0] + 33, "nothing is enqueued")
    arguments = [[LOST + number] for number in range(2 * stage.size.workers)]
    stage.order("in-vain", "plain", arguments, at_least=stage.size.workers)
    until(lambda: counts()[1] > before[1] + 10, "nothing is ordered")
    time.sleep(max(0.0, began + LOST - time.monotonic()))


def take_over(stage: Stage, began: float, lost: list[str]) -> None:
    """Note what has survived on the stage's server, which takes no writes yet, and have it take them."""
    orders, tasks = history.look(stage.direct)
    ended = time.monotonic()
    history.note(
        stage.folder,
        history.Switch(
            began=began, ended=ended, until=ended + stage.size.lease + 3, servers=lost, orders=orders, tasks=tasks
        ),
    )
    stage.server.set("default_transaction_read_only", None)


def until(done: Callable[[], bool], otherwise: str) -> None:
    """Wait until it is so."""
    latest = time.monotonic() + 60
    while not done():
        if time.monotonic() > latest:
            raise RuntimeError(otherwise)
        time.sleep(0.05)


@contextmanager
def alone(stage: Stage, *, on: Host | None = None) -> Iterator[Server]:
    """Run a server of its own in the place of the stage's."""
    before = stage.server
    server = Server(stage.folder / "primary", on=on).create().start()
    try:
        prepare(server)
        stage.server = server
        yield server
    finally:
        server.stop("immediate")
        stage.server = before


@contextmanager
def pair(stage: Stage, *, synchronous: bool = True) -> Iterator[tuple[Server, Server]]:
    """Run a primary with a standby in the place of the stage's server."""
    with alone(stage) as primary:
        standby = primary.copy_to(stage.folder / "standby")
        try:
            if synchronous:
                primary.set("synchronous_standby_names", "standby")
            state = "sync" if synchronous else "async"
            following = f"SELECT 1 FROM pg_stat_replication WHERE sync_state = '{state}'"
            until(lambda: bool(primary.execute(following)), "the standby does not follow")
            yield primary, standby
        finally:
            standby.stop("immediate")


def hosts(*ports: int) -> str:
    """Return a DSN that finds the one of several servers that takes writes."""
    return make_conninfo(
        host=",".join("127.0.0.1" for _ in ports),
        port=",".join(map(str, ports)),
        target_session_attrs="read-write",
        connect_timeout=3,
    )


def promote(standby: Server) -> None:
    """Make the standby the primary."""
    standby.execute("ALTER SYSTEM RESET synchronous_standby_names")
    standby.execute("SELECT pg_promote()")
