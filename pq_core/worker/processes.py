"""The processes of a worker's children: forked, listened to, given up."""

from __future__ import annotations

import errno
import selectors
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from pq_core.types import ClaimedTask
from pq_core.worker import forker, handing, inbox, wire
from pq_core.worker.child_setup import ChildSetup
from pq_core.worker.earshot import Earshot
from pq_core.worker.forker import Forker
from pq_core.worker.inbox import Inbox
from pq_core.worker.runs import Child, Claimed
from pq_core.worker.shared import Place

PLENTY = 3
"""Runs at hand from which a child is read at the worker's own pace: it writes for each of them, and waking for each
would cost more than the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A child that is to be forked, for what was ``claimed``; None: a spare one.

    ``fed``: it gets tasks through an inbox. ``crowd``: it runs coroutines, this one and those that follow.
    """

    claimed: Claimed | None = None
    fed: bool
    crowd: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ordered:
    """A child that is to be forked, and what it will have of what the worker holds until it has it."""

    child: Child
    theirs: socket.socket
    task: bytes | None

    @property
    def request(self) -> forker.Request:
        """What the fork server gets of it."""
        child = self.child
        return forker.Request(
            number=child.number,
            place=child.place,
            socket=self.theirs.fileno(),
            inbox=None if child.inbox is None else child.inbox.theirs,
            task=self.task,
            crowd=child.crowd,
        )


@dataclass(slots=True, kw_only=True)
class Processes:
    """The children that are alive, about to be forked, or not yet reaped.

    ``earshot``: what the loop waits for in the stead of each child. ``tail``: bytes of output kept per attempt.
    ``forks``: how many children there have been. ``spare_died``: one ended by itself before it got a task.
    ``spare_refused``: why the system had no room for one. ``refused``: children that it had no room for, each with what
    it said, until somebody takes them out.

    A child is there from the moment that it is added: it may be handed tasks, and be stopped, before it is forked. The
    worker does not wait for that. All that are added while one order is under way make the next one: of what is written
    between two forks every page is copied.
    """

    setup: ChildSetup
    forker: Forker
    selector: selectors.BaseSelector
    tail: int
    earshot: Earshot | None = None
    forks: int = 0
    spare_died: bool = False
    spare_refused: str = ""
    refused: list[tuple[Child, OSError]] = field(default_factory=list)
    _alive: dict[int, Child] = field(default_factory=dict)
    _places: list[Place] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _added: list[_Ordered] = field(default_factory=list)
    _ordered: list[_Ordered] = field(default_factory=list)

    def __iter__(self) -> Iterator[Child]:
        """Go through the children as they are now: some may be forgotten meanwhile."""
        return iter(list(self._alive.values()))

    def __len__(self) -> int:
        return len(self._alive)

    @property
    def pids(self) -> list[int]:
        """Their process ids, of those that are known to be forked."""
        return [child.pid for child in self._alive.values() if child.pid]

    @property
    def working(self) -> int:
        """How many have runs of their own."""
        return sum(1 for child in self._alive.values() if child.runs)

    def frame_limit(self, task: ClaimedTask) -> int:
        """Return how long a frame may be that tells of the task."""
        return self.setup.result_limit_of(task) + wire.OVERHEAD

    # --- forking ------------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many more may be added to the next order; none while one is under way."""
        return 0 if self.forker.busy or self.forker.lost is not None else forker.AT_ONCE - len(self._added)

    def add(self, wanted: Wanted) -> Child:
        """Add a child to the next order, where there is ``room``. Raises OSError when a descriptor can't be had."""
        ours, theirs = socket.socketpair()
        place = None
        try:
            place = self._places.pop() if self._places else Place(tail=self.tail)
            place.reset()
            box = Inbox() if wanted.fed else None
        except OSError:
            ours.close()
            theirs.close()
            if place is not None:
                self._places.append(place)
            raise
        ordered = _Ordered(child=self._child(wanted, place, ours, box), theirs=theirs, task=self._packed(wanted))
        try:
            self._noted(ordered.child)
        except OSError:  # there is a limit to what can be waited for, too
            theirs.close()
            ours.close()
            self.forget(ordered.child)
            raise
        self._added.append(ordered)
        return ordered.child

    def order(self) -> None:
        """Have those forked that were added."""
        if self._added:
            self._ordered, self._added = self._added, []
            if self.earshot is not None:
                self.earshot.hush()
            self.forker.order([one.request for one in self._ordered])

    def take_answer(self) -> list[Child] | None:
        """Take in what came of the order: return the children that were forked, others are ``refused``.

        None: nothing is known yet.
        """
        answer = self.forker.take_answer()
        if answer is None:
            return None
        ordered, self._ordered = self._ordered, []
        if self.earshot is not None:
            self.earshot.hear()
        self.forks += len(answer.forked)
        for one, (pid, at) in zip(ordered, answer.forked, strict=False):
            one.theirs.close()
            one.child.forked(pid, at)
        for one in ordered[len(answer.forked) :]:
            one.theirs.close()
            self.hang_up(one.child)
            one.child.socket.close()
            self.forget(one.child)
            self.refused.append((one.child, answer.error or OSError(errno.EAGAIN, "not forked")))
        return [one.child for one in ordered[: len(answer.forked)]]

    def _packed(self, wanted: Wanted) -> bytes | None:
        """Return the task as its child gets it, with its arguments decoded where the child has no inbox for more."""
        if wanted.claimed is None:
            return None
        task = wanted.claimed.task
        try:
            return handing.pack(task, None if wanted.fed else self.setup.load_ahead(task))
        except ValueError:  # a row written by hand may be nested as deeply as it likes
            return inbox.pack(wanted.claimed.row)

    def _child(self, wanted: Wanted, place: Place, ours: socket.socket, box: Inbox | None) -> Child:
        setup = self.setup
        task = None if wanted.claimed is None else wanted.claimed.task
        return Child(
            number=next(self._numbers),
            forker=self.forker,
            place=place,
            socket=ours,
            decoder=wire.Decoder(wire.OVERHEAD if task is None else self.frame_limit(task)),
            inbox=box,
            left=setup.tasks_per_child - (task is not None) if wanted.fed else 0,
            crowd=wanted.crowd,
            single=not wanted.crowd and (setup.tasks_per_child == 1 or not wanted.fed),
        )

    def _noted(self, child: Child) -> Child:
        child.socket.setblocking(False)
        self._alive[child.number] = child
        self.selector.register(child.socket, selectors.EVENT_READ, child)
        return child

    # --- listening ----------------------------------------------------------------------------------------------

    def listen(self, child: Child) -> None:
        """Have the selector report the child, unless it has plenty to do."""
        silent = len(child.runs) >= PLENTY and not child.leaving
        if silent != child.silent and not child.eof:
            child.silent = silent
            if silent:
                self.selector.unregister(child.socket)
            else:
                self.selector.register(child.socket, selectors.EVENT_READ, child)

    def hang_up(self, child: Child) -> None:
        """Have the selector forget the child."""
        if not child.eof and not child.silent:
            self.selector.unregister(child.socket)

    def forget(self, child: Child) -> None:
        """Give back what a child had that is no more, but for its socket."""
        if child.inbox is not None:
            child.inbox.close()
        self._places.append(child.place)
        del self._alive[child.number]

    def close(self) -> None:
        """Give back memory and descriptors. Children that are still known have lost the process that forked them."""
        for one in (*self._added, *self._ordered):
            one.theirs.close()
        for child in self:
            child.socket.close()
            self.forget(child)
        if self.earshot is not None:
            self.earshot.close()
        for place in self._places:
            place.close()
        self._places.clear()
