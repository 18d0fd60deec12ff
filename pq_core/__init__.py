"""Background tasks on Postgres. The names listed here are the public API; each loads what it needs when it is used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pq_core.attempt import Attempt, current_attempt
    from pq_core.client import PQ, AsyncBoundPQ, BoundPQ
    from pq_core.current import set_default
    from pq_core.errors import (
        AppNotFound,
        AttemptLost,
        Cancel,
        DatabaseNotConfigured,
        DatabaseUnavailable,
        DuplicateClientId,
        EmbeddedServerError,
        ForkServerLost,
        InvalidDSN,
        InvalidOption,
        InvalidTask,
        KeysNotConfigured,
        NoCurrentAttempt,
        NotMigrated,
        PayloadDecodeError,
        PayloadError,
        PayloadTooLarge,
        PluginError,
        PQError,
        RateLimited,
        Refuse,
        ResultNotStored,
        Retry,
        ScheduleNotFound,
        SchemaDamaged,
        SchemaIncompatible,
        Snooze,
        TaskCancelled,
        TaskFailed,
        TaskNotAllowed,
        TaskNotFound,
        TaskTimeout,
        TransactionRequired,
        UnknownTask,
        UnsupportedConnection,
        UseAsync,
        UseSync,
        WaitTimeout,
        WorkerStartError,
    )
    from pq_core.retention import Retention
    from pq_core.roles import role
    from pq_core.task_groups import TaskGroup
    from pq_core.tasks import Call, Task, call
    from pq_core.types import (
        AttemptOutcome,
        AttemptRecord,
        Backoff,
        CallOptions,
        ClaimedTask,
        EndedAttempt,
        Outcome,
        Priority,
        Rate,
        Role,
        ScheduleRecord,
        TaskId,
        TaskOptions,
        TaskRecord,
        TaskStatus,
        WorkerInfo,
        WorkerRecord,
    )
    from pq_core.version import __version__

_NAMES = {
    "attempt": "Attempt current_attempt",
    "client": "AsyncBoundPQ BoundPQ PQ",
    "current": "set_default",
    "errors": """
        AppNotFound AttemptLost Cancel DatabaseNotConfigured DatabaseUnavailable DuplicateClientId EmbeddedServerError
        ForkServerLost InvalidDSN InvalidOption InvalidTask KeysNotConfigured NoCurrentAttempt NotMigrated PQError
        PayloadDecodeError PayloadError PayloadTooLarge PluginError RateLimited Refuse ResultNotStored Retry
        ScheduleNotFound SchemaDamaged SchemaIncompatible Snooze TaskCancelled TaskFailed TaskNotAllowed TaskNotFound
        TaskTimeout TransactionRequired UnknownTask UnsupportedConnection UseAsync UseSync WaitTimeout WorkerStartError
    """,
    "retention": "Retention",
    "roles": "role",
    "task_groups": "TaskGroup",
    "tasks": "Call Task call",
    "types": """
        AttemptOutcome AttemptRecord Backoff CallOptions ClaimedTask EndedAttempt Outcome Priority Rate Role
        ScheduleRecord TaskId TaskOptions TaskRecord TaskStatus WorkerInfo WorkerRecord
    """,
    "version": "__version__",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "PQ",
    "AppNotFound",
    "AsyncBoundPQ",
    "Attempt",
    "AttemptLost",
    "AttemptOutcome",
    "AttemptRecord",
    "Backoff",
    "BoundPQ",
    "Call",
    "CallOptions",
    "Cancel",
    "ClaimedTask",
    "DatabaseNotConfigured",
    "DatabaseUnavailable",
    "DuplicateClientId",
    "EmbeddedServerError",
    "EndedAttempt",
    "ForkServerLost",
    "InvalidDSN",
    "InvalidOption",
    "InvalidTask",
    "KeysNotConfigured",
    "NoCurrentAttempt",
    "NotMigrated",
    "Outcome",
    "PQError",
    "PayloadDecodeError",
    "PayloadError",
    "PayloadTooLarge",
    "PluginError",
    "Priority",
    "Rate",
    "RateLimited",
    "Refuse",
    "ResultNotStored",
    "Retention",
    "Retry",
    "Role",
    "ScheduleNotFound",
    "ScheduleRecord",
    "SchemaDamaged",
    "SchemaIncompatible",
    "Snooze",
    "Task",
    "TaskCancelled",
    "TaskFailed",
    "TaskGroup",
    "TaskId",
    "TaskNotAllowed",
    "TaskNotFound",
    "TaskOptions",
    "TaskRecord",
    "TaskStatus",
    "TaskTimeout",
    "TransactionRequired",
    "UnknownTask",
    "UnsupportedConnection",
    "UseAsync",
    "UseSync",
    "WaitTimeout",
    "WorkerInfo",
    "WorkerRecord",
    "WorkerStartError",
    "__version__",
    "call",
    "current_attempt",
    "role",
    "set_default",
]


def __getattr__(name: str) -> object:
    module = _HOMES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
