"""The processes of a worker's children: forked, listened to, given up."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pq_core.types import ClaimedTask
from pq_core.worker import wire
from pq_core.worker.channel import Channel
from pq_core.worker.child import run_child
from pq_core.worker.child_setup import ChildSetup
from pq_core.worker.forking import fork
from pq_core.worker.inbox import Inbox
from pq_core.worker.runs import Child
from pq_core.worker.shared import Place

if TYPE_CHECKING:
    from typing import NoReturn

PLENTY = 3
"""Runs at hand from which a child is read at the worker's own pace: it writes for each of them, and waking for each
would cost more than the run."""

CrowdRunner = Callable[[ChildSetup, ClaimedTask, Channel, int], int]


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

    def fork(self, task: ClaimedTask | None, *, fed: bool, crowd: CrowdRunner | None = None) -> Child:
        """Fork a child for ``task``; None: a spare one. ``fed``: it gets tasks through an inbox.

        ``crowd``: runs coroutines in it, this one and those that follow.
        Raises OSError when the system has no process or socket left.
        """
        setup, null_fd = self.setup, self._null_fd
        ours, theirs = socket.socketpair()
        place = box = None
        try:
            place = self._places.pop() if self._places else Place(tail=self.tail)
            place.reset()
            box = Inbox() if fed else None
            fd = theirs.fileno()
            inbox_fd = None if box is None else box.theirs
            drop = self._to_drop(ours.fileno(), box, keep=(fd, null_fd, place.stack_fd, inbox_fd))
            shared: Place = place

            def body() -> NoReturn:
                run_child(setup, task, shared, fd, inbox_fd=inbox_fd, drop=drop, null_fd=null_fd, crowd=crowd)

            pid = fork(body)
            self.forks += 1
        except OSError:
            ours.close()
            if box is not None:
                box.close()
            if place is not None:
                self._places.append(place)
            raise
        finally:
            theirs.close()
        return self._noted(
            Child(
                pid=pid,
                place=place,
                socket=ours,
                decoder=wire.Decoder(wire.OVERHEAD if task is None else self.frame_limit(task)),
                inbox=box,
                left=setup.tasks_per_child - (task is not None) if fed else 0,
                crowd=crowd is not None,
                single=crowd is None and (setup.tasks_per_child == 1 or not fed),
            )
        )

    def _noted(self, child: Child) -> Child:
        child.socket.setblocking(False)
        self._alive[child.pid] = child
        self.selector.register(child.socket, selectors.EVENT_READ, child)
        return child

    def _to_drop(self, ours: int, box: Inbox | None, *, keep: tuple[int | None, ...]) -> list[int]:
        drop = [*self.inherited(), ours]
        if box is not None:
            drop.append(box.ours)
        for sibling in self._alive.values():
            drop.append(sibling.socket.fileno())
            if sibling.inbox is not None:
                drop += (sibling.inbox.ours, sibling.inbox.theirs)
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
