"""How a child stops its task when the worker asks. Imports the standard library and leaves alone: see child.py."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _thread
import contextlib
import faulthandler
import os
import signal
from typing import TYPE_CHECKING, TypeVar

from pq_core.errors import TaskCancelled, TaskTimeout
from pq_core.worker.shared import Place, StopReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from pq_core.types import ClaimedTask

E = TypeVar("E", bound=BaseException)

PATIENCE = 2.0
"""Seconds that a stop waits for statements to end at most; a network that lost the server must not hold it up."""

latest: list[Stopper | None] = [None]
"""What takes SIGTERM in this process: in a list, since an attribute of a module or a class is a page more to copy."""


def forget_in_children() -> None:
    """Have processes that a task forks give SIGTERM its ordinary meaning: multiprocessing relies on that.

    Called once in the process that forks the children; these inherit it. SIGTERM waits while a task forks: one that
    comes to the new process at once, as by ``terminate()`` right after ``start()``, would find the handler and be lost.
    """
    os.register_at_fork(before=_hold_sigterm, after_in_parent=_release_sigterm, after_in_child=_forget_latest)


_holding: set[int] = set()
"""Threads of this process that fork, and had not blocked SIGTERM themselves."""


def _hold_sigterm() -> None:
    if latest[0] is not None and signal.SIGTERM not in _signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,)):
        _holding.add(_thread.get_ident())


def _release_sigterm() -> None:
    if _holding and (thread := _thread.get_ident()) in _holding:
        _holding.discard(thread)
        _signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))


def _forget_latest() -> None:
    if (stopper := latest[0]) is not None:
        stopper.forget()
    _release_sigterm()


class Stopper:
    """The SIGTERM handler of a run: acts only on the note that the worker left for this very fence.

    systemd signals every process of a unit, and a late signal must not hit the next task of a reused child.
    ``grace``: seconds from SIGTERM to SIGKILL, for tasks that don't say.
    """

    def __init__(self, place: Place, task: ClaimedTask | None, grace: float = 5.0) -> None:
        self.place = place
        self.task = task
        self.grace = grace
        self.armed = False
        self._held = False

    def arm(self, task: ClaimedTask) -> None:
        """Begin to act on signals, for ``task``; act now on one that came before."""
        self.task = task
        self.armed = True
        if self.place.has_stop():
            self(signal.SIGTERM, None)

    def install(self) -> None:
        """Take SIGTERM, with the stacks of all threads saved first; again where the task before took it away."""
        latest[0] = self
        # The interpreter's own functions: those of the module turn every number into an enum member and back.
        if _signal.getsignal(signal.SIGTERM) is not self:
            _signal.signal(signal.SIGTERM, self)
            faulthandler.unregister(signal.SIGTERM)
            faulthandler.register(signal.SIGTERM, file=self.place.stack_fd, all_threads=True, chain=True)
        _signal.pthread_sigmask(signal.SIG_SETMASK, ())

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Act on what comes during the block when it is over: for what must not be left half done."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self(signal.SIGTERM, None)

    def forget(self) -> None:
        """Give SIGTERM its ordinary meaning again."""
        latest[0] = None
        if signal.getsignal(signal.SIGTERM) is self:
            faulthandler.unregister(signal.SIGTERM)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def is_told(self) -> bool:
        """Say whether the task is to stop, and the handler has yet to act on it and may. For another thread."""
        if not self.armed or self._held or self.task is None or not self.place.has_stop():
            return False
        return self.place.stop_reason(self.task.id, self.task.fence) is not StopReason.NONE

    def patience(self) -> float:
        """Return the seconds for which the stop may wait for statements: the task has to hear of it before SIGKILL."""
        grace = self.grace if self.task is None else self.task.options.get("grace", self.grace)
        return min(PATIENCE, float(grace) / 2)

    def __call__(self, signal_number: int, frame: FrameType | None) -> None:
        if not self.armed or self._held or self.task is None:
            return
        match self.place.stop_reason(self.task.id, self.task.fence):
            case StopReason.NONE:
                return
            case StopReason.TIMEOUT:
                self.armed = False
                raise _after_its_statements(TaskTimeout("the task's timeout is over"), frame, self.patience)
            case StopReason.CANCEL:
                self.armed = False
                words = self.place.stop_words()
                error = TaskCancelled(f"the task was cancelled{': ' if words else ''}{words or ''}", reason=words)
                raise _after_its_statements(error, frame, self.patience)
            case StopReason.INTERRUPT | StopReason.LOST:
                self.armed = False
                raise _after_its_statements(TaskCancelled("the worker stops"), frame, self.patience)


def _after_its_statements(error: E, frame: FrameType | None, patience: Callable[[], float]) -> E:
    """Cancel what the task waits for at the server; return ``error``, with notes of what could not be cancelled.

    Before it is raised: nothing that the task does about it may wait for the statement, or be cancelled with it.
    """
    try:
        from pq_core.worker import statements  # in the image, and nothing that a child looks at before

        for problem in statements.cancel(frame, patience=patience()):
            error.add_note(problem)
    except Exception as problem:  # no memory or descriptor left: it is stopped all the same
        error.add_note(f"its statements could not be cancelled: {problem!r}")
    return error
