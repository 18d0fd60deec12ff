"""The methods that talk to the database, for sync callers.

``PQ`` runs them on connections of its own, ``BoundPQ`` on the user's; ``async_methods`` holds their twins.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from datetime import datetime, timedelta
from typing import Any, ParamSpec, TypeVar, Unpack, overload

from pq_core.filters import FINISHED, Filter
from pq_core.operating_methods import OperatingMethods
from pq_core.operations import FilterFields, Operations, Planned
from pq_core.options import CallFields
from pq_core.rows import Stats
from pq_core.schedule_methods import ScheduleMethods
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


class Methods(ScheduleMethods, OperatingMethods):
    """Every method of the client that runs one request."""

    _operations: Operations

    def _run(self, request: Request[T]) -> T:
        raise NotImplementedError

    def _send(self, planned: Planned[T]) -> T:
        if planned.around is None:
            return self._run(planned)
        with planned.around:
            return self._run(planned)

    @overload
    def enqueue(self, call: Call[R], /, **options: Unpack[CallFields]) -> TaskId[R]: ...
    @overload
    def enqueue(self, task: Task[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskId[R]: ...
    @overload
    def enqueue(self, task: BoundOptions[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskId[R]: ...
    @overload
    def enqueue(self, task: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs) -> TaskId[R]: ...
    @overload
    def enqueue(self, task: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskId[R]: ...
    @overload
    def enqueue(  # type: ignore[overload-cannot-match]
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
    def enqueue(  # type: ignore[overload-cannot-match]
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
    def enqueue(  # type: ignore[overload-cannot-match]
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
    def enqueue(self, target: Any, /, *args: Any, **kwargs: Any) -> TaskId[Any]:
        """Enqueue one task and return its id.

        Takes a call, ``enqueue(task.call(7), client_id="x")``, with options by name; or python-pq's form,
        ``enqueue(task, 7, run_at=…)``, where ``run_at priority client_id max_runtime_seconds`` are options and
        everything else goes to the function.

        Raises DuplicateClientId if the ``client_id`` is taken (the transaction stays usable), TaskNotAllowed,
        PayloadError, TransactionRequired.
        """
        return self._send(self._operations.enqueue(self._operations.call("enqueue", target, args, kwargs)))

    def enqueue_many(self, calls: Iterable[Call[R]], *, on_duplicate: OnDuplicate | None = None) -> list[TaskId[R]]:
        """Enqueue calls in one statement, all or none, and return their ids in order.

        ``on_duplicate``: for all of them. With ``"return"`` a duplicate yields the id of the task that is there;
        otherwise the first one raises DuplicateClientId and nothing of the batch is stored.
        """
        planned = self._operations.enqueue_many(calls, on_duplicate=on_duplicate)
        return [] if planned is None else self._send(planned)

    @overload
    def upsert(self, call: Call[R], /, **options: Unpack[CallFields]) -> TaskId[R]: ...
    @overload
    def upsert(self, task: BoundOptions[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskId[R]: ...
    @overload
    def upsert(
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
    def upsert(
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
    def upsert(
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
    def upsert(self, target: Any, /, *args: Any, **kwargs: Any) -> TaskId[Any]:
        """Make this the version that runs of the task with the ``client_id``, and return its id.

        Waiting, finished or absent: it is put in place at once. Running: it runs after that run has ended,
        however it ends (or with the commit of its ``complete()``); never beside it. Of several the last one counts.
        """
        return self._send(self._operations.upsert(self._operations.call("upsert", target, args, kwargs)))

    def cancel(self, task_id: int, *, reason: str | None = None) -> bool:
        """Cancel a task; its row stays. True when it is cancelled, or will be: a running one is told to stop.

        False when it has finished or does not exist.
        """
        return self._run(self._operations.cancel(task_id, reason=reason))

    def cancel_many(self, *, reason: str | None = None, **chosen: Unpack[FilterFields]) -> int:
        """Cancel the unfinished tasks that match; return how many. At least one condition is needed."""
        return self._run(self._operations.cancel_many(chosen, reason=reason))

    def retry(self, task_id: int) -> bool:
        """Run a finished task again, now and with all its attempts. False when it has not finished or is not there.

        Raises DuplicateClientId if its ``client_id`` belongs to another unfinished task by now.
        """
        return self._run(self._operations.retry(task_id))

    def retry_many(self, **chosen: Unpack[FilterFields]) -> int:
        """Run the failed and cancelled tasks that match again; return how many. At least one condition is needed.

        Completed ones only when they are named by ``ids``. Tasks whose ``client_id`` is taken are left out.
        """
        return self._run(self._operations.retry_many(chosen))

    def reschedule(
        self,
        task_id: int,
        *,
        run_at: datetime | None = None,
        run_in: timedelta | None = None,
        priority: int | None = None,
    ) -> bool:
        """Give a pending task another time or priority. False when it is not pending."""
        return self._run(self._operations.reschedule(task_id, run_at=run_at, run_in=run_in, priority=priority))

    def get_task(self, task_id: int) -> TaskRecord | None:
        """Return the task, or None."""
        return self._run(self._operations.get_task(task_id))

    def get_task_by_client_id(self, client_id: str) -> TaskRecord | None:
        """Return the newest task with the ``client_id``, or None."""
        return self._run(self._operations.get_task_by_client_id(client_id))

    def list_tasks(self, *, limit: int = 100, **chosen: Unpack[FilterFields]) -> list[TaskRecord]:
        """Return the tasks that match, newest first. The next page: ``before_id`` = the last one's id."""
        return self._run(self._operations.store.list_tasks(Filter.of("list_tasks", chosen), limit=limit))

    def list_pending(self, limit: int = 100, *, queue: str | None = None) -> list[TaskRecord]:
        """Return pending tasks, newest first."""
        return self.list_tasks(limit=limit, status=TaskStatus.PENDING, queue=queue)

    def list_failed(self, limit: int = 100, *, before: datetime | None = None) -> list[TaskRecord]:
        """Return failed tasks, the one that failed last first. ``before``: only those that failed earlier."""
        chosen = Filter(status=TaskStatus.FAILED, before=before)
        return self._run(self._operations.store.list_finished(chosen, limit=limit))

    def list_completed(self, limit: int = 100, *, before: datetime | None = None) -> list[TaskRecord]:
        """Return completed tasks, the one that ended last first. ``before``: only those that ended earlier."""
        chosen = Filter(status=TaskStatus.COMPLETED, before=before)
        return self._run(self._operations.store.list_finished(chosen, limit=limit))

    def attempts(self, task_id: int) -> list[AttemptRecord]:
        """Return the recorded attempts of a task, oldest first; a success at the first try is not among them."""
        return self._run(self._operations.store.attempts(task_id))

    def progress(self, task_id: int) -> tuple[float | None, str | None]:
        """Return how far a task says it is: a share from 0 to 1 and a text. (None, None) when it says nothing."""
        return self._run(self._operations.store.progress(task_id)) or (None, None)

    def pending_count(self, *, queue: str | None = None) -> int:
        """Return how many tasks are pending, those with a later ``run_at`` included."""
        return self._run(self._operations.store.pending_count(Filter(queue=queue)))

    def counts(self, **chosen: Unpack[FilterFields]) -> dict[TaskStatus, int]:
        """Return how many tasks are in each state, of all or of those that match. Reads every finished row."""
        return self._run(self._operations.store.counts(Filter.of("counts", chosen)))

    def stats(self) -> Stats:
        """Return the unfinished tasks by queue, the longest wait and the number of workers; cheap to ask often."""
        return self._run(self._operations.store.stats())

    def workers(self) -> list[WorkerRecord]:
        """Return the workers that hold or held a lease and were not yet cleared away."""
        return self._run(self._operations.store.workers())

    def count(self, *, most: int = 10_000, **chosen: Unpack[FilterFields]) -> int:
        """Return how many tasks match, at most ``most``: what is beyond is not looked at."""
        return self._run(self._operations.count(chosen, most=most))

    def delete(self, task_id: int) -> bool:
        """Delete a task with its history. False when it is running or not there: cancel it first."""
        return self._run(self._operations.delete(task_id))

    def delete_many(self, **chosen: Unpack[FilterFields]) -> int:
        """Delete the tasks that match and don't run; return how many. At least one condition is needed."""
        return self._run(self._operations.delete_many(chosen))

    def clear_failed(self, before: datetime | None = None) -> int:
        """Delete failed tasks, or those that failed before a time; return how many."""
        return self._run(self._operations.clear(before=before, among=(TaskStatus.FAILED,)))

    def clear_completed(self, before: datetime | None = None) -> int:
        """Delete completed tasks, or those that ended before a time; return how many."""
        return self._run(self._operations.clear(before=before, among=(TaskStatus.COMPLETED,)))

    def clear_all(self, before: datetime | None = None, *, include_running: bool = False) -> int:
        """Delete all tasks, or those that ended or were created before a time; return how many.

        Running ones stay unless ``include_running``: their worker finds them gone and stops them.
        """
        among = [status for status in TaskStatus if include_running or status is not TaskStatus.RUNNING]
        return self._run(self._operations.clear(before=before, among=among))

    def prune(
        self, older_than: timedelta, *, statuses: Iterable[TaskStatus | str] = FINISHED, batch: int = 1000
    ) -> int:
        """Delete finished tasks that ended longer ago than ``older_than``; return how many.

        In statements of ``batch`` rows: on a connection of ours each is a transaction of its own, so that nobody
        waits for the whole.
        """
        total = 0
        for status in self._operations.finished(statuses):
            request = self._operations.prune(older_than, status=status, batch=batch)
            while deleted := self._run(request):
                total += deleted
                if deleted < batch:
                    break
        return total
