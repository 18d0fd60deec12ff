"""Which task goes to which child: the stock of claimed tasks, and what waits with the children."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from math import inf
from time import monotonic

from pq_core.types import ClaimedTask
from pq_core.worker import inbox
from pq_core.worker.crowd import Crowd
from pq_core.worker.pace import HORIZON, Pace
from pq_core.worker.processes import Processes, Wanted
from pq_core.worker.runs import LAST_WORD_GRACE, Child, Claimed, Run, grace_of, needs_own_process

DEAF = 1.0
"""Seconds in which a reused child begins something of what it was handed; one that has not is ended."""
SEARCHED = 100
"""Tasks of the stock among which a coroutine is looked for while no process is free."""
IN_FLIGHT = 800
"""Tasks that one worker fetches ahead at most. With 2,000 the database was slower than with 600 to 800."""


@dataclass(slots=True, kw_only=True)
class Feeding:
    """What the children get.

    ``before``: gets each task before it is handed to a process. ``stock``: claimed tasks that no child has yet, in
    order.
    """

    processes: Processes
    crowd: Crowd
    concurrency: int
    grace: float
    before: Callable[[ClaimedTask], None]
    stock: deque[Claimed] = field(default_factory=deque)
    pace: Pace = field(default_factory=Pace)
    _looked_at: float = 0.0

    # --- what may be taken on -----------------------------------------------------------------------------------

    def room(self, now: float) -> int:
        """Return how many more tasks are worth claiming: one for each free process, some ahead of short ones."""
        free = self.concurrency
        quick = 0
        ahead = 0
        for child in self.processes:
            if child.runs:
                free -= 1
                if now - child.since <= HORIZON and not child.leaving and not child.unheard:
                    quick += 1
                ahead += len(child.runs) - 1
        free = max(0, free)
        return free + (quick + free) * self._most - ahead - len(self.stock) + self.crowd.room

    @property
    def idle(self) -> int:
        """How many tasks could begin at once; what a limit lets pass must not wait here."""
        return max(0, self.concurrency - self.processes.working - len(self.stock)) + self.crowd.room

    @property
    def _most(self) -> int:
        """How many tasks may wait with each child."""
        return min(self.pace.ahead(), IN_FLIGHT // self.concurrency)

    @property
    def hungry(self) -> bool:
        """True when little is left to hand out: the next round trip to the database should not wait."""
        if self.crowd.hungry:
            return True
        at_hand = len(self.stock) + sum(len(child.runs) for child in self.processes)
        return at_hand <= self.concurrency * (1 + self._most // 2)

    def held(self) -> set[tuple[int, int]]:
        """Return id and fence of all that waits or runs here."""
        runs = [run.key for child in self.processes for run in child.runs] + [run.key for _, run in self.crowd]
        return {*runs, *((one.task.id, one.task.fence) for one in self.stock)}

    def add(self, found: list[Claimed]) -> None:
        """Put claimed tasks into the stock: the most urgent first, whenever they were claimed."""
        if self.crowd.size > 1:
            self.crowd.learn(len(found), sum(1 for one in found if self.crowd.takes(one)))
        self.stock = deque(sorted((*self.stock, *found), key=_urgency))

    # --- to the children ----------------------------------------------------------------------------------------

    def start(self) -> tuple[list[Claimed], OSError | None]:
        """Run what can begin, in idle children or new ones; return what there was no descriptor for, and the error.

        All that need a process of their own get it by one order, as far as there is room in it. What the system has no
        process for is known later (``take_refused``).
        """
        refused: list[Claimed] = []
        error: OSError | None = None
        while error is None and (at := self._startable()) is not None:
            claimed = self.stock[at]
            del self.stock[at]
            self.before(claimed.task)
            try:
                if not self._begin(claimed):
                    self.stock.insert(at, claimed)  # the inboxes were full
                    break
            except OSError as reason:
                refused, error = [claimed], reason
        self.processes.order()
        return refused, error

    def take_refused(self) -> list[tuple[Run, OSError]]:
        """Return the runs of children that the system had no room for, each with what it said."""
        refused, self.processes.refused = self.processes.refused, []
        found: list[tuple[Run, OSError]] = []
        for child, error in refused:
            runs = self.crowd.forget_child(child) if child.crowd else list(child.runs)
            if not runs and child.single:
                self.processes.spare_refused = str(error)
            found += [(run, error) for run in runs]
        return found

    def _startable(self) -> int | None:
        """Return the place in the stock of the first task that can start: a coroutine needs no free process."""
        if not self.stock:
            return None
        first = self.stock[0]
        if self.crowd.size > 1 and self.crowd.takes(first):
            if self.crowd.has_place:
                return 0
            if self.crowd.waits:
                return None
        if self.processes.working < self.concurrency and (self.processes.room or self._idle(first)):
            return 0
        if self.crowd.size > 1 and self.crowd.has_place:
            return next((at for at, one in enumerate(islice(self.stock, SEARCHED)) if self.crowd.takes(one)), None)
        return None

    def _idle(self, claimed: Claimed) -> list[Child]:
        """Return the children that are there for the task, those first that take what they get."""
        if not (inbox.fits(claimed.row) if self._one_each else self._shares(claimed)):
            return []
        return sorted((child for child in self.processes if child.idle), key=lambda one: one.unheard)

    def _begin(self, claimed: Claimed) -> bool:
        """Run a task in a child that is there, or else in a new one; False when no child takes it."""
        if self.crowd.takes(claimed) and self.crowd.start(claimed):
            return True
        if self.processes.working >= self.concurrency:
            return False
        if idle := self._idle(claimed):
            message = inbox.pack(claimed.row)
            for child in idle:
                if self._hand_over(child, claimed, message):
                    return True
        if not self.processes.room:
            return False
        fed = self._shares(claimed)
        if not fed and not self._one_each:
            self._make_way()
        child = self.processes.add(Wanted(claimed=claimed, fed=fed))
        now = monotonic()
        child.push(self.new_run(claimed, now, begun=True), now)
        return True

    @property
    def _one_each(self) -> bool:
        return self.processes.setup.tasks_per_child == 1

    def _shares(self, claimed: Claimed) -> bool:
        """Say whether the task goes to a child that runs others, too."""
        return not self._one_each and not needs_own_process(claimed)

    def _make_way(self) -> None:
        """Let an idle child end, so that no more processes live than agreed."""
        idle = [child for child in self.processes if child.idle]
        if idle and len(self.processes) >= self.concurrency:
            self.let_go(max(idle, key=lambda one: one.unheard))

    def top_up(self) -> None:
        """Let short tasks wait with the children, so that none of these waits for the worker.

        A child that did not begin what it had before gets nothing more until it begins what it has.
        """
        most = self._most
        if not self.stock or not most or self.processes.setup.tasks_per_child == 1:
            return
        now = monotonic()
        for child in sorted(self.processes, key=lambda one: one.load):
            if child.leaving or child.left <= 0 or not child.runs or now - child.since > HORIZON:
                continue
            if child.unheard and child.began(child.runs[0]) is None:
                continue
            while self.stock and len(child.runs) <= most:
                claimed = self.stock[0]
                if needs_own_process(claimed):
                    return  # the next free process is for this one
                message = inbox.pack(claimed.row)
                if child.load + self.pace.expected(claimed.task.name) > HORIZON:
                    break
                self.before(claimed.task)
                if not self._hand_over(child, claimed, message):
                    break
                self.stock.popleft()

    def new_run(self, claimed: Claimed, now: float, *, begun: bool) -> Run:
        """Return the run of a task that is handed to a process ``now``."""
        task = claimed.task
        return Run(
            claimed=claimed,
            handed=now,
            timeout=self.processes.setup.timeout_of(task),
            grace=grace_of(task, self.grace),
            expected=self.pace.expected(task.name),
            begun=begun,
        )

    def _hand_over(self, child: Child, claimed: Claimed, message: bytes) -> bool:
        if child.left <= 0 or child.inbox is None or not child.inbox.put(message):
            return False
        now = monotonic()
        child.left -= 1
        child.decoder.limit = max(child.decoder.limit, self.processes.frame_limit(claimed.task))
        child.push(self.new_run(claimed, now, begun=False), now)
        self.processes.listen(child)
        return True

    # --- and back from them -------------------------------------------------------------------------------------

    def even_out(self, now: float) -> None:
        """Take back what waits behind a run that takes long; the stock's first then goes to whoever is free."""
        self._looked_at = now
        for child in self.processes:
            if not child.runs:
                continue
            if child.pid and now >= _deaf_at(child) and not child.leaving and child.began(child.runs[0]) is None:
                self.let_go(child)  # it is stopped, or something that an earlier run left behind keeps it from going on
                if child.runs and child.kill_at is None:
                    child.kill_at = now + LAST_WORD_GRACE  # it has received this one, and not come to note it
            elif now >= _long_at(child):
                self.take_back(child)

    def next_event(self) -> float | None:
        """Return when ``even_out`` has something to do, if nothing else happens: what was not due when it last looked.

        That may be over by now: then it is due at once.
        """
        fed = [child for child in self.processes if child.runs and child.inbox is not None]
        return min(
            (
                at
                for child in fed
                for at in (_deaf_at(child) if child.pid else inf, _long_at(child))
                if self._looked_at < at < inf
            ),
            default=None,
        )

    def take_back(self, child: Child) -> None:
        """Put what the child has not received yet back into the stock, before what is there."""
        if child.inbox is None or child.crowd:
            return  # coroutines begin as they come: there is nothing to take back
        keys = set(child.inbox.take_back())
        if keys:
            runs = child.without(keys, monotonic())
            self.stock.extendleft(run.claimed for run in reversed(runs))
            child.left += len(runs)
            self.processes.listen(child)

    def take_all_back(self) -> None:
        """Put everything that no child has received back into the stock."""
        for child in self.processes:
            self.take_back(child)

    def let_go(self, child: Child) -> None:
        """Let a reused child end: it finds that nothing more comes."""
        self.take_back(child)
        child.leaving = True
        self.processes.listen(child)
        if not child.runs and child.kill_at is None:
            child.kill_at = monotonic() + LAST_WORD_GRACE
        if child.inbox is not None:
            child.inbox.shut()

    def dismiss_idle(self) -> None:
        """Let every idle child end."""
        for child in self.processes:
            if child.idle:
                self.let_go(child)
        if not self.crowd:
            self.crowd.let_go()


def _deaf_at(child: Child) -> float:
    """Return when the child is given up if it has not begun its first run; what was taken back from it counts, too."""
    return child.since + max(DEAF - child.unheard, HORIZON)


def _long_at(child: Child) -> float:
    """Return when its first run takes too long for what waits behind it."""
    return child.since + HORIZON if len(child.runs) > 1 else inf


def _urgency(claimed: Claimed) -> tuple[int, datetime, int]:
    task = claimed.task
    return -task.priority, task.run_at, task.id
