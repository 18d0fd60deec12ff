"""Which tasks a statement is about: a filter said in Python, and the SQL conditions that it becomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Self

from pq_core.close_names import close_names
from pq_core.errors import InvalidOption
from pq_core.types import TaskStatus

_GIVE_STATES = f"give one of {', '.join(TaskStatus)}, or a list of them"

_NUMBERS = ("id", "before_id", "priority", "schedule_id", "worker_id")
_MOMENTS = ("before", "since")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which tasks are meant: all that is said must hold. ``error``: text that the error contains, in any case.

    ``before`` and ``since``: finished, or created if it has not finished, earlier than that, and not earlier.
    ``before_id``: a smaller id. ``schedule_id``: made by that schedule. ``worker_id``: runs on that worker,
    or ended there.
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
    since: datetime | None = None
    priority: int | None = None
    schedule_id: int | None = None
    worker_id: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no column can be compared with, and read what can be read only once."""
        for name in ("queue", "name", "client_id", "error"):
            check_text(name, getattr(self, name))
        for name in _NUMBERS:
            if (number := getattr(self, name)) is not None:
                bigint(number, option=name)
        for name in _MOMENTS:
            if (value := getattr(self, name)) is not None:
                moment(name, value)
        if self.ids is not None:
            if isinstance(self.ids, str | bytes | Mapping) or not isinstance(self.ids, Iterable):
                raise InvalidOption(f"ids={self.ids!r}: give a list of ids, integers")
            object.__setattr__(self, "ids", tuple(self.ids))
            for number in self.ids:
                bigint(number, option="ids")
        if self.status is not None and not isinstance(self.status, str):
            if not isinstance(self.status, Iterable):
                raise InvalidOption(f"status={self.status!r}: {_GIVE_STATES}")
            object.__setattr__(self, "status", tuple(self.status))
        self.statuses()

    @classmethod
    def of(cls, method: str, chosen: Mapping[str, Any]) -> Self:
        """Return the filter that the keyword arguments of ``method`` are; ``InvalidOption`` for a name that is none."""
        known = [f.name for f in fields(cls) if f.name != "id"]
        for name in chosen:
            if name not in known:
                near = close_names(name, known)
                hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
                raise InvalidOption(f"{method}(): there is no condition {name!r}; {hint}")
        return cls(**chosen)

    def statuses(self) -> tuple[TaskStatus, ...] | None:
        """Return the states asked for; ``InvalidOption`` for a word that is none."""
        if self.status is None:
            return None
        words = (self.status,) if isinstance(self.status, str) else tuple(self.status)
        try:
            return tuple(dict.fromkeys(TaskStatus(word) for word in words))
        except ValueError:
            raise InvalidOption(f"status={self.status!r}: {_GIVE_STATES}") from None

    def parameters(self) -> dict[str, Any]:
        """Return what was said, as JSON values by the names that the conditions read."""
        said = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}
        said.pop("status", None)
        for name in _MOMENTS:
            if name in said:
                said[name] = moment(name, said[name])
        if self.ids is not None:
            said["ids"] = [bigint(i) for i in self.ids]
        for name in _NUMBERS:
            if name in said:
                said[name] = bigint(said[name])
        return said

    @property
    def narrow(self) -> bool:
        """True when something was said."""
        return any(getattr(self, f.name) is not None for f in fields(self))


def moment(option: str, value: datetime) -> str:
    """Return a point in time as text for Postgres; a naive one says none and is ``InvalidOption``."""
    if not isinstance(value, datetime):
        raise InvalidOption(f"{option}={value!r}: give a datetime with a timezone")
    if value.utcoffset() is None:
        raise InvalidOption(f"{option}={value!r}: pass tzinfo=, a datetime without a timezone says no point in time")
    try:
        return value.astimezone(UTC).isoformat()
    except OverflowError:
        raise InvalidOption(f"{option}={value!r}: give a datetime within the years 1 to 9999 in UTC") from None


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
    "since": "coalesce(t.completed_at, t.created_at) >= (SELECT cast(p ->> 'since' AS timestamptz) FROM input)",
    "priority": "t.priority = (SELECT cast(p ->> 'priority' AS bigint) FROM input)",
    "schedule_id": "t.schedule_id = (SELECT cast(p ->> 'schedule_id' AS bigint) FROM input)",
    "worker_id": "t.worker_id = (SELECT cast(p ->> 'worker_id' AS bigint) FROM input)",
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


def check_text(option: str, value: str | None) -> None:
    """Raise ``InvalidOption`` unless ``value`` is text or None."""
    if value is not None and not isinstance(value, str):
        raise InvalidOption(f"{option}={value!r}: give text, not {type(value).__name__}")


def bigint(task_id: int, *, option: str = "task_id") -> int:
    """Return an id as Postgres can take it (no task has the id 0); ``InvalidOption`` for what is no integer."""
    if isinstance(task_id, bool) or not isinstance(task_id, int):
        raise InvalidOption(f"{option}={task_id!r}: give the id that enqueue returned, an integer")
    return task_id if -(2**63) <= task_id < 2**63 else 0
