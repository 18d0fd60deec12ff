"""What the worker knows of its children: of each process, and of each run in it."""

from __future__ import annotations

import socket
from collections import deque
from dataclasses import dataclass, field
from math import inf
from typing import Any

from pq_core.types import ClaimedTask
from pq_core.worker import wire
from pq_core.worker.claiming import storable
from pq_core.worker.forker import Forker
from pq_core.worker.forking import Exit
from pq_core.worker.inbox import Inbox, fits
from pq_core.worker.rows import Row
from pq_core.worker.shared import Place, StopReason

LAST_WORD_GRACE = 5.0
"""Seconds a child has to exit after its last frame."""


@dataclass(slots=True)
class Claimed:
    """A task claimed ``at`` (of the monotonic clock), and the row that it came from: what a reused child gets."""

    task: ClaimedTask
    row: Row
    at: float


@dataclass(slots=True, kw_only=True)
class Run:
    """One attempt, handed to a process at ``handed`` (of the monotonic clock).

    ``begun``: false while it may still wait in its child's inbox. ``progress``: the latest; it goes into the report
    too, for on its way to the row alone it may have met a lock. ``expected``: seconds
    that it was thought to take. ``words``: of whoever cancelled it.
    ``kill_at``: when its process is killed if it has not stopped. ``neighbour``: its
    process ended over another run in it.
    """

    claimed: Claimed
    handed: float
    timeout: float | None
    grace: float
    expected: float = 0.0
    begun: bool = True
    end: dict[str, Any] | None = None
    progress: dict[str, Any] | None = None
    completed_itself: bool = False
    reason: StopReason = StopReason.NONE
    words: str = ""
    kill_at: float | None = None
    neighbour: bool = False

    @property
    def task(self) -> ClaimedTask:
        """The task."""
        return self.claimed.task

    @property
    def key(self) -> tuple[int, int]:
        """What tells this run from every other in this worker: the task's id and the fence.

        A claim that has both of a run which is still here is not started; in the database it is ``claim_key`` that
        tells claims apart.
        """
        return self.task.id, self.task.fence


@dataclass(slots=True, kw_only=True, eq=False)
class Child:
    """One process and the runs that it was handed, in order: it is in the first, or about to take it.

    ``number``: what its worker and the fork server call it. ``pid``: 0 until it is known to be forked; no time runs
    before that. ``forker``: who forks it. ``left``: tasks that it may still get.
    ``leaving``: it gets no more. ``look_at``: when the worker has to look whether the first run is over its time.
    ``silent``: the selector does not report it; it is read at every turn.
    ``since``: since when the first run is the first. ``unheard``: seconds for which it has held first runs that were
    taken back before it received them, since it last ended one. ``crowd``: it runs many coroutines, and ``runs`` is
    empty. ``single``: it is for one task, so how it exits belongs to the outcome. ``stopping``: why it was last asked
    to stop.
    ``cpu_user``, ``cpu_system``: seconds that the runs which it has ended used.
    """

    number: int
    pid: int = 0
    forker: Forker
    place: Place
    socket: socket.socket
    decoder: wire.Decoder
    inbox: Inbox | None = None
    left: int = 0
    runs: deque[Run] = field(default_factory=deque)
    load: float = 0.0
    since: float = 0.0
    unheard: float = 0.0
    look_at: float = inf
    kill_at: float | None = None
    stopping: StopReason = StopReason.NONE
    cpu_user: float = 0.0
    cpu_system: float = 0.0
    leaving: bool = False
    silent: bool = False
    crowd: bool = False
    single: bool = False
    eof: bool = False
    killed: bool = False
    oom_killed: bool = False
    broken: str | None = None

    @property
    def head(self) -> Run | None:
        """The run that it is in."""
        return self.runs[0] if self.runs else None

    @property
    def idle(self) -> bool:
        """True for a child without work that may get some: a reused one, or a spare."""
        return not self.runs and not self.leaving and not self.crowd

    @property
    def next_event(self) -> float:
        """When the worker has to look after it next."""
        if self.kill_at is not None:
            return self.kill_at
        return self.look_at if self.pid else inf

    def began(self, run: Run) -> float | None:
        """Return when its first run began, None if it has not received it."""
        noted = None if self.inbox is None else self.place.begun(*run.key)
        return run.handed if noted is None and run.begun else noted

    def forked(self, pid: int, at: float) -> None:
        """Note that it was forked ``at``, of the monotonic clock: what it was handed before has not waited for it."""
        self.pid = pid
        self.since = max(self.since, at)
        if (head := self.head) is not None:
            head.handed = max(head.handed, at)
            self.look_at = inf if head.timeout is None else head.handed + head.timeout

    def push(self, run: Run, now: float) -> None:
        """Note that ``run`` was handed to it."""
        if not self.runs:
            self.since = now
            self.look_at = inf if run.timeout is None else now + run.timeout
        self.runs.append(run)
        self.load += run.expected

    def pop(self, now: float) -> Run:
        """Note that its first run is over."""
        run = self.runs.popleft()
        self.unheard = 0.0
        self.load = self.load - run.expected if self.runs else 0.0
        self._advanced(now)
        return run

    def without(self, keys: set[tuple[int, int]], now: float) -> list[Run]:
        """Take out the runs named, which it has not received; return them, in order."""
        if self.runs and self.runs[0].key in keys:
            self.unheard += now - self.since
        out = [run for run in self.runs if run.key in keys]
        self.runs = deque(run for run in self.runs if run.key not in keys)
        self.load = sum(run.expected for run in self.runs)
        if not self.runs:
            self.look_at = inf
        return out

    def _advanced(self, now: float) -> None:
        self.since = now
        head = self.head
        # It began after it was handed over; when exactly is looked up once that long has passed.
        self.look_at = inf if head is None or head.timeout is None else head.handed + head.timeout


@dataclass(slots=True, kw_only=True)
class Ended:
    """A run that is over, in a child that was reaped (``exit``) or goes on. ``output``: the tail of what it printed.
    ``stacks``: what faulthandler wrote, where that matters.
    """

    child: Child
    run: Run
    exit: Exit
    wall: float
    output: str | None = None
    stacks: str = ""


def needs_own_process(claimed: Claimed) -> bool:
    """Say whether no other task may run in this one's process: its memory is limited, or it is too large."""
    return bool(claimed.task.options.get("memory_limit")) or not fits(claimed.row)


def grace_of(task: ClaimedTask, otherwise: float) -> float:
    """Return the seconds between SIGTERM and SIGKILL; a row written by hand may hold anything."""
    value = task.options.get("grace")
    try:
        seconds = float(value) if value is not None else otherwise
    except (TypeError, ValueError):
        return otherwise
    return min(max(seconds, 0.0), 3600.0) if seconds == seconds else otherwise


def usage(value: object) -> float:
    """Return a number that a child said; it may have said anything."""
    return float(value) if isinstance(value, (int, float)) and 0 <= value < 1e15 else 0.0


def progress_of(body: dict[str, Any]) -> dict[str, Any]:
    """Return progress as the database takes it, whatever the child said."""
    share, message = body.get("share"), body.get("message")
    if isinstance(share, bool) or not isinstance(share, (int, float)):
        share = None
    return {
        # Six digits: a real can't hold 1e-300, and refuses it.
        "share": None if share is None else round(float(min(max(share, 0), 1)), 6),
        "message": storable(message, 1000) if isinstance(message, str) else None,
    }
