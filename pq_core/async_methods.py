"""The methods that talk to the database, for async callers: the twins of those in ``methods``.

``PQ`` runs them on connections of its own, ``AsyncBoundPQ`` on the user's.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from datetime import datetime, timedelta
from typing import Any, ParamSpec, TypeVar, Unpack, overload

from pq_core.filters import FINISHED, Filter
from pq_core.operating_methods import AsyncOperatingMethods
from pq_core.operations import FilterFields, Operations, Planned
from pq_core.options import CallFields
from pq_core.rows import Stats
from pq_core.schedule_methods import AsyncScheduleMethods
from pq_core.store import Request
from pq_core.tasks import BoundOptions, Call, Task
from pq_core.types import (
    AttemptRecord,
    OnDuplicate,
    TaskId,
    TaskRecord,
    TaskStatus,
    WorkerRecord,
)

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class AsyncMethods(AsyncScheduleMethods, AsyncOperatingMethods):
    """Every method of the client that runs one request, awaited."""

    _operations: Operations

    async def _arun(self, request: Request[T]) -> T:
        raise NotImplementedError

    async def _asend(self, planned: Planned[T]) -> T:
        if planned.around is None:
            return await self._arun(planned)
        with planned.around:
            return await self._arun(planned)

    @overload
    async def aenqueue(self, call: Call[R], /, **options: Unpack[CallFields]) -> TaskId[R]: ...
    @overload
    async def aenqueue(self, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskId[R]: ...
    @overload
    async def aenqueue(self, task: BoundOptions[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskId[R]: ...
    @overload
    async def aenqueue(
        self, task: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> TaskId[R]: ...
    @overload
    async def aenqueue(self, task: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskId[R]: ...
    @overload
    async def aenqueue(  # type: ignore[overload-cannot-match]
        self,
        task: Task[..., R],
        /,
        *args: Any,
        run_at: datetime | None = ...,
        priority: int | None = ...,
        client_id: str | None = ...,
        max_runtime_seconds: float | None = ...,
        **kwargs: Any,
    ) -> TaskId[R]: ...
    @overload
    async def aenqueue(  # type: ignore[overload-cannot-match]
        self,
        task: Callable[..., Coroutine[Any, Any, R]],
        /,
        *args: Any,
        run_at: datetime | None = ...,
        priority: int | None = ...,
        client_id: str | None = ...,
        max_runtime_seconds: float | None = ...,
        **kwargs: Any,
    ) -> TaskId[R]: ...
    @overload
    async def aenqueue(  # type: ignore[overload-cannot-match]
        self,
        task: Callable[..., R],
        /,
        *args: Any,
        run_at: datetime | None = ...,
        priority: int | None = ...,
        client_id: str | None = ...,
        max_runtime_seconds: float | None = ...,
        **kwargs: Any,
    ) -> TaskId[R]: ...
    async def aenqueue(self, target: Any, /, *args: Any, **kwargs: Any) -> TaskId[Any]:
        """Enqueue one task and return its id.

        Takes a call, ``aenqueue(task.call(7), client_id="x")``, with options by name; or python-pq's form,
        ``aenqueue(task, 7, run_at=…)``, where ``run_at priority client_id max_runtime_seconds`` are options and
        everything else goes to the function.

        Raises DuplicateClientId if the ``client_id`` is taken (the transaction stays usable), TaskNotAllowed,
        PayloadError, TransactionRequired.
        """
        return await self._asend(self._operations.enqueue(self._operations.call("aenqueue", target, args, kwargs)))

    async def aenqueue_many(
        self, calls: Iterable[Call[R]], *, on_duplicate: OnDuplicate | None = None
    ) -> list[TaskId[R]]:
        """Enqueue calls in one statement, all or none, and return their ids in order.

        ``on_duplicate``: for all of them. With ``"return"`` a duplicate yields the id of the task that is there;
        otherwise the first one raises DuplicateClientId and nothing of the batch is stored.
        """
        planned = self._operations.enqueue_many(calls, on_duplicate=on_duplicate)
        return [] if planned is None else await self._asend(planned)

    @overload
    async def aupsert(self, call: Call[R], /, **options: Unpack[CallFields]) -> TaskId[R]: ...
    @overload
    async def aupsert(self, task: BoundOptions[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskId[R]: ...
    @overload
    async def aupsert(
        self,
        task: Task[..., R],
        /,
        *args: Any,
        client_id: str,
        run_at: datetime | None = ...,
        priority: int | None = ...,
        max_runtime_seconds: float | None = ...,
        **kwargs: Any,
    ) -> TaskId[R]: ...
    @overload
    async def aupsert(
        self,
        task: Callable[..., Coroutine[Any, Any, R]],
        /,
        *args: Any,
        client_id: str,
        run_at: datetime | None = ...,
        priority: int | None = ...,
        max_runtime_seconds: float | None = ...,
        **kwargs: Any,
    ) -> TaskId[R]: ...
    @overload
    async def aupsert(
        self,
        task: Callable[..., R],
        /,
        *args: Any,
        client_id: str,
        run_at: datetime | None = ...,
        priority: int | None = ...,
        max_runtime_seconds: float | None = ...,
        **kwargs: Any,
    ) -> TaskId[R]: ...
    async def aupsert(self, target: Any, /, *args: Any, **kwargs: Any) -> TaskId[Any]:
        """Make this the version that runs of the task with the ``client_id``, and return its id.

        Waiting, finished or absent: it is put in place at once. Running: it runs after that run has ended,
        however it ends (or with the commit of its ``complete()``); never beside it. Of several the last one counts.
        """
        return await self._asend(self._operations.upsert(self._operations.call("aupsert", target, args, kwargs)))

    async def acancel(self, task_id: int, *, reason: str | None = None) -> bool:
        """Cancel a task; its row stays. True when it is cancelled, or will be: a running one is told to stop.

        False when it has finished or does not exist.
        """
        return await self._arun(self._operations.cancel(task_id, reason=reason))

    async def acancel_many(self, *, reason: str | None = None, **chosen: Unpack[FilterFields]) -> int:
        """Cancel the unfinished tasks that match; return how many. At least one condition is needed."""
        return await self._arun(self._operations.cancel_many(chosen, reason=reason))

    async def aretry(self, task_id: int) -> bool:
        """Run a finished task again, now and with all its attempts. False when it has not finished or is not there.

        Raises DuplicateClientId if its ``client_id`` belongs to another unfinished task by now.
        """
        return await self._arun(self._operations.retry(task_id))

    async def aretry_many(self, **chosen: Unpack[FilterFields]) -> int:
        """Run the failed and cancelled tasks that match again; return how many. At least one condition is needed.

        Completed ones only when they are named by ``ids``. Tasks whose ``client_id`` is taken are left out.
        """
        return await self._arun(self._operations.retry_many(chosen))

    async def areschedule(
        self,
        task_id: int,
        *,
        run_at: datetime | None = None,
        run_in: timedelta | None = None,
        priority: int | None = None,
    ) -> bool:
        """Give a pending task another time or priority. False when it is not pending."""
        return await self._arun(self._operations.reschedule(task_id, run_at=run_at, run_in=run_in, priority=priority))

    async def aget_task(self, task_id: int) -> TaskRecord | None:
        """Return the task, or None."""
        return await self._arun(self._operations.get_task(task_id))

    async def aget_task_by_client_id(self, client_id: str) -> TaskRecord | None:
        """Return the newest task with the ``client_id``, or None."""
        return await self._arun(self._operations.get_task_by_client_id(client_id))

    async def alist_tasks(self, *, limit: int = 100, **chosen: Unpack[FilterFields]) -> list[TaskRecord]:
        """Return the tasks that match, newest first. The next page: ``before_id`` = the last one's id."""
        return await self._arun(self._operations.store.list_tasks(Filter.of("alist_tasks", chosen), limit=limit))

    async def alist_pending(self, limit: int = 100, *, queue: str | None = None) -> list[TaskRecord]:
        """Return pending tasks, newest first."""
        return await self.alist_tasks(limit=limit, status=TaskStatus.PENDING, queue=queue)

    async def alist_failed(self, limit: int = 100, *, before: datetime | None = None) -> list[TaskRecord]:
        """Return failed tasks, the one that failed last first. ``before``: only those that failed earlier."""
        chosen = Filter(status=TaskStatus.FAILED, before=before)
        return await self._arun(self._operations.store.list_finished(chosen, limit=limit))

    async def alist_completed(self, limit: int = 100, *, before: datetime | None = None) -> list[TaskRecord]:
        """Return completed tasks, the one that ended last first. ``before``: only those that ended earlier."""
        chosen = Filter(status=TaskStatus.COMPLETED, before=before)
        return await self._arun(self._operations.store.list_finished(chosen, limit=limit))

    async def aattempts(self, task_id: int) -> list[AttemptRecord]:
        """Return the recorded attempts of a task, oldest first; a success at the first try is not among them."""
        return await self._arun(self._operations.store.attempts(task_id))

    async def aprogress(self, task_id: int) -> tuple[float | None, str | None]:
        """Return how far a task says it is: a share from 0 to 1 and a text. (None, None) when it says nothing."""
        return await self._arun(self._operations.store.progress(task_id)) or (None, None)

    async def apending_count(self, *, queue: str | None = None) -> int:
        """Return how many tasks are pending, those with a later ``run_at`` included."""
        return await self._arun(self._operations.store.pending_count(Filter(queue=queue)))

    async def acounts(self, **chosen: Unpack[FilterFields]) -> dict[TaskStatus, int]:
        """Return how many tasks are in each state, of all or of those that match. Reads every finished row."""
        return await self._arun(self._operations.store.counts(Filter.of("acounts", chosen)))

    async def astats(self) -> Stats:
        """Return the unfinished tasks by queue, the longest wait and the number of workers; cheap to ask often."""
        return await self._arun(self._operations.store.stats())

    async def aworkers(self) -> list[WorkerRecord]:
        """Return the workers that hold or held a lease and were not yet cleared away."""
        return await self._arun(self._operations.store.workers())

    async def acount(self, *, most: int = 10_000, **chosen: Unpack[FilterFields]) -> int:
        """``count`` for asynchronous callers."""
        return await self._arun(self._operations.count(chosen, most=most))

    async def adelete(self, task_id: int) -> bool:
        """``delete`` for asynchronous callers."""
        return await self._arun(self._operations.delete(task_id))

    async def adelete_many(self, **chosen: Unpack[FilterFields]) -> int:
        """``delete_many`` for asynchronous callers."""
        return await self._arun(self._operations.delete_many(chosen))

    async def aclear_failed(self, before: datetime | None = None) -> int:
        """Delete failed tasks, or those that failed before a time; return how many."""
        return await self._arun(self._operations.clear(before=before, among=(TaskStatus.FAILED,)))

    async def aclear_completed(self, before: datetime | None = None) -> int:
        """Delete completed tasks, or those that ended before a time; return how many."""
        return await self._arun(self._operations.clear(before=before, among=(TaskStatus.COMPLETED,)))

    async def aclear_all(self, before: datetime | None = None, *, include_running: bool = False) -> int:
        """Delete all tasks, or those that ended or were created before a time; return how many.

        Running ones stay unless ``include_running``: their worker finds them gone and stops them.
        """
        among = [status for status in TaskStatus if include_running or status is not TaskStatus.RUNNING]
        return await self._arun(self._operations.clear(before=before, among=among))

    async def aprune(
        self, older_than: timedelta, *, statuses: Iterable[TaskStatus | str] = FINISHED, batch: int = 1000
    ) -> int:
        """Delete finished tasks that ended longer ago than ``older_than``; return how many.

        In statements of ``batch`` rows: on a connection of ours each is a transaction of its own, so that nobody
        waits for the whole.
        """
        total = 0
        for status in self._operations.finished(statuses):
            request = self._operations.prune(older_than, status=status, batch=batch)
            while deleted := await self._arun(request):
                total += deleted
                if deleted < batch:
                    break
        return total
