"""When a worker claims by the priority that tasks have with their waiting counted, so that lower ones don't starve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pq_core.worker.low_end import LONGEST, SHARE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pq_core.types import ClaimedTask

PAUSE = 1.0
"""Seconds at most between two such claims while nothing has waited long enough; less where a band takes less."""


@dataclass(slots=True)
class Ageing:
    """The claims of one worker that count waiting. Times are of the monotonic clock.

    ``seconds``: for how long a task waits to count one band higher; None: never. Such a claim reads from the start of
    each priority, so it takes as small a share of the time as a search from the start (low_end.py), and at least every
    other claim is a plain one.
    """

    seconds: float | None
    _full: bool = False
    _again_at: float = 0.0
    _sent: float = 0.0

    def due(self, now: float) -> bool:
        """Tell whether the next claim counts waiting: only where the last one may have left something behind."""
        return self.seconds is not None and self._full and now >= self._again_at

    def sent(self, now: float) -> None:
        """Note that such a claim is under way."""
        self._sent = now

    def plain(self, *, full: bool) -> None:
        """Note the answer to a plain claim; ``full``: it got what it asked for."""
        self._full = full

    def found(self, tasks: Sequence[ClaimedTask], now: float) -> None:
        """Take in the answer to a claim that counted waiting; a plain one follows."""
        assert self.seconds is not None
        self._full = False
        aged = any((task.started_at - task.run_at).total_seconds() >= self.seconds for task in tasks)
        pause = 0.0 if aged else min(self.seconds / 10, PAUSE)
        self._again_at = now + max(pause, min((now - self._sent) * SHARE, LONGEST))
