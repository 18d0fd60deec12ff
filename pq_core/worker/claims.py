"""What a worker asks for each turn: ready tasks, a suspect task alone, a look before it sleeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from pq_core.worker.ageing import Ageing
from pq_core.worker.attention import Attention
from pq_core.worker.claiming import Statements, integer, number, text_array
from pq_core.worker.connection import Parameters, Query
from pq_core.worker.limited import Limited
from pq_core.worker.low_end import LowEnd
from pq_core.worker.refusals import Refusals
from pq_core.worker.rows import Row, claimed_task
from pq_core.worker.runs import Claimed
from pq_core.worker.ticking import Ticking

if TYPE_CHECKING:
    from pq_core.types import ClaimedTask
    from pq_core.worker.options import WorkerOptions

PROMOTED_AT_ONCE = 500
PROMOTED_EVERY = 0.02
"""Seconds between two looks for tasks that became due, while claims follow one another."""
LINGER = 0.02
"""Seconds for which a worker that has just found something goes on asking before it lies down to sleep."""
LONG_LINGER = 0.06
"""... or for which it does so when it was woken soon after it lay down the last time: each such sleep costs those who
enqueue meanwhile a notification."""
ASK_AGAIN = 0.004
"""Seconds between two such questions."""
AWAKE = 0.25
"""Seconds after it was woken from which it looks by itself for tasks that became due: before it slept it knew when the
next would be, and what is enqueued while others sleep wakes one of them. It is likely to look before that."""
OVERDUE = 0.5
"""Seconds that a task has waited if nobody was told of it; before it may be what another worker was woken for. look.sql
has the same number."""
HOLD_BACK = 30.0
"""Seconds for which a busy worker takes nothing new so that it can run a suspect task alone; a tenth of the time."""

Sending = list[tuple[Query, Parameters]]


@dataclass(slots=True, kw_only=True)
class Claims:
    """The claims of one worker.

    ``suspects``: tasks that were lost twice wait for a worker that runs nothing else. ``alone``: the one that runs so.
    ``claimed_once``: with the option ``once``, that the one claim was made. ``began``: when the lease did.
    ``owes``: it was woken, and has neither found that nothing is left nor passed it on.
    ``_untold``: the last look has seen tasks with limits of which nobody had told the sleeping worker; until it claims.
    """

    statements: Statements
    options: WorkerOptions
    queues: tuple[str, ...]
    attention: Attention
    ticking: Ticking
    suspects: bool = False
    alone: int | None = None
    began: bytes = b"-infinity"
    claimed_once: bool = False
    owes: bool = False
    limited: Limited = field(default_factory=Limited)
    refusals: Refusals = field(init=False)
    _range: int = 0
    _ranges: list[tuple[int, int]] = field(default_factory=list)
    _queues: bytes = b""
    _bands: list[bytes] = field(default_factory=list)
    _in_vain: bool = False
    _looked_asleep: bool = False
    _untold: bool = False
    _low_end: LowEnd = field(default_factory=LowEnd)
    _ageing: Ageing = field(init=False)
    _promote_again_at: float = 0.0
    _due_at: float = inf
    _found_at: float = -1.0
    _marked_at: float = 0.0
    _held_back_until: float = 0.0
    _limited_ids: set[int] = field(default_factory=set)
    _hold_back_again: float = 0.0

    def __post_init__(self) -> None:
        self._ageing = Ageing(self.options.ageing)
        self.refusals = Refusals(self.options.unroutable_after)
        if self.options.once:
            self.limited.at = 0.0  # it asks once, and is not woken
        self._ranges = self.options.ranges()
        self._queues = text_array(self.queues)
        self._bands = [text_array(str(one[end]) for one in self._ranges) for end in (0, 1)]

    @property
    def bands(self) -> list[bytes]:
        """The lowest and the highest priorities of the bands, as two parameters."""
        return self._bands

    @property
    def found_any(self) -> bool:
        """True once a claim has brought a task."""
        return self._found_at >= 0

    def free(self, room: int) -> int:
        """Return how many tasks can be taken where there is room for ``room``."""
        if self.alone is not None:
            return 0
        if self.options.once:
            return 0 if self.claimed_once else 1
        return max(0, room)

    def statements_to_send(
        self, now: float, worker_id: int, *, room: int, busy: bool, reporting: bool, idle: int = 1
    ) -> Sending:
        """Return what goes into the turn at ``now``; nothing while the worker sleeps or is full.

        ``room``: tasks that are worth having. ``busy``: some are held already. ``idle``: how many could
        begin at once.
        """
        attention = self.attention
        free = self.free(room)
        if free <= 0:
            return self.pass_on(worker_id)
        if attention.deaf and attention.marked:
            return self.pass_on(worker_id)
        if self.suspects and not self.options.once:
            if not busy and not reporting:
                return self._claim_suspect(worker_id)
            if self._holds_back(now):
                return self.pass_on(worker_id)
        if self.limited.due(now, plain=attention.claim):
            self.limited.asked(now)
            return self._claim_limited(worker_id, min(free, max(1, idle)), busy=busy or reporting)
        if attention.claim:
            return self._claim(now, worker_id, free)
        if attention.look_at is None or now >= attention.look_at:
            asleep, attention.look_at = bool(attention.look_at), None
            if attention.next_due is not None and now >= attention.next_due:
                attention.wake()
                attention.claim_due = True
                return self._claim(now, worker_id, free)
            return self._look(now, worker_id, asleep=asleep)
        return []

    def told(self, words: str, now: float) -> None:
        """Hear what waits: ``words`` of ``pq_wake``, each a letter. Nobody else may have been told."""
        self.owes = not self.options.once
        if self.attention.marked:
            self._promote_again_at = max(self._promote_again_at, now + AWAKE)
            self.limited.rest(now)
        if "l" in words:
            self.limited.told(now)
        if "t" in words:
            self.attention.call(now)
        else:
            self.attention.glance(now)

    def pass_on(self, worker_id: int) -> Sending:
        """Return what has others woken for what this worker was woken for, or may still be, and does not take."""
        if self.options.once or not (self.attention.marked or self.owes):
            return []
        self.owes = self.attention.marked = False
        self.attention.wake()  # nobody notifies it from now on: it asks again once there is room
        return [(self.statements["pass_on"], [integer(worker_id), self._queues, *self._bands])]

    def _holds_back(self, now: float) -> bool:
        """Let what runs end, to take a suspect alone; for a while only, since one of the running may take hours."""
        if now >= self._hold_back_again:
            self._held_back_until = now + HOLD_BACK
            self._hold_back_again = now + 10 * HOLD_BACK
        return now < self._held_back_until

    def next_event(self, now: float, *, room: int, busy: bool) -> float | None:
        """Return when ``statements_to_send`` has something to say again, if nothing else happens."""
        if self.free(room) <= 0:
            return now if self.owes and not self.options.once else None
        if self.suspects and busy and not self.options.once and now < self._held_back_until:
            return self._held_back_until
        if self.attention.claim:
            return now
        look_at = self.attention.look_at or now
        return look_at if self.limited.at is None else min(look_at, self.limited.at)

    def by_limits(self, task: ClaimedTask) -> bool:
        """Say whether it came by a claim that leaves out nothing: of tasks with limits, or that were lost twice."""
        return task.losses >= 2 or task.id in self._limited_ids

    def _say_refusals(self, worker_id: int) -> Sending:
        if not self.refusals.unsaid:
            return []
        self.refusals.unsaid = False
        return [(self.statements["refuse"], [integer(worker_id), self.refusals.stored()])]

    def _claim(self, now: float, worker_id: int, free: int) -> Sending:
        before = self._say_refusals(worker_id)
        if self.attention.marked and (self._found_at > self._marked_at or self.attention.restless):
            # It is at work, or others are: who enqueues need not notify, which would make their commits queue up.
            self.attention.marked = False
            self.owes = not self.options.once  # others were not told of what it may find and not take
            before.append((self.statements["sleeping"], [integer(worker_id), b"f"]))
        if now >= min(self._promote_again_at, self._due_at) or self.attention.claim_due:
            self._promote_again_at = now + PROMOTED_EVERY
            self._due_at = inf
            self.attention.claim_due = False
            before.append((self.statements["promote"], [integer(PROMOTED_AT_ONCE)]))
        if self._ageing.due(now):
            return [*before, self._claim_aged(now, worker_id, free)]
        low, high = self._ranges[self._range]
        one = len(self.queues) == 1
        left_out = self.refusals.parameter(now)
        begin: Parameters = [b"{}", b"{}", b"{}"]
        if one:
            low, begin = self._low_end.search(now, low, high)
        return [
            *before,
            (
                self.statements["claim_one_queue" if one else "claim_many_queues"],
                [
                    integer(worker_id),
                    self._queues,
                    integer(low),
                    integer(high),
                    integer(free),
                    *begin,
                    self.began,
                    left_out,
                ],
            ),
        ]

    def _claim_aged(self, now: float, worker_id: int, free: int) -> tuple[Query, Parameters]:
        self._ageing.sent(now)
        limits = [integer(free), number(self.options.ageing or 0.0)]
        return self.statements["claim_aged"], [
            integer(worker_id),
            self._queues,
            *self._bands,
            *limits,
            self.began,
            self.refusals.parameter(now),
        ]

    def _claim_limited(self, worker_id: int, most: int, *, busy: bool) -> Sending:
        parameters = [integer(worker_id), self._queues, *self._bands, integer(most), b"f" if busy else b"t", self.began]
        return [(self.statements["claim_limited"], parameters)]

    def _claim_suspect(self, worker_id: int) -> Sending:
        return [(self.statements["claim_suspect"], [integer(worker_id), self._queues, *self._bands, self.began])]

    def _look(self, now: float, worker_id: int, *, asleep: bool) -> Sending:
        attention = self.attention
        if not attention.marked and not attention.deaf and not self.options.once:
            # A turn of its own, since a turn is a transaction: the mark is there for all before the look begins. Who
            # enqueues after the look sees it and notifies; who enqueued before is seen.
            attention.marked = True
            return [(self.statements["sleeping"], [integer(worker_id), b"t"])]
        attention.look(now, asleep=asleep)
        self._looked_asleep = asleep
        hear: Sending = [(self.statements["hear"], [])] if attention.wants_to_hear(now) else []
        parameters = [self._queues, *self._bands, self.ticking.held_ids, self.refusals.parameter(now)]
        return [*hear, (self.statements["look"], parameters)]

    def take(self, kind: str, rows: list[Row], *, asked: int, now: float) -> list[Claimed]:
        """Take in the answer to the last statement of a turn, named ``kind``; return the tasks claimed."""
        if kind == "pq_sleeping" and self.attention.marked:
            self._marked_at = now
            self.attention.lie_down(now)
            return []
        if kind == "pq_look":
            self._looked(rows[0], now)
            return []
        if not kind.startswith("pq_claim"):
            return []
        if kind == "pq_claim_limited":
            rows = self.limited.answered(rows, now)
            if self._untold and (rows or self.limited.at is not None) and not self.attention.heard:
                self.attention.surprise(now)
            self._untold = False
        claimed = [Claimed(claimed_task(row), row, now) for row in rows]
        tasks = [one.task for one in claimed]
        if tasks:
            self._found_at = now
            self.claimed_once = True
            self.attention.found(now)
        if kind == "pq_claim_suspect":
            self.suspects = bool(tasks)
            self.alone = tasks[0].id if tasks else None
        elif kind == "pq_claim_limited":
            self.alone = next((task.id for task in tasks if task.losses >= 2), self.alone)
            self._limited_ids.update(task.id for task in tasks)
        elif kind == "pq_claim_aged":
            self._ageing.found(tasks, now)  # a plain one follows, which tells whether there is more
        else:
            self._after_claim(tasks, asked=asked, now=now)
        return claimed

    def _looked(self, row: Row, now: float) -> None:
        ready, next_due, suspects, next_tick, is_cron, limited, *late = row
        # Right after a claim it may be what another worker has just let go, or has not committed yet.
        unheard = self._looked_asleep and not self.attention.heard
        # Tasks with limits may be for workers of other priorities: only the claim that follows can tell.
        self._untold = unheard and limited == b"t" and self.limited.at is None
        # What has not waited for long another worker may have been told of.
        overdue = (ready == b"t" and late != [b"f"]) or (next_due is not None and float(next_due) <= -OVERDUE)
        if unheard and (overdue or (suspects == b"t" and not self.suspects)):
            self.attention.surprise(now)
        self._due_at = inf if next_due is None else now + float(next_due)
        self.limited.rest(now, seen=limited == b"t")
        if limited == b"t":
            self.limited.seen(now)
        self.ticking.heard(next_tick, is_cron)
        self.suspects = suspects == b"t"
        if self.attention.heard:
            self.attention.wake()  # the notification has overtaken the answer
        elif ready == b"t" and self._in_vain:
            self.attention.try_again(now)
        elif ready == b"t":
            self.attention.wake()
        else:
            self._in_vain = False  # what is ready at the next look is something else
            self.owes = False  # it has not been told of anything since the look was sent
            self.attention.fall_asleep(now, None if next_due is None else float(next_due))

    def _after_claim(self, tasks: list[ClaimedTask], *, asked: int, now: float) -> None:
        self._in_vain = not tasks
        self._ageing.plain(full=len(tasks) >= asked)
        empty = self._low_end.found(tasks, asked=asked, now=now) if len(self.queues) == 1 else len(tasks) < asked
        if not empty:
            if len(tasks) >= asked:
                self._go_to(0)
            self.attention.wake()  # there may be more
        elif self._range + 1 < len(self._ranges):
            self._go_to(self._range + 1)  # this band is empty: on to the next one
        else:
            self._go_to(0)
            self.attention.claim = False
            self.claimed_once = True
            self.limited.woken(now)
            if not self.options.until_empty and not self.options.once:
                if now < self._found_at + (LONG_LINGER if self.attention.woken_soon else LINGER):
                    # More is likely to follow: to ask again is cheaper than to have everybody notify.
                    self.attention.look_at = self.attention.next_due = now + ASK_AGAIN
                    return
                if self.attention.doze(now):
                    return
            # Fewer than wanted: nothing more is ready. Look (and be marked as asleep) before sleeping.
            self.attention.look_at = 0.0
            self.attention.next_due = None

    def _go_to(self, band: int) -> None:
        if band != self._range:
            self._range = band
            self._low_end.forget()

    def ask_once_more(self) -> None:
        """Make the one claim of ``once`` anew, if it found nothing: there is something now."""
        if self.options.once and not self.found_any:
            self.claimed_once = False
            self.limited.at = 0.0

    def child_ended(self, task: ClaimedTask) -> None:
        """Note that a task runs no more: after one that ran alone, others may come again."""
        if task.id in self._limited_ids:
            self._limited_ids.discard(task.id)
            self.limited.ended()
        if self.alone == task.id:
            self.alone = None
            self.attention.wake()

    def forget(self) -> None:
        """Begin anew, under a new lease."""
        self.alone = None
        self.limited.forget()
        self._limited_ids.clear()
        self.refusals.say_again()
        self.limited.at = 0.0 if self.options.once else None
        self._range = 0
        self._low_end.forget()
        self.attention.marked = self.owes = False
        self.attention.wake()
