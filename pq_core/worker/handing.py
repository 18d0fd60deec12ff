"""A task on its way to the process that is forked for it: a leaf, since that process unpacks it.

It is packed by the worker, which has it at hand, so that its child has the least to do: what a child does for the first
time costs ten times what it costs a worker that does it all day.
"""

from __future__ import annotations

import marshal
from datetime import datetime
from typing import Any

from pq_core.types import ClaimedTask
from pq_core.worker.thawing import thawed

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

_Thawed = thawed(ClaimedTask)
_moment = datetime.fromisoformat


def pack(task: ClaimedTask, arguments: Arguments | None) -> bytes:
    """Return the message for a task, with its arguments where they are plain JSON and decoded already.

    Raises ValueError where something is nested too deeply.
    """
    tick_at = task.tick_at
    return marshal.dumps(
        (
            task.id, task.name, task.queue, task.priority, task.fence, task.number, task.max_attempts, task.payload,
            dict(task.headers), task.version, task.run_at.isoformat(), task.created_at.isoformat(),
            task.started_at.isoformat(), task.client_id, task.timeout, dict(task.options), task.losses, task.snoozes,
            task.schedule_id, None if tick_at is None else tick_at.isoformat(), task.on_lost, task.unroutable,
            arguments,
        )
    )  # fmt: skip


def unpack(message: bytes) -> tuple[ClaimedTask, Arguments | None] | None:
    """Return what ``pack`` was given; None for another message, which is of a row."""
    fields = marshal.loads(message)
    if type(fields) is not tuple:
        return None
    task = _Thawed()
    (
        task.id, task.name, task.queue, task.priority, task.fence, task.number, task.max_attempts, task.payload,
        task.headers, task.version, run_at, created_at, started_at, task.client_id, task.timeout, task.options,
        task.losses, task.snoozes, task.schedule_id, tick_at, task.on_lost, task.unroutable, arguments,
    ) = fields  # fmt: skip
    task.run_at = _moment(run_at)
    task.created_at = _moment(created_at)
    task.started_at = _moment(started_at)
    task.tick_at = None if tick_at is None else _moment(tick_at)
    task.__class__ = ClaimedTask
    return task, arguments
