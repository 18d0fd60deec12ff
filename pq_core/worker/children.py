"""The children of a worker: started, listened to, stopped when overdue, reaped."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

from pq_core.types import ClaimedTask
from pq_core.worker import guards, wire
from pq_core.worker.child import ChildSetup, run_child
from pq_core.worker.claiming import storable
from pq_core.worker.forking import RSS_UNIT, Exit, ended, fork, reap
from pq_core.worker.shared import Place, StopReason

if TYPE_CHECKING:
    from typing import NoReturn

READ_SIZE = 256 * 1024
LAST_WORD_GRACE = 5.0
"""Seconds a child has to exit after its last frame."""


@dataclass(slots=True, kw_only=True)
class Child:
    """One running child and what the worker knows of its attempt. Times are of the monotonic clock.

    ``progress``: the latest; it goes into the report too, for on its way to the row alone it may have met a lock.
    ``news``: it was not sent yet. ``begun``: false from the moment a task is handed to a reused child until it says
    that it runs. ``left``: tasks that the process may run after this one.
    """

    pid: int
    task: ClaimedTask
    place: Place
    socket: socket.socket
    decoder: wire.Decoder
    started: float
    deadline: float | None
    timeout: float | None
    grace: float
    oom_killed: bool = False
    end: dict[str, Any] | None = None
    progress: dict[str, Any] | None = None
    news: bool = False
    completed_itself: bool = False
    broken: str | None = None
    reason: StopReason = StopReason.NONE
    kill_at: float | None = None
    killed: bool = False
    eof: bool = False
    begun: bool = True
    left: int = 0

    @property
    def next_event(self) -> float | None:
        """When the worker has to look after it next."""
        return self.kill_at if self.kill_at is not None else self.deadline


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A child that was reaped, with its task and what it left."""

    child: Child
    exit: Exit
    wall: float


@dataclass(slots=True, kw_only=True)
class Children:
    """All children of one worker.

    ``inherited``: descriptors that a child must put out of use, beside its siblings' sockets.
    """

    setup: ChildSetup
    selector: selectors.BaseSelector
    concurrency: int
    grace: float
    tail: int
    inherited: Callable[[], list[int]]
    running: dict[int, Child] = field(default_factory=dict)
    _idle: dict[int, Child] = field(default_factory=dict)
    _leaving: dict[int, Child] = field(default_factory=dict)
    _finished: list[Ended] = field(default_factory=list)
    _oom_kills: int | None = field(default_factory=guards.oom_kills)
    _places: list[Place] = field(default_factory=list)
    _null_fd: int = field(default_factory=lambda: os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))

    def __len__(self) -> int:
        return len(self.running)

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self.running.values()))

    def start(self, task: ClaimedTask) -> Child:
        """Run ``task`` in an idle child, or fork one. Raises OSError when the system has no process or socket left."""
        if self._idle and (child := self._hand_over(task)) is not None:
            return child
        ours, theirs = socket.socketpair()
        try:
            place = self._places.pop() if self._places else Place(tail=self.tail)
            place.reset()
        except OSError:
            ours.close()
            theirs.close()
            raise
        siblings = (*self.running.values(), *self._idle.values(), *self._leaving.values())
        fd, null_fd, setup = theirs.fileno(), self._null_fd, self.setup
        drop = [*self.inherited(), *(sibling.socket.fileno() for sibling in siblings), ours.fileno()]
        # The application may have closed a socket that was noted, and its number may be one of these by now.
        drop = [one for one in drop if one not in (fd, null_fd, place.stack_fd)]

        def body() -> NoReturn:
            run_child(setup, task, place, fd, drop=drop, null_fd=null_fd)

        try:
            pid = fork(body)
        except OSError:
            ours.close()
            self._places.append(place)
            raise
        finally:
            theirs.close()
        now = monotonic()
        ours.setblocking(False)
        timeout = task.timeout if task.timeout is not None else setup.default_timeout
        limit = int(task.options.get("result_limit") or setup.result_limit)
        child = Child(
            pid=pid,
            task=task,
            place=place,
            socket=ours,
            decoder=wire.Decoder(limit + wire.OVERHEAD),
            started=now,
            deadline=None if timeout is None else now + timeout,
            timeout=timeout,
            grace=_grace(task, self.grace),
            left=0 if task.options.get("memory_limit") else setup.tasks_per_child - 1,
        )
        self.running[pid] = child
        self.selector.register(ours, selectors.EVENT_READ, child)
        return child

    def _hand_over(self, task: ClaimedTask) -> Child | None:
        """Give ``task`` to an idle child; None when it needs a process of its own."""
        alone = bool(task.options.get("memory_limit")) or len(task.payload) > wire.TASK_LIMIT
        frame = b"" if alone else wire.pack_task(task)
        if alone or len(frame) > wire.TASK_LIMIT:
            self._dismiss(next(iter(self._idle.values())))  # so that no more processes live than agreed
            return None
        pid, idle = self._idle.popitem()
        idle.place.reset()
        now = monotonic()
        timeout = task.timeout if task.timeout is not None else self.setup.default_timeout
        limit = int(task.options.get("result_limit") or self.setup.result_limit)
        child = Child(
            pid=pid,
            task=task,
            place=idle.place,
            socket=idle.socket,
            decoder=wire.Decoder(limit + wire.OVERHEAD),
            started=now,
            deadline=None if timeout is None else now + timeout,
            timeout=timeout,
            grace=_grace(task, self.grace),
            begun=False,
            left=idle.left - 1,
        )
        self.running[pid] = child
        self.selector.modify(child.socket, selectors.EVENT_READ, child)
        try:
            whole = child.socket.send(frame) == len(frame)
        except OSError:
            whole = False
        if not whole:
            self._kill(child)  # it has not begun: the task is put back
        return child

    def _set_aside(self, child: Child, end: dict[str, Any]) -> None:
        """Keep a child that has ended its task for another one."""
        cpu_user, cpu_system, max_rss = (_usage(end.get(key)) for key in ("cpu_user", "cpu_system", "max_rss"))
        exit_ = Exit(child.pid, 0, cpu_user, cpu_system, int(max_rss) * RSS_UNIT)
        self._finished.append(Ended(child=child, exit=exit_, wall=monotonic() - child.started))
        del self.running[child.pid]
        self._idle[child.pid] = child

    def _dismiss(self, child: Child) -> None:
        """Let an idle child end: it finds the end of its socket."""
        self._idle.pop(child.pid, None)
        self._leaving[child.pid] = child
        child.kill_at = monotonic() + LAST_WORD_GRACE
        _let_end(child)

    def dismiss_idle(self) -> None:
        """Let every idle child end."""
        for child in list(self._idle.values()):
            self._dismiss(child)

    @property
    def pids(self) -> list[int]:
        """The processes that are alive or not yet reaped."""
        return [*self.running, *self._idle, *self._leaving]

    def read(self, child: Child) -> None:
        """Take in what the child has sent."""
        self._read(child)
        if child.eof and self._idle.get(child.pid) is child:
            self._dismiss(child)

    def _read(self, child: Child) -> None:
        while not child.eof:
            try:
                data = child.socket.recv(READ_SIZE)
            except BlockingIOError:
                return
            except OSError as error:
                data = b""
                child.broken = child.broken or str(error)
            if not data:
                child.eof = True
                self.selector.unregister(child.socket)
                return
            if child.broken:
                continue  # already being ended: read on, so that it does not block in a write
            try:
                for kind, body in child.decoder.feed(data):
                    self._note(child, kind, body)
            except wire.BrokenFrame as error:
                child.broken = str(error)
                self._kill(child)
            if len(data) < READ_SIZE:
                return

    def _note(self, child: Child, kind: wire.Kind, body: dict[str, Any]) -> None:
        if self.running.get(child.pid) is not child:
            return  # it has ended its task: a thread that the task left behind may still speak
        match kind:
            case wire.Kind.STARTED:
                child.begun = True
            case wire.Kind.END if not child.begun:
                # Of the task before this one, which had ended already: no word of this process can be relied on.
                raise wire.BrokenFrame("a task ends once")
            case _ if not child.begun:
                return  # a thread that the task before left behind
            case wire.Kind.PROGRESS:
                child.progress = _progress(body)
                child.news = True
            case wire.Kind.COMPLETED:
                child.completed_itself = True
            case wire.Kind.END if child.end is None:
                child.end = body
                if body.get("last"):
                    child.left = 0
                if child.left and child.reason is StopReason.NONE:
                    self._set_aside(child, body)
                    return
                if child.left:
                    _let_end(child)  # asked to stop meanwhile: it gets no other task
                if child.kill_at is None:
                    child.kill_at = monotonic() + LAST_WORD_GRACE
            case wire.Kind.END:
                raise wire.BrokenFrame("a task ends once")
            case wire.Kind.TASK:
                raise wire.BrokenFrame("a child can't hand out tasks")

    def stop(self, child: Child, reason: StopReason, *, grace: float | None = None) -> None:
        """Ask the child to stop, and have it killed if it has not in ``grace`` seconds. The first reason stands."""
        if child.reason is not StopReason.NONE or child.end is not None:
            return
        child.reason = reason
        child.deadline = None
        child.place.stop(child.task.id, child.task.fence, reason)
        child.kill_at = monotonic() + (child.grace if grace is None else grace)
        try:
            os.kill(child.pid, signal.SIGTERM)
        except ProcessLookupError:
            return  # it has ended by itself; reaping tells how

    def hurry(self, child: Child, seconds: float) -> None:
        """Let a child that was asked to stop have no more than ``seconds`` from now."""
        if child.kill_at is not None:
            child.kill_at = min(child.kill_at, monotonic() + seconds)

    def _kill(self, child: Child) -> None:
        child.killed = True
        child.kill_at = None
        child.deadline = None
        guards.kill_group(child.pid, signal.SIGKILL)

    def kill_all(self, reason: StopReason) -> None:
        """End every child with its whole process group, now."""
        for child in self:
            if child.reason is StopReason.NONE and child.end is None:
                child.reason = reason
            self._kill(child)
        self.dismiss_idle()
        for child in self._leaving.values():
            self._kill(child)

    def enforce(self, now: float) -> None:
        """Stop what is over its deadline, kill what did not stop."""
        for child in (*self, *self._leaving.values()):
            if child.kill_at is not None and now >= child.kill_at:
                self._kill(child)
            elif child.deadline is not None and now >= child.deadline:
                self.stop(child, StopReason.TIMEOUT)

    def next_event(self) -> float | None:
        """Return when ``enforce`` has to be called next."""
        children = (*self.running.values(), *self._leaving.values())
        return min((at for child in children if (at := child.next_event) is not None), default=None)

    def reap(self) -> list[Ended]:
        """Collect every task that has ended, and every child with what is left of its process group."""
        done, self._finished = self._finished, []
        for child in (*self.running.values(), *self._idle.values(), *self._leaving.values()):
            if not ended(child.pid):
                continue
            child.left = 0
            # Before the pid is given back: nobody else can have it, so the group is its own.
            guards.kill_group(child.pid, signal.SIGKILL)
            exit_ = reap(child.pid)
            if exit_ is None:
                continue
            if exit_.signal == signal.SIGKILL and not child.killed:
                child.oom_killed = self._oom_kills_rose()
            self.read(child)
            if not child.eof:
                # A grandchild that left the group may hold the other end for ever: nobody waits for it.
                self.selector.unregister(child.socket)
            child.socket.close()
            if self.running.pop(child.pid, None) is not None:
                done.append(Ended(child=child, exit=exit_, wall=monotonic() - child.started))
            else:
                self._idle.pop(child.pid, None)
                self._leaving.pop(child.pid, None)
                if not any(one.child is child for one in done):
                    self._places.append(child.place)  # else whoever reads its last task's output gives it back
        return done

    def _oom_kills_rose(self) -> bool:
        """Say whether the kernel has killed for lack of memory since this was last asked: after the last SIGKILL."""
        before, self._oom_kills = self._oom_kills, guards.oom_kills()
        return before is not None and self._oom_kills is not None and self._oom_kills > before

    def give_back(self, child: Child) -> None:
        """Make the place of a reaped child free for the next; after its output was read."""
        if child.pid not in self._idle and child.pid not in self._leaving:
            self._places.append(child.place)

    def close(self) -> None:
        """Give back memory and descriptors; there must be no child left."""
        for place in self._places:
            place.close()
        self._places.clear()
        os.close(self._null_fd)


def _grace(task: ClaimedTask, otherwise: float) -> float:
    """Return the seconds between SIGTERM and SIGKILL; a row written by hand may hold anything."""
    value = task.options.get("grace")
    try:
        seconds = float(value) if value is not None else otherwise
    except (TypeError, ValueError):
        return otherwise
    return min(max(seconds, 0.0), 3600.0) if seconds == seconds else otherwise


def _let_end(child: Child) -> None:
    with contextlib.suppress(OSError):
        child.socket.shutdown(socket.SHUT_WR)


def _usage(value: object) -> float:
    """Return a number that the child said; it may have said anything."""
    return float(value) if isinstance(value, (int, float)) and 0 <= value < 1e15 else 0.0


def _progress(body: dict[str, Any]) -> dict[str, Any]:
    """Return progress as the database takes it, whatever the child said."""
    share, message = body.get("share"), body.get("message")
    if isinstance(share, bool) or not isinstance(share, (int, float)):
        share = None
    return {
        # Six digits: a real can't hold 1e-300, and refuses it.
        "share": None if share is None else round(float(min(max(share, 0), 1)), 6),
        "message": storable(message, 1000) if isinstance(message, str) else None,
    }
