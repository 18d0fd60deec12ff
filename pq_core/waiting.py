"""Waiting for the end of a task: told by NOTIFY where that works, by asking again where it does not.

``watch`` notes in ``pq_waits`` that the end is waited for, so that it is notified. It is asked once more after LISTEN
took hold, and then at growing intervals: a pooler may swallow notifications, an end that was under way when the wait
was noted has not seen it, nor does a worker of before revision 5.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import psycopg
from psycopg import sql

from pq_core.errors import DatabaseUnavailable, InvalidOption, ResultNotStored, TaskFailed, TaskNotFound, WaitTimeout
from pq_core.psycopg_executor import AsyncPsycopgExecutor, PsycopgExecutor
from pq_core.roles import role
from pq_core.rows import Watched
from pq_core.sealing import Seals
from pq_core.sqlstates import ends_connection
from pq_core.store import Request
from pq_core.types import Role, TaskStatus

if TYPE_CHECKING:
    from pq_core.database import AsyncConnectionPool, ConnectionPool

logger = logging.getLogger("pq")

T = TypeVar("T")
Ask: TypeAlias = Callable[[Request[T]], T]
AsyncAsk: TypeAlias = Callable[[Request[T]], Awaitable[T]]

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
        self,
        task_id: int,
        *,
        timeout: float | None,
        poll: float,
        seals: Seals | None = None,
        clock: Callable[[], float] = time.monotonic,
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
        self._seals = seals if seals is not None else Seals()
        self._pause = min(SHORTEST_POLL, poll)
        self._clock = clock
        self._end = None if timeout is None else clock() + timeout
        self._status = "pending"

    def judge(self, watched: Watched | None) -> Ended | None:
        """Return the end, or None when there is none yet. Raises TaskNotFound, TaskFailed, ResultNotStored."""
        if watched is None:
            raise TaskNotFound(self.task_id)
        self._status = watched.status
        if watched.status is TaskStatus.COMPLETED:
            if watched.error is not None and watched.result is None:
                raise ResultNotStored(self.task_id, watched.error)
            return Ended(self._seals.open_result(watched.result, task_id=self.task_id))
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
    """Hears of a task's end on a channel, and asks after it there; deaf, it just sleeps, and asks by ``ask``.

    One connection serves for both: with a second one for each question, many who wait would need two each.
    """

    def __init__(
        self, connection: psycopg.Connection[Any] | None, request: Request[Watched | None], ask: Ask[Watched | None]
    ) -> None:
        self._connection = connection
        self._request = request
        self._ask = ask

    def look(self) -> Watched | None:
        """Ask where the task stands. Raises DatabaseUnavailable."""
        if self._connection is not None:
            try:
                executor = PsycopgExecutor(self._connection)
                rows = executor.execute(self._request.statement, self._request.parameters)
            except psycopg.Error as error:
                if ends_connection(error.sqlstate):
                    self._connection.close()
                self._connection = None
            else:
                return self._request.parse(rows)
        return self._ask(self._request)

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

    def __init__(
        self,
        connection: psycopg.AsyncConnection[Any] | None,
        request: Request[Watched | None],
        ask: AsyncAsk[Watched | None],
    ) -> None:
        self._connection = connection
        self._request = request
        self._ask = ask

    async def look(self) -> Watched | None:
        """Ask where the task stands. Raises DatabaseUnavailable."""
        if self._connection is not None:
            try:
                executor = AsyncPsycopgExecutor(self._connection)
                rows = await executor.execute(self._request.statement, self._request.parameters)
            except psycopg.Error as error:
                if ends_connection(error.sqlstate):
                    await self._connection.close()
                self._connection = None
            else:
                return self._request.parse(rows)
        return await self._ask(self._request)

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


_warned = [False]


def warn_in_a_task() -> None:
    """Say once that a task waits for another: with as many who wait as may run at once, none ever begins."""
    if role() is Role.CHILD and not _warned[0]:
        _warned[0] = True
        logger.warning(
            "a task waits for another one: it keeps its place meanwhile, and if all places are taken by such tasks "
            "none goes on. Enqueue what follows at the end of the other task, or raise Snooze until it has ended"
        )


def wait_for_end(
    pool: Callable[[], ConnectionPool],
    patience: Patience,
    request: Request[Watched | None],
    ask: Ask[Watched | None],
) -> Any:
    """Return the task's result once it has ended. Raises as ``PQ.wait`` says.

    ``ask``: runs a request on some connection. A database that can't be reached is an error at the first question;
    later, when it was there before, it is waited for: it may be restarting.
    """
    watched = ask(request)
    ended = patience.judge(watched)
    if watched is not None and ended is None:
        with _listening(pool(), watched.channel) as connection:
            listener = Listener(connection, request, ask)
            while ended is None:
                with contextlib.suppress(DatabaseUnavailable):
                    ended = patience.judge(listener.look())
                if ended is None:
                    listener.hear(patience.task_id, patience.pause())
    assert ended is not None
    return ended.result


async def await_end(
    pool: Callable[[], AsyncConnectionPool],
    patience: Patience,
    request: Request[Watched | None],
    ask: AsyncAsk[Watched | None],
) -> Any:
    """``wait_for_end`` for asynchronous callers."""
    watched = await ask(request)
    ended = patience.judge(watched)
    if watched is not None and ended is None:
        async with _alistening(pool(), watched.channel) as connection:
            listener = AsyncListener(connection, request, ask)
            while ended is None:
                with contextlib.suppress(DatabaseUnavailable):
                    ended = patience.judge(await listener.look())
                if ended is None:
                    await listener.hear(patience.task_id, patience.pause())
    assert ended is not None
    return ended.result


@contextlib.contextmanager
def _listening(pool: ConnectionPool, channel: str) -> Iterator[psycopg.Connection[Any] | None]:
    """Yield a connection that hears the channel, or None when there is none to be had."""
    with contextlib.ExitStack() as stack:
        try:
            connection = stack.enter_context(pool.connection())
            connection.execute(_command("LISTEN", channel))
        except (psycopg.Error, DatabaseUnavailable):
            yield None
            return
        try:
            yield connection
        finally:
            with contextlib.suppress(psycopg.Error):
                connection.execute(_command("UNLISTEN", channel))


@contextlib.asynccontextmanager
async def _alistening(pool: AsyncConnectionPool, channel: str) -> AsyncIterator[psycopg.AsyncConnection[Any] | None]:
    """``_listening`` for asynchronous callers."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            connection = await stack.enter_async_context(pool.connection())
            await connection.execute(_command("LISTEN", channel))
        except (psycopg.Error, DatabaseUnavailable):
            yield None
            return
        try:
            yield connection
        finally:
            with contextlib.suppress(psycopg.Error):
                await connection.execute(_command("UNLISTEN", channel))


def _command(verb: str, channel: str) -> sql.Composed:
    return sql.SQL("{} {}").format(sql.SQL(verb), sql.Identifier(channel))
