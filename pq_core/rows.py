"""What the rows of the client's statements mean: JSON text in, values out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from pq_core.types import JSON, AttemptRecord, Outcome, TaskRecord, TaskStatus, WorkerRecord

Rows = list[str]


@dataclass(frozen=True, slots=True)
class Enqueued:
    """What the enqueue of an array did: the ids in order, and by position those whose ``client_id`` was taken.

    An id is ``None`` where an all-or-none batch stored nothing, because of another one's duplicate.
    """

    ids: tuple[int | None, ...]
    duplicates: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Retried:
    """One task that was to be retried; ``other``: the task that has its ``client_id``, so that it was not."""

    id: int
    client_id: str | None
    other: int | None


@dataclass(frozen=True, slots=True)
class Watched:
    """Where a task stands. Its end will be notified on ``channel``."""

    id: int
    status: TaskStatus
    outcome: str | None
    error: str | None
    result: JSON
    channel: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """The unfinished tasks of one queue. ``oldest_wait``: seconds for which a due task has waited at most."""

    name: str
    due: int
    scheduled: int
    running: int
    oldest_wait: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The unfinished tasks of every queue that has any, by name, and how many workers hold a lease."""

    queues: Mapping[str, QueueStats]
    workers: int

    @property
    def due(self) -> int:
        """Tasks that could run now."""
        return sum(queue.due for queue in self.queues.values())

    @property
    def scheduled(self) -> int:
        """Tasks whose time has not come."""
        return sum(queue.scheduled for queue in self.queues.values())

    @property
    def running(self) -> int:
        """Tasks that run now."""
        return sum(queue.running for queue in self.queues.values())

    @property
    def oldest_wait(self) -> float:
        """Seconds for which any due task has waited at most."""
        return max((queue.oldest_wait for queue in self.queues.values()), default=0.0)


def time(text: str | None) -> datetime | None:
    """Return a time of Postgres as an aware one; infinity becomes the outermost that Python has."""
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):  # 'infinity', or a year that Python does not have
        return (datetime.min if text.startswith("-") or text.endswith("BC") else datetime.max).replace(tzinfo=UTC)


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]|[^"\[\]{}]+')
DEEPEST = 200
"""Levels of what somebody nested deeper than Python reads that are shown."""


def _loads(row: str) -> Any:
    try:
        return json.loads(row)
    except RecursionError:
        return json.loads(_shallow(row), parse_int=_integer)
    except ValueError:
        # A number that is longer than Python converts: one row that somebody wrote must not hide all others.
        return json.loads(row, parse_int=_integer)


def _shallow(text: str) -> str:
    """Return JSON with null in place of what is nested deeper than ``DEEPEST``."""
    kept: list[str] = []
    depth = 0
    for found in _TOKEN.finditer(text):
        token = found[0]
        depth += token in "[{"
        if depth <= DEEPEST:
            kept.append(token)
        elif depth == DEEPEST + 1 and token in "[{":
            kept.append("null")
        depth -= token in "]}"
    return "".join(kept)


def _integer(digits: str) -> int | float:
    try:
        return int(digits)
    except ValueError:
        return float(digits)


_TASK_FIELDS = frozenset(f.name for f in fields(TaskRecord))
_ATTEMPT_FIELDS = frozenset(f.name for f in fields(AttemptRecord))
_TIMES = frozenset(
    {"run_at", "created_at", "started_at", "completed_at", "finished_at", "tick_at", "cancel_requested_at"}
)


def _record(row: str, names: frozenset[str]) -> dict[str, Any]:
    """Return a row's columns that a record has: a newer schema may have more."""
    return {name: time(value) if name in _TIMES else value for name, value in json.loads(row).items() if name in names}


def _task(row: str) -> TaskRecord:
    loaded = _loads(row)
    values: dict[str, Any] = {
        name: time(value) if name in _TIMES else value for name, value in loaded.items() if name in _TASK_FIELDS
    }
    values["status"] = TaskStatus(values["status"])
    values["outcome"] = None if values["outcome"] is None else Outcome(values["outcome"])
    values["headers"] = values["headers"] or {}
    values["unique"] = loaded["client_id_unique"] or "retained"
    options = loaded["options"]
    values["sensitive"] = isinstance(options, dict) and bool(options.get("sensitive"))
    return TaskRecord(**values)


def maybe_task(rows: Rows) -> TaskRecord | None:
    return _task(rows[0]) if rows else None


def tasks(rows: Rows) -> list[TaskRecord]:
    return [_task(row) for row in rows]


def attempts(rows: Rows) -> list[AttemptRecord]:
    found = [_record(row, _ATTEMPT_FIELDS) for row in rows]
    return [AttemptRecord(**{**values, "outcome": Outcome(values["outcome"])}) for values in found]


def workers(rows: Rows) -> list[WorkerRecord]:
    found = [json.loads(row) for row in rows]
    for values in found:
        values["queues"] = tuple(values["queues"])
        for name in ("started_at", "heartbeat_at", "expires_at"):
            values[name] = time(values[name])
    return [WorkerRecord(**values) for values in found]


def pair(rows: Rows) -> tuple[int, bool]:
    task_id, duplicate = json.loads(rows[0])
    return task_id, duplicate


def enqueued(rows: Rows) -> Enqueued:
    found = json.loads(rows[0])
    return Enqueued(tuple(found["ids"] or ()), tuple(n - 1 for n in found["duplicates"] or ()))


def truth(rows: Rows) -> bool:
    return bool(rows) and bool(json.loads(rows[0]))


def number(rows: Rows) -> int:
    return int(rows[0])


def ids(rows: Rows) -> list[int]:
    return [int(row) for row in rows]


def counts(rows: Rows) -> dict[TaskStatus, int]:
    found = dict(json.loads(row) for row in rows)
    return {status: found.get(status.value, 0) for status in TaskStatus}


def statuses(rows: Rows) -> dict[int, TaskStatus]:
    return {task_id: TaskStatus(status) for task_id, status in map(json.loads, rows)}


def retried(rows: Rows) -> list[Retried]:
    return [Retried(*json.loads(row)) for row in rows]


def stats(rows: Rows) -> Stats:
    found = json.loads(rows[0])
    return Stats(queues={values["name"]: QueueStats(**values) for values in found["queues"]}, workers=found["workers"])


def watched(rows: Rows) -> Watched | None:
    if not rows:
        return None
    found = json.loads(rows[0])
    return Watched(**{**found, "status": TaskStatus(found["status"])})


def progress(rows: Rows) -> tuple[float | None, str | None] | None:
    return tuple(json.loads(rows[0])) if rows else None
