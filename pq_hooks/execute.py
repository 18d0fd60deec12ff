"""python-pq's ``pre_execute`` and ``post_execute`` as a plugin; ``run_worker`` takes both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pq_core.types import ClaimedTask

    PreExecute = Callable[[ClaimedTask], object]
    PostExecute = Callable[[ClaimedTask, BaseException | None], object]


class ExecuteHooks:
    """Calls ``pre_execute(task)`` before the task function and ``post_execute(task, error)`` after it, in the child.

    ``error``: what the function raised, None if it returned. One that fails is logged and changes no outcome.
    """

    def __init__(self, *, pre_execute: PreExecute | None = None, post_execute: PostExecute | None = None) -> None:
        self.pre_execute = pre_execute
        self.post_execute = post_execute

    @contextmanager
    def pq_in_child(self, task: ClaimedTask) -> Iterator[None]:
        """Call the one, run the task, call the other."""
        if self.pre_execute is not None:
            self.pre_execute(task)
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            if self.post_execute is not None:
                self.post_execute(task, error)
