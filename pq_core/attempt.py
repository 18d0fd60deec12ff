"""The running attempt, as the task sees it: a leaf; storage is imported by the calls that need it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pq_core.errors import AttemptLost, NoCurrentAttempt, UseAsync, UseSync

if TYPE_CHECKING:
    from pq_core.executor import AsyncExecutor, Executor
    from pq_core.store import Request
    from pq_core.types import ClaimedTask


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One execution of a task, from inside.

    ``deadline``: when its timeout ends it, None without one.
    """

    task: ClaimedTask
    worker_id: int
    schema: str
    deadline: datetime | None
    _progress: Callable[[float, str | None], None]
    _completed: Callable[[], None]
    _encode: Callable[[Any], Any]
    _find_executor: Callable[[Any], Executor | AsyncExecutor]
    _completions: list[int] = field(default_factory=list)

    @property
    def id(self) -> int:
        """The task's id."""
        return self.task.id

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    @property
    def number(self) -> int:
        """Which attempt this is, from 1; attempts that did not count (lost, snoozed, interrupted) are left out."""
        return self.task.number

    @property
    def max_attempts(self) -> int:
        """How many attempts the task has."""
        return self.task.max_attempts

    @property
    def fence(self) -> int:
        """The number of this claim; grows with every claim of the task, counted or not."""
        return self.task.fence

    @property
    def queue(self) -> str:
        """The queue it was claimed from."""
        return self.task.queue

    @property
    def client_id(self) -> str | None:
        """The caller's own name of the task."""
        return self.task.client_id

    @property
    def headers(self) -> Mapping[str, str]:
        """What was stored with the task at enqueue."""
        return self.task.headers

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline, None without one."""
        if self.deadline is None:
            return None
        return max(0.0, (self.deadline - datetime.now(UTC)).total_seconds())

    def progress(self, share: float, message: str | None = None) -> None:
        """Say how far the task is: a share from 0 to 1, and a short text. The worker stores the latest.

        Raises ValueError for a share outside 0 to 1.
        """
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise ValueError(f"progress({share!r}): give a share from 0 to 1")
        self._progress(float(share), None if message is None else str(message)[:1000])

    def complete(self, connection: Any, *, result: Any = None) -> None:
        """Mark the task completed as a statement in the transaction of ``connection``; never commits.

        With the caller's own writes in the same transaction, both happen or neither does. After the commit
        nothing undoes it: a later exception, timeout or crash of this run is logged and changes nothing. A version that
        an upsert parked meanwhile may begin from the commit on, while this run is on its way out: let it be the last.

        Raises AttemptLost if this attempt no longer owns the task: let it fail the transaction.
        Raises UseAsync for an async session.
        """
        executor = self._find_executor(connection)
        if _is_async(executor):
            raise UseAsync("this session is async: await current_attempt().acomplete(session)")
        request = self._request(result)
        rows = executor.execute(request.statement, request.parameters)
        self._settle(request.parse(rows))  # type: ignore[arg-type]

    async def acomplete(self, connection: Any, *, result: Any = None) -> None:
        """Do what ``complete`` does, through an async session. Raises UseSync for a sync one."""
        executor = self._find_executor(connection)
        if not _is_async(executor):
            raise UseSync("this session is not async: current_attempt().complete(session)")
        request = self._request(result)
        rows = await executor.execute(request.statement, request.parameters)  # type: ignore[misc]
        self._settle(request.parse(rows))

    def _request(self, result: Any) -> Request[bool]:
        from pq_core.store import Store

        return Store(self.schema).complete(
            self.task.id,
            fence=self.task.fence,
            started_at=self.task.started_at,
            worker_id=self.worker_id,
            result=self._encode(result),
        )

    def _settle(self, owned: bool) -> None:
        if not owned:
            raise AttemptLost(
                f"task {self.task.id} is no longer this attempt's (fence {self.task.fence}): it was cancelled, "
                "given to another worker or completed already; roll this transaction back"
            )
        self._completed()


_current: Attempt | None = None
"""The attempt of this process: threads that a task starts have it too."""
_shared: ContextVar[Attempt | None] = ContextVar("pq_attempt", default=None)
"""The attempt of a coroutine that shares its process with others."""


def current_attempt() -> Attempt:
    """Return the attempt that runs in this process.

    Raises NoCurrentAttempt outside a task.
    """
    if (attempt := _shared.get()) is not None:
        return attempt
    if _current is None:
        raise NoCurrentAttempt("no task runs here: current_attempt() works inside a task function only")
    return _current


def set_current_attempt(attempt: Attempt | None) -> None:
    """Name the attempt that runs in this process; for whoever runs task functions."""
    global _current
    _current = attempt


def _is_async(executor: object) -> bool:
    import inspect

    return inspect.iscoroutinefunction(getattr(executor, "execute", None))


def share_current_attempt(attempt: Attempt) -> None:
    """Set what ``current_attempt`` returns in this context alone."""
    _shared.set(attempt)
