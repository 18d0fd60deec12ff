"""The children of a worker: started, fed, listened to, stopped when overdue, reaped."""

from __future__ import annotations

import os
import selectors
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

from pq_core.types import ClaimedTask
from pq_core.worker import guards, inbox, wire
from pq_core.worker.child import Channel, ChildSetup, run_child
from pq_core.worker.crowd import Crowd
from pq_core.worker.forking import RSS_UNIT, Exit, ended, fork, reap
from pq_core.worker.inbox import Inbox
from pq_core.worker.pace import HORIZON, Pace
from pq_core.worker.runs import Child, Claimed, Ended, Run, grace_of, needs_own_process, progress_of, usage
from pq_core.worker.shared import Place, StopReason

if TYPE_CHECKING:
    from typing import NoReturn

READ_SIZE = 256 * 1024
LAST_WORD_GRACE = 5.0
"""Seconds a child has to exit after its last frame."""
PLENTY = 3
"""Runs at hand from which a child is read at the worker's own pace: it writes for each of them, and waking for each
would cost more than the run."""
IN_FLIGHT = 800
"""Tasks that one worker fetches ahead at most. With 2,000 the database was slower than with 600 to 800."""
LOOK = 0.002
"""Seconds between two readings of such children, at least."""
CROWD_TASKS = 1000
"""Coroutines after which their child is replaced where ``tasks_per_child`` says nothing of reuse."""
SWEEP = 1.0
"""Seconds after which the worker looks for ended children even if no signal came."""


CrowdRunner = Callable[[ChildSetup, ClaimedTask, Channel, int], int]


@dataclass(slots=True, kw_only=True)
class Children:
    """All children of one worker.

    ``inherited``: descriptors that a child must put out of use, beside its siblings' sockets. ``before``: gets each
    task before it is handed to a process. ``stock``: claimed tasks
    that no child has yet, in order. ``forks``: how many children there have been.
    ``news``: runs that told of progress. ``run_crowd``: runs coroutines together in a child, up to
    ``async_concurrency`` of what ``is_async`` says are such.
    """

    setup: ChildSetup
    selector: selectors.BaseSelector
    concurrency: int
    grace: float
    tail: int
    inherited: Callable[[], list[int]]
    before: Callable[[ClaimedTask], None]
    stock: deque[Claimed] = field(default_factory=deque)
    pace: Pace = field(default_factory=Pace)
    async_concurrency: int = 1
    is_async: Callable[[ClaimedTask], bool] = lambda task: False
    run_crowd: CrowdRunner | None = None
    crowd: Crowd = field(init=False)
    forks: int = 0
    _all: dict[int, Child] = field(default_factory=dict)
    news: list[Run] = field(default_factory=list)
    _finished: list[Ended] = field(default_factory=list)
    _look_for_ended: bool = True
    _sweep_at: float = 0.0
    _oom_kills: int | None = field(default_factory=guards.oom_kills)
    _places: list[Place] = field(default_factory=list)
    _null_fd: int = field(default_factory=lambda: os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))

    def __post_init__(self) -> None:
        lifetime = self.setup.tasks_per_child
        self.crowd = Crowd(
            size=self.async_concurrency if self.run_crowd is not None else 1,
            lifetime=lifetime if lifetime > 1 else CROWD_TASKS,
            wanted=lambda claimed: self.is_async(claimed.task),
            fork=self._fork_crowd,
            run=lambda claimed, now: self._new_run(claimed, now, begun=True),
        )

    def __iter__(self) -> Iterator[tuple[Child, Run]]:
        """Go through all runs, each with its child."""
        runs = [(child, run) for child in self._all.values() for run in child.runs]
        if self.crowd.child is not None:
            runs += [(self.crowd.child, run) for run in self.crowd]
        return iter(runs)

    @property
    def pids(self) -> list[int]:
        """The processes that are alive or not yet reaped."""
        return list(self._all)

    @property
    def busy(self) -> int:
        """How many runs are under way."""
        return self._working + len(self.crowd)

    @property
    def _working(self) -> int:
        return sum(1 for child in self._all.values() if child.runs)

    # --- what may be taken on -----------------------------------------------------------------------------------

    def room(self, now: float) -> int:
        """Return how many more tasks are worth claiming: one for each free process, some ahead of short ones."""
        free = self.concurrency
        quick = 0
        ahead = 0
        for child in self._all.values():
            if child.runs:
                free -= 1
                if now - child.since <= HORIZON and not child.leaving:
                    quick += 1
                ahead += len(child.runs) - 1
        free = max(0, free)
        return free + (quick + free) * self._most - ahead - len(self.stock) + self.crowd.room

    @property
    def idle(self) -> int:
        """How many tasks could begin at once; what a limit lets pass must not wait here."""
        return max(0, self.concurrency - self._working - len(self.stock)) + self.crowd.room

    @property
    def _most(self) -> int:
        """How many tasks may wait with each child."""
        return min(self.pace.ahead(), IN_FLIGHT // self.concurrency)

    @property
    def hungry(self) -> bool:
        """True when little is left to hand out: the next round trip to the database should not wait."""
        if self.crowd.hungry:
            return True
        at_hand = len(self.stock) + sum(len(child.runs) for child in self._all.values())
        return at_hand <= self.concurrency * (1 + self._most // 2)

    def add(self, found: list[Claimed]) -> None:
        """Put claimed tasks into the stock: the most urgent first, whenever they were claimed."""
        if self.crowd.size > 1:
            self.crowd.learn(len(found), sum(1 for one in found if self.crowd.takes(one)))
        self.stock = deque(sorted((*self.stock, *found), key=_urgency))

    @property
    def next_claimed(self) -> Claimed | None:
        """The task to start next, None when none could be: no process is free, or there is no task."""
        if not self.stock:
            return None
        return self.stock[0] if self._working < self.concurrency or self.crowd.takes(self.stock[0]) else None

    def start(self) -> None:
        """Run the first task of the stock in an idle child, or fork one.

        Raises OSError when the system has no process or socket left; the task is out of the stock then, too.
        """
        claimed = self.stock.popleft()
        self.before(claimed.task)
        if self.crowd.takes(claimed) and self.crowd.start(claimed):
            return
        alone = self.setup.tasks_per_child == 1 or needs_own_process(claimed.task)
        message = None if alone else inbox.pack(claimed.row)
        if message is not None and len(message) > inbox.TASK_LIMIT:
            message = None
        idle = [child for child in self._all.values() if child.idle]
        if message is not None:
            for child in idle:
                if self._hand_over(child, claimed, message):
                    return
        elif idle and len(self._all) >= self.concurrency:
            self._let_go(idle[0])  # so that no more processes live than agreed
        child = self._fork(claimed, reused=message is not None)
        now = monotonic()
        child.push(self._new_run(claimed, now, begun=True), now)

    def _fork_crowd(self, claimed: Claimed, run: Run) -> Child:
        child = self._fork(claimed, reused=True, crowd=self.run_crowd)
        child.crowd = True
        return child

    def top_up(self) -> None:
        """Let short tasks wait with the children, so that none of these waits for the worker."""
        most = self._most
        if not self.stock or not most or self.setup.tasks_per_child == 1:
            return
        now = monotonic()
        for child in sorted(self._all.values(), key=lambda one: one.load):
            if child.leaving or not child.runs or now - child.since > HORIZON:
                continue
            while self.stock and len(child.runs) <= most:
                claimed = self.stock[0]
                if needs_own_process(claimed.task):
                    return  # the next free process is for this one
                message = inbox.pack(claimed.row)
                if len(message) > inbox.TASK_LIMIT:
                    return
                if child.load + self.pace.expected(claimed.task.name) > HORIZON:
                    break
                self.before(claimed.task)
                if not self._hand_over(child, claimed, message):
                    break
                self.stock.popleft()

    def even_out(self) -> None:
        """Take back what waits behind a run that takes long; the stock's first then goes to whoever is free."""
        now = monotonic()
        for child in list(self._all.values()):
            if len(child.runs) > 1 and now - child.since > HORIZON:
                self.take_back(child)

    def take_back(self, child: Child) -> None:
        """Put what the child has not received yet back into the stock, before what is there."""
        if child.inbox is None:
            return
        keys = set(child.inbox.take_back())
        if keys:
            runs = child.without(keys)
            self.stock.extendleft(run.claimed for run in reversed(runs))
            child.left += len(runs)
            self._listen(child)

    def take_all_back(self) -> None:
        """Put everything that no child has received back into the stock."""
        for child in self._all.values():
            self.take_back(child)

    def _new_run(self, claimed: Claimed, now: float, *, begun: bool) -> Run:
        task, setup = claimed.task, self.setup
        timeout = task.timeout if task.timeout is not None else setup.default_timeout
        return Run(
            claimed=claimed,
            handed=now,
            timeout=timeout,
            grace=grace_of(task, self.grace),
            expected=self.pace.expected(task.name),
            begun=begun,
        )

    def _hand_over(self, child: Child, claimed: Claimed, message: bytes) -> bool:
        if child.left <= 0 or child.inbox is None or not child.inbox.put(message):
            return False
        now = monotonic()
        child.left -= 1
        child.decoder.limit = max(child.decoder.limit, self._frame_limit(claimed.task))
        child.push(self._new_run(claimed, now, begun=False), now)
        self._listen(child)
        return True

    def _frame_limit(self, task: ClaimedTask) -> int:
        return int(task.options.get("result_limit") or self.setup.result_limit) + wire.OVERHEAD

    def _fork(self, claimed: Claimed, *, reused: bool, crowd: CrowdRunner | None = None) -> Child:
        task, setup, null_fd = claimed.task, self.setup, self._null_fd
        ours, theirs = socket.socketpair()
        place = box = None
        try:
            place = self._places.pop() if self._places else Place(tail=self.tail)
            place.reset()
            box = Inbox() if reused else None
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
        ours.setblocking(False)
        child = Child(
            pid=pid,
            place=place,
            socket=ours,
            decoder=wire.Decoder(self._frame_limit(task)),
            inbox=box,
            left=setup.tasks_per_child - 1 if reused else 0,
        )
        self._all[pid] = child
        self.selector.register(ours, selectors.EVENT_READ, child)
        return child

    def _to_drop(self, ours: int, box: Inbox | None, *, keep: tuple[int | None, ...]) -> list[int]:
        drop = [*self.inherited(), ours]
        if box is not None:
            drop.append(box.ours)
        for sibling in self._all.values():
            drop.append(sibling.socket.fileno())
            if sibling.inbox is not None:
                drop += (sibling.inbox.ours, sibling.inbox.theirs)
        # The application may have closed a socket that was noted, and its number may be one of these by now.
        return [one for one in drop if one not in keep and one >= 0]

    # --- what they say ------------------------------------------------------------------------------------------

    def _listen(self, child: Child) -> None:
        """Have the selector report the child, unless it has plenty to do."""
        silent = len(child.runs) >= PLENTY and not child.leaving
        if silent != child.silent and not child.eof:
            child.silent = silent
            if silent:
                self.selector.unregister(child.socket)
            else:
                self.selector.register(child.socket, selectors.EVENT_READ, child)

    def read_silent(self) -> None:
        """Read the children that the selector does not report."""
        for child in list(self._all.values()):
            if child.silent:
                self.read(child)

    def read(self, child: Child) -> None:
        """Take in what the child has sent."""
        self._read(child)
        if child.eof and child.idle:
            self._let_go(child)
        elif not child.eof:
            self._listen(child)

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
                self._look_for_ended = True
                if not child.silent:
                    self.selector.unregister(child.socket)
                child.silent = False
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
        if child.crowd:
            if (told := self.crowd.note(child, kind, body)) is not None:
                self.news.append(told)
            return
        run = child.head
        mine = run is not None and (body.get("id"), body.get("fence")) == run.key
        if kind in (wire.Kind.END, wire.Kind.DONE):
            if run is None or not mine or run.end is not None:
                # Of a task that it does not have, or had ended: no word of this process can be relied on.
                raise wire.BrokenFrame("a task ends once")
            self._note_end(child, run, body)
        elif run is None or not mine:
            return  # a thread that an earlier task left behind may still speak
        elif kind is wire.Kind.PROGRESS:
            run.begun = True
            run.progress = progress_of(body)
            self.news.append(run)
        elif kind is wire.Kind.COMPLETED:
            run.begun = True
            run.completed_itself = True

    def _note_end(self, child: Child, run: Run, body: dict[str, Any]) -> None:
        now = monotonic()
        run.end, run.begun = body, True
        if child.inbox is None:
            # A process for one task: how it exits belongs to the outcome.
            child.kill_at = child.kill_at if child.kill_at is not None else now + LAST_WORD_GRACE
            child.leaving = True
            self.pace.note(run.task.name, now - run.handed)
            return
        child.pop(now)
        if child.runs and child.kill_at is not None:
            self._stop_next(child)
        wall = usage(body.get("wall"))
        self.pace.note(run.task.name, wall)
        cpu_user, cpu_system, max_rss = (usage(body.get(key)) for key in ("cpu_user", "cpu_system", "max_rss"))
        child.cpu_user += cpu_user
        child.cpu_system += cpu_system
        exit_ = Exit(child.pid, 0, cpu_user, cpu_system, int(max_rss) * RSS_UNIT)
        output = body.get("output")
        output = output[: self.tail + 200] if isinstance(output, str) else None
        stacks = child.place.stacks() if run.reason is not StopReason.NONE else ""
        self._finished.append(Ended(child=child, run=run, exit=exit_, wall=wall, output=output, stacks=stacks))
        if body.get("last") or run.reason is not StopReason.NONE or (child.left <= 0 and not child.runs):
            self._let_go(child)

    def _let_go(self, child: Child) -> None:
        """Let a reused child end: it finds that nothing more comes."""
        self.take_back(child)
        child.leaving = True
        self._listen(child)
        if not child.runs and child.kill_at is None:
            child.kill_at = monotonic() + LAST_WORD_GRACE
        if child.inbox is not None:
            child.inbox.shut()

    def dismiss_idle(self) -> None:
        """Let every idle child end."""
        for child in list(self._all.values()):
            if child.idle:
                self._let_go(child)
        if not self.crowd:
            self.crowd.let_go()

    # --- ending them --------------------------------------------------------------------------------------------

    def stop(self, child: Child, reason: StopReason, *, grace: float | None = None, words: str = "") -> None:
        """Ask the child's run to stop, and have the process killed if it has not in ``grace`` seconds.

        The first reason stands. ``words``: of whoever cancelled it. What waits behind the run goes back to the stock.
        """
        self.take_back(child)
        self.read(child)  # what it was in may be over
        run = child.head
        if run is None or run.reason is not StopReason.NONE or run.end is not None:
            return
        child.leaving = True
        child.stopping = reason
        child.kill_at = monotonic() + (run.grace if grace is None else grace)
        run.words = words
        self._signal(child, run, reason)
        self._listen(child)

    def _signal(self, child: Child, run: Run, reason: StopReason) -> None:
        run.reason = reason
        child.place.stop(run.task.id, run.task.fence, reason, run.words)
        try:
            os.kill(child.pid, signal.SIGTERM)
        except ProcessLookupError:
            return  # it has ended by itself; reaping tells how

    def _stop_next(self, child: Child) -> None:
        """Deal with a run that its child had begun before the one that was to be stopped was known to be over."""
        run, reason = child.runs[0], child.stopping
        if reason in (StopReason.INTERRUPT, StopReason.LOST):
            self._signal(child, run, reason)  # meant for whatever it runs
        else:
            child.kill_at = None

    def stop_run(self, child: Child, run: Run, reason: StopReason, words: str = "") -> None:
        """Stop one run. One that waits behind another is taken back into the stock."""
        grace = 0.0 if reason is StopReason.LOST else None
        if child.crowd:
            self.crowd.stop(run, reason, run.grace if grace is None else grace, words)
            return
        if child.head is not run:
            self.take_back(child)
        if child.head is run:
            self.stop(child, reason, grace=grace, words=words)

    def interrupt_all(self, most: float) -> None:
        """Ask every run to stop and come back, within ``most`` seconds."""
        until = monotonic() + most
        for run in self.crowd:
            self.crowd.stop(run, StopReason.INTERRUPT, min(run.grace, most))
        for child in list(self._all.values()):
            if child.runs:
                self.stop(child, StopReason.INTERRUPT, grace=min(child.runs[0].grace, most))
            if child.kill_at is not None:
                child.kill_at = min(child.kill_at, until)

    def _kill(self, child: Child) -> None:
        child.killed = True
        child.kill_at = None
        child.leaving = True
        guards.kill_group(child.pid, signal.SIGKILL)

    def kill_all(self, reason: StopReason) -> None:
        """End every child with its whole process group, now."""
        for _, run in self:
            if run.reason is StopReason.NONE and run.end is None:
                run.reason = reason
        for child in self._all.values():
            self._kill(child)

    def enforce(self, now: float) -> None:
        """Stop what is over its deadline, kill what did not stop."""
        for child in list(self._all.values()):
            if child.kill_at is not None:
                if now >= child.kill_at:
                    self._kill(child)
            elif now >= child.look_at:
                if not child.crowd:
                    self._check_time(child, now)
                elif self.crowd.enforce(child, now):
                    self._kill(child)

    def _check_time(self, child: Child, now: float) -> None:
        run = child.head
        if run is None or run.timeout is None:
            return
        began = self._began(child, run)
        if began is None:
            # Still behind another one, whose end is on its way to us.
            child.look_at = now + min(max(run.timeout / 4, 0.01), 0.25)
        elif now >= (deadline := min(max(began, run.handed), now) + run.timeout):
            self.stop(child, StopReason.TIMEOUT)
        else:
            child.look_at = deadline

    @staticmethod
    def _began(child: Child, run: Run) -> float | None:
        """Return when the child's first run began, None if it has not received it."""
        noted = None if child.inbox is None else child.place.begun(*run.key)
        return run.handed if noted is None and run.begun else noted

    def next_event(self, now: float) -> float | None:
        """Return when there is something to do, if nothing else happens."""
        events = [at for child in self._all.values() if (at := child.next_event) < inf]
        if any(child.silent for child in self._all.values()):
            shortest = min(child.load for child in self._all.values() if child.silent)
            events.append(now + min(max(shortest / 4, LOOK), HORIZON))
        if self._finished or self.crowd.has_finished or self._look_for_ended:
            return now
        return min(events, default=None)

    def child_ended(self) -> None:
        """Note that a signal told of the end of some child."""
        self._look_for_ended = True

    def reap(self, now: float) -> list[Ended]:
        """Collect every run that has ended, and every child with what is left of its process group."""
        done, self._finished = [*self._finished, *self.crowd.take_finished()], []
        if self._look_for_ended or now >= self._sweep_at:
            self._look_for_ended = False
            self._sweep_at = now + SWEEP
            for child in [one for one in self._all.values() if ended(one.pid)]:
                self._reap(child, now, done)
        return done

    def _reap(self, child: Child, now: float, done: list[Ended]) -> None:
        # Before the pid is given back: nobody else can have it, so the group is its own.
        guards.kill_group(child.pid, signal.SIGKILL)
        exit_ = reap(child.pid)
        if exit_ is None:
            self._look_for_ended = True
            return
        if exit_.signal == signal.SIGKILL and not child.killed:
            child.oom_killed = self._oom_kills_rose()
        self.read(child)
        done += self._finished  # what it had said before its end
        # What the runs before this one used is on their account.
        exit_.cpu_user = max(0.0, exit_.cpu_user - child.cpu_user)
        exit_.cpu_system = max(0.0, exit_.cpu_system - child.cpu_system)
        self._finished = []
        if not child.eof and not child.silent:
            # A grandchild that left the group may hold the other end for ever: nobody waits for it.
            self.selector.unregister(child.socket)
        child.socket.close()
        self.take_back(child)
        for run in child.runs:
            began = self._began(child, run)
            run.begun = began is not None
            told = run.end is not None and run.reason is StopReason.NONE
            done.append(
                Ended(
                    child=child,
                    run=run,
                    exit=exit_,
                    wall=now - (began or now),
                    output=child.place.output(),
                    stacks="" if told else child.place.stacks(),
                )
            )
        child.runs.clear()
        if child.crowd:
            done += self.crowd.reaped(child, exit_, now, child.place.stacks())
        if child.inbox is not None:
            child.inbox.close()
        self._places.append(child.place)
        del self._all[child.pid]

    def _oom_kills_rose(self) -> bool:
        """Say whether the kernel has killed for lack of memory since this was last asked: after the last SIGKILL."""
        before, self._oom_kills = self._oom_kills, guards.oom_kills()
        return before is not None and self._oom_kills is not None and self._oom_kills > before

    def close(self) -> None:
        """Give back memory and descriptors; there must be no child left."""
        for place in self._places:
            place.close()
        self._places.clear()
        os.close(self._null_fd)


def _urgency(claimed: Claimed) -> tuple[int, datetime, int]:
    task = claimed.task
    return -task.priority, task.run_at, task.id
