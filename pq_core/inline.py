"""Running tasks in the process that asks for it: what ``pq.run_inline`` does.

Everything that decides is the worker's: decoding, the verdict on how an attempt ended, the retry policy, the report.
Only what calls the function is other: no fork, no lease, no signals, nothing that limits or contains it.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from pq_core import attempt as attempts
from pq_core.errors import (
    InvalidOption,
    NoCurrentAttempt,
    PQError,
    TaskCancelled,
    TaskTimeout,
    UseAsync,
)
from pq_core.inline_statements import WORKER_ID, claim, report
from pq_core.types import AttemptOutcome, ClaimedTask, EndedAttempt, Outcome
from pq_core.worker.book import Book, Entry
from pq_core.worker.child_setup import ChildSetup, Unroutable, attempt_of
from pq_core.worker.claiming import Statements
from pq_core.worker.ending import AttemptCost, entry_of, otherwise
from pq_core.worker.last_words import failure, success, unloadable
from pq_core.worker.options import WorkerOptions
from pq_core.worker.program import Program
from pq_core.worker.rows import Row
from pq_core.worker.shared import StopReason
from pq_core.worker.verdict import Evidence, Verdict, judge

if TYPE_CHECKING:
    from pq_core.client import PQ
    from pq_core.store import Request

LATER = 0.05
"""Seconds between two reports of an end whose row somebody has locked."""
REPORTS = 20
"""How often such an end is reported before the caller is told."""


def run_inline(pq: PQ, *, using: object, limit: int | None, queues: Iterable[str] | None) -> list[EndedAttempt]:
    """Do what ``PQ.run_inline`` says."""
    inline = _Inline(pq, limit=limit, queues=queues)
    with _sent_to(pq, using):
        while (request := inline.claim()) is not None and (task := pq._run(request)) is not None:
            run = _Run(inline, task)
            try:
                run.call()
            except BaseException:
                with contextlib.suppress(Exception):
                    run.take(pq._run(run.put_back()))
                raise
            for request_ in run.reports():
                with run.blamed():
                    run.take(pq._run(request_))
                if not run.recorded:
                    time.sleep(LATER)
            inline.ended.append(run.ended())
    return inline.ended


async def arun_inline(pq: PQ, *, using: object, limit: int | None, queues: Iterable[str] | None) -> list[EndedAttempt]:
    """Do what ``PQ.arun_inline`` says."""
    inline = _Inline(pq, limit=limit, queues=queues)
    with _sent_to(pq, using):
        while (request := inline.claim()) is not None and (task := await pq._arun(request)) is not None:
            run = _Run(inline, task)
            try:
                await run.acall()
            except BaseException:
                with contextlib.suppress(Exception):
                    run.take(await pq._arun(run.put_back()))
                raise
            for request_ in run.reports():
                with run.blamed():
                    run.take(await pq._arun(request_))
                if not run.recorded:
                    await asyncio.sleep(LATER)
            inline.ended.append(run.ended())
    return inline.ended


def _sent_to(pq: PQ, using: object) -> AbstractContextManager[object]:
    # What the tasks enqueue must go where it is looked for.
    return nullcontext() if using is None else pq.override(using)


class _Inline:
    """One call of ``run_inline``."""

    def __init__(self, pq: PQ, *, limit: int | None, queues: Iterable[str] | None) -> None:
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            raise InvalidOption(f"limit={limit!r}: give an integer of 0 or more, or None for no limit")
        self.schema = pq.schema
        self.limit = limit
        options = WorkerOptions(concurrency=1, queues=None if queues is None else _given(queues))
        self.queues = options.queues
        self.ended: list[EndedAttempt] = []
        pq.registry.load()
        self.program = Program(
            registry=pq.registry,
            defaults=pq.defaults,
            release_delay=options.release_delay,
            unroutable_after=options.unroutable_after,
        )
        self.setup = ChildSetup(
            worker_pid=os.getpid(),
            worker_id=WORKER_ID,
            schema=pq.schema,
            as_declared=self.program.as_declared,
            prepared=lambda task: task,
            load=self.program.load,
            load_ahead=self.program.load_ahead,
            function_of=self.program.function_of,
            in_child=nullcontext,
            retryable=self.program.retryable,
            sensitive=self.program.sensitive,
            detaches=self.program.detaches,
            demands_result=self.program.demands_result,
            memory_of_child=lambda task: None,
            encode_result=self.program.encode_result,
            find_executor=pq._find_executor,
            result_limit=options.result_limit,
            default_timeout=None,
        )

    def claim(self) -> Request[ClaimedTask | None] | None:
        """Return what claims the next task; None when there were enough."""
        if self.limit is not None and len(self.ended) >= self.limit:
            return None
        return claim(self.schema, self.queues)


def _given(queues: Iterable[str]) -> tuple[str, ...]:
    return (queues,) if isinstance(queues, str) else tuple(queues)


class _Run:
    """One attempt: its function called, its end recorded."""

    def __init__(self, inline: _Inline, task: ClaimedTask) -> None:
        self.inline = inline
        self.task = inline.program.as_declared(task)
        self.exception: BaseException | None = None
        self.recorded = False
        self._end: dict[str, Any] = {}
        self._progress: dict[str, Any] | None = None
        self._said: Any = None
        self._completed_itself = False
        self._cost = AttemptCost()
        self._outcome: AttemptOutcome | None = None
        self._book = Book(statements=Statements(inline.schema), settled=self._settled, uncommitted=self._uncommitted)

    def call(self) -> None:
        """Run the function to its end. Raises only what belongs to the caller: Ctrl-C, the quitting of a debugger."""
        with self._current():
            try:
                value = self._called()
                if inspect.isawaitable(value):
                    value = _run_to_its_end(value)
            except BaseException as error:
                self._failed(error, asyncio.CancelledError)
            else:
                self._end = self._end or success(self.inline.setup, self.task, value)

    async def acall(self) -> None:
        """Do what ``call`` does, with an async function in the running loop."""
        with self._current():
            try:
                value = self._called()
                if inspect.isawaitable(value):
                    value = await value
            except BaseException as error:
                self._failed(error)
            else:
                self._end = self._end or success(self.inline.setup, self.task, value)

    def _called(self) -> Any:
        try:
            function, args, kwargs = self.inline.setup.load(self.task)
        except Exception as error:
            self.exception = None if isinstance(error, Unroutable) else error
            self._end = unloadable(self.inline.setup, self.task, error)
            return None
        return function(*args, **kwargs)

    def _failed(self, error: BaseException, *tasks_own: type[BaseException]) -> None:
        if not isinstance(error, (Exception, SystemExit, TaskTimeout, TaskCancelled, *tasks_own)):
            raise error
        if isinstance(error, _WrongCall) or type(error).__module__ == "bdb":
            raise error
        self.exception = error
        self._end = failure(self.inline.setup, self.task, error)

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        """Be the current attempt, and measure."""
        try:
            before: attempts.Attempt | None = attempts.current_attempt()
        except NoCurrentAttempt:
            before = None
        attempt = attempt_of(self.inline.setup, self.task, progress=self._noted, completed=self._noted_completion)
        encode = attempt._encode

        def remembered(value: Any) -> Any:
            self._said = encode(value)
            return self._said

        attempt._encode = remembered
        attempts.set_current_attempt(attempt)
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self._cost = AttemptCost(wall=time.perf_counter() - wall, cpu_user=time.process_time() - cpu)
            attempts.set_current_attempt(before)

    def _noted(self, share: float, message: str | None) -> None:
        self._progress = {"share": share, "message": message}

    def _noted_completion(self) -> None:
        self._completed_itself = True

    def put_back(self) -> Request[list[Row]]:
        """Return what puts the task back as if it had not run: its caller was interrupted."""
        words = "put back: what ran it in its own process was interrupted"
        return self._reporting(Verdict(outcome=Outcome.INTERRUPTED, error=words, started=False))

    def reports(self) -> Iterator[Request[list[Row]]]:
        """Yield what records the end, again while somebody has the row locked."""
        evidence = Evidence(
            end=self._end,
            status=0,
            reason=StopReason.NONE,
            killed=False,
            oom_killed=False,
            broken=None,
            stacks="",
            peak=0,
            timeout=None,
        )
        request = self._reporting(judge(self.task, evidence))
        for _ in range(REPORTS):
            yield request
            if self.recorded:
                return
            request = self._encoded()
        raise PQError(
            f"task {self.task.id} ({self.task.name}) has ended, but another transaction has its row locked: if it is "
            "the one that the task completed itself in, give run_inline(using=…) that connection"
        )

    def _reporting(self, verdict: Verdict) -> Request[list[Row]]:
        transition = self.inline.program.decide(self.task, verdict)
        entry = entry_of(
            self.task, verdict, transition, worker_id=WORKER_ID, cost=self._cost, progress=self._progress,
            completed_itself=self._completed_itself,
        )  # fmt: skip
        self._book.add(entry)
        return self._encoded()

    def _encoded(self) -> Request[list[Row]]:
        ((_, (_, ends)),) = self._book.statements_to_send(None)
        assert ends is not None
        return report(self.inline.schema, bytes(ends))

    def take(self, rows: list[Row]) -> None:
        """Take in the answer to a report."""
        self.recorded = not self._book.take(rows)

    def _uncommitted(self, entry: Entry) -> Entry:
        words = "complete() was called, and no transaction that did so is committed"
        verdict = Verdict(outcome=Outcome.RAISED, error=words)
        return otherwise(entry, self.inline.program.decide(self.task, verdict))

    def _settled(self, entry: object, outcome: AttemptOutcome) -> None:
        self._outcome = outcome

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Say of an error while the end is recorded that the task may have left the transaction broken."""
        try:
            yield
        except Exception as error:
            if self.exception is not None:
                error.add_note(
                    f"while it was recorded that task {self.task.id} ({self.task.name}) raised "
                    f"{type(self.exception).__qualname__}: a task that fails inside a statement leaves the "
                    "transaction of using= aborted; have it work in a savepoint, as with connection.transaction()"
                )
            raise

    def ended(self) -> EndedAttempt:
        """Return what the caller gets, once the end is recorded."""
        outcome, task = self._outcome, self.task
        assert outcome is not None
        succeeded = outcome.outcome is Outcome.SUCCEEDED
        stored = self._said if self._completed_itself else outcome.result
        return EndedAttempt(
            id=task.id,
            name=task.name,
            number=task.number,
            outcome=outcome.outcome,
            status=outcome.status,
            retry_in=outcome.retry_in,
            result=self.inline.program.registry.seals.open_result(stored, task_id=task.id) if succeeded else None,
            error=outcome.error,
            exception=self.exception,
            exception_type=outcome.exception_type,
            wall=outcome.wall,
        )


class _WrongCall(UseAsync):
    """The caller's mistake, not the task's."""


def _run_to_its_end(value: Any) -> Any:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_awaited(value))
    close: Callable[[], None] | None = getattr(value, "close", None)
    if close is not None:
        close()
    raise _WrongCall("run_inline() met an async task in a running event loop: await pq.arun_inline(…) there")


async def _awaited(value: Any) -> Any:
    return await value
