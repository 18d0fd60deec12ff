"""The process that forks: a worker's application, without its loop and its connections.

It is forked off when the application is loaded and the image is settled, before the worker loads what speaks to the
database. What it has in memory is all that a child needs, and it hardly writes to it: so a fork copies little, and
huge pages stay whole. Whatever the worker does meanwhile costs no child anything.

It takes orders from its worker and tells it which children have ended. It decides nothing. It dies with its worker,
and its children die with it.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import pq_core.worker.statements  # noqa: F401 - a child that has to load it may have no descriptor left
from pq_core.worker import bare_fork, blocking_drivers, exiting, guards, leftovers, stopping
from pq_core.worker.child import run_child
from pq_core.worker.forking import fork_all, reap_all
from pq_core.worker.orders import Gone, Line, Order
from pq_core.worker.rehearsing import rehearse, rehearse_beginning
from pq_core.worker.shared import Place

if TYPE_CHECKING:
    from pq_core.types import ClaimedTask
    from pq_core.worker.channel import Channel
    from pq_core.worker.child_setup import ChildSetup

    CrowdRunner = Callable[[ChildSetup, ClaimedTask, Channel, int], int]

logger = logging.getLogger("pq.worker")

IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that are for the worker: service managers and terminals send them to all processes of a group."""


SETTLE_AGAIN, AT_THE_LATEST = 30, 100
"""Forks after which the image is settled once more: what is imported or made at the first use is there then. It takes
some ten milliseconds, so it waits until nobody wants a child, up to the second number of forks."""
QUIET = 0.2
"""Seconds without an order after which nobody does."""
EXECUTORS = "concurrent.futures.thread"


def free_executors() -> None:
    """Let hooks that run after a fork use thread pools in children, where they have loaded these in this process.

    The standard library holds a lock of theirs across each fork, and frees it in the child when it is its turn: after
    the hooks of an SDK that was set up before it loaded them, and that would wait for that lock for ever. So it gets
    another.
    """
    module = sys.modules.get(EXECUTORS)
    if module is not None and hasattr(module, "_global_shutdown_lock"):
        setattr(module, "_global_shutdown_lock", threading.Lock())  # noqa: B010 - it is the library's own


@dataclass(slots=True, kw_only=True)
class ForkServer:
    """Serves one worker.

    ``setup_of``: what children start from, by the worker's id. ``run_crowd``: runs coroutines together in a child.
    ``tail``: bytes of output kept per attempt. ``foreign``: descriptors of the application to be put out of use.
    ``settle``: settles the image; gets objects that are there for ever. ``image_rss``: measures a child that has done
    nothing.
    """

    sock: socket.socket
    setup_of: Callable[[int], ChildSetup]
    run_crowd: CrowdRunner | None
    tail: int
    foreign: list[int]
    settle: Callable[..., None]
    image_rss: Callable[[], int]
    _line: Line = field(init=False)
    _setup: ChildSetup = field(init=False)
    _places: dict[int, Place] = field(default_factory=dict)
    _alive: dict[int, tuple[int, int]] = field(default_factory=dict)
    _left: set[int] = field(default_factory=set)
    _pids: dict[int, int] = field(default_factory=dict)
    _forks: int = 0
    _settled_again: bool = False
    _own: list[int] = field(default_factory=list)
    _os_fork: Callable[[], int] | None = None
    _null_fd: int = field(default_factory=lambda: os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))

    def serve(self, worker_pid: int) -> NoReturn:
        """Do what the worker says until it hangs up; end this process."""
        guards.die_with_parent(worker_pid)
        for descriptor in self.foreign:
            # Over the descriptor, never close() on the connection: that would end a session that the worker shares.
            os.dup2(self._null_fd, descriptor)
        if self.sock.fileno() != 0:
            os.dup2(self._null_fd, 0)  # the worker's terminal: a task that read from it would be stopped by the kernel
        guards.become_subreaper()  # of what tasks leave when they are killed
        self._setup = self.setup_of(0)
        rehearse()
        rehearse_beginning(self._setup, worker_pid)
        exiting.prepare()
        stopping.forget_in_children()
        blocking_drivers.watch_imports(stopping.latest)
        self._os_fork = bare_fork.choose()
        woken, waker = socket.socketpair()
        for end in (woken, waker):
            end.setblocking(False)
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, _noted)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._own = [self.sock.fileno(), woken.fileno(), waker.fileno()]
        self._line = Line(self.sock)
        self._setup = self.setup_of(0)
        poller = select.poll()
        for end in (self.sock, woken):
            poller.register(end, select.POLLIN)
        try:
            while True:
                events = poller.poll(QUIET * 1000 if self._forks >= SETTLE_AGAIN and not self._settled_again else None)
                if not events:
                    self._settle_again()
                for descriptor, _ in events:
                    if descriptor == woken.fileno():
                        woken.recv(4096)
                        if ended := self._ended():
                            self._line.send(Order.ENDED, ended)
                    else:
                        for message, descriptors in self._line.receive():
                            self._obey(message, descriptors)
        except Gone:
            for pid in self._alive:
                guards.kill_group(pid, signal.SIGKILL)
            os._exit(0)

    def _obey(self, message: tuple[Any, ...], descriptors: list[int] | None) -> None:
        match message:
            case (Order.FORK, places, wanted):
                self._fork(places, wanted, descriptors)
            case (Order.SIGNAL, child, number, whole_group):
                self._signal(child, number, whole_group)
            case (Order.PING,):
                self._line.send(Order.PONG)
            case (Order.LIFE, worker_id):
                self._begin_life(worker_id)
            case (Order.LOAD, names):
                self._load(names)

    def _begin_life(self, worker_id: int) -> None:
        self._setup = self.setup_of(worker_id)
        if worker_id:  # else there is nothing to fork for yet
            self._settle()

    def _settle(self) -> None:
        """Settle the image once more; what each turn and each child look at is no longer counted."""
        streams = [one for stream in (sys.stdout, sys.stderr) for one in (stream, getattr(stream, "_stream", None))]
        self.settle(self, self.sock, threading.main_thread(), *guards.FOR_EVER, *streams)

    def _settle_again(self) -> None:
        self._settled_again = True
        self._settle()

    def _load(self, names: list[str]) -> None:
        for name in names:
            try:
                importlib.import_module(name)
            except Exception:  # it was there for a child: whatever is wrong, children go on to load it themselves
                logger.warning("%s is not loaded for the children", name, exc_info=True)
        self._begin_life(self._setup.worker_id)
        with contextlib.suppress(OSError):  # no process left to measure with: what was measured before is near enough
            self._line.send(Order.IMAGE, self.image_rss())

    # --- forking ------------------------------------------------------------------------------------------------

    def _fork(self, places: list[int], wanted: list[tuple[Any, ...]], descriptors: list[int] | None) -> None:
        if descriptors is None:
            self._line.send(Order.FORKED, [], *_words(OSError(errno.EMFILE, "no descriptor left for them")), [])
            return
        left = descriptors
        try:
            for number in places:
                memory_fd, stack_fd, *left = left
                self._places[number] = Place.attached(memory_fd, stack_fd, tail=self.tail)
            bodies = self._bodies(wanted, left)
            forked, error = fork_all(bodies, self._os_fork)
        except OSError as reason:
            forked, error = [], reason
        if not forked:
            self._forget(places)  # the worker sends them again, under other numbers
        self._forks += len(forked)
        for (pid, _), (child, place, *_) in zip(forked, wanted, strict=False):
            self._alive[pid] = child, place
            self._pids[child] = pid
        for descriptor in left:
            os.close(descriptor)
        self._line.send(Order.FORKED, forked, *_words(error), self._ended())
        if self._forks >= AT_THE_LATEST and not self._settled_again:
            self._settle_again()

    def _forget(self, places: list[int]) -> None:
        for number in places:
            if (place := self._places.pop(number, None)) is not None:
                place.close()

    def _bodies(self, wanted: list[tuple[Any, ...]], descriptors: list[int]) -> list[Callable[[], NoReturn]]:
        """Return what each child does: all that can be done before the first fork is."""
        drop = [*self._own, *descriptors]
        bodies: list[Callable[[], NoReturn]] = []
        for _, number, fed, crowd, task in wanted:
            fd, *descriptors = descriptors
            inbox_fd = None
            if fed:
                inbox_fd, *descriptors = descriptors
            bodies.append(self._body(self._places[number], fd, inbox_fd, drop, task, crowd))
        return bodies

    def _body(
        self, place: Place, fd: int, inbox_fd: int | None, drop: list[int], task: bytes | None, crowd: bool
    ) -> Callable[[], NoReturn]:
        setup, null_fd, run_crowd = self._setup, self._null_fd, self.run_crowd if crowd else None

        def body() -> NoReturn:
            others = [one for one in drop if one not in (fd, inbox_fd)]
            run_child(setup, task, place, fd, inbox_fd=inbox_fd, drop=others, null_fd=null_fd, crowd=run_crowd)

        return body

    # --- ending -------------------------------------------------------------------------------------------------

    def _signal(self, child: int, number: int, whole_group: bool) -> None:
        pid = self._pids.get(child)
        if pid is None:
            return  # it has ended by itself, or was never forked; the worker is about to learn it
        if not whole_group:
            with contextlib.suppress(PermissionError):  # it goes by another uid now
                os.kill(pid, number)
        elif number == signal.SIGKILL:
            self._kill_group(pid)
        else:
            guards.kill_group(pid, number)

    def _ended(self) -> list[tuple[Any, ...]]:
        """Give back the children that have ended; return what is told of them."""
        told: list[tuple[Any, ...]] = []
        for one in reap_all(self._alive, last=self._end_group):
            if (ended := self._alive.pop(one.pid, None)) is not None:
                child, place = ended
                del self._pids[child]
                told.append((child, one.pid, one.status, one.cpu_user, one.cpu_system, one.max_rss))
                self._end_orphans(one.pid, one.status, leaves=self._places[place].leaves)
            self._left.discard(one.pid)
        return told

    def _end_group(self, pid: int, orderly: bool) -> None:
        """End what is left of a child's group. Another process may have been left to this one by a task's doing.

        ``orderly``: the child has ended by itself, and whoever cleans up after it has done so.
        """
        if pid in self._alive:
            if orderly:
                guards.kill_group(pid, signal.SIGKILL)
            else:
                self._kill_group(pid)

    def _kill_group(self, pid: int) -> None:
        if not leftovers.kill_group(pid):  # no table of processes, or it has no group yet
            guards.kill_group(pid, signal.SIGKILL)

    def _end_orphans(self, pid: int, status: int, *, leaves: bool) -> None:
        """End what a child could not end itself: each adopts what its own processes leave, so all of it is here now.

        ``leaves``: its task may leave processes.
        """
        if leaves:
            known = {*self._alive, *self._left}
            self._left |= {one.pid for one in leftovers.orphans(known, leftovers.processes())}
        elif status and (ended := leftovers.kill_orphans({*self._alive, *self._left})):
            logger.warning("a task's process %d left %s; ended", pid, ", ".join(map(str, ended)))


def _words(error: OSError | None) -> tuple[int, str]:
    return (0, "") if error is None else (error.errno or 0, error.strerror or str(error))


def _noted(number: int, frame: object) -> None:
    """Let the wake-up descriptor carry the signal; without a handler Python writes nothing there."""
