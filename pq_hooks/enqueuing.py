"""What stands around the statement of an enqueue while somebody wants to know how it ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

    from pq_core.tasks import Call

Report = Callable[["Sequence[Call[Any]]", float, BaseException | None], None]


class Enqueuing:
    """A context manager around one statement, sync or awaited; tells ``report`` of its end and keeps no error."""

    __slots__ = ("_report", "_started", "_tasks")

    def __init__(self, tasks: Sequence[Call[Any]], report: Report) -> None:
        self._tasks = tasks
        self._report = report
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._report(self._tasks, perf_counter() - self._started, error)
