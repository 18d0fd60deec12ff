"""For how long finished tasks stay, and what is written about them and about who did what."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from pq_core.errors import InvalidOption

Keep = timedelta | Literal["forever"] | None
"""How long; for ever; or, for a queue, as its application says."""

FOREVER = -1.0
"""How "for ever" is stored, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long tasks stay after they have ended; ``None``: for ever. Workers delete what is older, bit by bit.

    Holds for the queues that a worker of this application serves, where ``pq_queues`` says nothing else. ``audit`` and
    ``statistics`` hold for the whole schema: of several applications the shortest counts.
    """

    completed: timedelta | None = timedelta(days=7)
    cancelled: timedelta | None = timedelta(days=7)
    failed: timedelta | None = timedelta(days=30)
    audit: timedelta | None = timedelta(days=400)
    statistics: timedelta | None = timedelta(days=30)

    def __post_init__(self) -> None:
        for name in ("completed", "cancelled", "failed", "audit", "statistics"):
            seconds(f"retention: {name}", getattr(self, name))

    def seconds(self, what: str) -> float | None:
        """Return for how long tasks of a finished state, or one of the others, are kept, in seconds; None for ever."""
        found: timedelta | None = getattr(self, what)
        return None if found is None else found.total_seconds()


def retention_of(given: Retention | timedelta | None) -> Retention:
    """Return what ``PQ(retention=…)`` means. A timedelta holds for all tasks; None keeps them all."""
    match given:
        case Retention():
            return given
        case None:
            return KEEP_ALL
        case timedelta():
            return Retention(completed=given, cancelled=given, failed=given)
        case _:
            raise InvalidOption(
                f"retention={given!r}: give a Retention, a timedelta for all tasks, or None to keep all"
            )


def seconds(option: str, value: Keep) -> float | None:
    """Return how it is stored. Raises InvalidOption for what is no length of time."""
    match value:
        case None:
            return None
        case "forever":
            return FOREVER
        case timedelta() if value >= timedelta(0):
            return value.total_seconds()
        case _:
            raise InvalidOption(f"{option}={value!r}: give a timedelta of 0 or more")


DEFAULT_RETENTION = Retention()
KEEP_ALL = Retention(completed=None, cancelled=None, failed=None)
