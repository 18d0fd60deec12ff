"""Faults between machines: workers on three hosts and the database on a fourth, as network namespaces."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from psycopg.conninfo import make_conninfo

from tests.chaos import network
from tests.chaos.failover import alone
from tests.chaos.fault import Fault
from tests.chaos.fleet import ROOT, Keeper, processes_of
from tests.chaos.network import Network
from tests.chaos.stage import Stage

TOLD_WITHIN = 45.0
"""Seconds within which a client knows that its database is out of reach: 30 until its connection is given up, 10 for
another try, some for a busy machine."""


class Machines(Fault):
    """What both faults need: a keeper on each of three hosts, the database on one of its own, load from outside."""

    def missing(self) -> str | None:
        return network.missing()

    @contextmanager
    def around(self, stage: Stage) -> Iterator[None]:
        with Network() as net:
            self.database = net.add("db")
            self.hosts = [net.add(f"w{number}") for number in range(stage.size.workers)]
            stage.enter = [host.enter for host in self.hosts]
            with alone(stage, on=self.database) as server:
                stage.via = make_conninfo(host=server.host, port=server.port, connect_timeout=3)
                try:
                    yield
                finally:
                    # Whatever went wrong: what is cut off could not be ended in good order.
                    for host in (self.database, *self.hosts):
                        host.heal()


class WorkerHosts(Machines):
    name = "worker-hosts"
    title = "three hosts of workers: one cut off for two leases, one for less, one without power"

    def inject(self, stage: Stage, seconds: float) -> int:
        lease = stage.size.lease
        stage.order_long(stage.size.workers, 4 * lease)
        busy = sorted(range(len(self.hosts)), key=lambda place: _runs(stage.fleet.keepers[place]), reverse=True)
        cut, unplugged, dead = (self.hosts[place] for place in busy)
        cut.cut()
        unplugged.unplug()
        time.sleep(lease / 4)
        unplugged.heal()
        time.sleep(2 * lease - lease / 4)
        cut.heal()
        keeper = stage.fleet.keepers[self.hosts.index(dead)]
        stage.fleet.kills += len(keeper.workers)
        dead.lose_power()
        keeper.process.wait()
        time.sleep(lease + 2)
        dead.build()
        stage.fleet.replace(keeper)
        return 3


class DatabaseHost(Machines):
    name = "database-host"
    title = "the database's host: cut off for less than a lease, for longer, then without power"

    def inject(self, stage: Stage, seconds: float) -> int:
        lease = stage.size.lease
        self.database.cut()
        time.sleep(lease / 2)
        self.database.heal()
        client = Client(stage)
        try:
            stage.order_long(stage.size.workers, 3 * lease)
            began = time.monotonic()
            self.database.unplug()
            self._told = client.enqueue()
            time.sleep(max(0.0, began + 2 * lease - time.monotonic()))
            self.database.heal()
            self._after = client.enqueue()
        finally:
            client.close()
        self.database.lose_power()
        stage.server.gone()
        self.database.build()
        stage.server.start()
        return 3

    def problems(self) -> list[str]:
        found = []
        told, seconds = self._told
        if told is None or seconds > TOLD_WITHIN:
            found.append(f"a client whose database was out of reach was told {told!r} after {seconds:.1f} s")
        if self._after[0] is not None:
            found.append(f"the same client was told {self._after[0]!r} when the database was back")
        return found


class Client:
    """A client that has enqueued once, and keeps its connection for the next time."""

    def __init__(self, stage: Stage) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.client"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
            env=stage.fleet.environment(stage.address(stage.via)),
        )  # fmt: skip
        self._answer(60)

    def enqueue(self) -> tuple[str | None, float]:
        """Have it enqueue; return what it was told, None for a success, and after how many seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        words = self._answer(TOLD_WITHIN + 15)
        if not words:
            return "nothing", TOLD_WITHIN + 15
        error, seconds = json.loads(words)
        return error, seconds

    def _answer(self, within: float) -> bytes:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], within)
        return self._process.stdout.readline() if ready else b""

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def _runs(keeper: Keeper) -> int:
    return sum(len(processes_of(pid)) for pid in keeper.workers)
