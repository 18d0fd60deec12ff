"""Where a search for ready tasks begins: after the last one claimed, as long as that is likely to be right.

While somebody holds a snapshot, the index entries of claimed tasks can't be removed, and a search from the start reads
them all: 48 µs a task grew to 428 µs within 300,000 tasks, and stayed at 36 µs with this (docs/adr/0001-schema.md).
What comes in before that point, a task of higher priority for one, is found by the next search from the start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pq_core.types import ClaimedTask

SHARE = 10
"""A search from the start may take one part in so many of the time: it comes again after ten times what it took."""
LONGEST = 0.5
"""Seconds after which a search from the start comes in any case: what higher priorities wait at most."""

Parameters = list[bytes | None]
_FROM_THE_START: Parameters = [b"{}", b"{}", b"{}"]


@dataclass(slots=True)
class LowEnd:
    """The low end of one queue and one band of priorities. Times are of the monotonic clock, in seconds."""

    _after: tuple[int, str, int] | None = None
    _start_again_at: float = 0.0
    _sent: float = 0.0
    _whole: bool = True

    def parameters(self, now: float) -> Parameters:
        """Return where the search that is sent now begins: priority, run_at and id as arrays of one element."""
        self._sent = now
        self._whole = self._after is None or now >= self._start_again_at
        if self._whole or self._after is None:
            return list(_FROM_THE_START)
        priority, run_at, id_ = self._after
        return [b"{%d}" % priority, f'{{"{run_at}"}}'.encode(), b"{%d}" % id_]

    def found(self, tasks: Sequence[ClaimedTask], *, asked: int, now: float) -> bool:
        """Take in what the search found; True when it tells that nothing more is ready."""
        if self._whole:
            self._start_again_at = now + min((now - self._sent) * SHARE, LONGEST)
        if len(tasks) < asked:
            self._after = None
            return self._whole
        last = max(tasks, key=lambda task: (-task.priority, task.run_at, task.id))
        self._after = (last.priority, last.run_at.isoformat(), last.id)
        return False

    def forget(self) -> None:
        """Begin the next search from the start."""
        self._after = None
