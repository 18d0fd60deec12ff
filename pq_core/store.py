"""Every statement of the client as a typed request: what is sent, and what its rows mean.

A request knows nothing of connections, so that sync and async code, on our connection or on the user's, run the
same one. The worker's own statements are with the worker.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Generic, TypeVar

from pq_core import payload, rows
from pq_core.errors import InvalidOption
from pq_core.executor import Statement
from pq_core.filters import FINISHED, Filter, bigint, check_text, conditions, moment
from pq_core.rows import Enqueued, Retried, Rows, Stats, Watched
from pq_core.sql_names import identifier, literal
from pq_core.types import JSON, AttemptRecord, TaskRecord, TaskStatus, WorkerRecord

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """One statement, its parameter as JSON text, and the function that reads its rows."""

    statement: Statement
    parameters: str
    parse: Callable[[Rows], T]


@lru_cache(maxsize=64)
def names_of(schema: str) -> Mapping[str, str]:
    """Return a schema's name as statements write it: as an identifier and as a literal."""
    return {"schema": identifier(schema), "schema_text": literal(schema)}


@lru_cache(maxsize=1024)
def statement(schema: str, name: str, where: str = "true") -> Statement:
    """Return the statement of ``sql/client/<name>.sql`` for a schema, with ``where`` as its conditions."""
    return load(name, text_of(name), {**names_of(schema), "conditions": where})


def text_of(name: str, folder: str = "client") -> str:
    """Return the text of ``sql/<folder>/<name>.sql``."""
    from pkgutil import get_data

    data = get_data("pq_core", f"sql/{folder}/{name}.sql")
    assert data is not None
    return data.decode()


def load(name: str, text: str, words: Mapping[str, str]) -> Statement:
    """Return a statement from its text, each ``{word}`` replaced and split at ``{parameters}``.

    Comments are left out: they would go over the wire with each execution.
    """
    body = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("--"))
    before, after = body.split("{parameters}")

    def fill(part: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda found: words[found[1]], part)

    return Statement(name, before=fill(before), after=fill(after))


class Store:
    """The statements of one schema."""

    __slots__ = ("schema",)

    def __init__(self, schema: str) -> None:
        self.schema = schema

    def _request(self, name: str, parameters: JSON, parse: Callable[[Rows], T], *, where: str = "true") -> Request[T]:
        return Request(statement(self.schema, name, where), payload.dumps(parameters), parse)

    def enqueue(self, spec: str) -> Request[tuple[int, bool]]:
        """Enqueue one object, given as JSON text: its id, and whether another task had its ``client_id``."""
        return Request(statement(self.schema, "enqueue"), spec, rows.pair)

    def enqueue_many(self, specs: str) -> Request[Enqueued]:
        """Enqueue an array of objects, given as JSON text."""
        return Request(statement(self.schema, "enqueue_many"), specs, rows.enqueued)

    def get_task(self, task_id: int) -> Request[TaskRecord | None]:
        """Read one task."""
        return self._request("get_task", bigint(task_id), rows.maybe_task)

    def get_task_by_client_id(self, client_id: str) -> Request[TaskRecord | None]:
        """Read the newest task with a ``client_id``."""
        check_text("client_id", client_id)
        return self._request("get_task_by_client_id", [client_id], rows.maybe_task)

    def list_tasks(self, chosen: Filter, *, limit: int) -> Request[list[TaskRecord]]:
        """Read tasks, newest first."""
        parameters = {**chosen.parameters(), "limit": _limit(limit)}
        return self._request("list_tasks", parameters, rows.tasks, where=conditions(chosen))

    def list_finished(self, chosen: Filter, *, limit: int) -> Request[list[TaskRecord]]:
        """Read finished tasks, the one that ended last first."""
        parameters = {**chosen.parameters(), "limit": _limit(limit)}
        return self._request("list_finished", parameters, rows.tasks, where=conditions(chosen, among=FINISHED))

    def pending_count(self, chosen: Filter) -> Request[int]:
        """Count pending tasks."""
        return self._request("pending_count", chosen.parameters(), rows.number, where=conditions(chosen))

    def counts(self, chosen: Filter) -> Request[dict[TaskStatus, int]]:
        """Count tasks by state; a state without any is 0."""
        return self._request("counts", chosen.parameters(), rows.counts, where=conditions(chosen))

    def count(self, chosen: Filter, *, most: int) -> Request[int]:
        """Count the tasks that match, no further than ``most``."""
        parameters = {**chosen.parameters(), "limit": _limit(most)}
        return self._request("count", parameters, rows.number, where=conditions(chosen))

    def cancel(self, chosen: Filter, *, reason: str | None) -> Request[dict[int, TaskStatus]]:
        """Cancel what has not finished; the state of each task after it, by id."""
        parameters = {**chosen.parameters(), "reason": reason}
        return self._request("cancel", parameters, rows.statuses, where=conditions(chosen))

    def retry(self, chosen: Filter, *, among: Sequence[TaskStatus]) -> Request[list[Retried]]:
        """Put finished tasks back."""
        return self._request("retry", chosen.parameters(), rows.retried, where=conditions(chosen, among=among))

    def reschedule(
        self, chosen: Filter, *, run_at: datetime | None, run_in: timedelta | None, priority: int | None
    ) -> Request[list[int]]:
        """Give pending tasks another time or priority; the ids of those that were pending."""
        parameters = {
            **chosen.parameters(),
            "run_at": None if run_at is None else moment("run_at", run_at),
            "run_in": None if run_in is None else run_in.total_seconds(),
            "priority": None if priority is None else int(priority),
        }
        return self._request("reschedule", parameters, rows.ids, where=conditions(chosen))

    def delete_tasks(self, chosen: Filter, *, among: Sequence[TaskStatus]) -> Request[int]:
        """Delete tasks of the given states, with the history of their attempts."""
        return self._request("delete_tasks", chosen.parameters(), rows.number, where=conditions(chosen, among=among))

    def prune(self, *, status: TaskStatus, older_than: timedelta, limit: int) -> Request[int]:
        """Delete tasks of one finished state that ended longer ago than ``older_than``, ``limit`` at most."""
        parameters = {"older_than": older_than.total_seconds(), "limit": _limit(limit)}
        return self._request("prune", parameters, rows.number, where=conditions(Filter(status=status), among=FINISHED))

    def attempts(self, task_id: int) -> Request[list[AttemptRecord]]:
        """Read the recorded attempts of a task, oldest first."""
        return self._request("attempts", bigint(task_id), rows.attempts)

    def workers(self) -> Request[list[WorkerRecord]]:
        """Read every worker's lease."""
        return self._request("workers", {}, rows.workers)

    def stats(self) -> Request[Stats]:
        """Read what stands where."""
        return self._request("stats", {}, rows.stats)

    def watch(self, task_id: int) -> Request[Watched | None]:
        """Ask for a notification of the task's end, and read where it stands."""
        return self._request("watch", bigint(task_id), rows.watched)

    def why(self, task_id: int) -> Request[str | None]:
        """Ask what stands in the task's way."""
        from pq_core.waiting_reason import reason

        return self._request("why", bigint(task_id), lambda found: reason(json.loads(found[0])) if found else None)

    def progress(self, task_id: int) -> Request[tuple[float | None, str | None] | None]:
        """Read how far a task says it is."""
        return self._request("progress", bigint(task_id), rows.progress)

    def complete(
        self, task_id: int, *, fence: int, started_at: datetime, worker_id: int, result: JSON
    ) -> Request[bool]:
        """Complete a running task under its claim; False when that claim is gone."""
        claim = {"id": task_id, "fence": fence, "started_at": started_at.isoformat()}
        parameters = {**claim, "worker_id": worker_id, "result": result}
        return self._request("complete", parameters, bool)


def _limit(limit: int) -> int:
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise InvalidOption(f"limit={limit!r}: give an integer of 0 or more")
    return limit
