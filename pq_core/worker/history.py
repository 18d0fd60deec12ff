"""Which history of the database a worker works in; a leaf, pure.

A standby that was promoted before it had everything goes on from an earlier time, and so does a server that was
restored from a backup: what was committed after that never happened there.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pq_core.worker.rows import Row


class Found(enum.Enum):
    """How a server's history compares with the one that is remembered."""

    SAME = "same"
    OTHER = "other"
    """Newer, or of another system: what is remembered may never have happened there."""
    OLDER = "older"
    """Of a server that was left behind: demoted, or cut off."""


@dataclass(slots=True)
class History:
    """The newest history that a server told of; ``system`` is None as long as none did."""

    system: str | None = None
    timeline: int = 0

    def __str__(self) -> str:
        return f"timeline {self.timeline} of system {self.system}"

    def accept(self, row: Row) -> None:
        """Remember what a server says, also if it is older."""
        system, timeline = row
        assert system is not None
        assert timeline is not None
        self.system, self.timeline = system.decode(), int(timeline)

    def meet(self, row: Row) -> Found:
        """Compare with what a server says; what is OTHER is remembered from then on. A server may keep it to itself."""
        system, timeline = row
        if system is None or timeline is None:
            return Found.SAME
        known, before = self.system, self.timeline
        told, at = system.decode(), int(timeline)
        if told == known and at < before:
            return Found.OLDER
        self.system, self.timeline = told, at
        return Found.SAME if known is None or (told, at) == (known, before) else Found.OTHER
