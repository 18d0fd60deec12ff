"""python-pq's ``pre_execute`` and ``post_execute``: called in the child, around the task, by ``run_worker``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pq_core import PQ, ClaimedTask, InvalidOption


@pytest.fixture
def pq(database: str) -> Iterator[PQ]:
    with PQ(database) as pq:
        yield pq


def test_both_run_in_the_child_around_the_task(pq: PQ, connection: psycopg.Connection, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def note(*words: Any) -> None:
        with log.open("a") as file:
            file.write(json.dumps([os.getpid(), *words]) + "\n")

    @pq.task(name="good")
    def good() -> None:
        note("task")

    @pq.task(name="bad")
    def bad() -> None:
        raise ValueError("broken")

    def pre_execute(task: ClaimedTask) -> None:
        note("pre", task.name, task.id)

    def post_execute(task: ClaimedTask, error: BaseException | None) -> None:
        note("post", task.name, repr(error))

    first, second = pq.enqueue(good.call().options(priority=99)), pq.enqueue(bad.call())

    pq.run_worker(until_empty=True, concurrency=1, pre_execute=pre_execute, post_execute=post_execute)

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line[1:] for line in lines] == [
        ["pre", "good", first],
        ["task"],
        ["post", "good", "None"],
        ["pre", "bad", second],
        ["post", "bad", "ValueError('broken')"],
    ]
    assert lines[0][0] == lines[2][0] != lines[3][0]
    assert os.getpid() not in [line[0] for line in lines]
    states = connection.execute("SELECT name, status FROM pq_tasks ORDER BY id").fetchall()
    assert states == [("good", "completed"), ("bad", "failed")]


def test_one_alone_for_one_worker_alone(pq: PQ, tmp_path: Path) -> None:
    @pq.task(name="task")
    def task() -> None: ...

    pq.enqueue_many([task.call(), task.call()])

    assert pq.run_worker_once(pre_execute=lambda task: (tmp_path / str(task.id)).touch()) is True
    assert pq.run_worker_once() is True

    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_one_that_fails_changes_no_outcome(pq: PQ, connection: psycopg.Connection) -> None:
    @pq.task(name="task")
    def task() -> int:
        return 5

    def fails(*args: object) -> None:
        raise ValueError("the hook's own")

    pq.enqueue_many([task.call(), task.call()])

    pq.run_worker_once(pre_execute=fails)
    pq.run_worker_once(post_execute=fails)

    assert connection.execute("SELECT status, result FROM pq_tasks").fetchall() == [("completed", 5)] * 2


def test_what_cannot_be_called_is_refused(pq: PQ) -> None:
    with pytest.raises(InvalidOption, match="pre_execute='x': give a function"):
        pq.run_worker_once(pre_execute="x")
