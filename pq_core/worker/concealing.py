"""What a sensitive task lets out of its process: of an error the types and the frames, to plugins nothing else.

A message may hold an argument, and so may the local variables of a frame, which reporting SDKs collect. So plugins see
a stand-in of the same name, raised where no frame has a value of the task.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from pq_core.errors import Cancel, RateLimited, Retry, Snooze, TaskCancelled, TaskTimeout
from pq_core.types import HIDDEN

if TYPE_CHECKING:
    from types import TracebackType

DEEPEST = 10
"""Causes of causes, and groups in groups, that are told."""
MOST_FRAMES = 200


class Concealed(Exception):
    """Raised to plugins in place of what a sensitive task raised, as a class of the same name."""


class ConcealedCall:
    """A call whose arguments, result and exception are in no frame that a plugin's traceback leads to."""

    __slots__ = ("_call", "_cut", "raised", "value")

    def __init__(self, call: Callable[[], Any], cut: Callable[[TracebackType | None], TracebackType | None]) -> None:
        self._call = call
        self._cut = cut
        self.value: Any = None
        self.raised: BaseException | None = None

    def within(self, context: AbstractContextManager[Any]) -> None:
        """Make the call inside ``context``, which sees a stand-in of what is raised; the real one is in ``raised``."""
        with context:
            self._run()

    def _run(self) -> None:
        try:
            self.value = self._call()
        except BaseException as error:
            self.raised = error
        if self.raised is not None:
            raise stand_in(self.raised, self._cut) from None


def stand_in(error: BaseException, cut: Callable[[TracebackType | None], TracebackType | None]) -> BaseException:
    """Return an exception of the same name without the message, the arguments and the frames of ``error``."""
    match error:
        case Retry():
            return Retry(after=error.after)
        case RateLimited():
            return RateLimited(error.after)
        case Snooze():
            return Snooze(error.after)
        case Cancel() | MemoryError() | TaskTimeout() | TaskCancelled():
            plain: tuple[type[BaseException], ...] = (Cancel, MemoryError, TaskTimeout, TaskCancelled)
            return next(kind for kind in plain if isinstance(error, kind))()
    kind = type(error)
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    made: BaseException = type(kind.__name__, (Concealed,), names)(error_frames(error, cut))
    return made


def error_frames(error: BaseException, cut: Callable[[TracebackType | None], TracebackType | None]) -> str:
    """Return a traceback without messages and lines of source: types, and for each frame file, line and function.

    ``cut``: leaves out the frames that are not the task's.
    """
    return "\n".join(_lines(error, cut, DEEPEST))


def _lines(error: BaseException, cut: Callable[[TracebackType | None], TracebackType | None], depth: int) -> list[str]:
    lines: list[str] = []
    cause = error.__cause__
    earlier = cause if cause is not None or error.__suppress_context__ else error.__context__
    if earlier is not None and depth:
        words = "caused" if cause is not None else "was being handled when"
        lines += [*_lines(earlier, cut, depth - 1), "", f"This {words} the following:", ""]
    lines.append("Traceback (most recent call last):")
    trace = cut(error.__traceback__)
    while trace is not None and len(lines) < MOST_FRAMES:
        code = trace.tb_frame.f_code
        lines.append(f'  File "{code.co_filename}", line {trace.tb_lineno}, in {code.co_name}')
        trace = trace.tb_next
    kind = type(error)
    lines.append(f"{kind.__module__}.{kind.__qualname__}: {HIDDEN}".removeprefix("builtins."))
    if isinstance(error, BaseExceptionGroup) and depth:
        for one in error.exceptions[:DEEPEST]:
            lines += ["", "which holds:", "", *_lines(one, cut, depth - 1)]
    return lines
