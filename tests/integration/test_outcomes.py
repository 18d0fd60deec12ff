"""Every way in which an attempt can end, told apart and recorded; one worker lives through all of them."""

from __future__ import annotations

import ast
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pq_core import PQ, AttemptRecord, Call, Outcome, ResultNotStored, Task, TaskFailed, TaskRecord, TaskStatus
from tests.integration import worker_tasks as tasks
from tests.integration.worker_process import PATIENCE, WorkerProcess, alive, cloned, eventually, running

COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED


@dataclass
class Bench:
    """A client and a running worker of one database."""

    pq: PQ
    worker: WorkerProcess
    pids: list[int]
    reuses: bool

    def run(self, call: Call[Any], **options: Any) -> TaskRecord:
        """Enqueue a task and return it once it has ended."""
        return self.ended(self.pq.enqueue(call, **options))

    def ended(self, task_id: int) -> TaskRecord:
        try:
            self.pq.wait(task_id, timeout=PATIENCE)
        except (TaskFailed, ResultNotStored):
            pass
        record = self.pq.get_task(task_id)
        assert record is not None
        return record

    def attempts(self, record: TaskRecord) -> list[AttemptRecord]:
        return self.pq.attempts(record.id)

    def started(self, task_id: int) -> TaskRecord:
        """Wait until the task runs."""
        return eventually(lambda: (r := self.pq.get_task(task_id)) and r.status is TaskStatus.RUNNING and r)  # type: ignore[return-value]


@pytest.fixture(
    scope="module",
    params=[1, pytest.param(5, marks=pytest.mark.long)],
    ids=["process-per-task", "reused-processes"],
)
def bench(
    request: pytest.FixtureRequest, server: str, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("worker")
    with cloned(server, template) as dsn, PQ(dsn, tasks=[tasks.__name__]) as pq:
        with running(dsn, folder, concurrency=6, release_delay=0.1, grace=2, tasks_per_child=request.param) as worker:
            pids = worker.started()
            yield Bench(pq, worker, pids, reuses=request.param > 1)
            # Whatever the tasks did: it is the same process still, and it ends in good order.
            assert worker.workers == pids
            assert worker.stop() == 0, worker.text
            assert "Traceback" not in worker.text.replace("pq: a child failed", "")
            assert pq.workers() == []


@pytest.fixture(autouse=True)
def same_worker(bench: Bench) -> Iterator[None]:
    yield
    assert bench.worker.workers == bench.pids, bench.worker.text


# --- exceptions


def test_result_ledger_and_output_are_recorded(bench: Bench) -> None:
    record = bench.run(tasks.add.call(1, b=2))

    assert (record.status, record.outcome, record.result) == (COMPLETED, Outcome.SUCCEEDED, 3)
    assert (record.attempts, record.error) == (1, None)
    assert record.output == "adding 1 2\n"
    assert record.ledger is not None
    assert record.ledger["wall"] > 0
    assert bench.attempts(record) == []


def test_exception_is_recorded_with_the_tasks_own_traceback(bench: Bench) -> None:
    record = bench.run(tasks.boom.call("the words"))

    assert (record.status, record.outcome) == (FAILED, Outcome.RAISED)
    assert record.error is not None
    assert record.error.startswith("Traceback")
    assert record.error.rstrip().endswith("ValueError: the words")
    assert "in boom" in record.error
    assert "pq_core" not in record.error
    (attempt,) = bench.attempts(record)
    assert (attempt.outcome, attempt.number, attempt.error) == (Outcome.RAISED, 1, record.error)
    assert attempt.fingerprint


def test_equal_failures_have_one_fingerprint(bench: Bench) -> None:
    first, second = (bench.attempts(bench.run(tasks.boom.call(words)))[0] for words in ("one", "two"))
    other = bench.attempts(bench.run(tasks.chained.call()))[0]

    assert first.fingerprint == second.fingerprint != other.fingerprint


def test_failure_of_a_task_that_has_used_up_its_descriptors_is_told(bench: Bench) -> None:
    record = bench.run(tasks.uses_up_descriptors.call())

    assert (record.status, record.outcome) == (FAILED, Outcome.RAISED)
    assert "Too many open files" in (record.error or "")
    (attempt,) = bench.attempts(record)
    assert attempt.fingerprint


def test_causes_and_groups_are_shown(bench: Bench) -> None:
    chained, group = bench.run(tasks.chained.call()), bench.run(tasks.group_of_errors.call())

    assert "KeyError: 'missing'" in (chained.error or "")
    assert "ValueError: outer" in (chained.error or "")
    assert "ValueError: one of them" in (group.error or "")
    assert "TypeError: the other" in (group.error or "")


@pytest.mark.parametrize(("call", "name"), [(tasks.unspeakable, "Unspeakable"), (tasks.quitting, "Quitting")])
def test_exception_whose_text_fails_is_recorded(bench: Bench, call: Any, name: str) -> None:
    record = bench.run(call.call())

    assert (record.status, record.outcome) == (FAILED, Outcome.RAISED)
    assert name in (record.error or "")


def test_endless_recursion_is_an_exception(bench: Bench) -> None:
    record = bench.run(tasks.endless_recursion.call())

    assert record.outcome is Outcome.RAISED
    assert "RecursionError" in (record.error or "")


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (tasks.system_exit.call(0), "SystemExit: 0"),
        (tasks.system_exit.call(2), "SystemExit: 2"),
        (tasks.keyboard_interrupt.call(), "KeyboardInterrupt"),
        (tasks.async_boom.call(), "ValueError: async boom"),
    ],
)
def test_other_exceptions_fail_their_task_alone(bench: Bench, call: Call[Any], name: str) -> None:
    record = bench.run(call)

    assert (record.status, record.outcome) == (FAILED, Outcome.RAISED)
    assert name in (record.error or "")


@pytest.mark.parametrize("kind", ["nul", "surrogate", "long"])
def test_error_that_the_database_would_refuse_is_made_fit(bench: Bench, kind: str) -> None:
    record = bench.run(tasks.raises_odd.call(kind))

    assert (record.status, record.outcome) == (FAILED, Outcome.RAISED)
    assert record.error is not None
    assert "ValueError: " in record.error
    assert len(record.error) < 100_000


# --- ends of the process


@pytest.mark.parametrize(
    ("call", "words", "ledger"),
    [
        (tasks.leave.call(3), "exited with status 3", {"exit_code": 3}),
        (tasks.leave.call(0), "without reporting", {}),
        (tasks.segfault.call(), "signal 11 (SIGSEGV)", {"signal": 11}),
        (tasks.abort.call(), "signal 6 (SIGABRT)", {"signal": 6}),
        (tasks.kill_itself.call(9), "signal 9 (SIGKILL)", {"signal": 9}),
        (tasks.becomes_another_program.call("true"), "without reporting", {}),
        (tasks.becomes_another_program.call("false"), "exited with status 1", {"exit_code": 1}),
    ],
)
def test_crash_is_told_from_an_exception(bench: Bench, call: Call[Any], words: str, ledger: dict[str, int]) -> None:
    record = bench.run(call)

    assert (record.status, record.outcome) == (FAILED, Outcome.CRASHED)
    assert words in (record.error or "")
    assert ledger.items() <= dict(record.ledger or {}).items()


def test_segfault_shows_where_it_happened(bench: Bench) -> None:
    record = bench.run(tasks.segfault.call())

    assert "in segfault" in (record.error or "")


def test_signal_of_nobodys_worker_does_not_stop_a_task(bench: Bench) -> None:
    """systemd signals every process of a unit: only the worker's note makes SIGTERM count."""
    task_id = bench.pq.enqueue(tasks.nap.call(1.0, str(path := bench.worker.log.parent / "unit")))
    pid = int(eventually(lambda: path.exists() and path.read_text()))
    for _ in range(5):
        os.kill(pid, signal.SIGTERM)

    assert bench.ended(task_id).result == "rested"


def test_kill_from_outside_is_a_crash(bench: Bench, tmp_path: Path) -> None:
    task_id = bench.pq.enqueue(tasks.nap.call(60, str(tmp_path / "pid")))
    pid = int(eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    os.kill(pid, signal.SIGKILL)

    record = bench.ended(task_id)
    assert (record.status, record.outcome) == (FAILED, Outcome.CRASHED)
    assert "SIGKILL" in (record.error or "")


def test_memory_limit_counts_what_the_task_adds(bench: Bench) -> None:
    small, big = bench.run(tasks.hog.call(16 * 2**20)), bench.run(tasks.hog.call(512 * 2**20))

    assert small.result == 16 * 2**20
    assert (small.ledger or {})["peak_memory"] > 12 * 2**20
    assert (big.status, big.outcome) == (FAILED, Outcome.OUT_OF_MEMORY)
    assert "memory limit 64 MiB" in (big.error or "")


def test_nothing_that_a_task_changes_reaches_the_next(bench: Bench) -> None:
    if bench.reuses:
        pytest.skip("tasks that share a process share its state")
    before = bench.run(tasks.where_am_i.call()).result
    assert bench.run(tasks.change_everything.call()).outcome is Outcome.SUCCEEDED
    after = bench.run(tasks.where_am_i.call()).result

    assert before[:4] == after[:4]
    assert before[2] == []
    assert before[3] == "child"
    assert before[4] == before[5], "a child leads a process group of its own"
    assert before[4] != after[4]


# --- timeouts


@pytest.mark.parametrize(
    "task",
    [tasks.sleeps_too_long, tasks.waits_for_thread, tasks.catastrophic_regex, tasks.becomes_an_endless_program],
    ids=lambda task: task.name,
)
def test_timeout_stops_a_task_when_asked(bench: Bench, task: Any) -> None:
    record = bench.run(task.call())

    assert (record.status, record.outcome) == (FAILED, Outcome.TIMED_OUT)
    assert "timed out after 0.3 s" in (record.error or "")
    assert "was killed" not in (record.error or "")


@pytest.mark.parametrize(
    "task",
    [
        tasks.holds_the_gil,
        tasks.ignores_signals,
        tasks.blocks_signals,
        tasks.catches_everything,
        tasks.stops_itself,
        tasks.async_stubborn,
    ],
    ids=lambda task: task.name,
)
def test_timeout_kills_what_does_not_stop(bench: Bench, task: Any) -> None:
    record = bench.run(task.call())

    assert (record.status, record.outcome) == (FAILED, Outcome.TIMED_OUT)
    assert "timed out after 0.3 s; it did not stop when asked and was killed" in (record.error or "")
    assert (record.ledger or {})["signal"] == signal.SIGKILL


def test_timeout_in_c_code_shows_the_stack(bench: Bench) -> None:
    record = bench.run(tasks.holds_the_gil.call())

    assert "in holds_the_gil" in (record.error or "")


@pytest.mark.parametrize("task", [tasks.cleans_up, tasks.async_sleeps], ids=lambda task: task.name)
def test_task_can_clean_up_at_its_timeout(bench: Bench, tmp_path: Path, task: Any) -> None:
    record = bench.run(task.call(str(tmp_path / "file")))

    assert record.outcome is Outcome.TIMED_OUT
    assert (tmp_path / "file").read_text() == "cleaned up"


def test_task_that_returns_after_its_timeout_has_succeeded(bench: Bench) -> None:
    record = bench.run(tasks.returns_after_all.call())

    assert (record.outcome, record.result) == (Outcome.SUCCEEDED, "in the last moment")


def test_timeout_of_one_call(bench: Bench) -> None:
    record = bench.run(tasks.nap.options(timeout=0.2).call(60))

    assert record.outcome is Outcome.TIMED_OUT


# --- descendants


@pytest.mark.parametrize(("count", "ignore"), [(1, False), (3, True), (200, True)])
def test_grandchildren_end_with_the_task(bench: Bench, tmp_path: Path, count: int, ignore: bool) -> None:
    record = bench.run(tasks.leaves_grandchildren.call(str(tmp_path / "pids"), count, ignore))

    assert (record.outcome, record.result) == (Outcome.SUCCEEDED, "done")
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert len(pids) == count
    eventually(lambda: not any(alive(pid) for pid in pids))


@pytest.mark.parametrize("ignore", [False, True])
def test_grandchildren_end_with_a_task_that_is_killed(bench: Bench, tmp_path: Path, ignore: bool) -> None:
    record = bench.run(tasks.hangs_with_grandchildren.call(str(tmp_path / "pids"), ignore))

    assert record.outcome is Outcome.TIMED_OUT
    eventually(lambda: not any(alive(int(pid)) for pid in (tmp_path / "pids").read_text().split()))


def test_task_can_use_processes_of_its_own(bench: Bench) -> None:
    pool, run = bench.run(tasks.pool_of_processes.call(), timeout=20), bench.run(tasks.subprocesses.call())

    assert pool.result == [1, 2, 3]
    assert run.result == "hello\n"


# --- descriptors, output, results


def test_task_that_closes_every_descriptor_is_recorded(bench: Bench) -> None:
    record = bench.run(tasks.closes_everything.call())

    assert (record.status, record.outcome) == (FAILED, Outcome.CRASHED)
    assert "the channel to its worker was closed" in (record.error or "")


def test_nothing_is_written_into_files_under_our_old_numbers(bench: Bench, tmp_path: Path) -> None:
    record = bench.run(tasks.reopens_everything.call(str(tmp_path / "file")))
    late = bench.run(tasks.reopens_everything.call(str(tmp_path / "late"), 60), timeout=0.3)

    assert record.outcome is Outcome.CRASHED
    assert late.outcome is Outcome.TIMED_OUT
    # The task's own print goes there, by its own doing; nothing else does.
    assert (tmp_path / "file").read_text() in ("", "into the void\n")
    assert (tmp_path / "late").read_text() == ""


def test_ten_megabytes_of_output_keep_their_tail(bench: Bench) -> None:
    record = bench.run(tasks.prints.call(10 * 2**20))

    assert record.outcome is Outcome.SUCCEEDED
    assert record.output is not None
    assert record.output.endswith("x\nthe end\n")
    assert "are left out" in record.output
    assert len(record.output) < 20_000


def test_odd_output_is_made_fit(bench: Bench) -> None:
    record = bench.run(tasks.prints_odd_things.call())

    assert record.outcome is Outcome.SUCCEEDED
    assert record.output is not None
    assert "bytes \ufffd" in record.output
    assert "on stderr" in record.output


def test_output_survives_the_death_of_its_process(bench: Bench) -> None:
    record = bench.run(tasks.prints_then_dies.call())

    assert (record.outcome, record.output) == (Outcome.CRASHED, "last words")


def test_result_over_the_limit_is_left_out(bench: Bench) -> None:
    record = bench.run(tasks.returns_text.call("x", 5 * 2**20))

    assert (record.status, record.outcome) == (TaskStatus.COMPLETED, Outcome.SUCCEEDED)
    assert "result" in (record.error or "")
    assert "result_limit" in (record.error or "")


@pytest.mark.parametrize("text", ["x", "é", "語", "🐘"])
def test_large_result_fits_under_a_raised_limit(bench: Bench, text: str) -> None:
    times = 5 * 2**20 // len(text.encode())
    record = bench.run(tasks.returns_much.call(text, times))

    assert record.outcome is Outcome.SUCCEEDED
    assert record.result == text * times


@pytest.mark.parametrize("kind", ["object", "nul", "surrogate", "nan", "deep", "lambda", "self"])
@pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
def test_result_that_cannot_be_stored(bench: Bench, kind: str, strict: bool) -> None:
    task = tasks.returns_odd_strictly if strict else tasks.returns_odd
    record = bench.run(task.call(kind), max_attempts=3)

    expected = (FAILED, Outcome.RAISED) if strict else (TaskStatus.COMPLETED, Outcome.SUCCEEDED)
    assert (record.status, record.outcome) == expected
    assert "the result can't be stored" in (record.error or "")
    assert record.result is None
    assert record.attempts == 1, "the work is done: it is not done twice"
    with pytest.raises(TaskFailed if strict else ResultNotStored, match="the result can't be stored"):
        bench.pq.wait(record.id)


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        ("noise", Outcome.CRASHED),
        ("length", Outcome.CRASHED),
        ("kind", Outcome.CRASHED),
        ("json", Outcome.CRASHED),
        ("list", Outcome.CRASHED),
        ("task", Outcome.CRASHED),
        ("short end", Outcome.CRASHED),
        ("end of another", Outcome.CRASHED),
        ("nan", Outcome.CRASHED),
        ("nan progress", Outcome.CRASHED),
        ("odd progress", Outcome.SUCCEEDED),
        ("odd types", Outcome.CRASHED),
    ],
)
def test_garbage_from_a_child_hurts_that_child_alone(bench: Bench, kind: str, outcome: Outcome) -> None:
    beside = bench.pq.enqueue(tasks.nap.call(0.2))
    record = bench.run(tasks.writes_garbage.call(kind))

    if kind == "odd types" and bench.reuses:
        outcome = Outcome.RAISED  # a whole end is taken at once, and the next task offered
    assert record.outcome is outcome, record.error
    assert bench.ended(beside).result == "rested"


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [("odd types", Outcome.RAISED), ("result", Outcome.RAISED), ("unknown how", Outcome.CRASHED)],
)
def test_forged_end_is_recorded_as_far_as_it_makes_sense(bench: Bench, kind: str, outcome: Outcome) -> None:
    record = bench.run(tasks.writes_garbage.call(kind, leave=True))

    assert (record.status, record.outcome) == (FAILED, outcome)


@pytest.mark.parametrize(
    "call",
    [
        tasks.snoozes_for_ages.call(),
        tasks.writes_garbage.call("huge delay", leave=True),
        tasks.writes_garbage.call("long number", leave=True),
    ],
)
def test_endless_snooze_is_stored(bench: Bench, call: Call[Any]) -> None:
    task_id = bench.pq.enqueue(call)

    record = eventually(lambda: (r := bench.pq.get_task(task_id)) and r.outcome is Outcome.SNOOZED and r)
    assert record
    assert record.status is TaskStatus.PENDING
    assert record.run_at.year > 2900
    assert bench.pq.cancel(task_id)


# --- what a task says itself


def test_retry_counts_and_succeeds(bench: Bench) -> None:
    record = bench.run(tasks.retries.call(2))

    assert (record.status, record.result, record.attempts) == (COMPLETED, 3, 3)
    # In a reused process a task may be put back before it began, when the process turns out to be dead.
    attempts = [attempt for attempt in bench.attempts(record) if attempt.outcome is not Outcome.INTERRUPTED]
    assert [(a.number, a.outcome) for a in attempts] == [
        (1, Outcome.RAISED),
        (2, Outcome.RAISED),
        (3, Outcome.SUCCEEDED),
    ]
    assert record.error is None


def test_retry_ends_with_the_attempts(bench: Bench) -> None:
    record = bench.run(tasks.retries.call(5))

    assert (record.status, record.attempts) == (FAILED, 3)
    assert "attempt 3" in (record.error or "")


def test_backoff_grows(bench: Bench, tmp_path: Path) -> None:
    record = bench.run(tasks.backs_off.call(str(tmp_path / "times")))

    first, second, third = (float(line) for line in (tmp_path / "times").read_text().split())
    assert record.attempts == 3
    assert second - first >= 0.3
    assert third - second >= 0.6


@pytest.mark.parametrize(("kind", "attempts"), [("os", 3), ("file", 1), ("value", 1)])
def test_retry_on_and_no_retry_on(bench: Bench, kind: str, attempts: int) -> None:
    record = bench.run(tasks.picky.call(kind))

    assert (record.status, record.attempts) == (FAILED, attempts)


@pytest.mark.parametrize("how", ["kill", "exit"])
def test_crash_is_tried_again(bench: Bench, how: str) -> None:
    record = bench.run(tasks.crashes.call(how))

    assert (record.status, record.outcome, record.attempts) == (FAILED, Outcome.CRASHED, 2)


def test_snooze_is_not_counted(bench: Bench) -> None:
    record = bench.run(tasks.snoozes.call(3))

    assert (record.status, record.result, record.attempts, record.snoozes) == (COMPLETED, 1, 1, 3)
    assert [a.outcome for a in bench.attempts(record)] == [Outcome.SNOOZED] * 3 + [Outcome.SUCCEEDED]


def test_cancel_by_the_task_is_final(bench: Bench) -> None:
    record = bench.run(tasks.cancels.call())

    assert (record.status, record.outcome, record.attempts) == (CANCELLED, Outcome.CANCELLED, 1)
    assert "changed my mind" in (record.error or "")


def test_progress_is_stored_while_it_runs(bench: Bench) -> None:
    task_id = bench.pq.enqueue(tasks.progresses.call([0.25, 0.5], "half", 1.0))

    eventually(lambda: (r := bench.pq.get_task(task_id)) and r.status is TaskStatus.RUNNING and r.progress == 0.5)
    record = bench.ended(task_id)
    assert (record.status, record.progress) == (COMPLETED, 0.5)


@pytest.mark.parametrize("message", ["a\x00b", "a\ud800b", "x" * 5000])
def test_odd_progress_is_made_fit(bench: Bench, message: str) -> None:
    record = bench.run(tasks.progress_odd.call(message.encode("utf-8", "surrogatepass").hex()))

    assert record.outcome is Outcome.SUCCEEDED
    assert record.progress == pytest.approx(0.0)


# --- async


def test_async_task_returns_its_result(bench: Bench) -> None:
    assert bench.run(tasks.async_add.call(1, 2)).result == 3


# --- cancel


def test_pending_task_is_cancelled_at_once(bench: Bench) -> None:
    task_id = bench.pq.enqueue(tasks.nap.options(run_in=timedelta(hours=1)).call(0))

    assert bench.pq.cancel(task_id)
    record = bench.pq.get_task(task_id)
    assert record is not None
    assert (record.status, record.outcome, record.attempts) == (CANCELLED, Outcome.CANCELLED, 0)


@pytest.mark.parametrize("naps", [tasks.nap, tasks.async_naps], ids=["sync", "async"])
def test_running_task_is_cancelled(bench: Bench, naps: Task[..., Any], tmp_path: Path) -> None:
    task_id = bench.pq.enqueue(naps.call(60, str(tmp_path / "began")), max_attempts=3)
    eventually((tmp_path / "began").exists)

    assert bench.pq.cancel(task_id)
    record = bench.ended(task_id)
    assert (record.status, record.outcome, record.attempts) == (CANCELLED, Outcome.CANCELLED, 1)
    assert "cancelled while running" in (record.error or "")


@pytest.mark.parametrize("reason", [None, "no need: ü 漢 \n'" + "x" * 2000], ids=["none", "long"])
def test_cancelled_task_knows_the_reason(bench: Bench, tmp_path: Path, reason: str | None) -> None:
    task_id = bench.pq.enqueue(tasks.notes_why.call(str(tmp_path / "why")))
    eventually(lambda: bench.pq.progress(task_id)[1] == "asleep")

    bench.pq.cancel(task_id, reason=reason)

    record = bench.ended(task_id)
    told = ast.literal_eval((tmp_path / "why").read_text())
    assert record.status is CANCELLED
    if reason is None:
        assert told is None
        assert (record.error or "").startswith("cancelled while running\n")
    else:
        assert 900 < len(told.encode()) < 1000
        assert reason.startswith(told)
        assert (record.error or "").startswith("cancelled while running: no need: ü 漢")


def test_cancelled_task_that_does_not_stop_is_killed(bench: Bench) -> None:
    task_id = bench.pq.enqueue(tasks.ignores_signals.options(timeout=60).call())
    eventually(lambda: (record := bench.pq.get_task(task_id)) is not None and record.progress_message == "deaf")
    bench.pq.cancel(task_id)

    record = bench.ended(task_id)
    assert (record.status, record.outcome) == (CANCELLED, Outcome.CANCELLED)
    assert "was killed" in (record.error or "")


# --- what follows


@pytest.mark.parametrize(
    "call",
    [tasks.boom.call("x"), tasks.segfault.call(), tasks.sleeps_too_long.call(), tasks.hog.call(512 * 2**20)],
    ids=lambda call: call.task.name,
)
def test_on_failure_follows_every_kind_of_failure(bench: Bench, call: Call[Any]) -> None:
    subject = f"on failure of {call.task.name}"
    failed = bench.run(call, on_failure=tasks.reports_failure.call(subject))

    def follower() -> TaskRecord | None:
        found = [r for r in bench.pq.list_completed() if r.name == "w.reports_failure" and subject in str(r.result)]
        return found[0] if found else None

    assert failed.status is FAILED
    record = eventually(follower)
    assert record
    assert record.result == f"{subject}: {failed.id}"


def test_on_failure_waits_for_the_last_attempt(bench: Bench) -> None:
    record = bench.run(tasks.retries.call(2), on_failure=tasks.reports_failure.call("never"))

    assert record.status is COMPLETED
    assert not [r for r in bench.pq.list_completed() if "never" in str(r.result)]


# --- a version parked on a running task


@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        (tasks.nap.call(0.5), Outcome.SUCCEEDED),
        (tasks.ends_later.call("raise"), Outcome.RAISED),
        (tasks.ends_later.call("retry"), Outcome.RAISED),
        (tasks.ends_later.call("snooze"), Outcome.SNOOZED),
        (tasks.ends_later.call("cancel"), Outcome.CANCELLED),
        (tasks.ends_later.call("crash"), Outcome.CRASHED),
        (tasks.nap.options(timeout=0.5).call(60), Outcome.TIMED_OUT),
    ],
    ids=lambda value: str(value) if isinstance(value, Outcome) else "",
)
def test_parked_version_wins_at_every_end(bench: Bench, call: Call[Any], outcome: Outcome) -> None:
    client_id = f"parked-{outcome}-{os.urandom(4).hex()}"
    task_id = bench.pq.enqueue(call, client_id=client_id)
    bench.started(task_id)

    assert bench.pq.upsert(tasks.add.call(20, b=22), client_id=client_id) == task_id
    record = bench.ended(task_id)
    assert (record.name, record.status, record.result, record.attempts) == ("w.add", COMPLETED, 42, 1)
    assert [a.outcome for a in bench.attempts(record)] == [outcome, Outcome.SUCCEEDED]


def test_cancel_drops_the_version_parked_before_it(bench: Bench) -> None:
    task_id = bench.pq.enqueue(tasks.nap.call(60), client_id="cancelled-1")
    bench.started(task_id)
    bench.pq.upsert(tasks.add.call(1), client_id="cancelled-1")
    bench.pq.cancel(task_id)

    assert bench.ended(task_id).status is CANCELLED


def test_version_parked_after_a_cancel_runs(bench: Bench) -> None:
    task_id = bench.pq.enqueue(tasks.ignores_signals.options(timeout=60).call(), client_id="cancelled-2")
    bench.started(task_id)
    bench.pq.cancel(task_id)
    bench.pq.upsert(tasks.add.call(1, 1), client_id="cancelled-2")

    record = bench.ended(task_id)
    assert (record.name, record.status, record.result) == ("w.add", COMPLETED, 2)
