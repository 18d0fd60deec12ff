"""Rows of pq as Django's ``TaskResult``: pure, no statement is run here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from django.tasks.base import DEFAULT_TASK_BACKEND_ALIAS, Task, TaskError, TaskResult, TaskResultStatus
from django.utils.module_loading import import_string

from pq_adapters.django.declared import by_name
from pq_core import payload
from pq_core.tasks import Task as PQCoreTask
from pq_core.types import AttemptRecord, Outcome, TaskRecord, TaskStatus

BACKEND_HEADER = "django-task-backend"
"""The header that names the backend where it is not Django's default one."""

_MIDDLE = 50
"""What Django's default priority 0 is stored as: our NORMAL."""

_STATUSES = {
    TaskStatus.PENDING: TaskResultStatus.READY,
    TaskStatus.RUNNING: TaskResultStatus.RUNNING,
    TaskStatus.COMPLETED: TaskResultStatus.SUCCESSFUL,
    TaskStatus.FAILED: TaskResultStatus.FAILED,
    TaskStatus.CANCELLED: TaskResultStatus.FAILED,
}
_UNCOUNTED = {Outcome.SNOOZED, Outcome.INTERRUPTED, Outcome.LOST, Outcome.RELEASED}
_ERROR_CLASSES = {
    Outcome.TIMED_OUT: "pq_core.errors.TaskTimeout",
    Outcome.CANCELLED: "pq_core.errors.TaskCancelled",
    Outcome.OUT_OF_MEMORY: "builtins.MemoryError",
}
_LAST_LINE = re.compile(r"^([A-Za-z_][\w.]*)(?=:|$)")


def stored_priority(priority: int) -> int:
    """Return pq's priority for Django's: its default lands on NORMAL, its lowest below everything of ours."""
    return _MIDDLE + int(priority)


def declaration_of(task: PQCoreTask[..., Any]) -> Task:
    """Return the Django task that a declared pq task was made of."""
    found = task.function.django_task  # type: ignore[attr-defined]
    assert isinstance(found, Task)
    return found


def find_declaration(name: str) -> Task | None:
    """Return the Django task of a stored name; None where this process knows none."""
    if (task := by_name.get(name)) is not None:
        return declaration_of(task)
    try:
        # Its declaration is on the way: importing the module makes it known. Only what is a task is taken.
        found = import_string(name) if "." in name and ":" not in name and _is_ours(name) else None
    except ImportError:
        return None
    return found if isinstance(found, Task) else None


def _is_ours(name: str) -> bool:
    from pq_adapters.django.client import pq

    return name.rpartition(".")[0] in pq.registry.modules


def variant(task: Task, **changes: Any) -> Task:
    """Return the task with changes, unchecked: a stored one may name a queue that is gone from the settings."""
    made = object.__new__(type(task))
    for field in fields(task):
        object.__setattr__(made, field.name, changes.get(field.name, getattr(task, field.name)))
    return made


def task_of(
    declaration: Task, *, priority: int, queue: str, run_at: datetime, created_at: datetime, backend: str
) -> Task:
    """Return the task as it was enqueued."""
    return variant(
        declaration,
        priority=priority - _MIDDLE,
        queue_name=queue,
        run_after=run_at if run_at > created_at else None,
        backend=backend,
    )


def result_of(record: TaskRecord, attempts: Sequence[AttemptRecord], declaration: Task) -> TaskResult:
    """Return a row, with its recorded attempts, as Django's result."""
    backend = record.headers.get(BACKEND_HEADER, DEFAULT_TASK_BACKEND_ALIAS)
    args, kwargs = payload.decode(record.payload, signature=None)
    result = TaskResult(
        task=task_of(
            declaration,
            priority=record.priority,
            queue=record.queue,
            run_at=record.run_at,
            created_at=record.created_at,
            backend=backend,
        ),
        id=str(record.id),
        status=_STATUSES.get(record.status, TaskResultStatus.READY),
        enqueued_at=record.created_at,
        started_at=first_start(attempts, record.started_at),
        finished_at=record.completed_at,
        last_attempted_at=record.started_at,
        args=list(args),
        kwargs=kwargs,
        backend=backend,
        errors=errors_of(attempts),
        worker_ids=worker_ids(attempts, count=record.attempts, current=_current(record)),
    )
    if record.status is TaskStatus.COMPLETED:
        object.__setattr__(result, "_return_value", payload.decode_result(record.result))
    return result


def first_start(attempts: Sequence[AttemptRecord], last: datetime | None) -> datetime | None:
    """Return when the first attempt started."""
    return min((a.started_at for a in attempts if a.started_at is not None), default=last)


def _current(record: TaskRecord) -> int | None:
    """Return the worker of the last attempt, None if that was not counted: its row names it all the same."""
    return None if record.status.finished and record.outcome in _UNCOUNTED else record.worker_id


def worker_ids(attempts: Sequence[AttemptRecord], *, count: int, current: int | None) -> list[str]:
    """Return one worker id per counted attempt, ``current`` for the last."""
    found = [str(a.worker_id or "unknown") for a in attempts if a.outcome not in _UNCOUNTED]
    if current is not None:
        found = [*found[: max(count - 1, 0)], str(current)]
    return found[:count] if len(found) >= count else ["unknown"] * (count - len(found)) + found


def errors_of(attempts: Sequence[AttemptRecord]) -> list[TaskError]:
    """Return the errors of the attempts that failed."""
    return [
        error_of(a.outcome, a.error or str(a.outcome))
        for a in attempts
        if a.outcome is not Outcome.SUCCEEDED and a.outcome not in _UNCOUNTED
    ]


def error_of(outcome: Outcome, text: str, exception_type: str | None = None) -> TaskError:
    """Return an attempt's end as Django's error; ``TaskFailed`` stands for the end of a child that raised nothing."""
    path = _ERROR_CLASSES.get(outcome)
    if path is None and outcome is Outcome.RAISED:
        if exception_type is None and text.startswith("the result can't be stored"):
            exception_type = "pq_core.errors.PayloadError"  # words of the child, not a traceback
        path = _importable(exception_type or _exception_in(text))
    return TaskError(exception_class_path=path or "pq_core.errors.TaskFailed", traceback=text)


def _exception_in(text: str) -> str | None:
    """Return the class that a traceback ends with: the first line after its last frame."""
    lines = text.splitlines()
    frames = [number for number, line in enumerate(lines) if line.startswith("  ")]
    for line in lines[frames[-1] + 1 :] if frames else lines:
        if found := _LAST_LINE.match(line):
            return found[1]
    return None


def _importable(name: str | None) -> str | None:
    if name is None:
        return None
    path = name if "." in name else f"builtins.{name}"
    try:
        found = import_string(path)
    except (ImportError, AttributeError):
        return None
    return path if isinstance(found, type) and issubclass(found, BaseException) else None
