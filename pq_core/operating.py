"""The requests of those who operate a system: queues paused and resumed, workers drained, who did what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pq_core import rows
from pq_core.errors import InvalidOption
from pq_core.filters import bigint
from pq_core.options import is_integer, rate_of
from pq_core.payload import dumps, storable_text
from pq_core.retention import Keep, seconds
from pq_core.store import Request, statement
from pq_core.types import Rate, TaskStatus

COUNTED = 10_000
"""Tasks of one queue and state that are counted; of more it is only said that there are more."""

_LONGEST = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRecord:
    """A queue that has unfinished tasks, a live worker or settings.

    ``due``, ``scheduled``, ``running``: tasks that could run now, whose time has not come, that run. They are exact up
    to ``COUNTED``; ``more`` names those of which there are more. ``oldest_wait``: seconds for which a due task has
    waited at most. ``workers``: how many live ones take tasks out of it. ``paused_by``: who paused it.
    ``paused_until``: a task asked for a pause until then. ``held``: of the due ones those that have limits of their
    own. ``concurrency_limit``: how many of ``running`` there may be; ``rate_limit`` in ``rate_period``: how many start.
    ``retention``, ``retention_failed``: how long finished and failed tasks stay, below zero for ever, None as the
    application says.
    """

    name: str
    due: int = 0
    scheduled: int = 0
    running: int = 0
    more: tuple[str, ...] = ()
    oldest_wait: float = 0.0
    workers: int = 0
    paused_at: datetime | None = None
    paused_by: str | None = None
    concurrency_limit: int | None = None
    rate_limit: int | None = None
    rate_period: timedelta | None = None
    paused_until: datetime | None = None
    held: int = 0
    retention: timedelta | None = None
    retention_failed: timedelta | None = None

    @property
    def paused(self) -> bool:
        """True while nothing of it is started."""
        return self.paused_at is not None or self.paused_until is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One row of ``pq_audit``: what somebody did."""

    id: int
    at: datetime
    actor: str
    action: str
    target: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


def queues(schema: str) -> Request[list[QueueRecord]]:
    """Plan a look at every queue."""
    return Request(statement(schema, "queues"), dumps({"cap": COUNTED}), lambda found: [_queue(row) for row in found])


def pause(schema: str, name: str, *, by: str | None) -> Request[bool]:
    """Plan the pause of a queue; False when it was paused already."""
    return Request(statement(schema, "queue_pause"), dumps({"name": _queue_name(name), "by": by}), rows.truth)


def resume(schema: str, name: str) -> Request[bool]:
    """Plan the end of a pause; False when the queue was not paused."""
    return Request(statement(schema, "queue_resume"), dumps({"name": _queue_name(name)}), rows.truth)


def limit(schema: str, name: str, *, concurrency: int | None, rate: Rate | str | None) -> Request[bool]:
    """Plan the limits of a queue; False when they are what they were."""
    if concurrency is not None and not is_integer(concurrency, 1, 2**31 - 1):
        raise InvalidOption(
            f"concurrency={concurrency!r}: give an integer of at least 1; to start nothing, pause the queue"
        )
    if rate is not None and not isinstance(rate, (str, Rate)):
        raise InvalidOption(f'rate={rate!r}: give text: rate="10/s", or Rate(10, seconds=1)')
    try:
        read = None if rate is None else rate_of(rate)
    except ValueError as error:
        raise InvalidOption(f"rate={rate!r}: {error}") from None
    parameters = {
        "name": _queue_name(name),
        "concurrency": concurrency,
        "rate": None if read is None else read.count,
        "period": None if read is None else read.seconds,
    }
    return Request(statement(schema, "queue_limit"), dumps(parameters), rows.truth)


def drain(schema: str, worker_id: int) -> Request[bool]:
    """Plan that a worker ends what it runs and stops; False when no live worker has this id."""
    return Request(statement(schema, "worker_drain"), dumps({"id": bigint(worker_id, option="worker_id")}), rows.truth)


def stop(schema: str, worker_id: int) -> Request[bool]:
    """Plan that a worker interrupts what it runs and stops; False when no live worker has this id."""
    return Request(statement(schema, "worker_stop"), dumps({"id": bigint(worker_id, option="worker_id")}), rows.truth)


def set_retention(schema: str, name: str, *, finished: Keep, failed: Keep) -> Request[bool]:
    """Plan what is said of a queue's finished tasks."""
    parameters = {
        "name": _queue_name(name),
        "finished": seconds("finished", finished),
        "failed": seconds("failed", failed),
    }
    return Request(statement(schema, "queue_retention"), dumps(parameters), rows.truth)


def pace(schema: str, window: float) -> Request[dict[TaskStatus, int]]:
    """Plan a count of what ended lately."""
    if isinstance(window, bool) or not isinstance(window, (int, float)) or not 0 < window <= 3600:
        raise InvalidOption(f"seconds={window!r}: give seconds above 0, an hour at most")
    return Request(statement(schema, "pace"), dumps({"seconds": float(window)}), rows.counts)


def audit(schema: str, actor: str, action: str, target: str | None, details: Mapping[str, Any] | None) -> Request[int]:
    """Plan a row of the audit log."""
    for option, value in (("actor", actor), ("action", action)):
        if not isinstance(value, str) or not value:
            raise InvalidOption(f"{option}={value!r}: give text that is not empty")
    parameters = {
        "actor": storable_text(actor),
        "action": storable_text(action),
        "target": None if target is None else storable_text(target),
        "details": details or None,
    }
    return Request(statement(schema, "audit"), dumps(parameters), rows.number)


def prune_audit(schema: str, older_than: timedelta, *, batch: int) -> Request[int]:
    """Plan the deletion of one batch of old rows of the audit log."""
    if not isinstance(older_than, timedelta) or older_than < timedelta(0):
        raise InvalidOption(f"older_than={older_than!r}: give a timedelta of 0 or more")
    if not is_integer(batch, 1, 2**31 - 1):
        raise InvalidOption(f"batch={batch!r}: give an integer of at least 1")
    parameters = {"older_than": older_than.total_seconds(), "limit": batch}
    return Request(statement(schema, "prune_audit"), dumps(parameters), rows.number)


def audit_log(schema: str, *, limit: int, before_id: int | None) -> Request[list[AuditRecord]]:
    """Plan a look at what was done, the latest first."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise InvalidOption(f"limit={limit!r}: give an integer of 0 or more")
    before = None if before_id is None else bigint(before_id, option="before_id")
    parameters = {"limit": limit, "before_id": before}
    return Request(statement(schema, "audit_log"), dumps(parameters), lambda found: [_audit(row) for row in found])


def _queue_name(name: str) -> str:
    if not isinstance(name, str) or not name or len(name) > _LONGEST or "\x00" in name:
        raise InvalidOption(f"queue={name!r}: a queue's name is text of 1 to {_LONGEST} characters")
    return name


def _queue(row: str) -> QueueRecord:
    values: dict[str, Any] = json.loads(row)
    counts = {name: values[name] for name in ("due", "scheduled", "running")}
    values["more"] = tuple(name for name, count in counts.items() if count > COUNTED)
    values |= {name: min(count, COUNTED) for name, count in counts.items()}
    values["paused_at"] = rows.time(values["paused_at"])
    values["paused_until"] = rows.time(values["paused_until"])
    for name in ("rate_period", "retention", "retention_failed"):
        values[name] = None if values[name] is None else timedelta(seconds=values[name])
    return QueueRecord(**values)


def _audit(row: str) -> AuditRecord:
    values: dict[str, Any] = json.loads(row)
    values["at"] = rows.time(values["at"])
    values["details"] = values["details"] or {}
    return AuditRecord(**values)
