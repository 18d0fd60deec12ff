"""The processes of a worker's children: forked, listened to, given up."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pq_core.types import ClaimedTask
from pq_core.worker import wire
from pq_core.worker.channel import Channel
from pq_core.worker.child import run_child
from pq_core.worker.child_setup import ChildSetup
from pq_core.worker.forking import fork_all
from pq_core.worker.inbox import Inbox
from pq_core.worker.runs import Child
from pq_core.worker.shared import Place

if TYPE_CHECKING:
    from typing import NoReturn

PLENTY = 3
"""Runs at hand from which a child is read at the worker's own pace: it writes for each of them, and waking for each
would cost more than the run."""

CrowdRunner = Callable[[ChildSetup, ClaimedTask, Channel, int], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A child that is to be forked, for ``task``; None: a spare one.

    ``fed``: it gets tasks through an inbox. ``crowd``: runs coroutines in it, this one and those that follow.
    """

    task: ClaimedTask | None = None
    fed: bool
    crowd: CrowdRunner | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """What a child needs, made before the fork."""

    wanted: Wanted
    ours: socket.socket
    theirs: socket.socket
    place: Place
    box: Inbox | None

    @property
    def fds(self) -> list[int]:
        """Descriptors that no other child may keep."""
        box = () if self.box is None else (self.box.ours, self.box.theirs)
        return [self.ours.fileno(), self.theirs.fileno(), *box]


@dataclass(slots=True, kw_only=True)
class Processes:
    """The children that are alive or not yet reaped.

    ``inherited``: descriptors that a child must put out of use, beside its siblings' sockets. ``tail``: bytes of output
    kept per attempt. ``forks``: how many children there have been. ``look_for_ended``: some child may have ended.
    ``spare_died``: one ended by itself before it got a task.
    """

    setup: ChildSetup
    selector: selectors.BaseSelector
    tail: int
    inherited: Callable[[], list[int]]
    forks: int = 0
    look_for_ended: bool = True
    spare_died: bool = False
    _alive: dict[int, Child] = field(default_factory=dict)
    _places: list[Place] = field(default_factory=list)
    _null_fd: int = field(default_factory=lambda: os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))

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
        """Fork a child for each of ``wanted``, in order; return them, and why there are fewer than that.

        All that can be done before the first fork is, and all that can wait waits for the last: so the worker copies
        the pages that it writes once for all of them.
        """
        prepared: list[_Prepared] = []
        refused: OSError | None = None
        try:
            for one in wanted:
                prepared.append(self._prepared(one))
        except OSError as reason:
            refused = reason
        fds = [fd for ready in prepared for fd in ready.fds]
        forked, error = fork_all([self._body(ready, fds) for ready in prepared])
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
            return _Prepared(wanted=wanted, ours=ours, theirs=theirs, place=place, box=Inbox() if wanted.fed else None)
        except OSError:
            ours.close()
            theirs.close()
            if place is not None:
                self._places.append(place)
            raise

    def _discard(self, prepared: _Prepared) -> None:
        prepared.ours.close()
        prepared.theirs.close()
        if prepared.box is not None:
            prepared.box.close()
        self._places.append(prepared.place)

    def _body(self, prepared: _Prepared, siblings: list[int]) -> Callable[[], NoReturn]:
        """Return what the child does. ``siblings``: descriptors of all that are forked together with it."""
        setup, null_fd, place, wanted = self.setup, self._null_fd, prepared.place, prepared.wanted
        fd, inbox_fd = prepared.theirs.fileno(), None if prepared.box is None else prepared.box.theirs
        drop = self._to_drop(siblings, keep=(fd, inbox_fd, null_fd, place.stack_fd))
        task, crowd = wanted.task, wanted.crowd
        loaded = None if task is None or wanted.fed else setup.load_ahead(task)

        def body() -> NoReturn:
            run_child(setup, task, place, fd, loaded=loaded, inbox_fd=inbox_fd, drop=drop, null_fd=null_fd, crowd=crowd)

        return body

    def _child(self, pid: int, forked: float, prepared: _Prepared) -> Child:
        setup, wanted = self.setup, prepared.wanted
        task, crowd = wanted.task, wanted.crowd is not None
        prepared.theirs.close()
        return Child(
            pid=pid,
            forked=forked,
            place=prepared.place,
            socket=prepared.ours,
            decoder=wire.Decoder(wire.OVERHEAD if task is None else self.frame_limit(task)),
            inbox=prepared.box,
            left=setup.tasks_per_child - (task is not None) if wanted.fed else 0,
            crowd=crowd,
            single=not crowd and (setup.tasks_per_child == 1 or not wanted.fed),
        )

    def _noted(self, child: Child) -> Child:
        child.socket.setblocking(False)
        self._alive[child.pid] = child
        self.selector.register(child.socket, selectors.EVENT_READ, child)
        return child

    def _to_drop(self, siblings: list[int], *, keep: tuple[int | None, ...]) -> list[int]:
        drop = [*self.inherited(), *siblings]
        for child in self._alive.values():
            drop.append(child.socket.fileno())
            if child.inbox is not None:
                drop += (child.inbox.ours, child.inbox.theirs)
        # The application may have closed a socket that was noted, and its number may be one of these by now.
        return [one for one in drop if one not in keep and one >= 0]

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
        """Give back memory and descriptors; there must be no child left."""
        for place in self._places:
            place.close()
        self._places.clear()
        os.close(self._null_fd)
