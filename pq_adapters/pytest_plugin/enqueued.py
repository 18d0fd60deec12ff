"""Looking for an enqueued task, and saying what is there instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from pq_adapters.pytest_plugin.running import refuse_the_real_database
from pq_core.client import PQ
from pq_core.errors import InvalidTask, KeysNotConfigured, PayloadDecodeError, UnknownTask
from pq_core.tasks import Call, Task
from pq_core.types import CallOptions, TaskRecord, TaskStatus

MOST = 10_000
"""Tasks that are looked through, the newest first."""
SHOWN = 20

_COLUMNS: dict[str, Callable[[TaskRecord, Any], bool]] = {
    "priority": lambda record, said: record.priority == int(said),
    "queue": lambda record, said: record.queue == said,
    "max_attempts": lambda record, said: record.max_attempts == said,
    "timeout": lambda record, said: record.max_runtime_seconds == said,
    "client_id": lambda record, said: record.client_id == said,
    "run_at": lambda record, said: record.run_at == said,
    "run_in": lambda record, said: record.run_at - record.created_at == said,
    "unique": lambda record, said: record.unique == said,
    "headers": lambda record, said: said.items() <= record.headers.items(),
}
"""Options that a task's row shows; whether it shows what was said."""
_UNSEEN = frozenset({"on_duplicate", "require_transaction"})
"""Options that say how to enqueue, not what."""


class AssertEnqueued:
    """The fixture ``assert_enqueued``."""

    def __init__(self, pq: PQ) -> None:
        self._pq = pq

    def __call__(
        self,
        wanted: Call[Any] | Task[..., Any] | Callable[..., Any],
        *,
        times: int | None = None,
        status: TaskStatus | str | None = None,
        using: object = None,
    ) -> list[TaskRecord]:
        """Fail the test unless such a task is enqueued; return those that match, the oldest first.

        ``wanted``: a call, with its arguments and what ``.options(…)`` said of it; or a task, whatever its arguments.
        ``times``: how many there must be, 0 for none; by default at least one. ``status``: where they must stand; by
        default anywhere, finished ones count as well. ``using``: the connection or session to look through.
        """
        __tracebackhide__ = True
        if using is None:
            refuse_the_real_database(self._pq, "assert_enqueued() would look into")
        call = wanted if isinstance(wanted, Call) else None
        task = self._pq.registry.task_for(wanted if call is None else call.task)  # type: ignore[arg-type]
        client: Any = self._pq if using is None else self._pq.using(using)  # type: ignore[call-overload]
        named: list[TaskRecord] = client.list_tasks(name=task.name, limit=MOST)
        found = [
            record
            for record in reversed(named)
            if (status is None or record.status == status) and (call is None or _matches(self._pq, task, call, record))
        ]
        if len(found) < 1 if times is None else len(found) != times:
            others = [record for record in client.list_tasks(limit=SHOWN) if record.name != task.name]
            pytest.fail(_words(call or task, times, status, found, named, others), pytrace=False)
        return found


def _matches(pq: PQ, task: Task[..., Any], call: Call[Any], record: TaskRecord) -> bool:
    for field in fields(CallOptions):
        said = getattr(call.settings, field.name)
        if said is None or field.name in _UNSEEN:
            continue
        if field.name not in _COLUMNS:
            raise ValueError(f"assert_enqueued() can't tell {field.name} of a task; it can {', '.join(_COLUMNS)}")
        if not _COLUMNS[field.name](record, said):
            return False
    try:
        args, kwargs = pq.registry.seals.open_arguments(
            task.options_over(pq.defaults).payload or "json",
            record.payload,
            name=record.name,
            version=record.version,
            signature=task.signature_of(record.version),
        )
        if record.version != task.version:
            args, kwargs = task.upgraded(args, kwargs, record.version)
        return bool(_bound(task, args, kwargs) == _bound(task, call.args, call.kwargs))
    except (PayloadDecodeError, KeysNotConfigured, UnknownTask, InvalidTask, TypeError):
        return False


def _bound(task: Task[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    bound = task.signature.bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def _words(
    wanted: object,
    times: int | None,
    status: object,
    found: list[TaskRecord],
    named: list[TaskRecord],
    others: list[TaskRecord],
) -> str:
    where = "" if status is None else f" with status {status}"
    lines = [
        f"{wanted!r}{where} is enqueued {len(found)} times, expected {'at least once' if times is None else times}"
    ]
    for title, records in (("of this name there are", named), ("others, the newest", others)):
        if records:
            lines += [f"{title}:", *(_shown(record) for record in records[:SHOWN])]
            lines += [f"  … and {len(records) - SHOWN} more"] * (len(records) > SHOWN)
    if not named and not others:
        lines.append("nothing is enqueued at all")
    return "\n".join(lines)


def _shown(record: TaskRecord) -> str:
    stored = record.payload if isinstance(record.payload, dict) else {}
    words = [repr(value) for value in stored.get("args") or ()]
    words += [f"{name}={value!r}" for name, value in (stored.get("kwargs") or {}).items()]
    more = f", client_id {record.client_id!r}" if record.client_id is not None else ""
    return f"  {record.id} {record.name}({', '.join(words)}): {record.status} in {record.queue!r}{more}"
