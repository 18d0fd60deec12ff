"""What runs after the fork in a child for many coroutines: they come through its inbox and share one event loop.

For work that waits (I/O): a deadline and a cancellation reach a coroutine through the loop, and one that blocks the
loop holds up its neighbours. Imported by workers that have async tasks, since it brings asyncio.
"""

from __future__ import annotations

import asyncio
import os
import time
import traceback
from typing import TYPE_CHECKING, Any

from pq_core import attempt as attempts
from pq_core.worker import exiting, guards, inbox, leftovers, statements, wire
from pq_core.worker.channel import Channel, tell
from pq_core.worker.child import CANNOT_REPORT, flush, tell_of_late_modules
from pq_core.worker.child_setup import ChildSetup, attempt_of
from pq_core.worker.last_words import failure, stopped_early, success, unloadable
from pq_core.worker.rows import claimed_task
from pq_core.worker.shared import StopReason

if TYPE_CHECKING:
    from typing import NoReturn

    from pq_core.types import ClaimedTask


class _Crowd:
    """The coroutines of this process, by (task id, fence)."""

    def __init__(self, setup: ChildSetup, channel: Channel, inbox_fd: int) -> None:
        self._setup = setup
        self._channel = channel
        self._inbox = inbox_fd
        self._identity = guards.identity(inbox_fd)
        self._running: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._over = asyncio.Event()
        self._told = False
        self._pid = os.getpid()

    async def serve(self, first: ClaimedTask) -> NoReturn:
        """Run what comes until nothing more does; end the process."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._inbox, self._receive)
        self._begin(first)
        await self._over.wait()
        loop.remove_reader(self._inbox)
        while self._running:
            await asyncio.wait(list(self._running.values()))
        self._end_here()

    def _end_here(self) -> NoReturn:
        """End the process, within LAST_WORD_GRACE: not back through asyncio.run, which would cancel and wait first."""
        try:
            if exiting.is_due():
                exiting.finish(None)
            if exiting.has_children():
                leftovers.end_below(os.getpid())
                exiting.end_tracker()
        except BaseException:
            traceback.print_exc()
        finally:
            flush()
            os._exit(0)

    def _receive(self) -> None:
        while True:
            if guards.identity(self._inbox) != self._identity:
                self._over.set()  # a task has closed it: nothing that comes there is ours
                return
            try:
                message = os.read(self._inbox, 2 * inbox.TASK_LIMIT)
            except BlockingIOError:
                return
            if not message:
                self._over.set()
                return
            if (stop := inbox.unpack_stop(message)) is not None:
                running = self._running.get(stop[:2])
                if running is not None:
                    running.cancel(StopReason(stop[2]).name.lower())
            else:
                self._begin(self._setup.as_declared(claimed_task(inbox.unpack(message))))

    def _begin(self, task: ClaimedTask) -> None:
        key = (task.id, task.fence)
        running = asyncio.get_running_loop().create_task(self._run(task), name=f"{task.name} {task.id}")
        self._running[key] = running
        running.add_done_callback(lambda done: self._done(task, done))

    def _done(self, task: ClaimedTask, done: asyncio.Task[None]) -> None:
        if not self._told:
            self._told = tell_of_late_modules(self._setup, self._channel)
        self._running.pop((task.id, task.fence), None)
        if done.cancelled():  # before its first step, so it could not say so itself
            end = stopped_early(self._setup, task, asyncio.CancelledError("cancelled before it began"))
            self._channel.send(wire.pack(wire.Kind.END, {**end, "id": task.id, "fence": task.fence, "wall": 0.0}))
        elif done.exception() is not None:
            os._exit(CANNOT_REPORT)  # its end can't be put into words: the worker judges by the exit

    async def _run(self, task: ClaimedTask) -> None:
        began = time.monotonic()
        try:
            end = await self._end(task)
        except asyncio.CancelledError as error:
            end = stopped_early(self._setup, task, error)  # it came before the function, or after it
        wall = time.monotonic() - began
        if end["how"] == "succeeded" and len(end) == 2:
            frame = wire.pack_done(task.id, task.fence, end["result"], wall=wall)
        else:
            frame = wire.pack(wire.Kind.END, {**end, "id": task.id, "fence": task.fence, "wall": wall})
        if not self._channel.send(frame):
            os._exit(CANNOT_REPORT)

    async def _end(self, task: ClaimedTask) -> dict[str, Any]:
        setup, channel = self._setup, self._channel
        attempts.share_current_attempt(
            attempt_of(
                setup,
                task,
                progress=lambda share, text: tell(channel, wire.Kind.PROGRESS, task, share=share, message=text),
                completed=lambda: tell(channel, wire.Kind.COMPLETED, task),
            )
        )
        try:
            function, args, kwargs = setup.load(task)
        except Exception as error:
            return unloadable(setup, task, error)
        try:
            with setup.in_child(task):
                exiting.begin()
                value = await self._value_of(function, args, kwargs)
        except asyncio.CancelledError as error:
            # Drivers cancel their statements as they are left; asyncpg goes on with that while its caller returns.
            await statements.cancelled_by_asyncpg()
            return stopped_early(setup, task, error)
        except BaseException as error:
            return failure(setup, task, error)  # SystemExit too: it would end the loop, and with it the neighbours
        return success(setup, task, value)

    async def _value_of(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            value = await function(*args, **kwargs)
        except BaseException as error:
            if os.getpid() != self._pid:
                exiting.leave_fork(error)
            raise
        if os.getpid() != self._pid:
            exiting.leave_fork(None)
        return value


def run_crowd(setup: ChildSetup, first: ClaimedTask, channel: Channel, inbox_fd: int) -> int:
    """Run ``first`` and all that comes through the inbox, at the same time, and end the process."""
    os.set_blocking(inbox_fd, False)

    async def serve() -> NoReturn:
        await _Crowd(setup, channel, inbox_fd).serve(first)

    return asyncio.run(serve())
