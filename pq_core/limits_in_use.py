"""The request that tells how much of each limit is in use: of queues, of task functions, of keys."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pq_core import rows
from pq_core.payload import dumps
from pq_core.store import Request, statement

COUNTED = 1_000
"""Waiting tasks of one queue, function or key that are counted; of more it is only said that there are more."""
LANES = 1_000
"""What waits under limits of its own is looked at for so many combinations of queue, function and key."""

Kind = Literal["queue", "task", "key"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRecord:
    """One limit, and how much of it is in use.

    ``kind`` and ``name``: whose it is: a queue's, a task function's, a ``concurrency_key``'s. ``running`` of
    ``allowed`` run at once (None: as many as there are). ``rate``: starts per second (None: any). ``waiting``: due
    tasks that have not begun, exact up to ``COUNTED``, with ``more`` if there are more. ``next_start``: when the rate
    lets the next one start, if not now. ``paused``: nothing of it starts; ``paused_until``: by a task, until then.
    """

    kind: Kind
    name: str
    running: int
    allowed: int | None = None
    rate: float | None = None
    waiting: int = 0
    more: bool = False
    next_start: datetime | None = None
    paused: bool = False
    paused_until: datetime | None = None

    @property
    def full(self) -> bool:
        """True while as many run as may."""
        return self.allowed is not None and self.running >= self.allowed

    @property
    def reached(self) -> bool:
        """True while it lets nothing start: paused, full, or at its rate."""
        return self.paused or self.full or self.next_start is not None


def limits(schema: str) -> Request[list[LimitRecord]]:
    """Plan a look at every limit."""
    return Request(
        statement(schema, "limits"),
        dumps({"cap": COUNTED, "lanes": LANES}),
        lambda found: [_limit(row) for row in found],
    )


def _limit(row: str) -> LimitRecord:
    values: dict[str, Any] = json.loads(row)
    until = values["paused_until"]
    values["paused"] = until is not None
    values["paused_until"] = None if until == "infinity" else rows.time(until)
    values["next_start"] = rows.time(values["next_start"])
    values["more"] = values["waiting"] > COUNTED
    values["waiting"] = min(values["waiting"], COUNTED)
    return LimitRecord(**values)
