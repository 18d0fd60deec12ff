"""How the end of an attempt is put into words. Imports the standard library and leaves alone: see child.py.

The words are the body of an END frame (wire.py): ``how`` it ended, and what belongs to that.
"""

from __future__ import annotations

import errno
import os
import traceback
from typing import TYPE_CHECKING, Any

from pq_core.errors import Cancel, PQError, RateLimited, Refuse, Retry, Snooze, TaskCancelled, TaskTimeout
from pq_core.worker.child_setup import ChildSetup, Unroutable
from pq_core.worker.concealing import error_frames
from pq_core.worker.stopping import Stopper

if TYPE_CHECKING:
    from types import TracebackType

    from pq_core.types import ClaimedTask

NOT_A_SOCKET = os.strerror(errno.ENOTSOCK)
ERROR_LIMIT = 64 * 1024
"""Bytes of error text that are kept: its first quarter and its end."""


INHERITED = (
    "pq: this may be a connection that was opened before the fork, as at import: in a task's process it leads to "
    "/dev/null. Open it in the task or in a plugin's pq_in_child; pq renews SQLAlchemy's engines, psycopg_pool's pools "
    "and Django's connections"
)


def _of_an_inherited_socket(error: BaseException) -> bool:
    """Say whether it, or what led to it, is the error of a socket that is none any more; whatever the driver."""
    found: BaseException | None = error
    for _ in range(10):
        if found is None:
            return False
        try:
            if getattr(found, "errno", None) == errno.ENOTSOCK or NOT_A_SOCKET in str(found):
                return True
        except BaseException:  # its own methods may do anything, and the task is over
            return False
        found = found.__cause__ or found.__context__
    return False


def unloadable(setup: ChildSetup, task: ClaimedTask, error: BaseException) -> dict[str, Any]:
    """Return the last word on a task whose function or arguments could not be had."""
    if isinstance(error, Unroutable):
        return {"how": "released", "error": str(error)}
    return _raised(error, retryable=False, sensitive=setup.sensitive(task))


def failure(setup: ChildSetup, task: ClaimedTask, error: BaseException) -> dict[str, Any]:
    """Return the last word on a task whose function raised."""
    sensitive = setup.sensitive(task)
    if _of_an_inherited_socket(error):
        error.add_note(INHERITED)
    match error:
        case Retry():
            return {**_raised(error, retryable=True, sensitive=sensitive), "after": error.after}
        case Snooze():
            words = None if sensitive else str(error) or None
            return {"how": "snoozed", "after": error.after, "pause": isinstance(error, RateLimited), "error": words}
        case Cancel():
            return {"how": "cancelled", "error": None if sensitive else str(error) or None}
        case Refuse():
            return _raised(error, retryable=False, sensitive=sensitive)
        case _:
            return _raised(error, retryable=setup.retryable(task, error), sensitive=sensitive)


def success(setup: ChildSetup, task: ClaimedTask, value: Any) -> dict[str, Any]:
    """Return the last word on a task whose function returned ``value``.

    Where that can't be stored it has succeeded without a result, or failed if its code says so (``strict_result``).
    """
    if value is None:
        return {"how": "succeeded", "result": None}  # of any kind, and within any limit
    try:
        return {"how": "succeeded", "result": setup.encode_result(task, value, setup.result_limit_of(task))}
    except Exception as error:
        # The work is done: trying again would do it twice and fail in the same way.
        end = _raised(error, retryable=False, sensitive=setup.sensitive(task))
        # Ours says all in a line; others are of the result's own methods.
        words = f" {error}" if isinstance(error, PQError) and not setup.sensitive(task) else f"\n{end['error']}"
        words = f"the result can't be stored:{words}"
        if setup.demands_result(task):
            return {**end, "error": words}
        return {"how": "succeeded", "result": None, "unstored": words}


def stopped_early(setup: ChildSetup, task: ClaimedTask, error: BaseException) -> dict[str, Any]:
    """Return the last word on a run that was asked to stop."""
    # What was being handled just then belongs to the error, and may show a value of the task.
    return _raised(error, retryable=True, sensitive=setup.sensitive(task))


def _raised(error: BaseException, *, retryable: bool, sensitive: bool = False) -> dict[str, Any]:
    kind = type(error)
    return {
        "how": "raised",
        "error": error_frames(error, user_traceback) if sensitive else error_text(error),
        "exception_type": f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."),
        "memory": isinstance(error, MemoryError),
        "stopped": isinstance(error, (TaskTimeout, TaskCancelled)),
        "origin": origin(error),
        "retryable": retryable,
    }


def error_text(error: BaseException) -> str:
    """Return the traceback from the task function on, cut to ERROR_LIMIT bytes.

    Never raises, whatever the exception's own methods do.
    """
    try:
        text = "".join(traceback.format_exception(type(error), error, user_traceback(error.__traceback__)))
    except BaseException as problem:
        text = f"{type(error).__qualname__} (its traceback can't be shown: {type(problem).__qualname__})"
    if len(text) > ERROR_LIMIT:
        head = ERROR_LIMIT // 4
        text = f"{text[:head]}\n[… {len(text) - ERROR_LIMIT} characters left out …]\n{text[head - ERROR_LIMIT :]}"
    return text


def user_traceback(trace: TracebackType | None) -> TracebackType | None:
    """Return the part of the traceback between our own frames: below those that called the task function, above the
    signal handler that stopped it. All of it when nothing else is there.
    """
    found = trace
    while found is not None and found.tb_frame.f_globals.get("__name__", "").startswith(("pq_core.", "pq_hooks.")):
        found = found.tb_next
    last = found
    while last is not None and last.tb_next is not None:
        if last.tb_next.tb_frame.f_code is Stopper.__call__.__code__:
            last.tb_next = None
        else:
            last = last.tb_next
    return found or trace


def origin(error: BaseException) -> str:
    """Return what groups equal failures: the exception's type and the function that raised it.

    The worker makes a hash of it: a child that has no memory or descriptor left could not load what does that.
    """
    trace = user_traceback(error.__traceback__)
    place = ""
    while trace is not None:
        code = trace.tb_frame.f_code
        place = f"{code.co_filename.rpartition('/')[2]}:{code.co_qualname}"
        trace = trace.tb_next
    kind = type(error)
    return f"{kind.__module__}.{kind.__qualname__}@{place}"
