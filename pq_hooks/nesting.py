"""Context managers of several plugins around one task: contained, bounded, left in reverse order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any

Report = Callable[[str, str, BaseException], None]

HOOK = "pq_in_child"


class Overdue(BaseException):
    """Raised inside a plugin's code when its time is over; a BaseException, so that it gets out of there."""


def bounded(seconds: float, function: Callable[..., Any], *arguments: object) -> Any:
    """Call the function, and interrupt it by ``Overdue`` after ``seconds``; again and again while it goes on.

    By the alarm signal: a thread to run it in would have other context variables, in which what was entered in
    this one can't be left. Outside the main thread, where signals can't be had, it is not bounded.
    """
    if threading.current_thread() is not threading.main_thread():
        return function(*arguments)
    running = True

    def overdue(_: int, __: FrameType | None) -> None:
        if running:
            raise Overdue(f"took longer than {seconds:g} s")

    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    previous = signal.signal(signal.SIGALRM, overdue)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds, min(seconds, 0.5))
    try:
        try:
            return function(*arguments)
        finally:
            running = False  # an alarm that comes right before this line is raised; the next one comes too late
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if previous is None else previous)


class Nested(AbstractContextManager[None]):
    """Enters the context manager of each plugin in order, leaves them in reverse, and lets the task be."""

    __slots__ = ("deciding", "entered", "implementations", "limit", "passing", "report", "task")

    def __init__(
        self,
        implementations: tuple[tuple[str, Callable[..., Any]], ...],
        task: object,
        passing: tuple[type[BaseException], ...],
        deciding: tuple[type[BaseException], ...],
        limit: float,
        report: Report,
    ) -> None:
        self.implementations = implementations
        self.task = task
        self.passing = passing
        self.deciding = deciding
        self.limit = limit
        self.report = report
        self.entered: list[tuple[str, Any]] = []

    def __enter__(self) -> None:
        for name, call in self.implementations:
            try:
                manager = call(self.task)
                if manager is None:
                    continue
                kind = type(manager)
                if not (hasattr(kind, "__enter__") and hasattr(kind, "__exit__")):
                    raise TypeError(f"must return a context manager or None; got {kind.__qualname__}")
                kind.__enter__(manager)
            except BaseException as error:
                if isinstance(error, self.passing + self.deciding):
                    # The task is over before it began: those that were entered are left as for any exception.
                    self.__exit__(type(error), error, error.__traceback__)
                    raise
                self.report(name, HOOK, error)
            else:
                self.entered.append((name, manager))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        passed: BaseException | None = None
        while self.entered:
            name, manager = self.entered.pop()
            try:
                bounded(self.limit, type(manager).__exit__, manager, kind, error, trace)
            except BaseException as problem:
                if problem is error:
                    continue  # it gives the task's exception back, as generators may
                if isinstance(problem, self.passing):
                    passed = problem
                else:
                    self.report(name, HOOK, problem)
        if error is not None:
            error.__traceback__ = trace
        if passed is not None:
            raise passed
