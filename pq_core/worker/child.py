"""What runs after the fork. Imports the standard library and leaves alone: worker and fork server have done the rest.

A child never returns into the worker's stack, runs no exit handler of it and closes nothing that it inherited:
whatever happens it ends in ``os._exit``.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import faulthandler
import inspect
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from pq_core import attempt as attempts
from pq_core import roles
from pq_core.errors import TaskCancelled, TaskTimeout
from pq_core.worker import blocking_drivers, exiting, guards, handing, inbox, late, wire
from pq_core.worker.channel import Channel, tell
from pq_core.worker.child_setup import ChildSetup, Loaded, attempt_of
from pq_core.worker.concealing import ConcealedCall
from pq_core.worker.last_words import failure, stopped_early, success, unloadable, user_traceback
from pq_core.worker.rows import claimed_task
from pq_core.worker.shared import Place, keep_output
from pq_core.worker.stopping import Stopper

if TYPE_CHECKING:
    from pq_core.types import ClaimedTask

_DEFAULT = int(signal.SIG_DFL)  # the interpreter tells it by identity

CANNOT_REPORT = 70
"""Exit status of a child that ended its task but could not say so (EX_SOFTWARE, sysexits.h)."""


class _Tasks:
    """What a child runs: the task that it was forked for, then those that come through its inbox."""

    __slots__ = ("_fd", "_identity", "_setup", "left")

    def __init__(self, setup: ChildSetup, fd: int | None) -> None:
        self._setup = setup
        self._fd = fd
        self._identity = None if fd is None else guards.identity(fd)
        self.left = setup.tasks_per_child

    def next(self) -> ClaimedTask | None:
        """Wait for another task; None when none comes any more."""
        # Whoever closed the descriptor in a task may have another file there: nothing may be read from that.
        if self.left <= 0 or self._fd is None or guards.identity(self._fd) != self._identity:
            return None
        row = inbox.receive(self._fd)
        return None if row is None else self._setup.as_declared(claimed_task(row))


def run_child(
    setup: ChildSetup,
    message: bytes | None,
    place: Place,
    fd: int,
    *,
    inbox_fd: int | None,
    drop: Iterable[int],
    null_fd: int,
    crowd: Callable[[ChildSetup, ClaimedTask, Channel, int], int] | None = None,
) -> NoReturn:
    """Run the task in ``message``, None: the first to come, and those that come through an inbox; then end the process.

    ``drop``: inherited descriptors to put out of use. ``crowd``: runs many coroutines at the same time.
    Signals are blocked when it is called; it unblocks them once its own handlers stand.
    """
    status = CANNOT_REPORT
    try:
        task, arguments = (None, None) if message is None else _handed(setup, message)
        stopper = _become_child(setup, task, place, drop, null_fd, watched=crowd is None)
        channel = Channel(fd)
        if task is None:
            status = _run_spare(setup, channel, stopper, _Tasks(setup, inbox_fd))
        elif inbox_fd is None:
            loaded = None if arguments is None else (setup.function_of(task), *arguments)
            status = run_one(setup, task, channel, stopper, loaded)
        elif crowd is not None:
            keep_output(None)  # whose output it is can't be told
            status = crowd(setup, task, channel, inbox_fd)
        else:
            status = _run_many(setup, task, channel, stopper, _Tasks(setup, inbox_fd))
    except BaseException:
        # Ours, not the task's: say it where the worker's own log goes, and let the exit status speak.
        _report_own_failure()
    finally:
        os._exit(status)


def _handed(setup: ChildSetup, message: bytes) -> tuple[ClaimedTask, handing.Arguments | None]:
    found = handing.unpack(message)
    return found or (setup.prepared(setup.as_declared(claimed_task(inbox.unpack(message)))), None)


def run_one(setup: ChildSetup, task: ClaimedTask, channel: Channel, stopper: Stopper, loaded: Loaded | None) -> int:
    """Run the only task of this process; the worker gets its cost from the system."""
    end = run_guarded(setup, task, channel, stopper, loaded)
    if exiting.is_due():
        end = finish(setup, task, stopper, end)
    flush()
    tell_of_late_modules(setup, channel)
    if end["how"] == "succeeded" and len(end) == 2:
        frame = wire.pack_done(task.id, task.fence, end["result"])
    else:
        frame = wire.pack(wire.Kind.END, {**end, "id": task.id, "fence": task.fence})
    return 0 if channel.send(frame) else CANNOT_REPORT


def finish(setup: ChildSetup, task: ClaimedTask, stopper: Stopper, end: dict[str, Any]) -> dict[str, Any]:
    """Do what the interpreter does at its end, within the task's time; return how the attempt ended with that.

    ``left`` in it: the processes that the task has left, which are ended, unless it may leave them.
    """
    if end.get("stopped"):
        exiting.finish(stopper)  # it was told to stop, and has its grace
    else:
        end = _finish_in_time(setup, task, stopper, end)
    if not exiting.has_children():
        return end
    if not setup.detaches(task):
        from pq_core.worker import leftovers  # in the image, and nothing that a child looks at before

        try:
            exiting.end_fork_server()
            if left := leftovers.end_below(os.getpid()):
                end["left"] = [str(one) for one in left]
            exiting.end_tracker()
        except Exception:  # no memory or descriptor left: the process that forks ends what is in the group
            traceback.print_exc()
    return end


def _finish_in_time(setup: ChildSetup, task: ClaimedTask, stopper: Stopper, end: dict[str, Any]) -> dict[str, Any]:
    cut = None
    try:
        stopper.arm(task)
        cut = exiting.finish(stopper)
    except (TaskTimeout, TaskCancelled) as error:  # before its first step
        cut = error
    if cut is None and not stopper.armed and stopper.place.has_stop():
        cut = TaskTimeout("stopped while its exit functions ran")  # which one of these has caught
    stopper.armed = False
    return end if cut is None else _cut_short(setup, task, end, cut)


def _cut_short(setup: ChildSetup, task: ClaimedTask, end: dict[str, Any], cut: BaseException) -> dict[str, Any]:
    """Return how an attempt ended whose function had, by ``end``, and that was stopped in what it had left to do."""
    if end["how"] != "raised":
        return stopped_early(setup, task, cut)
    return {**end, "stopped": True, "error": "\n".join([end["error"].rstrip(), *getattr(cut, "__notes__", ())])}


def _run_spare(setup: ChildSetup, channel: Channel, stopper: Stopper, tasks: _Tasks) -> int:
    """Wait for the only task of this process, and run it."""
    task = tasks.next()
    if task is None:
        return 0
    stopper.place.begin(task.id, task.fence, time.monotonic())
    task = setup.prepared(task)
    _limit_memory(task)
    return run_one(setup, task, channel, stopper, None)


def _run_many(setup: ChildSetup, first: ClaimedTask, channel: Channel, stopper: Stopper, tasks: _Tasks) -> int:
    """Run one task after another and say of each what it cost; return the exit status."""
    task: ClaimedTask | None = first
    place = stopper.place
    told = False
    known: set[threading.Thread] = set()
    before = resource.getrusage(resource.RUSAGE_SELF)
    at_first = before.ru_maxrss
    while task is not None:
        stopper.task = task
        began = time.monotonic()
        place.begin(task.id, task.fence, began)
        end = run_guarded(setup, task, channel, stopper)
        tasks.left -= 1
        if exiting.is_due():
            end = _finish_one(setup, task, stopper, end, tasks, known)
        flush()
        if not told:
            told = tell_of_late_modules(setup, channel)
        wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
        if tasks.left and _has_grown(setup, task, at_first, after.ru_maxrss):
            tasks.left, end["last"] = 0, True
        user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
        output = place.take_output()
        if output is not None and setup.sensitive(task):
            output = None
        if end["how"] == "succeeded" and output is None and len(end) == 2:
            frame = wire.pack_done(
                task.id, task.fence, end["result"], wall=wall, user=user, system=system, max_rss=after.ru_maxrss
            )
        else:
            end |= {"id": task.id, "fence": task.fence, "output": output, "wall": wall}
            end |= {"cpu_user": user, "cpu_system": system, "max_rss": after.ru_maxrss}
            frame = wire.pack(wire.Kind.END, end)
        if not channel.send(frame):
            return CANNOT_REPORT
        before = after
        task = tasks.next()
        if task is not None:
            stopper.install()
    exiting.finish(stopper)  # within LAST_WORD_GRACE: everything is reported
    return 0


def _finish_one(
    setup: ChildSetup,
    task: ClaimedTask,
    stopper: Stopper,
    end: dict[str, Any],
    tasks: _Tasks,
    known: set[threading.Thread],
) -> dict[str, Any]:
    """Wait for the threads that a task has started, in a process that goes on; name those that nobody waits for.

    With a pool or a process left, whose work can't be told from its waiting for some, this was the last task here, and
    all is done that the end of a process takes. ``known``: threads that were named or waited for before.
    """
    if exiting.has_children() or any(exiting.of_a_pool(one) for one in threading.enumerate()):
        tasks.left = 0
        return {**finish(setup, task, stopper, end), "last": True}
    try:
        if not end.get("stopped"):
            stopper.arm(task)
        exiting.wait_for_threads()
    except (TaskTimeout, TaskCancelled) as error:
        error.add_note(f"its function had ended; still running: {', '.join(exiting.still_running())}")
        tasks.left = 0
        end = {**_cut_short(setup, task, end, error), "last": True}
    stopper.armed = False
    daemons = {one for one in threading.enumerate() if one.daemon} - known
    known |= daemons
    if daemons:
        end["left"] = [f"daemon thread {one.name!r}" for one in daemons]
    return end


def _has_grown(setup: ChildSetup, task: ClaimedTask, at_first: int, largest: int) -> bool:
    """Say whether this process has so much more memory than it began with that it takes no other task.

    By the largest that it ever had, and if that is too much by what it has now. Both are resident sizes, in the units
    of getrusage(2).
    """
    most = setup.memory_of_child(task)
    if most is None or (largest - at_first) * guards.RSS_UNIT <= most:
        return False
    now = guards.status_bytes("VmRSS")
    return now is None or now - at_first * guards.RSS_UNIT > most


def tell_of_late_modules(setup: ChildSetup, channel: Channel) -> bool:
    """Say what of pq was not in the image and had to be loaded; False if nothing had to be."""
    names = late.loaded() - setup.late
    if names:
        channel.send(wire.pack(wire.Kind.LOADED, {"names": sorted(names)}))
    return bool(names)


def run_guarded(
    setup: ChildSetup, task: ClaimedTask, channel: Channel, stopper: Stopper, loaded: Loaded | None = None
) -> dict[str, Any]:
    try:
        end = _run(setup, task, channel, stopper, loaded)
    except (TaskTimeout, TaskCancelled) as error:
        end = stopped_early(setup, task, error)  # it came before the function, or while its end was put into words
    stopper.armed = False
    return end


def _become_child(
    setup: ChildSetup, task: ClaimedTask | None, place: Place, drop: Iterable[int], null_fd: int, *, watched: bool
) -> Stopper:
    signal.set_wakeup_fd(-1)
    os.setpgid(0, 0)
    guards.die_with_parent(setup.worker_pid)
    guards.become_subreaper()  # what its task leaves behind stays below it, and is found
    roles.become_child()
    for fd in drop:
        # Over the descriptor, never close() on the connection: that would end the worker's session.
        os.dup2(null_fd, fd)
    stopper = take_signals(setup, task, place)
    guards.offer_to_oom_killer()
    if (numpy := sys.modules.get("numpy")) is not None and hasattr(numpy, "random"):
        numpy.random.seed()  # the standard library's generator reseeds itself after a fork
    if watched and blocking_drivers.any_loaded():
        blocking_drivers.watch(stopper)
    if task is not None:
        _limit_memory(task)  # last: the stack of a thread would be taken from what the task may add
    keep_output(place)
    return stopper


def take_signals(setup: ChildSetup, task: ClaimedTask | None, place: Place) -> Stopper:
    """Give signals the meaning that they have in a child, and unblock them; crashes leave their stacks in ``place``."""
    stopper = Stopper(place, task, setup.default_grace)
    for number in setup.handled:
        _signal.signal(number, _DEFAULT)
    faulthandler.enable(file=place.stack_fd, all_threads=True)
    stopper.install()
    return stopper


def _limit_memory(task: ClaimedTask) -> None:
    memory_limit = task.options.get("memory_limit")
    if memory_limit:
        guards.limit_memory(int(memory_limit))


def _run(
    setup: ChildSetup, task: ClaimedTask, channel: Channel, stopper: Stopper, loaded: Loaded | None
) -> dict[str, Any]:
    current = attempt_of(
        setup,
        task,
        progress=lambda share, text: tell(channel, wire.Kind.PROGRESS, task, share=share, message=text),
        completed=lambda: tell(channel, wire.Kind.COMPLETED, task),
    )
    attempts.set_current_attempt(current)
    stopper.arm(task)
    try:
        function, args, kwargs = setup.load(task) if loaded is None else loaded
    except (TaskTimeout, TaskCancelled):
        raise
    except BaseException as error:
        return unloadable(setup, task, error)
    if setup.detaches(task):
        stopper.place.note_left()
    if setup.sensitive(task):
        return _run_concealed(setup, task, lambda: _begun_call(function, args, kwargs, stopper), stopper)
    try:
        with setup.in_child(task):
            exiting.begin()
            value = _call(function, args, kwargs, stopper)
    except BaseException as error:
        stopper.armed = False
        return failure(setup, task, error)
    return success(setup, task, value)


def _begun_call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], stopper: Stopper) -> Any:
    exiting.begin()
    return _call(function, args, kwargs, stopper)


def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], stopper: Stopper) -> Any:
    pid = os.getpid()
    try:
        value = function(*args, **kwargs)
        if value is not None and inspect.isawaitable(value):
            value = _run_coroutine(value, stopper)
    except BaseException as error:
        if os.getpid() != pid:
            exiting.leave_fork(error)
        raise
    if os.getpid() != pid:
        exiting.leave_fork(None)
    stopper.armed = False
    return value


def _run_concealed(setup: ChildSetup, task: ClaimedTask, call: Callable[[], Any], stopper: Stopper) -> dict[str, Any]:
    concealed = ConcealedCall(call, user_traceback)
    try:
        concealed.within(setup.in_child(task))
    except BaseException as error:
        stopper.armed = False
        return failure(setup, task, concealed.raised or error)
    return success(setup, task, concealed.value)


def _run_coroutine(value: Any, stopper: Stopper) -> Any:
    import asyncio  # in the image already if any task is async; else it would cost each worker 3 MB

    runner = asyncio.Runner()
    try:
        with stopper.held():
            runner.get_loop()
        return runner.run(_awaited(value))
    finally:
        with stopper.held():  # it cancels what the task left running, and waits for it
            runner.close()


async def _awaited(value: Any) -> Any:
    return await value


def flush() -> None:
    """Write out what the task printed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue  # the task closed or replaced it: nothing of ours is lost


def _report_own_failure() -> None:
    try:
        os.write(2, ("pq: a child failed outside its task\n" + traceback.format_exc()).encode())
    except BaseException:
        return
