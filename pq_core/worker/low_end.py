"""Where a search for ready tasks begins: after the last one claimed, as long as that is likely to be right.

While somebody holds a snapshot, the index entries of claimed tasks can't be removed, and a search from the start reads
them all: 48 µs a task grew to 428 µs within 300,000 tasks, and stayed at 36 µs with this (docs/adr/0001-schema.md).
What comes in before that point is found by searches of two other kinds, each in a share of the time: one above the
priority that is being claimed, where few entries are dead as a rule, and one from the start
(docs/adr/0025-less-to-read-and-to-write.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pq_core.types import ClaimedTask

SHARE = 10
"""A search from the start may take one part in so many of the time: it comes again after ten times what it took ..."""
LONGEST = 30.0
"""... and after so many seconds in any case."""
ABOVE_EVERY = 0.5
"""Seconds between two searches above the priority that is being claimed, while those from the start are rarer, ..."""
ABOVE_LONGEST = 5.0
"""... unless they take long themselves: then ten times as long as they take, and so many seconds at most."""

Parameters = list[bytes | None]
_FROM_THE_START: Parameters = [b"{}", b"{}", b"{}"]


class _Kind(Enum):
    """``WHOLE``: from the start; ``ABOVE``: priorities above the one being claimed; ``AFTER``: after the last task."""

    WHOLE = auto()
    ABOVE = auto()
    AFTER = auto()


@dataclass(slots=True)
class LowEnd:
    """The low end of one queue and one band of priorities. Times are of the monotonic clock, in seconds.

    ``_places``: where to go on: priority, run_at and id of the last task claimed, below it that of the priority that
    was being claimed before a search above it came back full, and so on.
    """

    _places: list[tuple[int, str, int]] = field(default_factory=list)
    _whole_at: float = 0.0
    _above_at: float = 0.0
    _sent: float = 0.0
    _kind: _Kind = _Kind.WHOLE

    def search(self, now: float, low: int, high: int) -> tuple[int, Parameters]:
        """Return how the search that is sent now is bounded, within the priorities ``low`` to ``high``.

        That is the lowest priority, and where it begins: priority, run_at and id as arrays of one element.
        """
        self._sent = now
        if not self._places or now >= self._whole_at:
            self._kind = _Kind.WHOLE
            return low, list(_FROM_THE_START)
        priority, run_at, id_ = self._places[-1]
        if now >= self._above_at and priority < high:
            self._kind = _Kind.ABOVE
            return priority + 1, list(_FROM_THE_START)
        self._kind = _Kind.AFTER
        lowest = self._places[-2][0] + 1 if len(self._places) > 1 else low
        return lowest, [b"{%d}" % priority, f'{{"{run_at}"}}'.encode(), b"{%d}" % id_]

    def found(self, tasks: Sequence[ClaimedTask], *, asked: int, now: float) -> bool:
        """Take in what the search found; True when it tells that nothing more is ready."""
        again = (now - self._sent) * SHARE
        match self._kind:
            case _Kind.WHOLE:
                self._places.clear()
                self._whole_at = now + min(again, LONGEST)
                self._above_at = now + ABOVE_EVERY
            case _Kind.ABOVE:
                self._above_at = now + min(max(again, ABOVE_EVERY), ABOVE_LONGEST)
            case _Kind.AFTER:
                self._places.pop()
        if len(tasks) >= asked:
            last = max(tasks, key=lambda task: (-task.priority, task.run_at, task.id))
            self._places.append((last.priority, last.run_at.isoformat(), last.id))
            return False
        return self._kind is _Kind.WHOLE

    def forget(self) -> None:
        """Begin the next search from the start."""
        self._places.clear()
