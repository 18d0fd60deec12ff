"""A plugin that writes everything it gets to see into a file, as deeply as reporting SDKs look: frames included."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Leaking:
    """Appends to the file of PQ_TEST_LEAKS what every hook is given."""

    def pq_before_enqueue(self, task: Any, headers: dict[str, str]) -> None:
        self._say("before_enqueue", task, task.args, task.kwargs)

    def pq_pre_fork(self, task: Any) -> None:
        self._say("pre_fork", task)

    def pq_post_task(self, task: Any, outcome: Any) -> None:
        self._say("post_task", task, outcome)

    def pq_task_died(self, task: Any, outcome: Any) -> None:
        self._say("task_died", task, outcome)

    @contextmanager
    def pq_in_child(self, task: Any) -> Iterator[None]:
        self._say("in_child", task)
        try:
            yield
        except BaseException as error:
            self._say("raised", *_everything_of(error))
            raise

    def _say(self, what: str, *values: object) -> None:
        if path := os.environ.get("PQ_TEST_LEAKS"):
            with open(path, "a") as file:
                file.write(f"{what} {values!r}\n")


def _everything_of(error: BaseException) -> Iterator[object]:
    yield from traceback.format_exception(error)
    yield repr(error)
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is None:
            continue
        todo += [one.__cause__, one.__context__]
        yield vars(one)
        trace = one.__traceback__
        while trace is not None:
            yield trace.tb_frame.f_code.co_qualname
            yield {name: repr(value) for name, value in trace.tb_frame.f_locals.items()}
            trace = trace.tb_next
