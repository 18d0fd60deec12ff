"""The process that a worker lives in: its application, its descriptors and threads, its signals, its keeper."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

from pq_core import roles
from pq_core.dsn import find_dsn, rotated
from pq_core.errors import (
    Cancel,
    NotMigrated,
    PQError,
    Refuse,
    Retry,
    Snooze,
    TaskCancelled,
    TaskTimeout,
    WorkerStartError,
)
from pq_core.executor import find_executor
from pq_core.types import AttemptOutcome, ClaimedTask
from pq_core.worker import exiting, guards, image, late
from pq_core.worker.channel import Channel
from pq_core.worker.child_setup import ChildSetup
from pq_core.worker.fork_server import EXECUTORS, ForkServer, free_executors
from pq_core.worker.forker import Forker
from pq_core.worker.forking import fork, reap
from pq_core.worker.libraries import forget_pages
from pq_core.worker.rows import LAST, Key

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn

    from pq_core.client import PQ
    from pq_core.schedule_operations import Synced
    from pq_core.store import Request
    from pq_core.types import OnLost
    from pq_core.worker.keeper import LeaseKey, Page
    from pq_core.worker.options import WorkerOptions
    from pq_core.worker.program import Program
    from pq_core.worker.vitals import Vitals
    from pq_hooks.plugins import Plugins

logger = logging.getLogger("pq.worker")

_PASSING = ("starting up", "shutting down", "recovery", "too many", "connection slots", "not accepting", "standby")
"""Parts of what a server says to a connection that it will take later."""
RESET = (signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)
"""Signals that get their ordinary meaning back in a child; SIGTERM is taken by what stops its task."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD)
STARTED = 3.0
"""Seconds after which a worker has connected, registered and forked ahead: what only that used is let go of, too."""


@dataclass(slots=True, kw_only=True)
class Host:
    """What the supervisor needs of the process around it.

    ``page``: memory shared with the keeper, None without one. ``known_dead``: leases of workers whose end the keeper
    saw. ``vitals``: whom to tell that it lives, None where the keeper does that.
    """

    pq: PQ
    options: WorkerOptions
    name: str
    page: Page | None = None
    known_dead: tuple[LeaseKey, ...] = ()
    on_ready: Callable[[int], None] | None = None
    hostname: str = field(default_factory=socket.gethostname)
    declared_schedules: Request[list[Synced]] | None = None
    vitals: Vitals | None = None
    image_rss: int = 0
    _forget_at: float = inf
    _turns: dict[str, int] = field(default_factory=dict)
    _foreign: dict[int, tuple[int, int] | None] = field(default_factory=dict)

    @property
    def schema(self) -> str:
        """The schema with pq's tables."""
        return self.pq.schema

    @property
    def app(self) -> str:
        """The application's name."""
        return self.pq.app

    @property
    def plugins(self) -> Plugins:
        """The hooks' façade."""
        return self.pq.plugins

    @property
    def info(self) -> dict[str, Any]:
        """What is stored with the lease, for people."""
        import platform  # for these two words, and not in a child

        return {
            "python": platform.python_version(),
            "system": platform.system(),
            "tasks_per_child": self.options.tasks_per_child,
            "priorities": list(self.options.priorities or ()),
            "image": self.image_rss,
        }

    @property
    def wake_channel(self) -> str:
        """The NOTIFY channel of pq_channel('wake') in this schema."""
        import hashlib  # brings OpenSSL's library

        return "pq_wake_" + hashlib.md5(self.schema.encode(), usedforsecurity=False).hexdigest()[:16]

    def connect_work(self) -> PGconn:
        """Begin to open the connection for claims and reports."""
        from pq_core.database import start_connection  # brings the driver, which is no part of the image

        # The direct way where there is one: what the session sets would leak through a pooler.
        return start_connection(self._address("work"), application_name=f"pq worker {self.name}"[:63])

    def connect_watch(self) -> PGconn:
        """Begin to open the connection for LISTEN and heartbeats; a dead peer is noticed within half a lease."""
        from pq_core.database import start_connection

        return start_connection(
            self._address("watch"),
            application_name=f"pq watch {self.name}"[:63],
            notice_within=self.options.lease / 2,
        )

    def _address(self, purpose: str) -> str:
        """Return where to connect to now: of several hosts, any of which may be the primary, each comes first in turn.

        libpq waits for a host that accepts and says nothing for as long as the caller does, and never tries the next.
        """
        turn = self._turns[purpose] = self._turns.get(purpose, -1) + 1
        return rotated(find_dsn(self.pq.listen_dsn), turn)

    def freeze(self) -> None:
        """Make the image cheap to fork, and note what every child must put out of use."""
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            with contextlib.suppress(ValueError):  # not in the main thread: that is refused later, in words
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else the kernel reaps, and nobody learns how they ended
        roles.ready_to_fork()
        image.settle(immortal=self.options.immortal)
        if self.options.huge_pages:
            image.collapse()
        forget_pages()
        self._forget_at = monotonic() + STARTED
        self.image_rss = _rss_after_fork()
        self._foreign = {fd: guards.identity(fd) for fd in foreign_sockets()}

    def tend(self, now: float) -> None:
        """Let go of what only the start needed, once that is over."""
        if now >= self._forget_at:
            self._forget_at = inf
            forget_pages()

    def fork_server(self, program: Program) -> Forker:
        """Fork off the process that forks the children. Raises OSError."""
        worker_pid, run_crowd = os.getpid(), self._crowd_runner()
        had_executors = EXECUTORS in sys.modules
        for handler in exiting.logging_handlers():
            handler.flush()  # what one keeps back would come out of each child once more

        def serve(sock: socket.socket) -> NoReturn:
            if not had_executors:
                free_executors()
            ForkServer(
                sock=sock,
                setup_of=lambda worker_id: self.child_setup(program, worker_id),
                run_crowd=run_crowd,
                tail=self.options.output_tail,
                foreign=self.foreign_sockets(),
                settle=partial(image.settle, immortal=self.options.immortal),
                image_rss=_rss_after_fork,
            ).serve(worker_pid)

        def grown(image_rss: int) -> None:
            self.image_rss = image_rss

        return Forker.start(serve, lease=self.options.lease, on_image=grown)

    def foreign_sockets(self) -> list[int]:
        """Return the application's sockets that a child must put out of use, those that are still what they were."""
        return [fd for fd, known in self._foreign.items() if guards.identity(fd) == known]

    def _crowd_runner(self) -> Callable[[ChildSetup, ClaimedTask, Channel, int], int] | None:
        """Return what runs coroutines together in one child, where the worker is to have such a child."""
        if self.options.async_concurrency == 1:
            return None
        from pq_core.worker.crowd_child import run_crowd  # brings asyncio, which costs 3 MB

        return run_crowd

    def child_setup(self, program: Program, worker_id: int) -> ChildSetup:
        """Return what every child of one life starts from; in the process that forks them."""
        plugins = self.plugins
        return ChildSetup(
            worker_pid=os.getpid(),
            worker_id=worker_id,
            schema=self.schema,
            as_declared=program.as_declared,
            prepared=self.prepared,
            load=program.load,
            load_ahead=program.load_ahead,
            function_of=program.function_of,
            in_child=lambda task: plugins.in_child(
                program.shown(task), passing=(TaskTimeout, TaskCancelled), deciding=(Retry, Snooze, Cancel, Refuse)
            ),
            retryable=program.retryable,
            sensitive=program.sensitive,
            detaches=program.detaches,
            demands_result=program.demands_result,
            memory_of_child=lambda task: program.declared(task, "max_child_memory") or self.options.max_child_memory,
            encode_result=program.encode_result,
            find_executor=lambda connection: find_executor(connection, plugins=plugins.executor),
            result_limit=self.options.result_limit,
            default_timeout=self.options.max_runtime,
            default_grace=self.options.grace,
            tasks_per_child=self.options.tasks_per_child,
            handled=tuple(number for number in RESET if signal.getsignal(number) is not signal.SIG_DFL),
            late=late.loaded(),
        )

    def prepared(self, task: ClaimedTask) -> ClaimedTask:
        """Return the task with the worker's defaults for what it leaves unsaid."""
        limit = self.options.memory_limit
        if not isinstance(limit, int) or task.options.get("memory_limit"):
            return task
        return replace(task, options={**task.options, "memory_limit": limit})

    def placeholder(self, key: Key, on_lost: OnLost) -> ClaimedTask:
        """Return a stand-in for a task of which little more than the key of its claim is known."""
        id_, fence, started_at = key
        return ClaimedTask(
            id=id_, name="", queue="", priority=0, fence=fence, number=1, max_attempts=1, payload="{}", headers={},
            version=1, run_at=LAST, created_at=LAST, started_at=started_at, on_lost=on_lost,
        )  # fmt: skip

    def fork_death_report(self, task: ClaimedTask, outcome: AttemptOutcome, *, drop: list[int]) -> int:
        """Fork a process that tells the plugins of a child that could not do so itself; return its pid."""
        plugins, parent = self.plugins, os.getpid()

        def body() -> NoReturn:
            signal.set_wakeup_fd(-1)
            os.setpgid(0, 0)
            guards.die_with_parent(parent)
            null = os.open(os.devnull, os.O_RDWR)
            for fd in drop:
                os.dup2(null, fd)
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            plugins.task_died(task, outcome)
            os._exit(0)

        return fork(body)

    @contextlib.contextmanager
    def signals(self, wakeup_fd: int) -> Iterator[None]:
        """Have signals written to ``wakeup_fd`` while the loop runs; the loop itself acts on them.

        Raises WorkerStartError outside the main thread: only there does Python deliver signals.
        """
        if threading.current_thread() is not threading.main_thread():
            raise WorkerStartError("a worker must run in the main thread: it forks, and only there come signals")
        before = {number: signal.signal(number, _noted) for number in SIGNALS}
        if self.page is not None:
            before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        wakeup_before = signal.set_wakeup_fd(wakeup_fd, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup_before)
            for number, handler in before.items():
                signal.signal(number, handler)

    def begin_lease(self, began: bytes) -> None:
        """Tell the keeper when the lease began that is published next."""
        if self.page is not None:
            self.page.began = began

    def publish(self, worker_id: int | None, expires: float, pids: list[int]) -> None:
        """Tell the keeper which lease is held until when, and which children are alive; without one, that it lives."""
        if self.page is not None:
            self.page.write(worker_id or 0, expires, pids)
        elif self.vitals is not None:
            self.vitals.sign(workers=int(worker_id is not None))

    def stopping(self) -> None:
        """Say that the worker is about to end."""
        if self.vitals is not None:
            self.vitals.stopping()

    def ready(self, worker_id: int) -> None:
        """Say that the worker has its lease."""
        if self.vitals is not None:
            self.vitals.ready()
        if self.on_ready is not None:
            self.on_ready(worker_id)

    def not_migrated(self, message: str) -> PQError:
        """Return the error for a schema without our tables."""
        option = "" if self.schema == "public" else f" --schema {self.schema}"
        return NotMigrated(f"{message.splitlines()[0]}: run `pq migrate{option}` first")

    def never_heard(self, reason: str) -> PQError | None:
        """Return the error for a first connection that the server itself refuses; None where waiting may help.

        libpq gives no SQLSTATE for a failed connection, only text, in which the server's severity is not translated.
        """
        if "FATAL" not in reason or any(word in reason for word in _PASSING):
            return None
        return WorkerStartError(f"the database refuses this worker: {reason.partition('FATAL:')[2].strip() or reason}")

    def refused(self, message: str) -> PQError:
        """Return the error for a database that does not let the worker in."""
        return WorkerStartError(f"the database refuses this worker: {message.splitlines()[0]}")


def _noted(number: int, frame: object) -> None:
    """Let the wake-up descriptor carry the signal; without a handler Python writes nothing there."""


def _rss_after_fork() -> int:
    """Return the resident bytes of a child that has done nothing: less than ours, for it maps files only as it uses
    them."""

    def body() -> NoReturn:
        os._exit(0)

    ended = reap(fork(body), block=True)
    return ended.max_rss if ended is not None else 0


def foreign_sockets() -> list[int]:
    """Return descriptors of connected stream sockets that were open before the worker opened its own.

    They belong to the application (an engine used at import, an HTTP session): a child that used one would share it
    with its parent. Datagram sockets (syslog, statsd, journald) stay, and so do Unix streams that are not Postgres'.
    """
    found: list[int] = []
    for fd in _open_descriptors():
        try:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                continue
            with socket.socket(fileno=os.dup(fd)) as sock:
                if sock.type != socket.SOCK_STREAM:
                    continue
                peer = sock.getpeername()
                local = sock.family not in (socket.AF_INET, socket.AF_INET6)
                if not local or ".s.PGSQL." in str(peer):
                    found.append(fd)
        except OSError:
            continue  # closed meanwhile, or not connected
    return found


def _open_descriptors() -> list[int]:
    folder = "/proc/self/fd" if sys.platform.startswith("linux") else "/dev/fd"
    try:
        return [int(entry.name) for entry in os.scandir(folder) if entry.name.isdigit() and int(entry.name) > 2]
    except OSError:
        return []


def other_threads() -> list[str]:
    """Return the names of threads besides the main one: they do not survive a fork, their locks may."""
    named = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    try:
        native = len(list(os.scandir("/proc/self/task"))) - 1 - len(named)
    except OSError:
        native = 0
    return named + [f"{native} native thread(s) without a Python name"] * (native > 0)
