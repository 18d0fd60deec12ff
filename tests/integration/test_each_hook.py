"""Each hook, called by the real client and a real worker; what plugins may and may not do is in the unit tests."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pq_core import (
    PQ,
    Cancel,
    DuplicateClientId,
    Outcome,
    PayloadError,
    Refuse,
    Retry,
    Snooze,
    Task,
    TaskStatus,
    role,
)
from pq_core.psycopg_executor import PsycopgExecutor


class Notes:
    """A plugin of one hook that writes what it got, and the role of its process, into a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, *what: object) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps([role(), *what], default=str) + "\n")

    def read(self) -> list[list[Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "notes"


def application(database: str, plugin: object) -> tuple[PQ, Task[[int], int], Task[[], None]]:
    pq = PQ(database, plugins=[plugin])

    @pq.task(name="letter")
    def letter(number: int) -> int:
        return number

    @pq.task(name="crash")
    def crash() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    return pq, letter, crash


def test_pq_before_enqueue_adds_headers_to_every_task(database: str) -> None:
    class Tenant:
        def pq_before_enqueue(self, task: Any, headers: dict[str, str]) -> None:
            headers["tenant"] = task.task.name

    pq, letter, _ = application(database, Tenant())
    with pq:
        ids = [letter.enqueue(1), *pq.enqueue_many([letter.call(2)])]

        headers = [task.headers for task in map(pq.get_task, ids) if task is not None]

    assert headers == [{"tenant": "letter"}] * 2


def test_pq_after_enqueue_sees_how_a_statement_ended(database: str) -> None:
    seen: list[tuple[int, bool, type | None]] = []

    class Ends:
        def pq_after_enqueue(self, tasks: Any, seconds: float, error: BaseException | None) -> None:
            seen.append((len(tasks), 0 < seconds < 60, error and type(error)))

    async def enqueue() -> None:
        await pq.aenqueue(letter.call(1))
        await pq.aenqueue_many(letter.call(number) for number in range(3))
        await pq.aupsert(letter.call(1), client_id="a")
        await pq.aclose()

    pq, letter, _ = application(database, Ends())
    with pq:
        letter.enqueue(1)
        pq.enqueue_many(letter.call(number) for number in range(3))
        pq.enqueue(letter.call(1), client_id="a")
        with pytest.raises(DuplicateClientId):
            pq.enqueue(letter.call(1), client_id="a")
        with psycopg.connect(database) as connection:
            pq.using(connection).upsert(letter.call(1), client_id="a")
            pq.enqueue_many([])  # nothing is sent
            with pytest.raises(PayloadError):
                pq.enqueue(letter.call(float("nan")))  # type: ignore[arg-type]
            connection.rollback()
        asyncio.run(enqueue())

    alone, batch = (1, True, None), (3, True, None)
    assert seen == [alone, batch, alone, (1, True, DuplicateClientId), alone, alone, batch, alone]


def test_pq_after_enqueue_changes_nothing_by_failing(database: str, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def pq_after_enqueue(self) -> None:
            raise RuntimeError("no")

    pq, letter, _ = application(database, Broken())
    with pq:
        assert pq.get_task(pq.enqueue(letter.call(1), client_id="a")) is not None
        with pytest.raises(DuplicateClientId):
            pq.enqueue(letter.call(1), client_id="a")

    assert [record.name for record in caplog.records] == ["pq.plugins"]


def test_pq_before_forks_prepares_what_every_child_has(database: str, path: Path) -> None:
    class Prepares(Notes):
        prepared = 0

        def pq_before_forks(self) -> None:
            self.prepared += 1
            self.write("prepared")

        def pq_worker_start(self) -> None:
            self.prepared += 100

        @contextmanager
        def pq_in_child(self) -> Iterator[None]:
            self.write(self.prepared)
            yield

    plugin = Prepares(path)
    pq, letter, _ = application(database, plugin)
    with pq:
        pq.enqueue_many(letter.call(number) for number in range(3))
        pq.run_worker(until_empty=True)
    assert plugin.read() == [["worker", "prepared"], *[["child", 1]] * 3]


def test_pq_worker_start_and_the_others_of_a_worker_are_told_of_its_lease(database: str, path: Path) -> None:
    class Lives(Notes):
        def pq_worker_start(self, worker: Any) -> None:
            self.write("start", worker.id)

        def pq_worker_stop(self, worker: Any) -> None:
            self.write("stop", worker.id)

    plugin = Lives(path)
    pq, _, _ = application(database, plugin)
    with pq:
        pq.run_worker(until_empty=True)

    (_, began, one), (_, ended, other) = plugin.read()
    assert (began, ended) == ("start", "stop")
    assert one == other > 0


def test_pq_worker_stop_comes_after_the_last_task(database: str, path: Path) -> None:
    class Order(Notes):
        def pq_post_task(self, task: Any) -> None:
            self.write("task", task.id)

        def pq_worker_stop(self) -> None:
            self.write("stop")

    plugin = Order(path)
    pq, letter, _ = application(database, plugin)
    with pq:
        task_id = letter.enqueue(1)
        pq.run_worker(until_empty=True)

    assert [what for _, *what in plugin.read()] == [["task", task_id], ["stop"]]


def test_pq_pre_fork_sees_the_task_in_the_worker(database: str, path: Path) -> None:
    class Last(Notes):
        def pq_pre_fork(self, task: Any) -> None:
            self.write(task.name, os.getpid())

    plugin = Last(path)
    pq, letter, _ = application(database, plugin)
    with pq:
        letter.enqueue(1)
        pq.run_worker(until_empty=True)

    assert [what for _, *what in plugin.read()] == [["letter", os.getpid()]]


def test_pq_in_child_stands_around_the_function(database: str, path: Path) -> None:
    class Around(Notes):
        @contextmanager
        def pq_in_child(self, task: Any) -> Iterator[None]:
            self.write("enter", task.name, os.getpid() != parent)
            yield
            self.write("exit")

    parent = os.getpid()
    plugin = Around(path)
    pq, letter, _ = application(database, plugin)
    with pq:
        letter.enqueue(1)
        pq.run_worker(until_empty=True)

    assert plugin.read() == [["child", "enter", "letter", True], ["child", "exit"]]


def test_pq_post_task_knows_the_recorded_outcome(database: str, path: Path) -> None:
    class Outcomes(Notes):
        def pq_post_task(self, task: Any, outcome: Any) -> None:
            self.write(task.name, outcome.outcome, outcome.signal, pq.get_task(task.id).status)  # type: ignore[union-attr]

    plugin = Outcomes(path)
    pq, letter, crash = application(database, plugin)
    with pq:
        letter.enqueue(1)
        crash.enqueue()
        pq.run_worker(until_empty=True)

    assert sorted(what for _, *what in plugin.read()) == [
        ["crash", "crashed", signal.SIGKILL, "failed"],
        ["letter", "succeeded", None, "completed"],
    ]


def test_pq_task_died_runs_in_a_process_of_its_own(database: str, path: Path) -> None:
    class Obituary(Notes):
        def pq_task_died(self, task: Any, outcome: Any) -> None:
            self.write(task.name, outcome.outcome, os.getpid() != parent)

    parent = os.getpid()
    plugin = Obituary(path)
    pq, letter, crash = application(database, plugin)
    with pq:
        letter.enqueue(1)
        crash.enqueue()
        pq.run_worker(until_empty=True)

    assert [what for _, *what in plugin.read()] == [["crash", "crashed", True]]


def test_pq_executor_brings_a_session_of_ones_own(database: str) -> None:
    class Ticket:
        def __init__(self, connection: psycopg.Connection) -> None:
            self.connection = connection

    class Tickets:
        def pq_executor(self, connection: object) -> Any:
            return PsycopgExecutor(connection.connection) if isinstance(connection, Ticket) else None

    pq, letter, _ = application(database, Tickets())
    with pq, psycopg.connect(database) as connection:
        task_id = pq.using(Ticket(connection)).enqueue(letter.call(1))  # type: ignore[call-overload]

        assert pq.get_task(task_id) is None
        connection.commit()
        assert pq.get_task(task_id) is not None


@pytest.mark.parametrize("options", [{}, {"tasks_per_child": 10}, {"async_concurrency": 10}], ids=str)
def test_pq_in_child_may_decide_how_an_attempt_ends(database: str, options: dict[str, int], path: Path) -> None:
    """Before the function begins; anything else that it raises is logged, and the task runs."""

    class Decides:
        @contextmanager
        def pq_in_child(self, task: Any) -> Iterator[None]:
            match task.headers.get("how"):
                case "refuse":
                    raise Refuse("no tenant")
                case "retry":
                    raise Retry("not yet", after=0)
                case "cancel":
                    raise Cancel("tenant is gone")
                case "snooze" if task.snoozes == 0:
                    raise Snooze(0)
                case "fail":
                    raise RuntimeError("of the plugin")
            yield

    pq = PQ(database, plugins=[Decides()])

    @pq.task(name="letter", max_attempts=2)
    async def letter(how: str) -> str:
        with path.open("a") as file:
            file.write(f"{how}\n")
        return how

    expected = {
        "refuse": (TaskStatus.FAILED, Outcome.RAISED, 1),
        "retry": (TaskStatus.FAILED, Outcome.RAISED, 2),
        "cancel": (TaskStatus.CANCELLED, Outcome.CANCELLED, 1),
        "snooze": (TaskStatus.COMPLETED, Outcome.SUCCEEDED, 1),
        "fail": (TaskStatus.COMPLETED, Outcome.SUCCEEDED, 1),
    }
    with pq:
        ids = {how: pq.enqueue(letter.options(headers={"how": how}).call(how)) for how in expected}
        pq.run_worker(until_empty=True, concurrency=2, poll_interval=0.1, **options)
        found = {how: pq.get_task(task_id) for how, task_id in ids.items()}

    assert {how: (one.status, one.outcome, one.attempts) for how, one in found.items() if one} == expected
    assert "no tenant" in str(found["refuse"] and found["refuse"].error)
    assert sorted(path.read_text().split()) == ["fail", "snooze"]
