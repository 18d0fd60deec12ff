"""The worker's side of its fork server: children asked for, signalled, and told of when they have ended."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import struct
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import NoReturn

from pq_core.errors import ForkServerLost
from pq_core.worker import guards
from pq_core.worker.forking import Exit, fork, reap
from pq_core.worker.orders import Gone, Line, Order
from pq_core.worker.shared import Place

PATIENCE = 10.0
"""Seconds that the fork server may take for an answer, at most; one that takes longer hangs, and is given up."""
SLICE = 0.5
"""Seconds that count at most of the time between two looks: where all processes were frozen, nobody hangs."""
AT_ONCE = 16
"""Children in one order, which is answered when all are forked; at most four descriptors come with each."""
GOODBYE = 2.0
"""Seconds that it has to end by itself when its worker does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A child that is to be forked, with what it needs.

    ``task``: as ``handing`` packs it; None: it waits for one. ``inbox``: where more come from. ``crowd``: it runs
    coroutines.
    """

    place: Place
    socket: int
    inbox: int | None
    task: bytes | None
    crowd: bool


class Forker:
    """A fork server, as its worker sees it.

    ``pid``: its process. ``patience``: seconds that it may take for an answer. ``on_image``: is told the resident bytes
    of a child that has done nothing when they have changed. ``exits``: children that have ended, by their pids, until
    somebody takes them out. ``lost``: why it is of no use any more.
    """

    def __init__(
        self,
        sock: socket.socket,
        pid: int,
        *,
        patience: float = PATIENCE,
        on_image: Callable[[int], None] = lambda rss: None,
    ) -> None:
        self.pid = pid
        self.patience = patience
        self.exits: dict[int, Exit] = {}
        self.lost: ForkServerLost | None = None
        self._on_image = on_image
        self._line = Line(sock)
        self._places = 0
        self._loaded: set[str] = set()
        self._answer: tuple[list[tuple[int, float]], OSError | None] | None = None
        self._pinged = False
        self._ping_at = monotonic() + patience
        self._waited = 0.0
        self._checked_at = 0.0

    @classmethod
    def start(
        cls, serve: Callable[[socket.socket], NoReturn], *, lease: float, on_image: Callable[[int], None]
    ) -> Forker:
        """Fork a server off; ``serve`` is what it does with its end of the line. Raises OSError.

        ``lease``: seconds of the worker's. It is renewed every third of that, and must be while an answer is awaited.
        """
        patience = min(PATIENCE, lease / 3)
        ours, theirs = socket.socketpair()
        # A server that was stopped takes nothing: to write to it must not take for ever either.
        with contextlib.suppress(OSError):  # a system with another struct timeval: then only reading is bounded
            seconds, rest = divmod(patience, 1)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(seconds), int(rest * 1e6)))

        def body() -> NoReturn:
            ours.close()
            try:
                serve(theirs)
            except BaseException:
                traceback.print_exc()
                raise

        try:
            pid = fork(body)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return cls(ours, pid, patience=patience, on_image=on_image)

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when the server says something."""
        return self._line.sock.fileno()

    # --- orders -------------------------------------------------------------------------------------------------

    def begin_life(self, worker_id: int) -> None:
        """Say under which id the worker lives from now on."""
        self._send(Order.LIFE, worker_id)

    def load(self, names: Sequence[str]) -> None:
        """Have modules loaded that children would each have to load; once."""
        new = [name for name in names if name not in self._loaded]
        if new:
            self._loaded.update(new)
            self._send(Order.LOAD, new)

    def fork_all(self, wanted: Sequence[Request]) -> tuple[list[tuple[int, float]], OSError | None]:
        """Fork a child for each of ``wanted``, in order; return pids with when, and why there are fewer than that.

        Waits for the answer: as long as it takes to fork them. Where the server is ``lost`` meanwhile, nobody knows
        whether it has forked any.
        """
        forked: list[tuple[int, float]] = []
        for start in range(0, len(wanted), AT_ONCE):
            some, error = self._fork_some(wanted[start : start + AT_ONCE])
            forked += some
            if error is not None:
                return forked, error
        return forked, None

    def _fork_some(self, wanted: Sequence[Request]) -> tuple[list[tuple[int, float]], OSError | None]:
        """Fork what there is room for: descriptors arrive all or none, so with fewer some may."""
        forked, error = self._fork(wanted)
        while error is not None and error.errno == errno.EMFILE and not forked and len(wanted) > 1:
            wanted = wanted[: len(wanted) // 2]
            forked, _ = self._fork(wanted)
        return forked, error

    def _fork(self, wanted: Sequence[Request]) -> tuple[list[tuple[int, float]], OSError | None]:
        new = [one.place for one in wanted if one.place.number is None]
        numbers = {id(place): self._places + at for at, place in enumerate(new)}
        self._places += len(new)
        descriptors = [fd for place in new for fd in (place.memory_fd, place.stack_fd) if fd is not None]
        children = []
        for one in wanted:
            descriptors += [one.socket] if one.inbox is None else [one.socket, one.inbox]
            number = numbers.get(id(one.place), one.place.number)
            children.append((number, one.inbox is not None, one.crowd, one.task))
        self._answer = None
        self._send(Order.FORK, list(numbers.values()), children, descriptors=descriptors)
        forked, error = self._answered()
        if forked:  # else nobody knows whether the places arrived: they are sent again, as others
            for place in new:
                place.number = numbers[id(place)]
                place.release()
        return forked, error

    def signal(self, pid: int, number: int, *, whole_group: bool = False) -> None:
        """Send a signal to a child, if it has not ended."""
        if self.lost is None:
            # By its parent: only that knows whether the pid is still the child's.
            self._send(Order.SIGNAL, pid, int(number), whole_group)
        # Without it nobody knows for certain, but they were its children a moment ago. The kernel ends them with their
        # parent, where it does such things, and this what is left of their groups.
        if self.lost is not None and number == signal.SIGKILL:
            guards.kill_group(pid, signal.SIGKILL)

    # --- answers ------------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Take in what the server has said; wait for something if that is nothing."""
        try:
            for message, _ in self._line.receive():
                match message:
                    case (Order.ENDED, ended):
                        for pid, status, user, system, max_rss in ended:
                            self.exits[pid] = Exit(pid, status, user, system, max_rss)
                    case (Order.IMAGE, rss):
                        self._on_image(rss)
                    case (Order.PONG,):
                        self._pinged = False
                    case (Order.FORKED, forked, number, words):
                        self._answer = (forked, OSError(number, words) if number else None)
        except Gone as error:
            self._lose(str(error))

    def check(self, now: float) -> None:
        """Ask from time to time whether the server goes on; give it up when it has not answered for too long."""
        if self.lost is not None:
            return
        if self._pinged:
            self._waited += min(now - self._checked_at, SLICE)
            if self._waited >= self.patience:
                self._lose(f"no answer for {self.patience:g} s")
        elif now >= self._ping_at:
            self._ping_at = now + self.patience
            self._pinged, self._waited = True, 0.0
            self._send(Order.PING)
        self._checked_at = now

    def next_event(self, now: float) -> float | None:
        """Return when ``check`` has something to do, if no answer comes."""
        if self.lost is not None:
            return None
        return now + SLICE if self._pinged else self._ping_at

    def _answered(self) -> tuple[list[tuple[int, float]], OSError | None]:
        poller = select.poll()
        poller.register(self._line.sock, select.POLLIN)
        waited = 0.0
        while self._answer is None and self.lost is None:
            if poller.poll(SLICE * 1000):
                self.read()
            else:
                waited += SLICE
                if waited >= self.patience:
                    self._lose(f"no answer for {self.patience:g} s")
        return self._answer or ([], OSError(errno.ECHILD, "the process that forks has ended"))

    def _send(self, order: Order, *items: object, descriptors: list[int] | None = None) -> None:
        if self.lost is None:
            try:
                self._line.send(order, *items, descriptors=descriptors)
            except Gone as error:
                self._lose(str(error))

    def _lose(self, reason: str) -> None:
        """Give the server up. Its children die with it, by the kernel's hand."""
        if self.lost is None:
            guards.kill_group(self.pid, signal.SIGKILL)
            self.lost = ForkServerLost(f"the process that forks this worker's children is gone: {reason}")

    def close(self) -> None:
        """Let the server end, and wait for it."""
        self._line.sock.close()
        until = monotonic() + GOODBYE
        with contextlib.suppress(ChildProcessError):  # where the application ignores SIGCHLD, the kernel reaps
            while reap(self.pid) is None:
                if monotonic() >= until:
                    os.kill(self.pid, signal.SIGKILL)
                    reap(self.pid, block=True)
                    return
                select.select([], [], [], 0.001)
