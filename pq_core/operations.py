"""What the public methods mean, apart from connections: their arguments in, a request out.

Sync and async, on our connection or on the user's: all run the requests that are built here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from pq_core import payload
from pq_core.errors import DuplicateClientId, InvalidOption, InvalidTask, PayloadTooLarge
from pq_core.filters import FINISHED, Filter
from pq_core.options import build, split_flat_options
from pq_core.rows import Retried
from pq_core.store import Request, Store
from pq_core.tasks import BoundOptions, Call
from pq_core.types import CallOptions, OnDuplicate, TaskId, TaskOptions, TaskRecord, TaskStatus
from pq_hooks.batches import batch

if TYPE_CHECKING:
    from pq_core.registry import Registry

T = TypeVar("T")

LARGEST_BATCH = 240 * 2**20
"""Bytes of JSON in one statement: Postgres takes no array of more than 256 MiB as jsonb."""

Around = Callable[[Sequence[Call[Any]]], AbstractContextManager[None] | None]
"""Returns what the hooks put around the statement that enqueues these calls; None if nobody cares."""
_NOT_RUNNING = tuple(status for status in TaskStatus if status is not TaskStatus.RUNNING)

BeforeEnqueue = Callable[[Call[Any], dict[str, str]], None]
"""Lets the hooks add to the headers of a call."""


class FilterFields(TypedDict, total=False):
    """Which tasks are meant; all that is said must hold. See ``pq_core.store.Filter``."""

    ids: Sequence[int] | None
    status: Iterable[TaskStatus | str] | TaskStatus | str | None
    queue: str | None
    name: str | None
    client_id: str | None
    error: str | None
    before: datetime | None
    before_id: int | None
    since: datetime | None
    priority: int | None
    schedule_id: int | None
    worker_id: int | None


@dataclass(frozen=True, slots=True)
class Planned(Request[T]):
    """A request and what its connection must be. ``needs_transaction``: who insists on an open one, if any.

    ``around``: what the hooks put around its statement, if any.
    """

    needs_transaction: str | None = None
    around: AbstractContextManager[None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operations:
    """The client's vocabulary for one ``PQ``: its tasks, its options, its schema."""

    store: Store
    registry: Registry
    defaults: TaskOptions
    payload_limit: int
    before_enqueue: BeforeEnqueue
    around_enqueue: Around
    app: str = ""

    def call(self, method: str, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call[Any]:
        """Return the call that ``pq.<method>(target, …)`` means, in either form."""
        match target:
            case Call():
                if args:
                    raise InvalidTask(f"{method}({target!r}, …): the arguments of a call are in it: task.call(…)")
                given = {("timeout" if name == "max_runtime_seconds" else name): kwargs[name] for name in kwargs}
                return target.options(**given) if given else target
            case BoundOptions():
                return target.call(*args, **kwargs)
            case _ if callable(target):
                task = self.registry.task_for(target)
                options, own = split_flat_options(task, kwargs)
                return replace(task.call(*args, **own), settings=options)
            case _:
                raise InvalidTask(f"{method}({target!r}): give a call, task.call(…), or a task and its arguments")

    def enqueue(self, call: Call[Any]) -> Planned[TaskId[Any]]:
        """Plan one task; a duplicate raises when the rows are read, so the transaction stays usable."""
        settings = call.settings
        spec = self._spec(call)
        spec.pop("on_duplicate", None)

        def parse(rows: list[str]) -> TaskId[Any]:
            task_id, duplicate = enqueued.parse(rows)
            if duplicate and settings.on_duplicate != "return":
                raise DuplicateClientId(str(settings.client_id), task_id)
            return TaskId(task_id)

        enqueued = self.store.enqueue(payload.dumps(spec))
        return self._plan(enqueued, parse, [call], _insists(call))

    def enqueue_many(
        self, calls: Iterable[Call[Any]], *, on_duplicate: OnDuplicate | None
    ) -> Planned[list[TaskId[Any]]] | None:
        """Plan a batch, atomic in one statement; None when it is empty.

        Unless its duplicates are returned, one duplicate keeps the whole batch out.
        """
        if on_duplicate not in (None, "raise", "return"):
            raise InvalidOption(f"on_duplicate={on_duplicate!r}: give 'raise' or 'return'")
        specs: list[dict[str, Any]] = []
        called: list[Call[Any]] = []
        insists: str | None = None
        named = False
        with batch():  # for the hooks, which are called for each
            for call in calls:
                if not isinstance(call, Call):
                    raise InvalidTask(f"enqueue_many() takes calls: task.call(…) for each, not {call!r}")
                spec = self._spec(call)
                settings = call.settings
                if settings.client_id is not None:
                    spec["on_duplicate"] = on_duplicate or settings.on_duplicate or "raise"
                    named = True
                if insists is None and settings.require_transaction:
                    insists = call.task.name
                specs.append(spec)
                called.append(call)
        if not specs:
            return None
        text = payload.dumps(specs)
        if len(text) > LARGEST_BATCH:
            raise PayloadTooLarge(
                f"this batch of {len(specs)} tasks has {len(text)} bytes, {LARGEST_BATCH} fit into one statement: "
                "enqueue it in parts, in one transaction if it must be atomic"
            )
        if named:
            _refuse_twins(specs)

        def parse(rows: list[str]) -> list[TaskId[Any]]:
            done = enqueued.parse(rows)
            for position in done.duplicates:
                if specs[position]["on_duplicate"] == "raise":
                    raise DuplicateClientId(specs[position]["client_id"], _known(done.ids[position]))
            assert None not in done.ids
            return list(map(TaskId, done.ids))  # type: ignore[arg-type]

        enqueued = self.store.enqueue_many(text)
        return self._plan(enqueued, parse, called, insists)

    def upsert(self, call: Call[Any]) -> Planned[TaskId[Any]]:
        """Plan the replacement of the task with this ``client_id``, or a new one."""
        settings = call.settings
        if settings.client_id is None:
            raise InvalidOption(f"upsert({call!r}): give client_id=, it says which task is replaced")
        if settings.on_duplicate is not None:
            raise InvalidOption(f"upsert({call!r}): on_duplicate={settings.on_duplicate!r}: upsert always replaces")
        enqueued = self.store.enqueue(payload.dumps({**self._spec(call), "on_duplicate": "replace"}))

        def parse(rows: list[str]) -> TaskId[Any]:
            return TaskId(enqueued.parse(rows)[0])

        return self._plan(enqueued, parse, [call], _insists(call))

    def get_task(self, task_id: int) -> Request[TaskRecord | None]:
        """Plan the reading of one task."""
        return _then(self.store.get_task(task_id), self._opened)

    def get_task_by_client_id(self, client_id: str) -> Request[TaskRecord | None]:
        """Plan the reading of the newest task with a ``client_id``."""
        return _then(self.store.get_task_by_client_id(client_id), self._opened)

    def _opened(self, record: TaskRecord | None) -> TaskRecord | None:
        """Return the record with what is encrypted in it as it was, where this process has the key."""
        if record is None:
            return None
        seals = self.registry.seals
        arguments = seals.readable(record.payload, name=record.name, version=record.version)
        result = seals.readable_result(record.result, task_id=record.id)
        if arguments is record.payload and result is record.result:
            return record
        return replace(record, payload=arguments, result=result)

    def cancel(self, task_id: int, *, reason: str | None) -> Request[bool]:
        """Plan the end of one task; True when it is cancelled or will be."""
        return _then(self.store.cancel(Filter(id=_id(task_id)), reason=reason), bool)

    def cancel_many(self, chosen: FilterFields, *, reason: str | None) -> Request[int]:
        """Plan the end of all that match; how many."""
        return _then(self.store.cancel(_narrow("cancel_many", chosen), reason=reason), len)

    def retry(self, task_id: int) -> Request[bool]:
        """Plan another run of one finished task; False when it has not finished or is not there."""

        def judge(found: list[Retried]) -> bool:
            for one in found:
                if one.other is not None:
                    raise DuplicateClientId(str(one.client_id), one.other)
            return bool(found)

        return _then(self.store.retry(Filter(id=_id(task_id)), among=FINISHED), judge)

    def retry_many(self, chosen: FilterFields) -> Request[int]:
        """Plan another run of the failed and cancelled tasks that match, completed ones only where ids are given."""
        narrow = _narrow("retry_many", chosen)
        among = FINISHED if narrow.ids is not None else (TaskStatus.FAILED, TaskStatus.CANCELLED)
        if TaskStatus.COMPLETED in (narrow.statuses() or ()) and narrow.ids is None:
            raise InvalidOption("retry_many(status='completed'): completed tasks run again by their ids= only")
        return _then(self.store.retry(narrow, among=among), _count_revived)

    def reschedule(
        self, task_id: int, *, run_at: datetime | None, run_in: timedelta | None, priority: int | None
    ) -> Request[bool]:
        """Plan another time or priority for a pending task; False when it is not pending."""
        if run_at is None and run_in is None and priority is None:
            raise InvalidOption("reschedule(): give run_at=, run_in= or priority=")
        build(CallOptions, {"run_at": run_at, "run_in": run_in, "priority": priority}, what="reschedule()")
        chosen = Filter(id=_id(task_id))
        return _then(self.store.reschedule(chosen, run_at=run_at, run_in=run_in, priority=priority), bool)

    def count(self, chosen: FilterFields, *, most: int) -> Request[int]:
        """Plan a count that stops at ``most``."""
        return self.store.count(Filter.of("count", chosen), most=most)

    def delete(self, task_id: int) -> Request[bool]:
        """Plan the deletion of one task that does not run."""
        return _then(self.store.delete_tasks(Filter(id=_id(task_id)), among=_NOT_RUNNING), bool)

    def delete_many(self, chosen: FilterFields) -> Request[int]:
        """Plan the deletion of all that match and don't run."""
        return self.store.delete_tasks(_narrow("delete_many", chosen), among=_NOT_RUNNING)

    def clear(self, *, before: datetime | None, among: Sequence[TaskStatus]) -> Request[int]:
        """Plan the deletion of all tasks of some states."""
        return self.store.delete_tasks(Filter(before=before), among=among)

    def finished(self, statuses: Iterable[TaskStatus | str] | TaskStatus | str) -> tuple[TaskStatus, ...]:
        """Return the finished states that are meant; InvalidOption for others."""
        found = Filter(status=statuses).statuses()
        if found is None or not set(found) <= set(FINISHED):
            raise InvalidOption(f"statuses={statuses!r}: only finished tasks are pruned: {', '.join(FINISHED)}")
        return found

    def prune(self, older_than: timedelta, *, status: TaskStatus, batch: int) -> Request[int]:
        """Plan the deletion of one batch of tasks of a finished state that ended long ago."""
        if not isinstance(older_than, timedelta) or older_than < timedelta(0):
            raise InvalidOption(f"older_than={older_than!r}: give a timedelta of 0 or more")
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise InvalidOption(f"batch={batch!r}: give an integer of at least 1")
        return self.store.prune(status=status, older_than=older_than, limit=batch)

    def _plan(
        self, request: Request[Any], parse: Callable[[list[str]], T], called: list[Call[Any]], insists: str | None
    ) -> Planned[T]:
        return Planned(request.statement, request.parameters, parse, insists, self.around_enqueue(called))

    def _spec(self, call: Call[Any]) -> dict[str, Any]:
        spec = call.spec(self.defaults, self.registry, payload_limit=self.payload_limit)
        headers: dict[str, str] = dict(spec["headers"]) if "headers" in spec else {}
        self.before_enqueue(replace(call, args=(), kwargs={}) if "sensitive" in spec else call, headers)
        if headers:
            # What a plugin puts in must not keep a task out: characters that Postgres can't store are replaced.
            spec["headers"] = {payload.storable_text(k): payload.storable_text(v) for k, v in headers.items()}
        return spec


def _then(request: Request[Any], use: Callable[[Any], T]) -> Request[T]:
    parse = request.parse
    return Request(request.statement, request.parameters, lambda rows: use(parse(rows)))


def _known(task_id: int | None) -> int:
    assert task_id is not None
    return task_id


def _id(task_id: int) -> int:
    if isinstance(task_id, bool) or not isinstance(task_id, int):
        raise InvalidOption(f"task_id={task_id!r}: give the id that enqueue returned, an integer")
    return task_id


def _narrow(method: str, chosen: FilterFields) -> Filter:
    filter = Filter.of(method, chosen)
    if not filter.narrow:
        raise InvalidOption(f"{method}(): say which tasks: {', '.join(FilterFields.__annotations__)}")
    return filter


def _count_revived(found: list[Retried]) -> int:
    return sum(one.other is None for one in found)


def _insists(call: Call[Any]) -> str | None:
    return call.task.name if call.settings.require_transaction else None


def _refuse_twins(specs: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a batch that holds one ``client_id`` twice: it can only contradict itself."""
    seen: dict[str, int] = {}
    for position, spec in enumerate(specs):
        if "client_id" not in spec:
            continue
        first = seen.setdefault(spec["client_id"], position)
        if first != position and "raise" in (spec["on_duplicate"], specs[first]["on_duplicate"]):
            error = DuplicateClientId(spec["client_id"], 0)
            error.args = (
                f"client_id {spec['client_id']!r} is given to two tasks of this batch (positions {first} and "
                f"{position}, from 0); nothing was enqueued",
            )
            raise error
