"""The methods about schedules, for sync and for async callers; ``methods`` and ``async_methods`` take them in.

A schedule is named by its task (or the task's name) and its key, or by its id.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, Unpack, overload

from pq_core.operations import Operations
from pq_core.schedule_operations import ScheduleOperations, Synced
from pq_core.schedule_options import ScheduleFields
from pq_core.store import Request
from pq_core.tasks import BoundOptions, Call, Task
from pq_core.types import ScheduleRecord, TaskId, TaskRecord

T = TypeVar("T")

Target = Call[Any] | BoundOptions[..., Any] | Task[..., Any] | Callable[..., Any] | ScheduleRecord | str | int


class ScheduleMethods:
    """Every method about schedules."""

    _operations: Operations

    def _run(self, request: Request[T]) -> T:
        raise NotImplementedError

    @overload
    def schedule(self, call: Call[Any], /, **options: Unpack[ScheduleFields]) -> int: ...
    @overload
    def schedule(
        self,
        task: Task[..., Any] | BoundOptions[..., Any] | Callable[..., Any],
        /,
        *args: Any,
        run_every: timedelta | None = ...,
        cron: str | None = ...,
        key: str = ...,
        max_concurrent: int | None = ...,
        active: bool | None = ...,
        priority: int | None = ...,
        client_id: str | None = ...,
        max_runtime_seconds: float | None = ...,
        **kwargs: Any,
    ) -> int: ...
    def schedule(self, target: Any, /, *args: Any, **kwargs: Any) -> int:
        """Make this task run again and again, and return the schedule's id.

        Takes a call with options by name, ``schedule(task.call(7), cron="0 9 * * 1", timezone="Europe/Berlin")``, or
        python-pq's form, ``schedule(task, 7, run_every=…)``, where ``run_every cron key max_concurrent active
        priority client_id max_runtime_seconds`` are options and everything else goes to the function.

        The schedule of the same task and ``key`` is changed if there is one: a pause stays unless ``active`` is
        given, and the next tick stays unless the rhythm is another. An interval begins now, or at ``start_at``.

        Raises InvalidOption, DuplicateClientId if another schedule has the ``client_id``, TaskNotAllowed,
        PayloadError; then nothing was written.
        """
        operations = ScheduleOperations(self._operations)
        return self._run(operations.put(operations.declaration(target, args, kwargs)))

    def unschedule(self, target: Target, *, key: str = "") -> bool:
        """Delete a schedule; the tasks it made stay. False when there is none.

        One that is declared in code comes back with the next worker that starts: remove it there, or pause it.
        """
        return self._run(ScheduleOperations(self._operations).remove(target, key))

    def pause_schedule(self, target: Target, *, key: str = "") -> bool:
        """Let a schedule rest until ``resume_schedule``. False when there is none."""
        return self._run(ScheduleOperations(self._operations).activate(target, key, active=False))

    def resume_schedule(self, target: Target, *, key: str = "") -> bool:
        """Let a schedule go on; ticks of the pause are not made up for. False when there is none."""
        return self._run(ScheduleOperations(self._operations).activate(target, key, active=True))

    def run_schedule_now(self, target: Target, *, key: str = "") -> TaskId[Any]:
        """Enqueue one run now, beside the rhythm, paused or not; return the task's id. Raises ScheduleNotFound.

        It counts as a run of the schedule: with ``max_concurrent=1`` the next tick is skipped if it comes before its
        end.
        """
        return self._run(ScheduleOperations(self._operations).run_now(target, key))

    def list_schedules(
        self, *, name: str | None = None, app: str | None = None, active: bool | None = None, limit: int | None = None
    ) -> list[ScheduleRecord]:
        """Return the schedules that match, by name and key."""
        request = ScheduleOperations(self._operations).matching(limit=limit, name=name, app=app, active=active)
        return self._run(request)

    def get_schedule(self, target: Target, *, key: str = "") -> ScheduleRecord | None:
        """Return the schedule, or None."""
        return self._run(ScheduleOperations(self._operations).get(target, key))

    def get_periodic_by_client_id(self, client_id: str) -> ScheduleRecord | None:
        """Return the schedule with the ``client_id``, or None."""
        return self._run(ScheduleOperations(self._operations).get_by_client_id(client_id))

    def periodic_count(self) -> int:
        """Return how many schedules there are, paused ones included."""
        return self._run(ScheduleOperations(self._operations).count())

    def schedule_runs(self, schedule_id: int, *, limit: int = 20) -> list[TaskRecord]:
        """Return the tasks that a schedule made, the latest tick first; their ``tick_at`` is the due time."""
        return self._run(ScheduleOperations(self._operations).runs(schedule_id, limit=limit))

    def sync_schedules(self, *, force: bool = True) -> list[Synced]:
        """Store the schedules that this application declares in code, as a worker does when it starts.

        ``force``: also definitions that newer code has taken the place of, which a worker would leave: go back to an
        older version by this. Changes none that this application's code has not declared.
        """
        operations = self._operations
        operations.registry.load()
        return self._run(ScheduleOperations(operations).sync(operations.registry.schedules(), force=force))

    def prune_schedules(self, *, remove: bool = False) -> list[Synced]:
        """Return the schedules that this application's code has declared and does not any more; ``remove`` them."""
        operations = self._operations
        operations.registry.load()
        return self._run(ScheduleOperations(operations).prune(operations.registry.schedules(), remove=remove))


class AsyncScheduleMethods:
    """The twins of ``ScheduleMethods``."""

    _operations: Operations

    async def _arun(self, request: Request[T]) -> T:
        raise NotImplementedError

    @overload
    async def aschedule(self, call: Call[Any], /, **options: Unpack[ScheduleFields]) -> int: ...
    @overload
    async def aschedule(
        self,
        task: Task[..., Any] | BoundOptions[..., Any] | Callable[..., Any],
        /,
        *args: Any,
        run_every: timedelta | None = ...,
        cron: str | None = ...,
        key: str = ...,
        max_concurrent: int | None = ...,
        active: bool | None = ...,
        priority: int | None = ...,
        client_id: str | None = ...,
        max_runtime_seconds: float | None = ...,
        **kwargs: Any,
    ) -> int: ...
    async def aschedule(self, target: Any, /, *args: Any, **kwargs: Any) -> int:
        """``schedule`` for asynchronous callers."""
        operations = ScheduleOperations(self._operations)
        return await self._arun(operations.put(operations.declaration(target, args, kwargs)))

    async def aunschedule(self, target: Target, *, key: str = "") -> bool:
        """``unschedule`` for asynchronous callers."""
        return await self._arun(ScheduleOperations(self._operations).remove(target, key))

    async def apause_schedule(self, target: Target, *, key: str = "") -> bool:
        """``pause_schedule`` for asynchronous callers."""
        return await self._arun(ScheduleOperations(self._operations).activate(target, key, active=False))

    async def aresume_schedule(self, target: Target, *, key: str = "") -> bool:
        """``resume_schedule`` for asynchronous callers."""
        return await self._arun(ScheduleOperations(self._operations).activate(target, key, active=True))

    async def arun_schedule_now(self, target: Target, *, key: str = "") -> TaskId[Any]:
        """``run_schedule_now`` for asynchronous callers."""
        return await self._arun(ScheduleOperations(self._operations).run_now(target, key))

    async def alist_schedules(
        self, *, name: str | None = None, app: str | None = None, active: bool | None = None, limit: int | None = None
    ) -> list[ScheduleRecord]:
        """``list_schedules`` for asynchronous callers."""
        request = ScheduleOperations(self._operations).matching(limit=limit, name=name, app=app, active=active)
        return await self._arun(request)

    async def aget_schedule(self, target: Target, *, key: str = "") -> ScheduleRecord | None:
        """``get_schedule`` for asynchronous callers."""
        return await self._arun(ScheduleOperations(self._operations).get(target, key))

    async def aget_periodic_by_client_id(self, client_id: str) -> ScheduleRecord | None:
        """``get_periodic_by_client_id`` for asynchronous callers."""
        return await self._arun(ScheduleOperations(self._operations).get_by_client_id(client_id))

    async def aperiodic_count(self) -> int:
        """``periodic_count`` for asynchronous callers."""
        return await self._arun(ScheduleOperations(self._operations).count())

    async def aschedule_runs(self, schedule_id: int, *, limit: int = 20) -> list[TaskRecord]:
        """``schedule_runs`` for asynchronous callers."""
        return await self._arun(ScheduleOperations(self._operations).runs(schedule_id, limit=limit))

    async def async_schedules(self, *, force: bool = True) -> list[Synced]:
        """``sync_schedules`` for asynchronous callers."""
        operations = self._operations
        operations.registry.load()
        return await self._arun(ScheduleOperations(operations).sync(operations.registry.schedules(), force=force))

    async def aprune_schedules(self, *, remove: bool = False) -> list[Synced]:
        """``prune_schedules`` for asynchronous callers."""
        operations = self._operations
        operations.registry.load()
        return await self._arun(ScheduleOperations(operations).prune(operations.registry.schedules(), remove=remove))
