"""What runs after the fork. Imports the standard library and leaves alone: the worker has done the rest.

A child never returns into the worker's stack, runs no exit handler of it and closes nothing that it inherited:
whatever happens it ends in ``os._exit``.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _thread
import faulthandler
import hashlib
import inspect
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from pq_core import attempt as attempts
from pq_core import roles
from pq_core.errors import Cancel, PQError, RateLimited, Retry, Snooze, TaskCancelled, TaskTimeout
from pq_core.types import Role
from pq_core.worker import guards, inbox, wire
from pq_core.worker.concealing import ConcealedCall, error_frames
from pq_core.worker.rows import claimed_task
from pq_core.worker.shared import Place, StopReason, Tee

if TYPE_CHECKING:
    from types import FrameType, TracebackType

    from pq_core.types import ClaimedTask

ERROR_LIMIT = 64 * 1024
"""Bytes of error text that are kept: its first quarter and its end."""

_DEFAULT = int(signal.SIG_DFL)  # the interpreter tells it by identity

CANNOT_REPORT = 70
"""Exit status of a child that ended its task but could not say so (EX_SOFTWARE, sysexits.h)."""


class Unroutable(Exception):
    """Raised by ``ChildSetup.load`` when this code can't run the stored task; the worker puts it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSetup:
    """What the worker prepared once for all its children.

    ``load``: decodes the payload and binds it to the function; raises Unroutable. ``in_child``: the plugins'
    context managers as one. ``retryable``: says whether an exception is tried again. ``sensitive``: says whether
    nothing of a task's values may get out. ``handled``: signals for which the worker has handlers.
    """

    worker_pid: int
    worker_id: int
    schema: str
    load: Callable[[ClaimedTask], tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]
    in_child: Callable[[ClaimedTask], AbstractContextManager[Any]]
    retryable: Callable[[ClaimedTask, BaseException], bool]
    sensitive: Callable[[ClaimedTask], bool]
    encode_result: Callable[[ClaimedTask, Any, int], Any]
    find_executor: Callable[[Any], Any]
    result_limit: int
    default_timeout: float | None
    tasks_per_child: int = 1
    handled: tuple[int, ...] = ()


class Channel:
    """The child's end of the socket to its worker.

    Remembers which socket it was: a task that closes every descriptor and opens others may hold a file of its
    own under the same number, and nothing of ours may be written into that.
    """

    __slots__ = ("_fd", "_identity", "_lock")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._identity = guards.identity(fd)
        self._lock = _thread.allocate_lock()

    def send(self, frame: bytes) -> bool:
        """Write one frame, whole: threads of the task may write at the same time. False when the socket is gone."""
        with self._lock:
            if guards.identity(self._fd) != self._identity:
                return False
            try:
                sent = os.write(self._fd, frame)
                while sent < len(frame):
                    sent += os.write(self._fd, memoryview(frame)[sent:])
            except OSError:
                return False
        return True


class _Tasks:
    """What a child runs: the task that it was forked for, then those that come through its inbox."""

    __slots__ = ("_fd", "_identity", "left")

    def __init__(self, fd: int | None, left: int) -> None:
        self._fd = fd
        self._identity = None if fd is None else guards.identity(fd)
        self.left = left

    def next(self) -> ClaimedTask | None:
        """Wait for another task; None when none comes any more."""
        # Whoever closed the descriptor in a task may have another file there: nothing may be read from that.
        if self.left <= 0 or self._fd is None or guards.identity(self._fd) != self._identity:
            return None
        row = inbox.receive(self._fd)
        return None if row is None else claimed_task(row)


class _Stopper:
    """The SIGTERM handler of a run: acts only on the note that the worker left for this very fence.

    systemd signals every process of a unit, and a late signal must not hit the next task of a reused child.
    """

    def __init__(self, place: Place, task: ClaimedTask) -> None:
        self.place = place
        self.task = task
        self.armed = False

    def arm(self, task: ClaimedTask) -> None:
        """Begin to act on signals, for ``task``; act now on one that came before."""
        self.task = task
        self.armed = True
        self(signal.SIGTERM, None)

    def install(self) -> None:
        """Take SIGTERM, with the stacks of all threads saved first; again where the task before took it away."""
        # The interpreter's own functions: those of the module turn every number into an enum member and back.
        if _signal.getsignal(signal.SIGTERM) is not self:
            _signal.signal(signal.SIGTERM, self)
            faulthandler.unregister(signal.SIGTERM)
            faulthandler.register(signal.SIGTERM, file=self.place.stack_fd, all_threads=True, chain=True)
        _signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def forget(self) -> None:
        """Give SIGTERM its ordinary meaning in a process that the task forks: multiprocessing relies on that."""
        if signal.getsignal(signal.SIGTERM) is self:
            faulthandler.unregister(signal.SIGTERM)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def __call__(self, signal_number: int, frame: FrameType | None) -> None:
        if not self.armed:
            return
        match self.place.stop_reason(self.task.id, self.task.fence):
            case StopReason.NONE:
                return
            case StopReason.TIMEOUT:
                self.armed = False
                raise TaskTimeout("the task's timeout is over")
            case StopReason.CANCEL:
                self.armed = False
                words = self.place.stop_words()
                raise TaskCancelled(f"the task was cancelled{': ' if words else ''}{words or ''}", reason=words)
            case StopReason.INTERRUPT | StopReason.LOST:
                self.armed = False
                raise TaskCancelled("the worker stops")


def run_child(
    setup: ChildSetup,
    task: ClaimedTask,
    place: Place,
    fd: int,
    *,
    inbox_fd: int | None,
    drop: Iterable[int],
    null_fd: int,
    crowd: Callable[[ChildSetup, ClaimedTask, Channel, int], int] | None = None,
) -> NoReturn:
    """Run ``task`` in this new process, and those that come through its inbox; then end it.

    ``drop``: inherited descriptors to put out of use. ``crowd``: runs many coroutines at the same time.
    Signals are blocked when it is called; it unblocks them once its own handlers stand.
    """
    status = CANNOT_REPORT
    try:
        stopper = _become_child(setup, task, place, drop, null_fd)
        channel = Channel(fd)
        if inbox_fd is None:
            status = _run_one(setup, task, channel, stopper)
        elif crowd is not None:
            Tee.place = None  # whose output it is can't be told
            status = crowd(setup, task, channel, inbox_fd)
        else:
            status = _run_many(setup, task, channel, stopper, _Tasks(inbox_fd, setup.tasks_per_child))
    except BaseException:
        # Ours, not the task's: say it where the worker's own log goes, and let the exit status speak.
        _report_own_failure()
    finally:
        os._exit(status)


def _run_one(setup: ChildSetup, task: ClaimedTask, channel: Channel, stopper: _Stopper) -> int:
    """Run the only task of this process; the worker gets its cost from the system."""
    end = _run_guarded(setup, task, channel, stopper)
    _flush()
    if end["how"] == "succeeded":
        frame = wire.pack_done(task.id, task.fence, end["result"])
    else:
        frame = wire.pack(wire.Kind.END, {**end, "id": task.id, "fence": task.fence})
    return 0 if channel.send(frame) else CANNOT_REPORT


def _run_many(setup: ChildSetup, first: ClaimedTask, channel: Channel, stopper: _Stopper, tasks: _Tasks) -> int:
    """Run one task after another and say of each what it cost; return the exit status."""
    task: ClaimedTask | None = first
    place = stopper.place
    before = resource.getrusage(resource.RUSAGE_SELF)
    while task is not None:
        stopper.task = task
        began = time.monotonic()
        place.begin(task.id, task.fence, began)
        end = _run_guarded(setup, task, channel, stopper)
        _flush()
        tasks.left -= 1
        if tasks.left and _has_children():
            tasks.left, end["last"] = 0, True  # they end with this process; so it takes no other task
        wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
        user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
        output = place.take_output()
        if output is not None and setup.sensitive(task):
            output = None
        if end["how"] == "succeeded" and output is None and "last" not in end:
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
    return 0


def _run_guarded(setup: ChildSetup, task: ClaimedTask, channel: Channel, stopper: _Stopper) -> dict[str, Any]:
    try:
        end = _run(setup, task, channel, stopper)
    except (TaskTimeout, TaskCancelled) as error:
        end = stopped_early(error)  # it came before the function, or while its end was put into words
    stopper.armed = False
    return end


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _become_child(setup: ChildSetup, task: ClaimedTask, place: Place, drop: Iterable[int], null_fd: int) -> _Stopper:
    signal.set_wakeup_fd(-1)
    os.setpgid(0, 0)
    guards.die_with_parent(setup.worker_pid)
    roles.set_role(Role.CHILD)
    for fd in drop:
        # Over the descriptor, never close() on the connection: that would end the worker's session.
        os.dup2(null_fd, fd)
    stopper = _Stopper(place, task)
    for number in setup.handled:
        _signal.signal(number, _DEFAULT)
    faulthandler.enable(file=place.stack_fd, all_threads=True)
    os.register_at_fork(after_in_child=stopper.forget)
    stopper.install()
    guards.offer_to_oom_killer()
    if (numpy := sys.modules.get("numpy")) is not None and hasattr(numpy, "random"):
        numpy.random.seed()  # the standard library's generator reseeds itself after a fork
    memory_limit = task.options.get("memory_limit")
    if memory_limit:
        guards.limit_memory(int(memory_limit))
    Tee.place = place
    return stopper


def _run(setup: ChildSetup, task: ClaimedTask, channel: Channel, stopper: _Stopper) -> dict[str, Any]:
    current = attempt_of(
        setup,
        task,
        progress=lambda share, text: tell(channel, wire.Kind.PROGRESS, task, share=share, message=text),
        completed=lambda: tell(channel, wire.Kind.COMPLETED, task),
    )
    attempts.set_current_attempt(current)
    stopper.arm(task)
    try:
        function, args, kwargs = setup.load(task)
    except (TaskTimeout, TaskCancelled):
        raise
    except BaseException as error:
        return unloadable(setup, task, error)
    if setup.sensitive(task):
        return _run_concealed(setup, task, lambda: _call(function, args, kwargs, stopper), stopper)
    try:
        with setup.in_child(task):
            value = _call(function, args, kwargs, stopper)
    except BaseException as error:
        stopper.armed = False
        return failure(setup, task, error)
    return success(setup, task, value)


def stopped_early(error: BaseException) -> dict[str, Any]:
    """Return the last word on a run that was asked to stop."""
    return _raised(error, retryable=True)


def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], stopper: _Stopper) -> Any:
    value = function(*args, **kwargs)
    if value is not None and inspect.isawaitable(value):
        import asyncio  # in the image already if any task is async; else it would cost each worker 3 MB

        value = asyncio.run(_awaited(value))
    stopper.armed = False
    return value


def _run_concealed(setup: ChildSetup, task: ClaimedTask, call: Callable[[], Any], stopper: _Stopper) -> dict[str, Any]:
    concealed = ConcealedCall(call, _user_traceback)
    try:
        concealed.within(setup.in_child(task))
    except BaseException as error:
        stopper.armed = False
        return failure(setup, task, concealed.raised or error)
    return success(setup, task, concealed.value)


def attempt_of(
    setup: ChildSetup,
    task: ClaimedTask,
    *,
    progress: Callable[[float, str | None], None],
    completed: Callable[[], None],
) -> attempts.Attempt:
    """Return what ``current_attempt()`` gives to the task; ``progress`` and ``completed`` are told what it says."""
    timeout = task.timeout if task.timeout is not None else setup.default_timeout
    limit = _result_limit(setup, task)
    return attempts.Attempt(
        task=task,
        worker_id=setup.worker_id,
        schema=setup.schema,
        deadline=None if timeout is None else datetime.now(UTC) + timedelta(seconds=timeout),
        _progress=(lambda share, _: progress(share, None)) if setup.sensitive(task) else progress,
        _completed=completed,
        _encode=lambda value: setup.encode_result(task, value, limit),
        _find_executor=setup.find_executor,
    )


def unloadable(setup: ChildSetup, task: ClaimedTask, error: BaseException) -> dict[str, Any]:
    """Return the last word on a task whose function or arguments could not be had."""
    if isinstance(error, Unroutable):
        return {"how": "released", "error": str(error)}
    return _raised(error, retryable=False, sensitive=setup.sensitive(task))


def failure(setup: ChildSetup, task: ClaimedTask, error: BaseException) -> dict[str, Any]:
    """Return the last word on a task whose function raised."""
    sensitive = setup.sensitive(task)
    match error:
        case Retry():
            return {**_raised(error, retryable=True, sensitive=sensitive), "after": error.after}
        case Snooze():
            words = None if sensitive else str(error) or None
            return {"how": "snoozed", "after": error.after, "pause": isinstance(error, RateLimited), "error": words}
        case Cancel():
            return {"how": "cancelled", "error": None if sensitive else str(error) or None}
        case _:
            return _raised(error, retryable=setup.retryable(task, error), sensitive=sensitive)


def success(setup: ChildSetup, task: ClaimedTask, value: Any) -> dict[str, Any]:
    """Return the last word on a task whose function returned ``value``, which may not be storable."""
    try:
        return {"how": "succeeded", "result": setup.encode_result(task, value, _result_limit(setup, task))}
    except Exception as error:
        # The work is done: trying again would do it twice and fail in the same way.
        end = _raised(error, retryable=False, sensitive=setup.sensitive(task))
        # Ours says all in a line; others are of the result's own methods.
        words = f" {error}" if isinstance(error, PQError) and not setup.sensitive(task) else f"\n{end['error']}"
        return {**end, "error": f"the result can't be stored:{words}"}


def _result_limit(setup: ChildSetup, task: ClaimedTask) -> int:
    return int(task.options.get("result_limit") or setup.result_limit)


async def _awaited(value: Any) -> Any:
    return await value


def tell(channel: Channel, kind: wire.Kind, task: ClaimedTask, **body: Any) -> None:
    """Tell the worker; one that is gone can't be told, and this process dies with it."""
    channel.send(wire.pack(kind, {"id": task.id, "fence": task.fence, **body}))


def _raised(error: BaseException, *, retryable: bool, sensitive: bool = False) -> dict[str, Any]:
    kind = type(error)
    return {
        "how": "raised",
        "error": error_frames(error, _user_traceback) if sensitive else error_text(error),
        "exception_type": f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."),
        "memory": isinstance(error, MemoryError),
        "stopped": isinstance(error, (TaskTimeout, TaskCancelled)),
        "fingerprint": fingerprint(error),
        "retryable": retryable,
    }


def error_text(error: BaseException) -> str:
    """Return the traceback from the task function on, cut to ERROR_LIMIT bytes.

    Never raises, whatever the exception's own methods do.
    """
    try:
        text = "".join(traceback.format_exception(type(error), error, _user_traceback(error.__traceback__)))
    except BaseException as problem:
        text = f"{type(error).__qualname__} (its traceback can't be shown: {type(problem).__qualname__})"
    if len(text) > ERROR_LIMIT:
        head = ERROR_LIMIT // 4
        text = f"{text[:head]}\n[… {len(text) - ERROR_LIMIT} characters left out …]\n{text[head - ERROR_LIMIT :]}"
    return text


def _user_traceback(trace: TracebackType | None) -> TracebackType | None:
    """Return the part of the traceback between our own frames: below those that called the task function, above the
    signal handler that stopped it. All of it when nothing else is there.
    """
    found = trace
    while found is not None and found.tb_frame.f_globals.get("__name__", "").startswith(("pq_core.", "pq_hooks.")):
        found = found.tb_next
    last = found
    while last is not None and last.tb_next is not None:
        if last.tb_next.tb_frame.f_code is _Stopper.__call__.__code__:
            last.tb_next = None
        else:
            last = last.tb_next
    return found or trace


def fingerprint(error: BaseException) -> str:
    """Return what groups equal failures: a hash of the exception's type and of the function that raised it."""
    trace = _user_traceback(error.__traceback__)
    place = ""
    while trace is not None:
        code = trace.tb_frame.f_code
        place = f"{code.co_filename.rpartition('/')[2]}:{code.co_qualname}"
        trace = trace.tb_next
    kind = type(error)
    return hashlib.blake2b(f"{kind.__module__}.{kind.__qualname__}@{place}".encode(), digest_size=8).hexdigest()


def _flush() -> None:
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
