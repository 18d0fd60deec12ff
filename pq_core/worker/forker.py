"""The worker's side of its fork server: children asked for, signalled, and told of when they have ended."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import signal
import socket
import struct
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import NoReturn

from pq_core.errors import ForkServerLost
from pq_core.worker import guards
from pq_core.worker.forking import Exit, fork, reap
from pq_core.worker.orders import Gone, Line, Order
from pq_core.worker.shared import Place
from pq_core.worker.starving import Sample, sample, silent

logger = logging.getLogger("pq.worker")

PATIENCE = 10.0
"""Seconds that the fork server may take for an answer, at most; one that takes longer hangs, and is given up. Those in
which it waits for a processor do not count."""
SLICE = 0.5
"""Seconds that count at most of the time between two looks: where all processes were frozen, nobody hangs."""
NOTICED = 0.1
"""Seconds without an answer after which it is looked at what the server does; half of it passes between two looks."""
AT_ONCE = 16
"""Children in one order, which is answered when all are forked; at most four descriptors come with each."""
GOODBYE = 2.0
"""Seconds that it has to end by itself when its worker does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A child that is to be forked, with what it needs.

    ``number``: what it is called from now on, as its pid is known later; given to no other one. ``task``: as
    ``handing`` packs it; None: it waits for one. ``inbox``: where more come from. ``crowd``: it runs coroutines.
    """

    number: int
    place: Place
    socket: int
    inbox: int | None
    task: bytes | None
    crowd: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an order: pid of each child in order and when it was forked, of the monotonic clock.

    ``error``: why there are fewer than were wanted.
    """

    forked: list[tuple[int, float]]
    error: OSError | None


@dataclass(slots=True)
class _UnderWay:
    """An order that is not answered yet. ``places``: numbers of those that the server does not know, by their ids.

    ``refusal``: why only this part of it was sent again. ``signals``: sent since, child, number, whole group.
    """

    wanted: Sequence[Request]
    places: dict[int, int]
    refusal: OSError | None
    signals: list[tuple[int, int, bool]] = field(default_factory=list)


class Forker:
    """A fork server, as its worker sees it.

    ``pid``: its process. ``patience``: seconds that it may take for an answer. ``on_image``: is told the resident bytes
    of a child that has done nothing when they have changed. ``exits``: children that have ended, by their numbers,
    until somebody takes them out. ``lost``: why it is of no use any more. ``starved``: seconds for which it has waited
    for a processor while an answer was awaited.
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
        self._under_way: _UnderWay | None = None
        self._answer: Answer | None = None
        self._pinged = False
        self._ping_at = monotonic() + patience
        self.starved = 0.0
        self._waited = 0.0
        self._checked_at = 0.0
        self._sample: Sample | None = None

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

    @property
    def busy(self) -> bool:
        """True while an order is not answered, or its answer not taken."""
        return self._under_way is not None or self._answer is not None

    def order(self, wanted: Sequence[Request]) -> None:
        """Have a child forked for each of ``wanted``, in order: ``AT_ONCE`` at most, and only when not ``busy``.

        Does not wait: what came of it is in ``take_answer``, some time after a ``read``. What they were given must stay
        open until then.
        """
        assert not self.busy
        assert 0 < len(wanted) <= AT_ONCE
        self._fork(wanted, None)

    def take_answer(self) -> Answer | None:
        """Return what came of the order, once; None: it is not known yet.

        Where the server is ``lost`` meanwhile, nobody knows whether it has forked any.
        """
        answer, self._answer = self._answer, None
        return answer

    def _fork(self, wanted: Sequence[Request], refusal: OSError | None) -> None:
        new = [one.place for one in wanted if one.place.number is None]
        numbers = {id(place): self._places + at for at, place in enumerate(new)}
        self._places += len(new)
        descriptors = [fd for place in new for fd in (place.memory_fd, place.stack_fd) if fd is not None]
        children = []
        for one in wanted:
            descriptors += [one.socket] if one.inbox is None else [one.socket, one.inbox]
            place = numbers.get(id(one.place), one.place.number)
            children.append((one.number, place, one.inbox is not None, one.crowd, one.task))
        self._under_way = _UnderWay(wanted, numbers, refusal)
        self._send(Order.FORK, list(numbers.values()), children, descriptors=descriptors)

    def _forked(self, forked: list[tuple[int, float]], error: OSError | None) -> None:
        order = self._under_way
        if order is None:
            return  # nobody asked
        if error is not None and error.errno == errno.EMFILE and not forked and len(order.wanted) > 1:
            # Descriptors arrive all or none: for fewer children there may be room.
            self._fork(order.wanted[: len(order.wanted) // 2], error)
            for child, sent, whole_group in order.signals:  # there was nobody to get them
                self.signal(child, 0, sent, whole_group=whole_group)
            return
        if forked:  # else nobody knows whether the places arrived: they are sent again, as others
            for one in order.wanted:
                if (number := order.places.get(id(one.place))) is not None:
                    one.place.number = number
                    one.place.release()
        self._under_way = None
        self._answer = Answer(forked, error or order.refusal)

    def signal(self, child: int, pid: int, number: int, *, whole_group: bool = False) -> None:
        """Send a signal to a child, if it has not ended. ``pid``: 0 where it is not known yet."""
        if self.lost is None:
            # By its parent: only that knows whether the pid is still the child's.
            self._send(Order.SIGNAL, child, int(number), whole_group)
            if self._under_way is not None and any(one.number == child for one in self._under_way.wanted):
                self._under_way.signals.append((child, int(number), whole_group))
        # Without it nobody knows for certain, but they were its children a moment ago. The kernel ends them with their
        # parent, where it does such things, and this what is left of their groups.
        if self.lost is not None and number == signal.SIGKILL and pid:
            guards.kill_group(pid, signal.SIGKILL)

    # --- answers ------------------------------------------------------------------------------------------------

    def read(self) -> None:
        """Take in what the server has said; wait for something if that is nothing."""
        try:
            for message, _ in self._line.receive():
                self._waited = self.starved = 0.0
                match message:
                    case (Order.ENDED, ended):
                        self._ended(ended)
                    case (Order.IMAGE, rss):
                        self._on_image(rss)
                    case (Order.PONG,):
                        self._pinged = False
                    case (Order.FORKED, forked, number, words, ended):
                        self._forked(forked, OSError(number, words) if number else None)
                        self._ended(ended)
        except Gone as error:
            self._lose(str(error))

    def _ended(self, ended: list[tuple[int, int, int, float, float, int]]) -> None:
        for child, pid, status, user, system, max_rss in ended:
            self.exits[child] = Exit(pid, status, user, system, max_rss)

    def check(self, now: float) -> None:
        """Ask from time to time whether the server goes on; give it up when it has not answered for too long."""
        if self.lost is not None:
            return
        if self._awaited:
            if self._waited >= NOTICED and now - self._checked_at < NOTICED / 2:
                return
            self._count(min(now - self._checked_at, SLICE))
            if self._waited >= self.patience:
                self._lose(f"no answer for {self.patience:g} s", overloaded=self.starved >= self.patience)
        elif now >= self._ping_at:
            self._ping_at = now + self.patience
            self._pinged, self._waited, self.starved = True, 0.0, 0.0
            self._send(Order.PING)
        self._checked_at = now

    def _count(self, elapsed: float) -> None:
        """Add to the time without an answer what of ``elapsed`` the server could have used for one."""
        if self._waited < NOTICED:  # nearly always: it is not worth a look
            self._waited += elapsed
            self._sample = sample(self.pid) if self._waited >= NOTICED else None
            return
        before, self._sample = self._sample, sample(self.pid)
        counts = silent(before, self._sample, elapsed)
        self._waited += counts
        starved_before, self.starved = self.starved, self.starved + elapsed - counts
        if starved_before < self.patience <= self.starved:
            logger.warning(
                "the process that forks this worker's children waits for a processor, %.0f s so far: this machine has "
                "more to do than it can; no task begins here meanwhile",
                self.starved,
            )

    def next_event(self, now: float) -> float | None:
        """Return when ``check`` has something to do, if no answer comes."""
        if self.lost is not None:
            return None
        return now + SLICE if self._awaited else self._ping_at

    @property
    def _awaited(self) -> bool:
        return self._pinged or self._under_way is not None

    def _send(self, order: Order, *items: object, descriptors: list[int] | None = None) -> None:
        if self.lost is None:
            try:
                self._line.send(order, *items, descriptors=descriptors)
            except Gone as error:
                self._lose(str(error))

    def _lose(self, reason: str, *, overloaded: bool = False) -> None:
        """Give the server up. Its children die with it, by the kernel's hand.

        ``overloaded``: it got too little of the processors, which is nobody's fault.
        """
        if self.lost is None:
            guards.kill_group(self.pid, signal.SIGKILL)
            self.lost = ForkServerLost(f"the process that forks this worker's children is gone: {reason}")
            self.lost.overloaded = overloaded

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
