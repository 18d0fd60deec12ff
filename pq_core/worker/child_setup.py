"""What every child of a worker starts from. Imports the standard library and leaves alone: see child.py."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pq_core import attempt as attempts
from pq_core.worker.handing import Arguments

if TYPE_CHECKING:
    from pq_core.types import ClaimedTask


Loaded = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""A task function with its arguments."""


class Unroutable(Exception):
    """Raised by ``ChildSetup.load`` when this code can't run the stored task; the worker puts it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSetup:
    """What the fork server prepared once for all its children.

    ``as_declared``: takes what a row leaves unsaid from the code, ``prepared`` from the worker's options. ``load``:
    decodes the payload and binds it to the function; raises Unroutable. ``load_ahead``: does that in the worker for
    what calls nothing of the application, None for the rest; ``function_of``: says whose arguments they are, in the
    child. ``in_child``: the plugins' context managers as
    one. ``retryable``: says whether an exception is tried again. ``sensitive``: says whether nothing of a task's values
    may get out. ``detaches``: says whether processes that it starts in sessions of their own go on after it.
    ``demands_result``: whether a result that can't be stored fails it. ``memory_of_child``: bytes above the image from
    which on a process that has run it takes no other; None for any number.
    ``handled``: signals that its parent takes or ignores. ``late``: those of pq's modules that are loaded at their
    first use and have been.
    """

    worker_pid: int
    worker_id: int
    schema: str
    as_declared: Callable[[ClaimedTask], ClaimedTask]
    prepared: Callable[[ClaimedTask], ClaimedTask]
    load: Callable[[ClaimedTask], Loaded]
    load_ahead: Callable[[ClaimedTask], Arguments | None]
    function_of: Callable[[ClaimedTask], Callable[..., Any]]
    in_child: Callable[[ClaimedTask], AbstractContextManager[Any]]
    retryable: Callable[[ClaimedTask, BaseException], bool]
    sensitive: Callable[[ClaimedTask], bool]
    detaches: Callable[[ClaimedTask], bool]
    demands_result: Callable[[ClaimedTask], bool]
    memory_of_child: Callable[[ClaimedTask], int | None]
    encode_result: Callable[[ClaimedTask, Any, int], Any]
    find_executor: Callable[[Any], Any]
    result_limit: int
    default_timeout: float | None
    default_grace: float = 5.0
    tasks_per_child: int = 1
    handled: tuple[int, ...] = ()
    late: frozenset[str] = frozenset()

    def timeout_of(self, task: ClaimedTask) -> float | None:
        """Return the seconds that an attempt may take; None when they are not limited."""
        return task.timeout if task.timeout is not None else self.default_timeout

    def result_limit_of(self, task: ClaimedTask) -> int:
        """Return the bytes that the task's result may have."""
        return int(task.options.get("result_limit") or self.result_limit)


def attempt_of(
    setup: ChildSetup,
    task: ClaimedTask,
    *,
    progress: Callable[[float, str | None], None],
    completed: Callable[[], None],
) -> attempts.Attempt:
    """Return what ``current_attempt()`` gives to the task; ``progress`` and ``completed`` are told what it says."""
    timeout = setup.timeout_of(task)
    limit = setup.result_limit_of(task)
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
