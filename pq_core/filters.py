"""Which tasks a statement is about: a filter said in Python, and the SQL conditions that it becomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from pq_core.errors import InvalidOption
from pq_core.types import TaskStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which tasks are meant: all that is said must hold. ``error``: text that the error contains, in any case.

    ``before``: finished, or created if it has not finished, earlier than that. ``before_id``: a smaller id.
    """

    id: int | None = None
    ids: Sequence[int] | None = None
    status: Iterable[TaskStatus | str] | TaskStatus | str | None = None
    queue: str | None = None
    name: str | None = None
    client_id: str | None = None
    error: str | None = None
    before: datetime | None = None
    before_id: int | None = None

    def statuses(self) -> tuple[TaskStatus, ...] | None:
        """Return the states asked for; ``InvalidOption`` for a word that is none."""
        if self.status is None:
            return None
        words = (self.status,) if isinstance(self.status, str) else tuple(self.status)
        try:
            return tuple(dict.fromkeys(TaskStatus(word) for word in words))
        except ValueError:
            known = ", ".join(TaskStatus)
            raise InvalidOption(f"status={self.status!r}: give one of {known}, or a list of them") from None

    def parameters(self) -> dict[str, Any]:
        """Return what was said, as JSON values by the names that the conditions read."""
        said = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}
        said.pop("status", None)
        if self.before is not None:
            said["before"] = moment("before", self.before)
        if self.ids is not None:
            said["ids"] = [bigint(i) for i in self.ids]
        for name in ("id", "before_id"):
            if name in said:
                said[name] = bigint(said[name])
        return said

    @property
    def narrow(self) -> bool:
        """True when something was said."""
        return any(getattr(self, f.name) is not None for f in fields(self))


def moment(option: str, value: datetime) -> str:
    """Return a point in time as text for Postgres; a naive one says none and is ``InvalidOption``."""
    if value.utcoffset() is None:
        raise InvalidOption(f"{option}={value!r}: pass tzinfo=, a datetime without a timezone says no point in time")
    return value.astimezone(UTC).isoformat()


_HAS_CLIENT_ID = "t.client_id = (SELECT p ->> 'client_id' FROM input)"
CONDITIONS: Mapping[str, str] = {
    "id": "t.id = (SELECT cast(p ->> 'id' AS bigint) FROM input)",
    "ids": "t.id IN (SELECT cast(i AS bigint) FROM input, jsonb_array_elements_text(p -> 'ids') i)",
    "queue": "t.queue = (SELECT p ->> 'queue' FROM input)",
    "name": "t.name = (SELECT p ->> 'name' FROM input)",
    # Spelt as the two partial unique indexes are, so that they serve.
    "client_id": f"(({_HAS_CLIENT_ID} AND t.client_id_unique = 'unfinished') OR ({_HAS_CLIENT_ID} AND "
    "(t.client_id_unique = 'retained' OR t.status IN ('pending', 'running', 'blocked'))))",
    "error": "position(lower((SELECT p ->> 'error' FROM input)) IN lower(t.error)) > 0",
    "before": "coalesce(t.completed_at, t.created_at) < (SELECT cast(p ->> 'before' AS timestamptz) FROM input)",
    "before_id": "t.id < (SELECT cast(p ->> 'before_id' AS bigint) FROM input)",
}
FINISHED = (TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED)


def conditions(chosen: Filter, *, among: Sequence[TaskStatus] | None = None) -> str:
    """Return the SQL of a filter on ``pq_tasks t``. ``among``: the states that the statement is about.

    States are written out, since the planner knows how rare each of them is and partial indexes name them.
    """
    parts = [CONDITIONS[name] for name in chosen.parameters()]
    statuses = chosen.statuses()
    if among is not None:
        statuses = tuple(among) if statuses is None else tuple(s for s in statuses if s in among)
    match statuses:
        case None:
            pass
        case []:
            parts.append("false")
        case [only]:
            parts.append(f"t.status = '{only.value}'")
        case several:
            parts.append(f"t.status IN ({', '.join(repr(s.value) for s in several)})")
    return " AND ".join(parts) or "true"


def bigint(task_id: int) -> int:
    """Return an id as Postgres can take it; no task has the id 0."""
    return task_id if -(2**63) <= task_id < 2**63 else 0
