"""When an idle worker claims, looks, or sleeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import random

SECOND_LOOKS = (0.05, 0.3)
"""Seconds after falling asleep at which an idle worker looks once more: a transaction that began to enqueue before it
slept, and so notified nobody, may have committed since."""
CONTENDED = 0.02
"""Seconds before the first new claim of what somebody else has locked; doubled each time, up to the poll interval."""
SHORT_SLEEP = 0.01
"""Seconds: a worker that is woken so soon need not have lain down, least of all ..."""
SHORT_SLEEPS = 6
"""... when that was in vain: it counts two then, up to twice this; where the worker found something, or slept for
longer, it takes one or two off. In the long run more than once in three is enough: others take what it is woken for."""
DOZE = 0.02
"""Seconds at most between two claims of a worker that dozes, and so for what comes when all others are full at once."""
DOZES = 50
"""Claims in vain that it makes so before it lies down to be woken again; ..."""
DOZED_OFF = 20
"""... one that is not in vain takes back so many: where they are rarer, nobody needs it to claim by the clock."""
QUIET = 10.0
"""Seconds after the last task or notification from which a worker that can be woken looks less often, ..."""
STRETCH = 5
"""... this many poll intervals apart, ..."""
STRETCHED = 5.0
"""... and seconds at most, unless the interval itself is longer. report.sql and complete.sql have the same number: they
notify of what is due again before that."""
DISTRUST = 600.0
"""Seconds for which it does not, once a look found what nobody had notified it of."""


@dataclass(slots=True, kw_only=True)
class Attention:
    """Whether an idle worker should claim, look, or sleep. Times are of the monotonic clock.

    ``claim_due``: the next claim is to find what has just become due.
    ``heard``: it was woken since the last look was sent, which may have seen less than whoever woke it wrote.
    ``contended``: how often in a row something was due that could not be claimed, because somebody holds its lock.
    ``dozed``: how many claims in vain it has made by the clock, fewer for those that were not; not marked as asleep and
    deaf to notifications: where others take what it would be woken for, notifying for each task would make the commits
    of who enqueues queue up.
    ``woken_soon``: its last sleep was short, and not in vain: it should go on asking for longer before it lies down.
    ``hears``: a notification has come by itself since this session listens, and since a look last found what nobody had
    told: there is no pooler between that swallows them. ``deaf``: no session listens; it must not be marked as asleep,
    for who enqueues would choose it and nobody else.
    """

    poll: float
    hears: bool = False
    deaf: bool = False
    woken_soon: bool = False
    claim: bool = True
    claim_due: bool = False
    marked: bool = False
    heard: bool = False
    look_at: float | None = None
    next_due: float | None = None
    contended: int = 0
    second_looks: list[float] = field(default_factory=list)
    dozed: int = 0
    _lain_down_at: float | None = None
    _short_sleeps: int = 0
    _called_soon: bool = False
    _quiet_from: float = 0.0
    _trusts_from: float = 0.0
    _hear_again_at: float = 0.0

    def listen(self, now: float) -> None:
        """Note that a session begins to hear notifications; what came before may have been missed."""
        self.hears = self.deaf = False
        self._hear_again_at = 0.0
        self._quiet_from = now
        self.wake()

    def deafen(self, now: float) -> None:
        """Note that no session hears notifications any more."""
        self.hears = False
        self.deaf = True
        if self.look_at is not None:
            self.look_at = min(self.look_at, now + self.poll)

    def wants_to_hear(self, now: float) -> bool:
        """Say whether to send a notification to see if it arrives; asked with each look."""
        if self.hears or now < max(self._quiet_from + QUIET, self._hear_again_at):
            return False
        self._hear_again_at = now + DISTRUST
        return True

    def pause(self, now: float) -> float:
        """Return the seconds between two looks of a worker that sleeps at ``now``."""
        if self.hears and now >= self._quiet_from + QUIET and now >= self._trusts_from:
            return max(self.poll, min(self.poll * STRETCH, STRETCHED))
        return self.poll

    def pause_of_schedules(self, now: float) -> float:
        """Return the seconds between two looks at the schedules; one that has no place left does not sleep."""
        return self.pause(now) if self.marked else self.poll

    def surprise(self, now: float) -> None:
        """Note that a look of the sleeping worker found something that nobody had told it of.

        A transaction that had begun to enqueue before it slept may have taken long; or rows come from elsewhere.
        """
        if self.pause(now) > self.poll:
            self._trusts_from = self._hear_again_at = now + DISTRUST
            self.hears = False

    def lie_down(self, now: float) -> None:
        """Note that it is marked as asleep: who began to enqueue before may not have seen that."""
        self._quiet_from = now
        self.look_at = 0.0
        self.expect_stragglers()

    def wake(self) -> None:
        """There may be something to claim."""
        self.claim = self.heard = True

    @property
    def restless(self) -> bool:
        """True when it is no use to lie down."""
        return self._short_sleeps >= SHORT_SLEEPS

    def call(self, now: float) -> None:
        """Hear a notification: somebody enqueued."""
        if self._lain_down_at is not None:
            self._called_soon = now < self._lain_down_at + SHORT_SLEEP
            if not self._called_soon:
                self.woken_soon = False
                self._short_sleeps = max(0, self._short_sleeps - 2)
            self._lain_down_at = None
        self._quiet_from = now
        if not self.dozed:
            self.wake()

    def glance(self, now: float) -> None:
        """Hear of what a look is to see, or of what another claim takes: plan a look for now."""
        self._quiet_from = now
        self.heard = True
        if self.look_at is not None:
            self.look_at = min(self.look_at, now)

    def found(self, now: float) -> None:
        """Note that a claim brought something."""
        self._quiet_from = now
        self.contended = 0
        self.dozed = max(0, self.dozed - DOZED_OFF)
        if self._called_soon:  # not in vain
            self.woken_soon = True
            self._called_soon = False
            self._short_sleeps = max(0, self._short_sleeps - 1)
        self.expect_stragglers()

    def doze(self, now: float) -> bool:
        """Plan the next claim by the clock, if it is no use to lie down; called after a claim in vain."""
        if self._called_soon:
            self._called_soon = False
            self._short_sleeps = min(self._short_sleeps + 2, 2 * SHORT_SLEEPS)
        if not self.restless or self.dozed >= DOZES:
            return False
        self.dozed += 1
        # Not all who doze come at the same time.
        self.look_at = self.next_due = now + DOZE * (0.5 + random() / 2)
        return True

    def look(self, now: float, *, asleep: bool) -> None:
        """Note that a look is sent, marked as asleep. ``asleep``: during its sleep, not the one before."""
        self.dozed = 0
        self.heard = False
        if not asleep:
            self._lain_down_at = now

    def fall_asleep(self, now: float, next_due: float | None) -> None:
        """Nothing is ready: plan the next look."""
        if next_due is not None and next_due <= 0:
            # Due, and still not promoted: locked, or more than one promotion takes.
            self.try_again(now)
            return
        self.claim = False
        self.contended = 0
        self.next_due = None if next_due is None else now + next_due
        wait = self.second_looks.pop(0) if self.second_looks else self.pause(now)
        self.look_at = min([now + wait, *([self.next_due] if self.next_due is not None else [])])

    def try_again(self, now: float) -> None:
        """Something is due, yet a claim did not get it: claim again, at growing intervals as long as that lasts."""
        self.claim = False
        self.contended += 1
        self.next_due = self.look_at = now + min(self.poll, CONTENDED * 2 ** min(self.contended - 1, 10))

    def expect_stragglers(self) -> None:
        """Plan second looks: the worker has just fallen asleep after work."""
        self.second_looks = [wait for wait in SECOND_LOOKS if wait < self.poll]
