"""Waiting for the end of a task: told by NOTIFY where that works, by asking again where it does not.

``watch`` marks the task, so that its end is notified. It is asked once more after LISTEN took hold, and then at
growing intervals: a pooler may swallow notifications, and a mark may have met a locked row.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from pq_core.errors import DatabaseUnavailable, InvalidOption, TaskFailed, TaskNotFound, WaitTimeout
from pq_core.payload import decode_result
from pq_core.rows import Watched
from pq_core.types import TaskStatus

if TYPE_CHECKING:
    from pq_core.database import AsyncConnectionPool, ConnectionPool

SHORTEST_POLL = 0.05
"""Seconds before the first question without a notification; the following are farther apart by half each time."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The task has completed, with this result."""

    result: Any


class Patience:
    """How long to wait for one task, and what its state means. Knows no connection.

    ``timeout``: seconds in all, None for ever. ``poll``: seconds between two questions at most.
    """

    def __init__(
        self, task_id: int, *, timeout: float | None, poll: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if isinstance(task_id, bool) or not isinstance(task_id, int):
            raise InvalidOption(f"wait({task_id!r}): give the id that enqueue returned, an integer")
        if timeout is not None and not timeout >= 0:
            raise InvalidOption(f"wait(timeout={timeout!r}): give seconds of 0 or more, or None")
        if not 0 < poll < float("inf"):
            raise InvalidOption(f"wait(poll={poll!r}): give seconds above 0")
        self.task_id = task_id
        self.timeout = timeout
        self._poll = poll
        self._pause = min(SHORTEST_POLL, poll)
        self._clock = clock
        self._end = None if timeout is None else clock() + timeout
        self._status = "pending"

    def judge(self, watched: Watched | None) -> Ended | None:
        """Return the end, or None when there is none yet. Raises TaskNotFound, TaskFailed."""
        if watched is None:
            raise TaskNotFound(self.task_id)
        self._status = watched.status
        if watched.status is TaskStatus.COMPLETED:
            return Ended(decode_result(watched.result))
        if watched.status.finished:
            raise TaskFailed(self.task_id, watched.status, watched.outcome, watched.error)
        return None

    def pause(self) -> float:
        """Return the seconds until the next question. Raises WaitTimeout when the time is over."""
        pause, self._pause = self._pause, min(self._pause * 1.5, self._poll)
        if self._end is None:
            return pause
        left = self._end - self._clock()
        if left <= 0:
            assert self.timeout is not None
            raise WaitTimeout(self.task_id, self.timeout, self._status)
        return min(pause, left)


class Listener:
    """Hears of tasks' ends on a channel; deaf, it just sleeps."""

    def __init__(self, connection: psycopg.Connection[Any] | None) -> None:
        self._connection = connection

    def hear(self, task_id: int, seconds: float) -> None:
        """Return when the task's end is notified, or after ``seconds``."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._connection is None:
                time.sleep(left)
                continue
            try:
                if any(n.payload == str(task_id) for n in self._connection.notifies(timeout=left, stop_after=1)):
                    return
            except psycopg.Error:
                self._connection = None


class AsyncListener:
    """``Listener`` for asynchronous callers."""

    def __init__(self, connection: psycopg.AsyncConnection[Any] | None) -> None:
        self._connection = connection

    async def hear(self, task_id: int, seconds: float) -> None:
        """Return when the task's end is notified, or after ``seconds``."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._connection is None:
                await asyncio.sleep(left)
                continue
            try:
                async for notification in self._connection.notifies(timeout=left, stop_after=1):
                    if notification.payload == str(task_id):
                        return
            except psycopg.Error:
                self._connection = None


@contextlib.contextmanager
def listening(pool: ConnectionPool, channel: str) -> Iterator[Listener]:
    """Yield what hears the channel; without a connection for it, what is deaf."""
    with contextlib.ExitStack() as stack:
        try:
            connection = stack.enter_context(pool.connection())
            connection.execute(_command("LISTEN", channel))
        except (psycopg.Error, DatabaseUnavailable):
            yield Listener(None)
            return
        try:
            yield Listener(connection)
        finally:
            with contextlib.suppress(psycopg.Error):
                connection.execute(_command("UNLISTEN", channel))


@contextlib.asynccontextmanager
async def alistening(pool: AsyncConnectionPool, channel: str) -> AsyncIterator[AsyncListener]:
    """``listening`` for asynchronous callers."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            connection = await stack.enter_async_context(pool.connection())
            await connection.execute(_command("LISTEN", channel))
        except (psycopg.Error, DatabaseUnavailable):
            yield AsyncListener(None)
            return
        try:
            yield AsyncListener(connection)
        finally:
            with contextlib.suppress(psycopg.Error):
                await connection.execute(_command("UNLISTEN", channel))


def _command(verb: str, channel: str) -> sql.Composed:
    return sql.SQL("{} {}").format(sql.SQL(verb), sql.Identifier(channel))
