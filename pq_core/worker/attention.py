"""When an idle worker claims, looks, or sleeps."""

from __future__ import annotations

from dataclasses import dataclass, field

SECOND_LOOKS = (0.05, 0.3)
"""Seconds after falling asleep at which an idle worker looks once more: a transaction that began to enqueue before it
slept, and so notified nobody, may have committed since."""
CONTENDED = 0.02
"""Seconds before the first new claim of what somebody else has locked; doubled each time, up to the poll interval."""


@dataclass(slots=True, kw_only=True)
class Attention:
    """Whether an idle worker should claim, look, or sleep. Times are of the monotonic clock.

    ``claim_due``: the next claim is to find what has just become due.
    ``heard``: it was woken since the last look was sent, which may have seen less than whoever woke it wrote.
    ``contended``: how often in a row something was due that could not be claimed, because somebody holds its lock.
    """

    poll: float
    claim: bool = True
    claim_due: bool = False
    marked: bool = False
    heard: bool = False
    look_at: float | None = None
    next_due: float | None = None
    contended: int = 0
    second_looks: list[float] = field(default_factory=list)

    def wake(self) -> None:
        """There may be something to claim."""
        self.claim = self.heard = True

    def fall_asleep(self, now: float, next_due: float | None) -> None:
        """Nothing is ready: plan the next look."""
        if next_due is not None and next_due <= 0:
            # Due, and still not promoted: locked, or more than one promotion takes.
            self.try_again(now)
            return
        self.claim = False
        self.contended = 0
        self.next_due = None if next_due is None else now + next_due
        wait = self.second_looks.pop(0) if self.second_looks else self.poll
        self.look_at = min([now + wait, *([self.next_due] if self.next_due is not None else [])])

    def try_again(self, now: float) -> None:
        """Something is due, yet a claim did not get it: claim again, at growing intervals as long as that lasts."""
        self.claim = False
        self.contended += 1
        self.next_due = self.look_at = now + min(self.poll, CONTENDED * 2 ** min(self.contended - 1, 10))

    def expect_stragglers(self) -> None:
        """Plan second looks: the worker has just fallen asleep after work."""
        self.second_looks = [wait for wait in SECOND_LOOKS if wait < self.poll]
