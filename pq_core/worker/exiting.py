"""How a child ends: what the interpreter does at the end of a program. Imports the standard library and leaves alone.

A child leaves by ``os._exit``, since what its worker has registered for its own end must not run in it. So what a task
has left to be done is done here, in the interpreter's order: pools and threads that are no daemons are waited for,
processes of ``multiprocessing`` joined, functions of ``atexit`` called, log handlers flushed and closed. What was there
before the fork is left out.
"""

from __future__ import annotations

import _thread
import atexit
import logging
import os
import sys
import threading
import traceback
import weakref
from typing import TYPE_CHECKING, Any, NoReturn, cast

from pq_core.errors import TaskCancelled, TaskTimeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from pq_core.worker.stopping import Stopper

_exits = cast(Any, atexit)
_threading = cast(Any, threading)
_log_handlers = cast(Any, logging)._handlerList

_image: list[Any] = [0, True, {None}, False]
"""Of the image: how many log handlers it has, whether none of them keeps records back, the pids of its helpers of
``multiprocessing`` (and None, for there is none); whether it is complete: what is rehearsed before has no end. In a
list, since an attribute of a module is a page more to copy."""

_begun = [False]
"""Whether a task's function runs, or has run, in this process."""


def prepare() -> None:
    """Forget, in the process that forks the children, what is to happen at the end of its parent.

    It has no such end itself. What a child registers after that is what a task has left.
    """
    _forget_exits()
    if (processes := cast(Any, sys.modules.get("multiprocessing.process"))) is not None:
        processes._children.clear()
    if (util := cast(Any, sys.modules.get("multiprocessing.util"))) is not None:
        util._finalizer_registry.clear()
    _begun[0] = False  # it was rehearsed
    plain = all(_is_plain(one) for one in logging_handlers())
    _image[:] = [len(_log_handlers), plain, {None, _tracker_pid(), _fork_server_pid()}, True]


def begin() -> None:
    """Forget, before the first function of a task runs in this process, what plugins have registered for its end.

    SDKs register their shutdown when they are set up, which waits for whoever they report to. What a plugin has to say
    it says in time that is bounded, as it leaves the task.
    """
    if not _begun[0]:
        _begun[0] = True
        if _exits._ncallbacks():
            _forget_exits()
        _image[0] = len(_log_handlers)


def _forget_exits() -> None:
    _exits._clear()
    finalize = cast(Any, weakref.finalize)
    finalize._registered_with_atexit = False  # the next one registers their end anew
    for info in finalize._registry.values():
        info.atexit = False


def logging_handlers() -> list[logging.Handler]:
    """Return every log handler that is alive."""
    return [handler for reference in _log_handlers if (handler := reference()) is not None]


def _is_plain(handler: logging.Handler) -> bool:
    """Say whether the handler writes each record at once: its end leaves nothing to be done."""
    kind = type(handler)
    return kind.flush.__module__ == "logging" and kind.close.__module__ in ("logging", "logging.handlers")


def is_due() -> bool:
    """Say whether there may be anything to do. Each task asks: four counts, and one system call."""
    handlers, plain, _, complete = _image
    due = _thread._count() or _exits._ncallbacks() or len(_log_handlers) != handlers or not plain or has_children()
    return bool(due and complete)


def has_children() -> bool:
    """Say whether this process has child processes, dead ones that nobody has waited for included."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def own_threads() -> list[threading.Thread]:
    """Return the threads that Python waits for at its end, the main one left out."""
    main = threading.main_thread()
    return [one for one in threading.enumerate() if one is not main and not one.daemon]


def wait_for_threads(passing: Callable[[threading.Thread], bool] = lambda thread: False) -> None:
    """Wait for all of them, and for those that they start meanwhile, but for those that ``passing`` is true of."""
    me = threading.current_thread()
    while waited := [one for one in own_threads() if one is not me and not passing(one)]:
        waited[0].join()


def of_a_pool(thread: threading.Thread) -> bool:
    """Say whether a pool of ``concurrent.futures`` keeps the thread: it ends with the pool, not with its work."""
    library = cast(Any, sys.modules.get("concurrent.futures.thread"))
    return library is not None and thread in library._threads_queues


def finish(stopper: Stopper | None) -> TaskTimeout | TaskCancelled | None:
    """Do all of it. Returns why it was cut short, if it was, with what still ran then as its note.

    What only flushes and cleans up is done all the same, for as long as the process has.
    """
    cut: TaskTimeout | TaskCancelled | None = None
    for step in (_end_pools, wait_for_threads, _end_processes, _run_atexit, _end_logging):
        if cut is not None and step in (_end_pools, wait_for_threads, _end_processes):
            continue
        try:
            step()
        except (TaskTimeout, TaskCancelled) as error:
            if stopper is not None:
                stopper.armed = False
            cut = error
            if left := still_running():
                cut.add_note(f"its function had ended; still running: {', '.join(left)}")
            _ask_processes_to_end()
        except BaseException:
            traceback.print_exc()  # as the interpreter does: what fails at its end changes nothing of what was done
    return cut


def still_running() -> list[str]:
    """Name the threads and processes that an end has to wait for."""
    found = [f"thread {one.name!r}" for one in own_threads()]
    processes = cast(Any, sys.modules.get("multiprocessing.process"))
    if processes is not None:
        found += [f"process {one.pid} ({one.name})" for one in processes.active_children()]
    return found


def _end_pools() -> None:
    """Do what threading._shutdown() begins with: pools of threads and of processes take no more, and are joined."""
    for call in reversed(getattr(_threading, "_threading_atexits", ())):
        call()


def _end_processes() -> None:
    if (util := cast(Any, sys.modules.get("multiprocessing.util"))) is not None:
        util._exit_function()


def _ask_processes_to_end() -> None:
    if (processes := cast(Any, sys.modules.get("multiprocessing.process"))) is not None:
        for one in processes.active_children():
            one.terminate()


def _run_atexit() -> None:
    _exits._run_exitfuncs()


def _end_logging() -> None:
    handlers, plain, *_ = _image
    if len(_log_handlers) != handlers or not plain:
        logging.shutdown()


def end_tracker() -> None:
    """Have ``multiprocessing``'s resource tracker clean up what this process has left, and wait until it has."""
    library = cast(Any, sys.modules.get("multiprocessing.resource_tracker"))
    if library is None or _tracker_pid() in _image[2]:
        return
    try:
        library._resource_tracker._stop()
    except OSError:
        return  # the task has closed its pipe or waited for it: it has seen the end of that by itself


def end_fork_server() -> None:
    """End the process that ``multiprocessing`` forks others from, if this process has started it."""
    library = cast(Any, sys.modules.get("multiprocessing.forkserver"))
    if library is not None and _fork_server_pid() not in _image[2]:
        library._forkserver._stop()


def _fork_server_pid() -> int | None:
    library = cast(Any, sys.modules.get("multiprocessing.forkserver"))
    server = getattr(library, "_forkserver", None)
    return None if server is None else server._forkserver_pid


def _tracker_pid() -> int | None:
    library = cast(Any, sys.modules.get("multiprocessing.resource_tracker"))
    tracker = getattr(library, "_resource_tracker", None)
    return None if tracker is None or tracker._fd is None else tracker._pid


def leave_fork(error: BaseException | None) -> NoReturn:
    """End a process that a task has forked off by itself and that came back out of the task's function.

    As the interpreter would: by what it raised. Only the process that the worker's own forked may report.
    """
    status = 0
    try:
        match error:
            case None:
                pass
            case SystemExit():
                status = _status_of(error)
            case _:
                status = 1
                sys.excepthook(type(error), error, error.__traceback__)
        for step in (_end_pools, wait_for_threads, _end_processes, _run_atexit, _end_logging):
            step()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException as problem:
        os.write(2, f"pq: a process that a task forked could not end in order: {problem!r}\n".encode())
        status = status or 1
    finally:
        os._exit(status)


def _status_of(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1
