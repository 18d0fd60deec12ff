"""The processes of a worker's children: forked, listened to, given up."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pq_core.types import ClaimedTask
from pq_core.worker import forker, handing, inbox, wire
from pq_core.worker.child_setup import ChildSetup
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
class _Prepared:
    """What a child needs, made before the fork."""

    wanted: Wanted
    ours: socket.socket
    theirs: socket.socket
    place: Place
    box: Inbox | None
    task: bytes | None

    @property
    def order(self) -> forker.Request:
        """What the fork server gets of it."""
        return forker.Request(
            place=self.place,
            socket=self.theirs.fileno(),
            inbox=None if self.box is None else self.box.theirs,
            task=self.task,
            crowd=self.wanted.crowd,
        )


@dataclass(slots=True, kw_only=True)
class Processes:
    """The children that are alive or not yet reaped.

    ``tail``: bytes of output kept per attempt. ``forks``: how many children there have been. ``spare_died``: one ended
    by itself before it got a task.
    """

    setup: ChildSetup
    forker: Forker
    selector: selectors.BaseSelector
    tail: int
    forks: int = 0
    spare_died: bool = False
    _alive: dict[int, Child] = field(default_factory=dict)
    _places: list[Place] = field(default_factory=list)

    def __iter__(self) -> Iterator[Child]:
        """Go through the children as they are now: some may be forgotten meanwhile."""
        return iter(list(self._alive.values()))

    def __len__(self) -> int:
        return len(self._alive)

    @property
    def pids(self) -> list[int]:
        """Their process ids."""
        return list(self._alive)

    @property
    def working(self) -> int:
        """How many have runs of their own."""
        return sum(1 for child in self._alive.values() if child.runs)

    def frame_limit(self, task: ClaimedTask) -> int:
        """Return how long a frame may be that tells of the task."""
        return self.setup.result_limit_of(task) + wire.OVERHEAD

    def fork(self, wanted: Wanted) -> Child:
        """Fork a child. Raises OSError when the system has no process or socket left."""
        children, error = self.fork_all((wanted,))
        if error is not None:
            raise error
        return children[0]

    def fork_all(self, wanted: Sequence[Wanted]) -> tuple[list[Child], OSError | None]:
        """Fork a child for each of ``wanted``, in order; return them, and why there are fewer than that."""
        prepared: list[_Prepared] = []
        refused: OSError | None = None
        try:
            for one in wanted:
                prepared.append(self._prepared(one))
        except OSError as reason:
            refused = reason
        forked, error = self.forker.fork_all([ready.order for ready in prepared])
        self.forks += len(forked)
        for left in prepared[len(forked) :]:
            self._discard(left)
        children = [self._child(pid, at, ready) for (pid, at), ready in zip(forked, prepared, strict=False)]
        return [self._noted(child) for child in children], error or refused

    def _prepared(self, wanted: Wanted) -> _Prepared:
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
        return _Prepared(wanted=wanted, ours=ours, theirs=theirs, place=place, box=box, task=self._packed(wanted))

    def _packed(self, wanted: Wanted) -> bytes | None:
        """Return the task as its child gets it, with its arguments decoded where the child has no inbox for more."""
        if wanted.claimed is None:
            return None
        task = wanted.claimed.task
        try:
            return handing.pack(task, None if wanted.fed else self.setup.load_ahead(task))
        except ValueError:  # a row written by hand may be nested as deeply as it likes
            return inbox.pack(wanted.claimed.row)

    def _discard(self, prepared: _Prepared) -> None:
        prepared.ours.close()
        prepared.theirs.close()
        if prepared.box is not None:
            prepared.box.close()
        self._places.append(prepared.place)

    def _child(self, pid: int, forked: float, prepared: _Prepared) -> Child:
        setup, wanted = self.setup, prepared.wanted
        task = None if wanted.claimed is None else wanted.claimed.task
        prepared.theirs.close()
        return Child(
            pid=pid,
            forker=self.forker,
            forked=forked,
            place=prepared.place,
            socket=prepared.ours,
            decoder=wire.Decoder(wire.OVERHEAD if task is None else self.frame_limit(task)),
            inbox=prepared.box,
            left=setup.tasks_per_child - (task is not None) if wanted.fed else 0,
            crowd=wanted.crowd,
            single=not wanted.crowd and (setup.tasks_per_child == 1 or not wanted.fed),
        )

    def _noted(self, child: Child) -> Child:
        child.socket.setblocking(False)
        self._alive[child.pid] = child
        self.selector.register(child.socket, selectors.EVENT_READ, child)
        return child

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
        """Give back what a reaped child had, but for its socket."""
        if child.inbox is not None:
            child.inbox.close()
        self._places.append(child.place)
        del self._alive[child.pid]

    def close(self) -> None:
        """Give back memory and descriptors. Children that are still known have lost the process that forked them."""
        for child in self:
            child.socket.close()
            self.forget(child)
        for place in self._places:
            place.close()
        self._places.clear()
