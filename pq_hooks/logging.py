"""Log records say which task they belong to; a formatter writes them as JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pq_core.types import ClaimedTask, WorkerInfo

__all__ = ["JSONFormatter", "TaskFields", "TaskLogging"]

# Prefixed: a record refuses ``extra=`` with a name that it has already, and that would fail the task.
FIELDS = ("pq_task_id", "pq_task_name", "pq_attempt", "pq_queue")
_JSON_NAMES = dict(zip(FIELDS, ("task_id", "task", "attempt", "queue"), strict=True))
_NOTHING: dict[str, Any] = dict.fromkeys(FIELDS)
_ORDINARY = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", *FIELDS}

_current: dict[str, Any] = _NOTHING


class TaskLogging:
    """Give every log record of a task ``pq_task_id``, ``pq_task_name``, ``pq_attempt`` and ``pq_queue``.

    All records of its process, those of other threads and of libraries included; ``None`` in a worker outside tasks.
    If the application uses structlog, its context variables ``task_id``, ``task``, ``attempt`` and ``queue`` are
    bound as well.
    """

    def pq_worker_start(self, worker: WorkerInfo) -> None:
        """Let formats that name the fields hold for the worker's own records too."""
        _install()

    @contextmanager
    def pq_in_child(self, task: ClaimedTask) -> Iterator[None]:
        """Mark the records that are made meanwhile."""
        global _current
        _install()
        _current = dict(zip(FIELDS, (task.id, task.name, task.number, task.queue), strict=True))
        try:
            with _structlog(_current):
                yield
        finally:
            _current = _NOTHING


class TaskFields(logging.Filter):
    """A filter that lets every record pass, with the fields of the task added where they are missing.

    For handlers whose format names them, in processes that are no workers.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields."""
        for name, value in _current.items():
            if not hasattr(record, name):
                setattr(record, name, value)
        return True


class JSONFormatter(logging.Formatter):
    """One JSON object a line: time (UTC, ISO 8601), level, logger, message, process, and where there are such the
    task's fields, what was given as ``extra=``, and the traceback.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        for name, short in _JSON_NAMES.items():
            value = getattr(record, name, None)
            if value is not None:
                line[short] = value
        for name, value in vars(record).items():
            if name not in _ORDINARY:
                line.setdefault(name, value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class _Factory:
    """Makes records as the factory before it does, and adds the fields."""

    def __init__(self, made_by: Callable[..., logging.LogRecord]) -> None:
        self.made_by = made_by

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record = self.made_by(*args, **kwargs)
        vars(record).update(_current)
        return record


def _install() -> None:
    factory = logging.getLogRecordFactory()
    if not isinstance(factory, _Factory):
        logging.setLogRecordFactory(_Factory(factory))


def _structlog(fields: dict[str, Any]) -> AbstractContextManager[Any]:
    # Not imported here: an application that does not use it has nothing to bind.
    if "structlog" not in sys.modules:
        return nullcontext()
    from structlog.contextvars import bound_contextvars

    bound: AbstractContextManager[Any] = bound_contextvars(**{_JSON_NAMES[name]: fields[name] for name in fields})
    return bound
